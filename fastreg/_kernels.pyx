# SPDX-License-Identifier: BSD-3-Clause
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: embedsignature=False, freethreading_compatible=True
"""The binding of the C library: described arrays x verbs; addresses and strides in, status out.

No mathematics and no policy here. The functions of one array live in this file because a wrapper
around them would double the cost of a small call; everything that is not an exact ndarray of a
native float type is prepared by :mod:`fastreg._core.arrays`.
"""

cimport numpy as cnp
from cpython.float cimport PyFloat_CheckExact
from cpython.ref cimport PyObject
from libc.stdint cimport uintptr_t
from libc.stdlib cimport calloc, free, malloc, qsort, realloc
from libc.string cimport memcpy, memset

import numpy as np

from fastreg._core import arguments as _arguments
from fastreg._core import arrays as _arrays
from fastreg._core.dtypes import BF16, F32, F64, result_dtype
from fastreg.errors import ArgumentError, DTypeError, FastregError, LayoutError, message

cnp.import_array()

cdef extern from *:
    """
    #include <time.h>
    #include "numpy/arrayscalars.h"

    /* A NumPy scalar of a float type that NumPy has, without going through a descriptor. */
    static PyObject *fr_new_float64(double v)
    {
        PyObject *s = PyArrayScalar_New(Double);
        if (s)
            PyArrayScalar_ASSIGN(s, Double, v);
        return s;
    }
    static PyObject *fr_new_float32(const void *bits)
    {
        PyObject *s = PyArrayScalar_New(Float);
        if (s)
            memcpy(&PyArrayScalar_VAL(s, Float), bits, sizeof(npy_float));
        return s;
    }
    static PyObject *fr_new_float16(npy_half v)
    {
        PyObject *s = PyArrayScalar_New(Half);
        if (s)
            PyArrayScalar_ASSIGN(s, Half, v);
        return s;
    }
    #if defined(__clang__)
    static const char *fr_compiler(void) { return "clang " __clang_version__; }
    #elif defined(__GNUC__)
    static const char *fr_compiler(void) { return "gcc " __VERSION__; }
    #else
    static const char *fr_compiler(void) { return "unknown"; }
    #endif
    /* In integers: an inexact sum would raise a flag that the caller sees. */
    static long long fr_milliseconds(void)
    {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        return 1000 * (long long)t.tv_sec + t.tv_nsec / 1000000;
    }
    #define fr_new_scalar_of(bits, descr) PyArray_Scalar((bits), (PyArray_Descr *)(descr), NULL)
    """
    const char *fr_compiler()
    object fr_new_float64(double v)
    object fr_new_float32(const void *bits)
    object fr_new_float16(unsigned short v)
    long long fr_milliseconds() noexcept nogil
    int NPY_HALF
    object fr_new_scalar_of(void *bits, PyObject *descr)

cdef extern from "Python.h":
    int PyErr_CheckSignals() except -1
    int PyDict_Next(object d, Py_ssize_t *place, PyObject **key, PyObject **item)
    PyObject *PyErr_Occurred()

# Below this many elements a call is over before another thread could use the lock.
cdef enum: HOLD_LOCK_BELOW = 16384
# Between two looks at pending signals: a third of the 100 ms that are promised.
cdef enum: POLL_MILLISECONDS = 30
cdef enum: MAX_NDIM = 64

cdef object _float64 = np.float64
cdef object _float32 = np.float32
cdef double _INFINITY = float("inf")


# NumPy's number for ml_dtypes' bfloat16 and its descriptor, once one has been seen.
cdef int _bfloat16_number = -1
cdef object _bfloat16 = None


# -- Arrays in ------------------------------------------------------------------------------------

cdef inline object _fill(fastreg_array *a, object x):
    """Describe x to C. Return the HostArray that must stay alive meanwhile; None: x itself."""
    cdef cnp.ndarray v
    cdef int num
    a.gradient = NULL
    a.gradient_strides = NULL
    a.l1 = 0.0
    a.l2 = 0.0
    if cnp.PyArray_CheckExact(x):
        v = <cnp.ndarray>x
        num = cnp.PyArray_TYPE(v)
        if cnp.PyArray_ISNOTSWAPPED(v):
            if num == cnp.NPY_FLOAT:
                _describe(a, v, FASTREG_F32)
                return None
            if num == cnp.NPY_DOUBLE:
                _describe(a, v, FASTREG_F64)
                return None
            if num == NPY_HALF:
                _describe(a, v, FASTREG_F16)
                return None
            if num == _bfloat16_number:
                _describe(a, v, FASTREG_BF16)
                return None
    return _fill_any(a, x)


cdef object _fill_any(fastreg_array *a, object x):
    """Describe what is no exact ndarray of a native float type."""
    global _bfloat16_number
    cdef cnp.ndarray v
    host = _arrays.host_array(x)
    if host.dtype is BF16 and cnp.PyArray_CheckExact(x) and x.dtype.name == "bfloat16":
        _bfloat16_number = cnp.PyArray_TYPE(<cnp.ndarray>x)
    v = <cnp.ndarray?>host.data
    if cnp.PyArray_ITEMSIZE(v) != host.dtype.itemsize:
        raise DTypeError(message(f"memory of {host.dtype.view} for {host.dtype}", str(v.dtype),
                                 "make it with bf16_view, or pass the array itself"))
    _describe(a, v, <fastreg_dtype><int>host.dtype.code)
    return host


cdef inline void _describe(fastreg_array *a, cnp.ndarray v, fastreg_dtype dtype) noexcept:
    a.data = cnp.PyArray_DATA(v)
    a.ndim = cnp.PyArray_NDIM(v)
    a.shape = <const Py_ssize_t *>cnp.PyArray_DIMS(v)
    a.strides = NULL
    if not cnp.PyArray_IS_C_CONTIGUOUS(v):
        a.strides = <const Py_ssize_t *>cnp.PyArray_STRIDES(v)
    a.dtype = dtype


cdef inline size_t _itemsize(fastreg_dtype dtype) noexcept nogil:
    return 8 if dtype == FASTREG_F64 else 4 if dtype == FASTREG_F32 else 2


cdef inline size_t _count(const fastreg_array *a) noexcept:
    cdef size_t n = 1
    cdef int d
    for d in range(a.ndim):
        n *= <size_t>a.shape[d]
    return n


cdef inline bint _same_shape(const fastreg_array *a, const fastreg_array *b) noexcept:
    cdef int d
    if a.ndim != b.ndim:
        return False
    for d in range(a.ndim):
        if a.shape[d] != b.shape[d]:
            return False
    return True


cdef inline void _own(fastreg_array *a, Py_ssize_t *room) noexcept:
    """Let a's shape and strides be copies in `room`, which another thread cannot change.

    An array's own move when somebody assigns to its shape while the lock is released.
    """
    cdef int d
    for d in range(a.ndim):
        room[d] = a.shape[d]
        if a.strides != NULL:
            room[MAX_NDIM + d] = a.strides[d]
    a.shape = room
    if a.strides != NULL:
        a.strides = room + MAX_NDIM


# -- Scalars out ----------------------------------------------------------------------------------

cdef object _scalar(fastreg_dtype dtype, double v):
    """Only moves bits: a conversion here would be at the mercy of the caller's environment."""
    global _bfloat16
    cdef unsigned int single
    cdef unsigned short bits
    if dtype == FASTREG_F64:
        return fr_new_float64(v)
    if dtype == FASTREG_F32:
        fastreg_pack(dtype, v, &single)
        return fr_new_float32(&single)
    fastreg_pack(dtype, v, &bits)
    if dtype == FASTREG_F16:
        return fr_new_float16(bits)
    if _bfloat16 is None:
        _bfloat16 = _arrays.bfloat16_dtype()
    return fr_new_scalar_of(&bits, <PyObject *>_bfloat16)


cdef inline int _result(object dtype, fastreg_dtype own, fastreg_dtype *result) except -1:
    """The type of the result: what `dtype` asks for, or x's own, or f64 for integers."""
    if dtype is None:
        result[0] = own if own < FASTREG_BOOL else FASTREG_F64
    elif dtype is _float64 or dtype is F64:
        result[0] = FASTREG_F64
    elif dtype is _float32 or dtype is F32:
        result[0] = FASTREG_F32
    else:
        result[0] = <fastreg_dtype><int>result_dtype(dtype).code
    return 0


# -- Numbers in -----------------------------------------------------------------------------------

cdef inline int _weights(object l1, object l2, double *w1, double *w2) except -1:
    """Two weights, of which one at least is given."""
    if l1 is None and l2 is None:
        raise ArgumentError(message("a weight, l1= or l2=", "neither", "pass l2=1e-4, or both"))
    w1[0] = 0.0 if l1 is None else <double>l1 if PyFloat_CheckExact(l1) else \
        <double>_arguments.weight(l1, "l1")
    w2[0] = 0.0 if l2 is None else <double>l2 if PyFloat_CheckExact(l2) else \
        <double>_arguments.weight(l2, "l2")
    return 0


cdef inline double _scale(object scale) except? -1.0:
    """An upstream factor: any number, infinity and NaN included."""
    if PyFloat_CheckExact(scale):
        return <double>scale
    return <double>_arguments.number(scale, "scale", finite=False)


# -- Errors and signals -----------------------------------------------------------------------------

cdef int _fail(fastreg_status status, const fastreg_array *a, size_t count) except -1:
    """Raise what a status means. An interrupted call has its exception pending."""
    cdef size_t k
    if status == FASTREG_INTERRUPTED and PyErr_Occurred() != NULL:
        return -1
    if status == FASTREG_BAD_WEIGHT:
        for k in range(count):
            where = f"the array at position {k}" if count > 1 else ""
            _arguments.weight(a[k].l1, "l1", where)
            _arguments.weight(a[k].l2, "l2", where)
    raise FastregError(fastreg_status_text(status).decode())


cdef struct _poll_state:
    long long next


cdef int _poll(void *context) noexcept nogil:
    """Look at pending signals every POLL_MILLISECONDS; 1 stops the call with the exception set."""
    cdef _poll_state *p = <_poll_state *>context
    cdef long long now = fr_milliseconds()
    if now < p.next:
        return 0
    p.next = now + POLL_MILLISECONDS
    with gil:
        try:
            PyErr_CheckSignals()
        except BaseException as e:
            _restore(e)
            return 1
    return 0


cdef extern from *:
    """
    static void fr_restore(PyObject *e) { PyErr_SetObject((PyObject *)Py_TYPE(e), e); }
    """
    void fr_restore(PyObject *e)


cdef void _restore(object e) noexcept:
    fr_restore(<PyObject *>e)


# -- Calls ----------------------------------------------------------------------------------------

cdef enum _operation:
    VALUE
    NORM
    GRADIENT
    BOTH
    PROX


cdef struct _call:
    _operation op
    double scale      # of a gradient; the step of a prox
    bint accumulate   # of a gradient; whether a prox flushes
    fastreg_dtype result


cdef inline fastreg_status _run(const _call *c, fastreg_array *a, size_t count, size_t n,
                                fastreg_options *o, double *value):
    """Run one call, without the interpreter's lock if it is long enough to matter."""
    cdef _poll_state poll
    cdef fastreg_status status
    if n < HOLD_LOCK_BELOW:
        return _run_now(c, a, count, o, value)
    poll.next = fr_milliseconds() + POLL_MILLISECONDS
    o.poll = _poll
    o.poll_context = &poll
    with nogil:
        status = _run_now(c, a, count, o, value)
    return status


cdef inline fastreg_status _run_now(const _call *c, fastreg_array *a, size_t count,
                                    fastreg_options *o, double *value) noexcept nogil:
    if c.op == VALUE:
        return fastreg_value(a, count, c.result, o, value)
    if c.op == NORM:
        return fastreg_norm(a, count, c.result, o, value)
    if c.op == GRADIENT:
        return fastreg_gradient(a, count, c.scale, c.accumulate, o)
    if c.op == PROX:
        return fastreg_prox(a, count, c.scale, c.accumulate, o)
    return fastreg_value_and_gradient(a, count, c.scale, c.accumulate, c.result, o, value)


cdef inline void _no_options(fastreg_options *o) noexcept nogil:
    memset(o, 0, sizeof(fastreg_options))


cdef class Options:
    """What a call may be forced to; no result depends on any of it.

    Parameters
    ----------
    level : str, optional
        ISA level by name; the one chosen at import by default.
    threads : int, default 0
        How many at most; 0 for the setting.
    bytes_per_thread : int, default 0
        A thread is used only for at least so many; 0 for the measured default.
    first_tier : 0, 1 or 2, default 0
        The tier to start at.
    error_factor : float, default 0.0
        Multiplies every error bound; 0 stands for 1. Below 1, results are no longer guaranteed.

    Attributes
    ----------
    tier : int
        The tier that decided the last value or norm, -1 before.
    """

    cdef fastreg_options _options
    cdef bytes _level
    cdef int _tier

    def __cinit__(self, *, level=None, int threads=0, size_t bytes_per_thread=0, int first_tier=0,
                  double error_factor=0.0):
        _no_options(&self._options)
        self._tier = -1
        self._level = b"" if level is None else level.encode()
        if level is not None:
            self._options.level = self._level
        self._options.threads = threads
        self._options.bytes_per_thread = bytes_per_thread
        self._options.first_tier = first_tier
        self._options.error_factor = error_factor
        self._options.tier = &self._tier

    @property
    def tier(self):
        """The tier that decided the last value or norm, -1 before."""
        return self._tier


# -- One array --------------------------------------------------------------------------------------

cdef inline object _value(_operation op, object x, double l1, double l2, object dtype):
    cdef fastreg_array a
    cdef fastreg_options o
    cdef fastreg_dtype result
    cdef fastreg_status status
    cdef double v = 0.0
    keep = _fill(&a, x)
    a.l1 = l1
    a.l2 = l2
    _result(dtype, a.dtype, &result)
    _no_options(&o)
    if _count(&a) >= HOLD_LOCK_BELOW:
        status = _run_long(op, &a, 1.0, False, result, &o, &v)
    elif op == NORM:
        status = fastreg_norm(&a, 1, result, &o, &v)
    else:
        status = fastreg_value(&a, 1, result, &o, &v)
    if status != FASTREG_OK:
        _fail(status, &a, 1)
    return _scalar(result, v)


cdef fastreg_status _run_long(_operation op, fastreg_array *a, double scale, bint accumulate,
                              fastreg_dtype result, fastreg_options *o, double *v):
    """Run a call of one array without the lock, its shape and strides out of others' reach."""
    cdef Py_ssize_t[3 * MAX_NDIM] room
    cdef _call c
    cdef int d
    _own(a, room)
    if a.gradient_strides != NULL:
        for d in range(a.ndim):
            room[2 * MAX_NDIM + d] = a.gradient_strides[d]
        a.gradient_strides = &room[2 * MAX_NDIM]
    c.op = op
    c.scale = scale
    c.accumulate = accumulate
    c.result = result
    return _run(&c, a, 1, _count(a), o, v)


cdef inline bint _fits_alone(const fastreg_array *a, const fastreg_array *g,
                             cnp.ndarray target) noexcept:
    """Whether an output of a's shape and type is dense, writable, and a's own memory or apart."""
    cdef uintptr_t x = <uintptr_t>a.data, y = <uintptr_t>g.data
    cdef size_t nbytes
    if a.strides != NULL or g.strides != NULL or not cnp.PyArray_ISWRITEABLE(target):
        return False
    nbytes = _count(a) * _itemsize(a.dtype)
    return x == y or x + nbytes <= y or y + nbytes <= x


cdef object _with_gradient(_operation op, object x, double l1, double l2, double scale, object out,
                           bint accumulate, object dtype):
    cdef fastreg_array a, g
    cdef fastreg_options o
    cdef fastreg_dtype result = FASTREG_F64
    cdef fastreg_status status
    cdef double v = 0.0
    cdef object keep_out = None
    keep = _fill(&a, x)
    if a.dtype >= FASTREG_BOOL:
        raise _arguments.not_differentiable(
            f"elements of type {_arrays.describe(x)}", "x.astype('float32')")
    if op == BOTH:
        _result(dtype, a.dtype, &result)
    source = x if keep is None else keep.data
    if out is None:
        if accumulate:
            raise ArgumentError(message("an array out= to accumulate into", "out=None",
                                        "pass out=, or accumulate=False"))
        if keep is None:
            out = np.empty_like(x, subok=False)
            keep_out = _fill(&g, out)
        else:
            out, keep_out = _arrays.empty_like(keep)
            _describe(&g, <cnp.ndarray>keep_out.data, a.dtype)
    else:
        keep_out = _fill(&g, out)
        target = out if keep_out is None else keep_out.data
        if g.dtype != a.dtype or not _same_shape(&g, &a):
            raise LayoutError(message(
                f"out of x's shape and dtype, {source.shape} {_arrays.describe(x)}",
                f"{target.shape} {_arrays.describe(out)}", "pass such an array, or out=None"))
        if not _fits_alone(&a, &g, <cnp.ndarray>target):
            _arrays.check_target(source, target)
    a.l1 = l1
    a.l2 = l2
    a.gradient = <void *>g.data
    a.gradient_strides = g.strides
    _no_options(&o)
    if _count(&a) >= HOLD_LOCK_BELOW:
        status = _run_long(op, &a, scale, accumulate, result, &o, &v)
    elif op == GRADIENT:
        status = fastreg_gradient(&a, 1, scale, accumulate, &o)
    else:
        status = fastreg_value_and_gradient(&a, 1, scale, accumulate, result, &o, &v)
    if status != FASTREG_OK:
        _fail(status, &a, 1)
    if op == GRADIENT:
        return out
    return _scalar(result, v), out


def value(x, *, l1=None, l2=None, dtype=None):
    """Return ``l1 * sum(|x|) + l2 * sum(x**2)``, correctly rounded.

    The exact real number is rounded once, to nearest with ties to even. So the result has the same bits on
    every processor, for every number of threads, memory layout and order of the elements.

    Parameters
    ----------
    x : array of any shape and layout
        float16, bfloat16 (ml_dtypes), float32, float64, bool, or an integer type of up to 64 bits. An
        ndarray, or an object with ``__dlpack__`` on the CPU, ``__array_interface__`` or the buffer
        protocol (torch and JAX CPU arrays, memmap, array.array, memoryview). It is read in place,
        never copied or written. Byte order must be the machine's own.
    l1, l2 : float, finite and >= 0
        Weights, taken as float64 and not rounded to x's type; one that is left out is 0. Zero removes
        the term, whatever x holds.
    dtype : float16, bfloat16, float32 or float64, optional
        Type of the result; x's own by default, float64 for integers and bool.

    Returns
    -------
    NumPy scalar
        +0 if x is empty or both weights are 0; the quiet NaN if x holds a NaN; else infinity if x holds one.
        A finite penalty is infinite or zero only if its rounding is.

    Raises
    ------
    DTypeError
        (a TypeError) If x is not an array, its element type has no kernel, or dtype is not a float type.
    ArgumentError
        (a ValueError) If a weight is negative, NaN or infinite, or neither is given.
    KeyboardInterrupt
        Within 100 ms of Ctrl-C, for an x of any size.

    Notes
    -----
    Like ``keras.regularizers.L1L2(l1, l2)(x)``, which multiplies weights rounded to x's type and sums in x's
    type: there float16 overflows to infinity. Large arrays are read by several threads (see
    :func:`fastreg.set_num_threads`) without the interpreter's lock.

    Examples
    --------
    >>> import numpy as np, fastreg
    >>> fastreg.value(np.array([3.0, -4.0]), l1=0.5, l2=1.0)
    np.float64(28.5)
    >>> fastreg.value(np.array([256.0], np.float16), l2=0.5)
    np.float16(32770.0)
    """
    cdef double w1, w2
    _weights(l1, l2, &w1, &w2)
    return _value(VALUE, x, w1, w2, dtype)


def sum_squares(x, *, dtype=None):
    """Return ``sum(x**2)``, correctly rounded.

    Parameters, result, errors and notes are those of :func:`value` with ``l2=1``.

    Examples
    --------
    >>> import numpy as np, fastreg
    >>> fastreg.sum_squares(np.array([3.0, -4.0], np.float32))
    np.float32(25.0)
    >>> fastreg.sum_squares(np.arange(4))
    np.float64(14.0)
    """
    return _value(VALUE, x, 0.0, 1.0, dtype)


def sum_abs(x, *, dtype=None):
    """Return ``sum(|x|)``, correctly rounded.

    Parameters, result, errors and notes are those of :func:`value` with ``l1=1``.

    Examples
    --------
    >>> import numpy as np, fastreg
    >>> fastreg.sum_abs(np.array([3.0, -4.0]))
    np.float64(7.0)
    """
    return _value(VALUE, x, 1.0, 0.0, dtype)


def l2_loss(x, *, dtype=None):
    """Return ``sum(x**2) / 2``, correctly rounded: TensorFlow's ``tf.nn.l2_loss``.

    Parameters, result, errors and notes are those of :func:`value` with ``l2=0.5``. Keras'
    ``L2`` has no half.

    Examples
    --------
    >>> import numpy as np, fastreg
    >>> fastreg.l2_loss(np.array([3.0, -4.0]))
    np.float64(12.5)
    """
    return _value(VALUE, x, 0.0, 0.5, dtype)


def norm(x, *, dtype=None):
    """Return the Euclidean norm ``sqrt(sum(x**2))``, correctly rounded.

    The root of the exact sum is rounded once; nothing overflows or underflows on the way.
    Parameters, result, errors and notes are otherwise those of :func:`value`.

    Examples
    --------
    >>> import numpy as np, fastreg
    >>> fastreg.norm(np.array([3e200, -4e200]))
    np.float64(5e+200)
    """
    return _value(NORM, x, 0.0, 1.0, dtype)


def gradient(x, *, l1=None, l2=None, scale=1.0, out=None, bint accumulate=False):
    """Return the gradient of :func:`value` with respect to x, times ``scale``.

    Each element is ``g = RN_T(fma(2 * l2 * scale, x, l1 * scale * sign(x)))``: one fused
    multiply-add in float64, rounded to x's type T. ``sign(0) = 0``, and NaN gives NaN. A weight of 0
    removes its term: without l2 the gradient is ±l1 * scale at ±infinity, without l1 it is
    ``2 * l2 * scale * x``, -0 at -0, and with both 0 it is 0 whatever x holds.

    Parameters
    ----------
    x : array of float16, bfloat16, float32 or float64
        As in :func:`value`.
    l1, l2 : float, finite and >= 0
        Weights, as in :func:`value`.
    scale : float, default 1
        The upstream gradient: what the penalty is multiplied by. Infinity and NaN give what IEEE 754
        gives for the expression.
    out : writable array of x's shape and type, optional
        Where the gradient goes: any layout, x itself included. It must not overlap x in part.
    accumulate : bool, default False
        Add to ``out``: ``out = RN_T(out + g)``.

    Returns
    -------
    ndarray
        ``out``, or a new array of x's shape, type and memory order.

    Raises
    ------
    DTypeError
        (a TypeError) If x is not an array of floats, or a weight or the scale no number.
    LayoutError
        (a ValueError) If out has another shape or type, is read-only, or overlaps x or itself.
    ArgumentError
        (a ValueError) If a weight is out of range, or accumulate comes without out.
    KeyboardInterrupt
        Within 100 ms of Ctrl-C. Then, and only then, ``out`` may be partly written.

    Examples
    --------
    >>> import numpy as np, fastreg
    >>> fastreg.gradient(np.array([3.0, 0.0, -4.0]), l1=1.0, l2=0.5)
    array([ 4.,  0., -5.])
    """
    cdef double w1, w2
    _weights(l1, l2, &w1, &w2)
    return _with_gradient(GRADIENT, x, w1, w2, _scale(scale), out, accumulate, None)


def value_and_gradient(x, *, l1=None, l2=None, select=None, weights=1.0, convention="keras",
                       scale=1.0, out=None, accumulate=None, dtype=None):
    """Return ``(value, gradient)`` of one pass over an array, or over all arrays of a model.

    Equal, bit for bit, to :func:`value` and :func:`gradient` called one after the other, whose
    parameters and errors it has; for a container to :func:`fastreg.penalty` and its gradient.
    ``scale`` multiplies the gradient only.

    Parameters
    ----------
    x, l1, l2, scale, dtype
        As in :func:`value` and :func:`gradient`; of a container as in :func:`fastreg.penalty`.
    select, weights, convention
        For a container, as in :func:`fastreg.penalty`.
    out : optional
        Where the gradient goes, as in :func:`gradient`; for a container one of writable arrays, as
        in :meth:`fastreg.Plan.add_gradient_`.
    accumulate : bool, optional
        Whether to add to ``out``. By default an array is overwritten, and a container's arrays,
        which are the ``grad`` of a training step, are added to.

    Returns
    -------
    value : NumPy scalar
    gradient : ndarray
        ``out``, or a new array. Of a list or tuple a list of new arrays, None where an array is
        left out; of a container with names a dict of them, by name.

    Examples
    --------
    >>> import numpy as np, fastreg
    >>> fastreg.value_and_gradient(np.array([3.0, -4.0]), l2=0.5)
    (np.float64(12.5), array([ 3., -4.]))
    >>> fastreg.value_and_gradient({"kernel": np.array([[3.0, -4.0]])}, l2=0.5)
    (np.float64(12.5), {'kernel': array([[ 3., -4.]])})
    """
    cdef double w1, w2
    if not cnp.PyArray_CheckExact(x) and _is_array is not None and not _is_array(x):
        return _of_container(x, l1=l1, l2=l2, select=select, weights=weights,
                             convention=convention, scale=scale, out=out, accumulate=accumulate,
                             dtype=dtype)
    _weights(l1, l2, &w1, &w2)
    if convention != "keras":
        w2 *= _arguments.CONVENTIONS[_arguments.flag(
            convention, "convention", *_arguments.CONVENTIONS)]
    if select is not None or not (PyFloat_CheckExact(weights) and <double>weights == 1.0):
        raise ArgumentError(message("select= and weights= with a container", "one array",
                                    "leave them out, or pass [x]"))
    return _with_gradient(BOTH, x, w1, w2, _scale(scale), out,
                          accumulate is not None and accumulate, dtype)


cdef object _is_array = None
cdef object _of_container = None


def set_containers(is_array, value_and_gradient):
    """Say what is an array, and what `value_and_gradient` does for everything else."""
    global _is_array, _of_container
    _is_array = is_array
    _of_container = value_and_gradient


# -- Lists of arrays --------------------------------------------------------------------------------

cdef list _numbers(object w, Py_ssize_t count, str what):
    """One number for each of `count` arrays."""
    if not isinstance(w, list):
        return [w] * count
    if len(<list>w) != count:
        raise ArgumentError(message(f"{count} numbers {what}, one for each array",
                                    str(len(<list>w)), "pass one for all, or one for each"))
    return <list>w


cdef struct _span:
    uintptr_t low
    uintptr_t high
    Py_ssize_t position
    bint written


cdef int _by_address(const void *a, const void *b) noexcept nogil:
    cdef uintptr_t x = (<const _span *>a).low, y = (<const _span *>b).low
    return (x > y) - (x < y)


cdef bint _plainly_fit(const fastreg_array *a, Py_ssize_t count, list targets,
                       Py_ssize_t *first, Py_ssize_t *second) except -1:
    """Whether all arrays are dense floats, written where ``gradient`` says, without any overlap.

    False may only mean that a closer look is needed. Where two of them overlap, `first` and `second`
    receive their positions, otherwise -1. ``targets`` are the ndarrays to be written, or None; None
    for memory that may be written.
    """
    cdef Py_ssize_t k, spans = 0, latest = -1, latest_written = -1
    cdef size_t nbytes
    cdef uintptr_t written = 0, any = 0
    cdef bint fit = True
    cdef _span *s = <_span *>malloc((2 * <size_t>count + 1) * sizeof(_span))
    first[0] = second[0] = -1
    if s == NULL:
        raise MemoryError
    for k in range(count):
        if a[k].dtype >= FASTREG_BOOL or a[k].strides != NULL or a[k].gradient_strides != NULL:
            fit = False
            break
        nbytes = _count(&a[k]) * _itemsize(a[k].dtype)
        if nbytes == 0:
            continue
        s[spans].low = <uintptr_t>a[k].data
        s[spans].written = a[k].gradient == a[k].data
        s[spans].high = s[spans].low + nbytes
        s[spans].position = k
        spans += 1
        if a[k].gradient == NULL:
            continue
        if targets is not None and not cnp.PyArray_ISWRITEABLE(<cnp.ndarray>targets[k]):
            fit = False
            break
        if a[k].gradient != a[k].data:
            s[spans].low = <uintptr_t>a[k].gradient
            s[spans].high = s[spans].low + nbytes
            s[spans].written = True
            s[spans].position = k
            spans += 1
    if fit:
        qsort(s, <size_t>spans, sizeof(_span), _by_address)
        for k in range(spans):
            if s[k].low < written or (s[k].written and s[k].low < any):
                fit = False
                first[0] = latest_written if s[k].low < written else latest
                second[0] = s[k].position
                break
            if s[k].high > any:
                any = s[k].high
                latest = s[k].position
            if s[k].written and s[k].high > written:
                written = s[k].high
                latest_written = s[k].position
    free(s)
    return fit


cdef object _statistics_dtype = np.dtype([
    ("n", np.int64), ("sum_abs", np.float64), ("sum_squares", np.float64), ("norm", np.float64),
    ("max_abs", np.float64), ("zeros", np.int64), ("subnormals", np.int64), ("nans", np.int64),
    ("infs", np.int64),
])


cdef class Arrays:
    """Described memory x verbs: a list of arrays with their weights, described to C once.

    Parameters
    ----------
    items : list
        Of ndarrays, HostArrays, or what :func:`fastreg._core.arrays.host_array` takes. They are held
        for as long as this object lives, so their memory stays.
    l1, l2 : float, or list of float, one for each array
        Weights, finite and >= 0.
    options : Options, optional

    Notes
    -----
    Methods that write (names ending in ``_``, and gradients) check everything before the first
    write; errors name positions. Shapes and strides are copies. Two threads may read at the same
    time; writing, or naming targets, while another thread is in a call is an error.
    """

    cdef list _items     # what must stay alive, as it was given
    cdef list _views     # the ndarrays described, None for memory given by address
    cdef list _targets   # what was named by bind
    cdef fastreg_array *_arrays
    cdef Py_ssize_t *_extents
    cdef Py_ssize_t _length
    cdef size_t _n
    cdef bint _writable  # whether the arrays may be written in place has been looked at
    cdef int _running
    cdef Options _options

    def __cinit__(self):
        self._length = 0
        self._n = 0
        self._running = 0
        self._writable = False
        self._arrays = NULL
        self._extents = NULL
        self._targets = None

    def __init__(self, items, l1=0.0, l2=0.0, *, Options options=None):
        cdef Py_ssize_t k, used = 0, room = 0, d
        cdef fastreg_array *a
        cdef Py_ssize_t *more
        cdef list given = list(items)
        self._begin(given, l1, l2, options)
        self._views = []
        for k in range(self._length):
            a = &self._arrays[k]
            l1_k, l2_k = a.l1, a.l2
            keep = _fill(a, given[k])
            a.l1, a.l2 = l1_k, l2_k
            self._views.append(given[k] if keep is None else keep.data)
            if used + 2 * a.ndim > room:
                room = 2 * room + 64 + 2 * a.ndim
                more = <Py_ssize_t *>realloc(self._extents, <size_t>room * sizeof(Py_ssize_t))
                if more == NULL:
                    self._length = 0
                    raise MemoryError
                self._extents = more
            for d in range(a.ndim):
                self._extents[used + d] = a.shape[d]
                if a.strides != NULL:
                    self._extents[used + a.ndim + d] = a.strides[d]
            self._n += _count(a)
            used += 2 * a.ndim
        used = 0
        for k in range(self._length):
            a = &self._arrays[k]
            a.shape = self._extents + used if a.ndim else NULL
            if a.strides != NULL:
                a.strides = self._extents + used + a.ndim
            used += 2 * a.ndim

    cdef int _begin(self, list items, object l1, object l2, Options options) except -1:
        """Take items and weights, and room for their description."""
        cdef Py_ssize_t k
        cdef list l1s, l2s
        if self._arrays != NULL:
            raise FastregError(message("one initialisation", "a second", "make a new object"))
        self._items = items
        self._options = options
        self._length = len(items)
        l1s, l2s = _numbers(l1, self._length, "l1"), _numbers(l2, self._length, "l2")
        self._arrays = <fastreg_array *>calloc(<size_t>self._length + 1, sizeof(fastreg_array))
        if self._arrays == NULL:
            self._length = 0
            raise MemoryError
        for k in range(self._length):
            self._arrays[k].l1 = l1s[k]
            self._arrays[k].l2 = l2s[k]
        return 0

    @staticmethod
    def dense(list owners, list addresses, list lengths, list dtypes, l1=0.0, l2=0.0, *,
              Options options=None):
        """Describe dense memory by address, for tensors that take longer to become ndarrays than to read.

        Parameters
        ----------
        owners : list
            What keeps the memory alive.
        addresses, lengths : list of int
        dtypes : list of Dtype
        l1, l2, options
            As for the class.
        """
        cdef Arrays self = Arrays.__new__(Arrays)
        cdef Py_ssize_t k
        cdef fastreg_array *a
        self._begin(owners, l1, l2, options)
        self._extents = <Py_ssize_t *>malloc((<size_t>self._length + 1) * sizeof(Py_ssize_t))
        if self._extents == NULL:
            self._length = 0
            raise MemoryError
        for k in range(self._length):
            a = &self._arrays[k]
            self._extents[k] = lengths[k]
            a.data = <void *><uintptr_t>addresses[k]
            a.shape = &self._extents[k]
            a.ndim = 1
            a.dtype = <fastreg_dtype><int>dtypes[k].code
            self._n += <size_t>self._extents[k]
        return self

    def __dealloc__(self):
        free(self._arrays)
        free(self._extents)

    def __len__(self):
        return self._length

    @property
    def n(self):
        """Number of elements of all arrays."""
        return self._n

    # -- One call

    cdef object _do(self, _call *c, fastreg_array *arrays, object dtype, bint number):
        """Run a call over all arrays; the value as a NumPy scalar or as a float, if it has one."""
        cdef fastreg_options o
        cdef fastreg_status status
        cdef double v = 0.0
        c.result = FASTREG_F64
        if c.op in (VALUE, NORM, BOTH):
            _result(dtype, FASTREG_F64, &c.result)
        if self._options is None:
            _no_options(&o)
        else:
            o = self._options._options
        self._running += 1
        status = _run(c, arrays, <size_t>self._length, self._n, &o, &v)
        self._running -= 1
        if status != FASTREG_OK:
            _fail(status, arrays, <size_t>self._length)
        if c.op == GRADIENT or c.op == PROX:
            return None
        return v if number else _scalar(c.result, v)

    cdef int _alone(self) except -1:
        """Refuse to change what another thread is using."""
        if self._running:
            raise FastregError(message("arrays or a plan that one thread uses at a time",
                                       "a call while another thread is in one",
                                       "make one for each thread"))
        return 0

    def value(self, dtype=None, bint number=False):
        """Return the penalty of all arrays, exact and rounded once.

        Parameters
        ----------
        dtype : Dtype or dtype, optional
            Type of the result; float64 by default.
        number : bool, default False
            Return a Python float, which needs no package for bfloat16, and not a NumPy scalar.
        """
        cdef _call c
        c.op = VALUE
        c.scale = 1.0
        c.accumulate = False
        return self._do(&c, self._arrays, dtype, number)

    def norm(self, dtype=None, bint number=False, list times=None):
        """Return the Euclidean norm of all arrays together, correctly rounded; weights play no part.

        ``times`` says how often each array counts, by default once.
        """
        cdef _call c
        cdef Py_ssize_t k
        cdef fastreg_array *copy = self._copy()
        c.op = NORM
        c.scale = 1.0
        c.accumulate = False
        try:
            for k in range(self._length):
                copy[k].l1 = 0.0
                copy[k].l2 = 1.0 if times is None else times[k]
            return self._do(&c, copy, dtype, number)
        finally:
            free(copy)

    cdef fastreg_array *_copy(self) except NULL:
        """The description, to be changed and freed."""
        cdef size_t nbytes = (<size_t>self._length + 1) * sizeof(fastreg_array)
        cdef fastreg_array *copy = <fastreg_array *>malloc(nbytes)
        if copy == NULL:
            raise MemoryError
        memcpy(copy, self._arrays, nbytes)
        return copy

    # -- Gradients

    def bind(self, list targets, bint fresh=False):
        """Name where gradients go, until other targets are named.

        Parameters
        ----------
        targets : list
            For each array an ndarray or HostArray of its shape and type, or None for none of it; for
            memory given by address an address, or 0.
        fresh : bool, default False
            The caller has just made them: writable, dense, shared with nobody. Nothing is checked.

        Raises
        ------
        DTypeError, LayoutError
            As :func:`fastreg.gradient` for ``out``, naming the position; also if two targets, or a
            target and another array, share memory.
        """
        cdef Py_ssize_t k, first, second
        cdef fastreg_array g
        cdef bint alike = True
        self._alone()
        if len(targets) != self._length:
            raise LayoutError(message(f"{self._length} targets", f"{len(targets)}",
                                      "pass one (or None) for each array"))
        self._targets = None
        for k in range(self._length):
            self._arrays[k].gradient = NULL
            self._arrays[k].gradient_strides = NULL
        if self._views is None:
            for k in range(self._length):
                self._arrays[k].gradient = <void *><uintptr_t>targets[k]
            if not fresh and not _plainly_fit(self._arrays, self._length, None, &first, &second):
                for k in range(self._length):
                    self._arrays[k].gradient = NULL
                raise _shared(first, second)
            self._targets = targets
            return
        hosts = [None if t is None else _arrays.host_array(t) for t in targets]
        views = [None if h is None else h.data for h in hosts]
        for k in range(self._length):
            if hosts[k] is not None:
                _fill(&g, hosts[k])
                alike = alike and g.dtype == self._arrays[k].dtype and \
                    _same_shape(&g, &self._arrays[k])
                self._arrays[k].gradient = <void *>g.data
                self._arrays[k].gradient_strides = g.strides
        try:
            if not (fresh and alike) and not (alike and _plainly_fit(
                    self._arrays, self._length, views, &first, &second)):
                _arrays.check_targets(self._hosts(), hosts)
        except BaseException:
            for k in range(self._length):
                self._arrays[k].gradient = NULL
                self._arrays[k].gradient_strides = NULL
            raise
        # Views of our own: assigning to an array's shape must not move the strides that C reads.
        self._targets = [None if v is None else v.view() for v in views]
        for k in range(self._length):
            if self._arrays[k].gradient_strides != NULL:
                self._arrays[k].gradient_strides = <const Py_ssize_t *>cnp.PyArray_STRIDES(
                    <cnp.ndarray>self._targets[k])

    cdef list _hosts(self):
        """The arrays as HostArrays, for a closer look."""
        return [_arrays.host_array(x) for x in self._items]

    cdef int _bind_if_given(self, list targets, bint fresh) except -1:
        if targets is not None:
            self.bind(targets, fresh)
        elif self._targets is None and self._length:
            raise ArgumentError(message("targets for the gradients", "none bound",
                                        "call bind(targets) first, or pass them"))
        self._alone()
        return 0

    def gradient(self, list targets=None, scale=1.0, bint accumulate=False, bint fresh=False):
        """Write (or add) the gradients into the targets, bound before or given here; see :meth:`bind`."""
        cdef _call c
        c.op = GRADIENT
        c.scale = _scale(scale)
        c.accumulate = accumulate
        self._bind_if_given(targets, fresh)
        self._do(&c, self._arrays, None, False)

    def value_and_gradient(self, list targets=None, scale=1.0, bint accumulate=False, dtype=None,
                           bint number=False, bint fresh=False):
        """Write (or add) the gradients, and return the value, in one pass; see :meth:`value`."""
        cdef _call c
        c.op = BOTH
        c.scale = _scale(scale)
        c.accumulate = accumulate
        self._bind_if_given(targets, fresh)
        return self._do(&c, self._arrays, dtype, number)

    # -- In place

    cdef int _check_writable(self, fastreg_array *copy) except -1:
        """Refuse what cannot be written in place, before the first write."""
        cdef Py_ssize_t k, first, second
        cdef bint readable = True
        if self._views is not None:
            for k in range(self._length):
                readable = readable and cnp.PyArray_ISWRITEABLE(<cnp.ndarray>self._views[k])
        # Shapes and overlaps cannot change while this object holds the arrays; writability can.
        if self._writable and readable:
            return 0
        if not (readable and _plainly_fit(copy, self._length, None, &first, &second)):
            if self._views is None:
                raise _shared(first, second)
            hosts = self._hosts()
            _arrays.check_targets(hosts, hosts)
        self._writable = True
        return 0

    cdef int _in_place(self, _call *c, double l1, double l2) except -1:
        """Write every array in place; for a gradient, with these weights."""
        cdef Py_ssize_t k
        cdef fastreg_array *copy
        self._alone()
        copy = self._copy()
        try:
            for k in range(self._length):
                copy[k].gradient = <void *>copy[k].data
                copy[k].gradient_strides = copy[k].strides
                if c.op == GRADIENT:
                    copy[k].l1 = l1
                    copy[k].l2 = l2
            self._check_writable(copy)
            self._do(c, copy, None, False)
        finally:
            free(copy)
        return 0

    def scale_(self, factor):
        """Replace every x by ``RN_T(factor * x)``."""
        cdef _call c
        c.op = GRADIENT
        c.scale = _scale(factor)
        c.accumulate = False
        self._in_place(&c, 0.0, 0.5)

    def prox_(self, step, bint flush=False):
        """Take a proximal step of the penalty in place; ``flush`` turns subnormal results into 0.

        ``t = |x| - step * l1``; 0 if ``t <= 0``, else ``sign(x) * RN_T(t / (1 + 2 * step * l2))``.
        """
        cdef _call c
        c.op = PROX
        c.scale = _arguments.number(step, "step", least=0.0)
        c.accumulate = flush
        self._in_place(&c, 0.0, 0.0)

    # -- Statistics

    def statistics(self):
        """Return n, sums, norm, max and counts of each array and of all together, from one pass.

        Returns
        -------
        rows : structured ndarray, one row for each array
            Fields n, sum_abs, sum_squares, norm, max_abs (float64), zeros, subnormals, nans, infs.
        total : the same fields, of all arrays
            Its sums are exact and rounded once.
        """
        cdef cnp.ndarray rows = np.empty(self._length + 1, _statistics_dtype)
        cdef fastreg_statistics *out = <fastreg_statistics *>cnp.PyArray_DATA(rows)
        cdef fastreg_options o
        cdef fastreg_status status
        cdef _poll_state poll
        if self._options is None:
            _no_options(&o)
        else:
            o = self._options._options
        poll.next = fr_milliseconds() + POLL_MILLISECONDS
        o.poll = _poll
        o.poll_context = &poll
        self._running += 1
        with nogil:
            status = fastreg_statistics_of(self._arrays, <size_t>self._length, &o, out,
                                           out + self._length)
        self._running -= 1
        if status != FASTREG_OK:
            _fail(status, self._arrays, <size_t>self._length)
        return rows[:self._length], rows[self._length]


cdef object _shared(Py_ssize_t first, Py_ssize_t second):
    """The error of memory that would be written twice, or read after it was written."""
    where = f"positions {first} and {second}" if first >= 0 else "some"
    return LayoutError(message("written arrays that share memory with no other array of the list",
                               f"{where}, which do",
                               "pass each memory once, or write to separate arrays"))


def are_writable(list arrays):
    """Tell whether all of these ndarrays are writable."""
    for x in arrays:
        if not cnp.PyArray_ISWRITEABLE(<cnp.ndarray?>x):
            return False
    return True


def are_the_items(container, list items):
    """Tell whether the items of a list or tuple, or the values of a dict, are these very objects."""
    cdef Py_ssize_t k = 0, place = 0
    cdef PyObject *key
    cdef PyObject *item
    if isinstance(container, dict):
        if len(<dict>container) != len(items):
            return False
        while PyDict_Next(<dict>container, &place, &key, &item):
            if item != <PyObject *>items[k]:
                return False
            k += 1
        return True
    if type(container) is list:
        if len(<list>container) != len(items):
            return False
        for k in range(len(items)):
            if (<list>container)[k] is not items[k]:
                return False
        return True
    now = list(container)
    return len(now) == len(items) and are_the_items(now, items)


# -- What is in use -----------------------------------------------------------------------------------

def levels(*, bint all=False):
    """Return the names of the ISA levels that this machine can run (or that were compiled)."""
    cdef list names = []
    cdef size_t i = 0
    cdef int available
    cdef const char *name = fastreg_level_name(0, &available)
    while name != NULL:
        if available or all:
            names.append(name.decode())
        i += 1
        name = fastreg_level_name(i, &available)
    return names


def level():
    """Return the name of the level in use, or None if FASTREG_ISA names an impossible one."""
    cdef const char *name = fastreg_level()
    return None if name == NULL else name.decode()


def has_openmp():
    """Tell whether the library was compiled with OpenMP."""
    return bool(fastreg_has_openmp())


def version():
    """Return the version of the C library."""
    return FASTREG_VERSION.decode()


def compiler():
    """Return the compiler that built the library."""
    return fr_compiler().decode()


def num_threads():
    """Return the number of threads that a large call made here and now would use."""
    return fastreg_get_num_threads()


def set_process_threads(int threads):
    """Set the number of threads for the process, 0 for automatic; return the setting before."""
    cdef int previous = 0
    if fastreg_set_num_threads(threads, &previous) != FASTREG_OK:
        _bad_threads(threads)
    return previous


def set_thread_threads(int threads):
    """Set the number of threads for this thread, 0 for the process' one; return that before."""
    cdef int previous = 0
    if fastreg_set_thread_num_threads(threads, &previous) != FASTREG_OK:
        _bad_threads(threads)
    return previous


cdef int _bad_threads(int threads) except -1:
    raise ArgumentError(message("a thread count >= 1", str(threads), "pass a positive integer"))


cdef extern from "_xla.h":
    void fr_xla_value()
    void fr_xla_gradient()

cdef extern from "Python.h":
    object PyCapsule_New(void *pointer, const char *name, void *destructor)


def xla_handlers():
    """Return the kernels as handlers of XLA's FFI, in the capsules that jax.ffi registers."""
    return {"fastreg_value": PyCapsule_New(<void *>fr_xla_value, "xla._CUSTOM_CALL_TARGET", NULL),
            "fastreg_gradient": PyCapsule_New(<void *>fr_xla_gradient, "xla._CUSTOM_CALL_TARGET",
                                              NULL)}
