# SPDX-License-Identifier: BSD-3-Clause
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: embedsignature=False, freethreading_compatible=True
"""The seam between Python and the C library: addresses, lengths and strides in, status out.

No mathematics here. The public functions live in this file because a wrapper around them would
double the cost of a small call; everything that is not an exact ndarray of a native float type is
prepared by :mod:`fastreg.arrays`.
"""

cimport numpy as cnp
from cpython.ref cimport PyObject
from libc.stdint cimport uintptr_t
from libc.stdlib cimport free, malloc, qsort
from libc.string cimport memcpy

import numpy as np

from fastreg import arrays as _arrays
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

cdef dict _dtype_codes = {
    "f16": FASTREG_F16, "bf16": FASTREG_BF16, "f32": FASTREG_F32, "f64": FASTREG_F64,
    "bool": FASTREG_BOOL, "i8": FASTREG_I8, "u8": FASTREG_U8, "i16": FASTREG_I16,
    "u16": FASTREG_U16, "i32": FASTREG_I32, "u32": FASTREG_U32, "i64": FASTREG_I64,
    "u64": FASTREG_U64,
}
cdef tuple _float_names = ("f16", "bf16", "f32", "f64")
cdef object _float64 = np.float64
cdef object _float32 = np.float32


# NumPy's number for ml_dtypes' bfloat16 and its descriptor, once one has been seen.
cdef int _bfloat16_number = -1
cdef object _bfloat16 = None


# -- Arrays in ------------------------------------------------------------------------------------

cdef inline object _fill(fastreg_array *a, object x):
    """Describe x to C. Return the HostArray that must stay alive meanwhile; None: x itself."""
    global _bfloat16_number
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
    host = _arrays.host_array(x)
    if host.dtype == "bf16" and cnp.PyArray_CheckExact(x) and x.dtype.name == "bfloat16":
        _bfloat16_number = cnp.PyArray_TYPE(<cnp.ndarray>x)
    _describe(a, <cnp.ndarray>host.data, <fastreg_dtype><int>_dtype_codes[host.dtype])
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
    elif dtype is _float64:
        result[0] = FASTREG_F64
    elif dtype is _float32:
        result[0] = FASTREG_F32
    else:
        result[0] = <fastreg_dtype><int>_dtype_codes[_arrays.result_name(dtype)]
    return 0


# -- Errors and signals -----------------------------------------------------------------------------

cdef int _fail(fastreg_status status, double l1, double l2, double scale) except -1:
    """Raise what a status means. An interrupted call has its exception pending."""
    if status == FASTREG_INTERRUPTED and PyErr_Occurred() != NULL:
        return -1
    if status == FASTREG_BAD_WEIGHT:
        name, bad = ("l1", l1) if not (0.0 <= l1 < float("inf")) else ("l2", l2)
        raise ArgumentError(message(
            f"a weight {name} that is finite and >= 0", repr(bad), "pass a non-negative number"))
    if status == FASTREG_BAD_SCALE:
        raise ArgumentError(message("a finite scale", repr(scale), "pass an ordinary number"))
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


cdef inline fastreg_status _call(_operation op, fastreg_array *a, size_t count, size_t n,
                                 double scale, bint accumulate, fastreg_dtype result,
                                 fastreg_options *o, double *value):
    """Run one call, without the interpreter's lock if it is long enough to matter."""
    cdef _poll_state poll
    cdef fastreg_status status
    if n < HOLD_LOCK_BELOW:
        return _run(op, a, count, scale, accumulate, result, o, value)
    poll.next = fr_milliseconds() + POLL_MILLISECONDS
    o.poll = _poll
    o.poll_context = &poll
    with nogil:
        status = _run(op, a, count, scale, accumulate, result, o, value)
    return status


cdef inline fastreg_status _run(_operation op, fastreg_array *a, size_t count, double scale,
                                bint accumulate, fastreg_dtype result, fastreg_options *o,
                                double *value) noexcept nogil:
    if op == VALUE:
        return fastreg_value(a, count, result, o, value)
    if op == NORM:
        return fastreg_norm(a, count, result, o, value)
    if op == GRADIENT:
        return fastreg_gradient(a, count, scale, accumulate, o)
    return fastreg_value_and_gradient(a, count, scale, accumulate, result, o, value)


cdef inline void _no_options(fastreg_options *o) noexcept nogil:
    o.threads = 0
    o.bytes_per_thread = 0
    o.level = NULL
    o.poll = NULL
    o.poll_context = NULL
    o.first_tier = 0
    o.error_factor = 0.0
    o.tier = NULL


cdef inline object _value(_operation op, object x, double l1, double l2, object dtype,
                          bint plain=False):
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
    status = _call(op, &a, 1, _count(&a), 1.0, False, result, &o, &v)
    if status != FASTREG_OK:
        _fail(status, l1, l2, 1.0)
    return v if plain else _scalar(result, v)


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
                           bint accumulate, object dtype, const char *level, bint fresh=False,
                           bint plain=False):
    cdef fastreg_array a, g
    cdef fastreg_options o
    cdef fastreg_dtype result = FASTREG_F64
    cdef fastreg_status status
    cdef double v = 0.0
    cdef object keep_out = None
    keep = _fill(&a, x)
    if a.dtype >= FASTREG_BOOL:
        raise DTypeError(message(
            "a float array (float16, bfloat16, float32, float64) to differentiate",
            f"elements of type {_arrays.describe(x)}", "convert x, for example x.astype('float32')"))
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
        if g.dtype != a.dtype or target.shape != source.shape:
            raise LayoutError(message(
                f"out of x's shape and dtype, {source.shape} {_arrays.describe(x)}",
                f"{target.shape} {_arrays.describe(out)}", "pass such an array, or out=None"))
        # fresh: the caller has just made it, writable, dense, shared with nobody.
        if not fresh and not _fits_alone(&a, &g, <cnp.ndarray>target):
            _arrays.check_target(source, target)
    a.l1 = l1
    a.l2 = l2
    a.gradient = <void *>g.data
    a.gradient_strides = g.strides
    _no_options(&o)
    if level != NULL and level[0] != 0:
        o.level = level
    status = _call(op, &a, 1, _count(&a), scale, accumulate, result, &o, &v)
    if status != FASTREG_OK:
        _fail(status, l1, l2, scale)
    if op == GRADIENT:
        return out
    return (v if plain else _scalar(result, v)), out


def value(x, *, double l1=0.0, double l2=0.0, dtype=None):
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
    l1, l2 : float, finite and >= 0, default 0
        Weights, taken as float64 and not rounded to x's type. Zero removes the term, whatever x holds.
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
        (a ValueError) If a weight is negative, NaN or infinite.
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
    return _value(VALUE, x, l1, l2, dtype)


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


def gradient(x, *, double l1=0.0, double l2=0.0, double scale=1.0, out=None, bint accumulate=False):
    """Return the gradient of :func:`value` with respect to x, times ``scale``.

    Each element is ``g = RN_T(fma(2 * l2 * scale, x, l1 * scale * sign(x)))``: one fused
    multiply-add in float64, rounded to x's type T. ``sign(0) = 0``, and NaN gives NaN. So does an
    infinite x where ``l2 * scale`` is 0, for ``0 * inf`` is NaN.

    Parameters
    ----------
    x : array of float16, bfloat16, float32 or float64
        As in :func:`value`.
    l1, l2 : float, finite and >= 0, default 0
        Weights.
    scale : float, finite, any sign, default 1
        The upstream gradient: what the penalty is multiplied by.
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
        (a TypeError) If x is not an array of floats.
    LayoutError
        (a ValueError) If out has another shape or type, is read-only, or overlaps x or itself.
    ArgumentError
        (a ValueError) If a weight or the scale is out of range, or accumulate comes without out.
    KeyboardInterrupt
        Within 100 ms of Ctrl-C. Then, and only then, ``out`` may be partly written.

    Examples
    --------
    >>> import numpy as np, fastreg
    >>> fastreg.gradient(np.array([3.0, 0.0, -4.0]), l1=1.0, l2=0.5)
    array([ 4.,  0., -5.])
    """
    return _with_gradient(GRADIENT, x, l1, l2, scale, out, accumulate, None, NULL)


def value_and_gradient(x, *, double l1=0.0, double l2=0.0, double scale=1.0, out=None,
                       bint accumulate=False, dtype=None):
    """Return ``(value, gradient)`` of one pass over x.

    Equal, bit for bit, to :func:`value` and :func:`gradient` called one after the other, whose
    parameters and errors it has. ``scale`` multiplies the gradient only.

    Examples
    --------
    >>> import numpy as np, fastreg
    >>> fastreg.value_and_gradient(np.array([3.0, -4.0]), l2=0.5)
    (np.float64(12.5), array([ 3., -4.]))
    """
    return _with_gradient(BOTH, x, l1, l2, scale, out, accumulate, dtype, NULL)


# For the framework rooms: `out` is memory that they have just made, which is not checked again (that
# takes ten times as long as a small call), and a bfloat16 value comes as a Python float, since it
# must not need ml_dtypes.

def plain_value(x, double l1, double l2, str dtype):
    """``value(x, l1=l1, l2=l2, dtype=dtype)``; a float for bfloat16."""
    return _value(VALUE, x, l1, l2, dtype, dtype == "bf16")


def plain_gradient(x, double l1, double l2, double scale, out):
    """``gradient(x, l1=l1, l2=l2, scale=scale, out=out)`` into new memory."""
    return _with_gradient(GRADIENT, x, l1, l2, scale, out, False, None, NULL, True)


def plain_value_and_gradient(x, double l1, double l2, out, str dtype):
    """``value_and_gradient(x, l1=l1, l2=l2, out=out, dtype=dtype)[0]`` into new memory."""
    return _with_gradient(BOTH, x, l1, l2, 1.0, out, False, dtype, NULL, True, dtype == "bf16")[0]


# -- Lists of arrays --------------------------------------------------------------------------------

cdef object _list(_operation op, object arrays, object l1, object l2, object dtype,
                  fastreg_options *o, bint plain=False):
    cdef fastreg_dtype result
    cdef double v = 0.0
    _list_number(op, arrays, l1, l2, dtype, o, &result, &v)
    return v if plain else _scalar(result, v)


cdef int _list_number(_operation op, object arrays, object l1, object l2, object dtype,
                      fastreg_options *o, fastreg_dtype *result, double *v) except -1:
    """One call over many arrays, whose weights are numbers or sequences of numbers."""
    cdef list items = list(arrays)
    cdef Py_ssize_t count = len(items), k
    cdef fastreg_array *a
    cdef fastreg_status status
    cdef size_t n = 0
    cdef list kept = []
    cdef list l1s = _weights(l1, count), l2s = _weights(l2, count)
    _result(dtype, FASTREG_F64, result)
    a = <fastreg_array *>malloc((<size_t>count + 1) * sizeof(fastreg_array))
    if a == NULL:
        raise MemoryError
    try:
        for k in range(count):
            keep = _fill(&a[k], items[k])
            if keep is not None:
                kept.append(keep)
            a[k].l1 = l1s[k]
            a[k].l2 = l2s[k]
            n += _count(&a[k])
        status = _call(op, a, <size_t>count, n, 1.0, False, result[0], o, v)
    finally:
        free(a)
    if status == FASTREG_BAD_WEIGHT:
        for k in range(count):
            if not (0.0 <= l1s[k] < float("inf") and 0.0 <= l2s[k] < float("inf")):
                _fail(status, l1s[k], l2s[k], 1.0)
    if status != FASTREG_OK:
        _fail(status, 0.0, 0.0, 1.0)
    return 0


cdef list _weights(object w, Py_ssize_t count):
    cdef double v
    if isinstance(w, (int, float, np.number)):
        v = w
        return [v] * count
    # As a double, not through float(), which also takes text.
    cdef list ws = []
    for v in w:
        ws.append(v)
    if len(ws) != count:
        raise ArgumentError(message(f"{count} weights, one for each array", f"{len(ws)}",
                                    "pass one number for all arrays, or one for each"))
    return ws


def list_value(arrays, *, l1=0.0, l2=0.0, dtype=None):
    """Return the penalty of several arrays, summed exactly and rounded once.

    Parameters
    ----------
    arrays : iterable of arrays
        Of any mix of shapes, layouts and element types that :func:`fastreg.value` takes.
    l1, l2 : float, or one float for each array
        Weights, finite and >= 0; zero removes a term.
    dtype : dtype, optional
        Type of the result; float64 by default.

    Returns
    -------
    NumPy scalar
        ``sum over arrays of l1 * sum(|x|) + l2 * sum(x**2)``; +0 for no arrays. NaN, infinity and
        threads as in :func:`fastreg.value`.
    """
    cdef fastreg_options o
    _no_options(&o)
    return _list(VALUE, arrays, l1, l2, dtype, &o)


def plain_list_value(arrays, l1, l2, str dtype):
    """``list_value(arrays, l1=l1, l2=l2, dtype=dtype)``; a float for bfloat16."""
    cdef fastreg_options o
    _no_options(&o)
    return _list(VALUE, arrays, l1, l2, dtype, &o, dtype == "bf16")


def list_norm(arrays, *, l2=1.0, dtype=None):
    """Return the Euclidean norm of several arrays taken together, rounded once.

    Parameters and result as in :func:`list_value`; ``l2``: how often each array counts.
    """
    cdef fastreg_options o
    _no_options(&o)
    return _list(NORM, arrays, 0.0, l2, dtype, &o)


def are_writable(list arrays):
    """Tell whether all of these ndarrays are writable."""
    for x in arrays:
        if not cnp.PyArray_ISWRITEABLE(<cnp.ndarray?>x):
            return False
    return True


cdef struct _span:
    uintptr_t low
    uintptr_t high
    bint written


cdef int _by_address(const void *a, const void *b) noexcept nogil:
    cdef uintptr_t x = (<const _span *>a).low, y = (<const _span *>b).low
    return (x > y) - (x < y)


cdef bint _plainly_fit(const fastreg_array *a, Py_ssize_t count, list targets) except -1:
    """Whether all arrays are dense floats, written where ``gradient`` says, without any overlap.

    Says nothing if not: then :func:`fastreg.arrays.check_targets` looks closer, and names the place.
    ``targets`` are the ndarrays to be written, or None; None for memory that may be written.
    """
    cdef Py_ssize_t k, spans = 0
    cdef size_t nbytes
    cdef uintptr_t written = 0, any = 0
    cdef bint fit = True
    cdef _span *s = <_span *>malloc((2 * <size_t>count + 1) * sizeof(_span))
    if s == NULL:
        raise MemoryError
    for k in range(count):
        nbytes = _count(&a[k]) * _itemsize(a[k].dtype)
        if a[k].dtype >= FASTREG_BOOL or a[k].strides != NULL or a[k].gradient_strides != NULL:
            fit = False
            break
        if nbytes == 0:
            continue
        s[spans].low = <uintptr_t>a[k].data
        s[spans].written = a[k].gradient == a[k].data
        s[spans].high = s[spans].low + nbytes
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
            spans += 1
    if fit:
        qsort(s, <size_t>spans, sizeof(_span), _by_address)
        for k in range(spans):
            if s[k].low < written or (s[k].written and s[k].low < any):
                fit = False
                break
            any = max(any, s[k].high)
            if s[k].written:
                written = max(written, s[k].high)
    free(s)
    return fit


def list_gradient(list xs, list l1, list l2, list outs, *, double scale=1.0, bint accumulate=False):
    """Write (or add) the gradients of arrays with their weights into ``outs``; None takes none.

    Raises
    ------
    DTypeError, LayoutError
        As :func:`fastreg.gradient` for ``out``, naming the position; also if two targets, or a
        target and another array, share memory. Nothing has been written then.
    """
    cdef Py_ssize_t count = len(xs), k
    cdef fastreg_array g
    cdef fastreg_array *a
    cdef fastreg_options o
    cdef fastreg_status status
    cdef double v = 0.0
    cdef size_t n = 0
    cdef list kept = [], targets = []
    cdef bint alike = True
    _no_options(&o)
    a = <fastreg_array *>malloc((<size_t>count + 1) * sizeof(fastreg_array))
    if a == NULL:
        raise MemoryError
    try:
        for k in range(count):
            kept.append(_fill(&a[k], xs[k]))
            a[k].l1 = l1[k]
            a[k].l2 = l2[k]
            n += _count(&a[k])
            if outs[k] is None:
                targets.append(None)
                continue
            keep = _fill(&g, outs[k])
            kept.append(keep)
            targets.append(outs[k] if keep is None else keep.data)
            alike = alike and (g.dtype == a[k].dtype and g.ndim == a[k].ndim
                               and _same_shape(&g, &a[k]))
            a[k].gradient = <void *>g.data
            a[k].gradient_strides = g.strides
        if not (alike and _plainly_fit(a, count, targets)):
            _arrays.check_targets([_arrays.host_array(x) for x in xs],
                                  [None if t is None else _arrays.host_array(t) for t in outs])
        status = _call(GRADIENT, a, <size_t>count, n, scale, accumulate, FASTREG_F64, &o, &v)
    finally:
        free(a)
    if status != FASTREG_OK:
        _fail(status, 0.0, 0.0, scale)


cdef inline bint _same_shape(const fastreg_array *a, const fastreg_array *b) noexcept:
    cdef int d
    for d in range(a.ndim):
        if a.shape[d] != b.shape[d]:
            return False
    return True


# -- Dense arrays by address: for frameworks whose tensors take longer to become ndarrays than to read --

cdef fastreg_array *_dense(tuple memory, l1, l2, list targets, size_t *n) except NULL:
    """Describe (addresses, lengths, names of types) to C, to be freed. l1, l2: numbers or lists."""
    cdef list addresses = memory[0], lengths = memory[1], names = memory[2]
    cdef Py_ssize_t count = len(addresses), k
    cdef list l1s = _weights(l1, count), l2s = _weights(l2, count)
    cdef fastreg_array *a = <fastreg_array *>malloc(
        (<size_t>count + 1) * (sizeof(fastreg_array) + sizeof(Py_ssize_t)))
    cdef Py_ssize_t *length = <Py_ssize_t *>(a + count)
    if a == NULL:
        raise MemoryError
    n[0] = 0
    try:
        for k in range(count):
            length[k] = lengths[k]
            a[k].data = <void *><uintptr_t>addresses[k]
            a[k].gradient = NULL if targets is None else <void *><uintptr_t>targets[k]
            a[k].shape = &length[k]
            a[k].strides = a[k].gradient_strides = NULL
            a[k].ndim = 1
            a[k].dtype = <fastreg_dtype><int>_dtype_codes[names[k]]
            a[k].l1 = l1s[k]
            a[k].l2 = l2s[k]
            n[0] += <size_t>length[k]
    except BaseException:
        free(a)
        raise
    return a


cdef bint _dense_call(_operation op, tuple memory, l1, l2, list targets, double scale,
                      bint accumulate, bint fresh, fastreg_dtype result, double *v) except -1:
    """Run a call; False, with nothing done, if memory to be written is shared."""
    cdef fastreg_options o
    cdef fastreg_status status
    cdef size_t n
    cdef Py_ssize_t count = len(memory[0])
    cdef fastreg_array *a = _dense(memory, l1, l2, targets, &n)
    _no_options(&o)
    try:
        if targets is not None and not fresh and not _plainly_fit(a, count, None):
            return False
        status = _call(op, a, <size_t>count, n, scale, accumulate, result, &o, v)
    finally:
        free(a)
    if status != FASTREG_OK:
        _fail(status, 0.0, 0.0, scale)
    return True


def dense_value(tuple memory, l1, l2, dtype, bint plain=False):
    """``list_value`` of (addresses, lengths, names of types); ``plain``: a float for bfloat16."""
    cdef double v = 0.0
    cdef fastreg_dtype result
    _result(dtype, FASTREG_F64, &result)
    _dense_call(VALUE, memory, l1, l2, None, 1.0, False, True, result, &v)
    return v if plain and result == FASTREG_BF16 else _scalar(result, v)


def dense_norm(tuple memory, dtype=None):
    """``list_norm`` of (addresses, lengths, names of types)."""
    cdef double v = 0.0
    cdef fastreg_dtype result
    _result(dtype, FASTREG_F64, &result)
    _dense_call(NORM, memory, 0.0, 1.0, None, 1.0, False, True, result, &v)
    return _scalar(result, v)


def dense_gradient(tuple memory, l1, l2, list targets, *, double scale=1.0, bint accumulate=False,
                   bint fresh=False):
    """Write the gradients to the addresses ``targets``, of which 0 takes none.

    ``fresh``: new memory, not checked. False, with nothing written, if memory is shared.
    """
    cdef double v = 0.0
    return _dense_call(GRADIENT, memory, l1, l2, targets, scale, accumulate, fresh, FASTREG_F64, &v)


def dense_value_and_gradient(tuple memory, l1, l2, list targets, dtype, bint plain=False):
    """The value, and the gradients into new memory, in one pass."""
    cdef double v = 0.0
    cdef fastreg_dtype result
    _result(dtype, FASTREG_F64, &result)
    _dense_call(BOTH, memory, l1, l2, targets, 1.0, False, True, result, &v)
    return v if plain and result == FASTREG_BF16 else _scalar(result, v)


def dense_prox_(tuple memory, l1, l2, double step, bint flush):
    """Take a proximal step in place; False, with nothing written, if memory is shared."""
    cdef fastreg_options o
    cdef fastreg_status status
    cdef _poll_state poll
    cdef size_t n
    cdef Py_ssize_t count = len(memory[0])
    cdef fastreg_array *a = _dense(memory, l1, l2, memory[0], &n)
    _no_options(&o)
    poll.next = fr_milliseconds() + POLL_MILLISECONDS
    o.poll = _poll
    o.poll_context = &poll
    try:
        if not _plainly_fit(a, count, None):
            return False
        with nogil:
            status = fastreg_prox(a, <size_t>count, step, flush, &o)
    finally:
        free(a)
    if status != FASTREG_OK:
        _fail(status, 0.0, 0.0, step)
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


cdef object _survey_dtype = np.dtype([
    ("n", np.int64), ("sum_abs", np.float64), ("sum_squares", np.float64), ("norm", np.float64),
    ("max_abs", np.float64), ("zeros", np.int64), ("subnormals", np.int64), ("nans", np.int64),
    ("infs", np.int64),
])


def list_survey(list arrays):
    """Return :meth:`Plan.survey` of arrays, without a plan."""
    cdef Py_ssize_t count = len(arrays), k
    cdef list kept = []
    cdef tuple found
    cdef fastreg_options o
    cdef fastreg_array *a = <fastreg_array *>malloc(
        (<size_t>count + 1) * sizeof(fastreg_array))
    if a == NULL:
        raise MemoryError
    _no_options(&o)
    try:
        for k in range(count):
            keep = _fill(&a[k], arrays[k])
            if keep is not None:
                kept.append(keep)
        found = _surveyed(a, count, &o)
    finally:
        free(a)
    return found


cdef tuple _surveyed(const fastreg_array *a, Py_ssize_t count, fastreg_options *o):
    cdef cnp.ndarray rows = np.empty(count + 1, _survey_dtype)
    cdef fastreg_status status
    cdef _poll_state poll
    cdef fastreg_statistics *out = <fastreg_statistics *>cnp.PyArray_DATA(rows)
    poll.next = fr_milliseconds() + POLL_MILLISECONDS
    o.poll = _poll
    o.poll_context = &poll
    with nogil:
        status = fastreg_statistics_of(a, <size_t>count, o, out, out + count)
    if status != FASTREG_OK:
        _fail(status, 0.0, 0.0, 1.0)
    return rows[:count], rows[count]


# -- Plans: a list of arrays, described to C once -----------------------------------------------------

cdef class Plan:
    """A list of arrays with their weights, checked and described to C once.

    Parameters
    ----------
    hosts : list of HostArray
        Held for the plan's lifetime, so their memory stays.
    l1, l2 : list of float
        One weight for each array, finite and >= 0.

    Notes
    -----
    A call then costs one C call. Methods that write (names ending in ``_``) check everything before
    the first write. A plan must not be used by two threads at once.
    """

    cdef list _hosts
    cdef list _targets
    cdef fastreg_array *_arrays
    cdef Py_ssize_t _count
    cdef size_t _n
    cdef bint _can_be_written

    def __cinit__(self, list hosts, list l1, list l2):
        cdef Py_ssize_t k
        self._count = len(hosts)
        if len(l1) != self._count or len(l2) != self._count:
            raise ArgumentError(message(f"{self._count} weights of each kind",
                                        f"{len(l1)} and {len(l2)}", "pass one for each array"))
        self._hosts = [_arrays.host_array(host) for host in hosts]
        self._targets = []
        self._n = 0
        self._can_be_written = False
        self._arrays = <fastreg_array *>malloc((<size_t>self._count + 1) * sizeof(fastreg_array))
        if self._arrays == NULL:
            raise MemoryError
        for k in range(self._count):
            _fill(&self._arrays[k], self._hosts[k])
            self._arrays[k].l1 = l1[k]
            self._arrays[k].l2 = l2[k]
            for w, name in ((l1[k], "l1"), (l2[k], "l2")):
                if not 0.0 <= w < float("inf"):
                    _fail(FASTREG_BAD_WEIGHT, l1[k], l2[k], 1.0)
            self._n += _count(&self._arrays[k])

    def __dealloc__(self):
        free(self._arrays)

    def __len__(self):
        return self._count

    @property
    def n(self):
        """Number of elements of all arrays."""
        return self._n

    cdef fastreg_array *_copy(self, double l1, double l2) except NULL:
        """The arrays with other weights; to be freed."""
        cdef Py_ssize_t k
        cdef fastreg_array *copy
        copy = <fastreg_array *>malloc((<size_t>self._count + 1) * sizeof(fastreg_array))
        if copy == NULL:
            raise MemoryError
        memcpy(copy, self._arrays, <size_t>self._count * sizeof(fastreg_array))
        for k in range(self._count):
            copy[k].l1 = l1
            copy[k].l2 = l2
        return copy

    cdef object _read(self, _operation op, fastreg_array *arrays, object dtype):
        cdef fastreg_options o
        cdef fastreg_dtype result
        cdef fastreg_status status
        cdef double v = 0.0
        _result(dtype, FASTREG_F64, &result)
        _no_options(&o)
        status = _call(op, arrays, <size_t>self._count, self._n, 1.0, False, result, &o, &v)
        if status != FASTREG_OK:
            _fail(status, 0.0, 0.0, 1.0)
        return _scalar(result, v)

    def value(self, dtype=None):
        """Return the penalty of all arrays, exact and rounded once; float64 by default."""
        return self._read(VALUE, self._arrays, dtype)

    def norm(self, dtype=None):
        """Return the Euclidean norm of all arrays together; weights play no part."""
        cdef fastreg_array *copy = self._copy(0.0, 1.0)
        try:
            return self._read(NORM, copy, dtype)
        finally:
            free(copy)

    def bind(self, list targets):
        """Name where gradients go: a HostArray for each array, or None for none of it.

        Raises
        ------
        DTypeError, LayoutError
            As :func:`fastreg.gradient` for ``out``, naming the position; also if two targets, or a
            target and another array of the plan, share memory.
        """
        cdef Py_ssize_t k
        cdef fastreg_array g
        cdef bint alike
        if len(targets) != self._count:
            raise LayoutError(message(f"{self._count} targets", f"{len(targets)}",
                                      "pass one (or None) for each array"))
        hosts = [None if t is None else _arrays.host_array(t) for t in targets]
        alike = True
        for k in range(self._count):
            self._arrays[k].gradient = NULL
            self._arrays[k].gradient_strides = NULL
            if hosts[k] is not None:
                _fill(&g, hosts[k])
                alike = alike and (g.dtype == self._arrays[k].dtype
                                   and g.ndim == self._arrays[k].ndim
                                   and _same_shape(&g, &self._arrays[k]))
                self._arrays[k].gradient = <void *>g.data
                self._arrays[k].gradient_strides = g.strides
        self._targets = []
        try:
            if not (alike and _plainly_fit(self._arrays, self._count,
                                           [None if h is None else h.data for h in hosts])):
                _arrays.check_targets(self._hosts, hosts)
        except BaseException:
            for k in range(self._count):
                self._arrays[k].gradient = NULL
            raise
        self._targets = hosts

    cdef _bind_if_given(self, list targets):
        if targets is not None:
            self.bind(targets)
        elif not self._targets and self._count:
            raise ArgumentError(message("targets for the gradients", "none bound",
                                        "call bind(targets) first, or pass them"))

    cdef object _write(self, _operation op, double scale, bint accumulate, object dtype):
        cdef fastreg_options o
        cdef fastreg_dtype result
        cdef fastreg_status status
        cdef double v = 0.0
        _result(dtype, FASTREG_F64, &result)
        _no_options(&o)
        status = _call(op, self._arrays, <size_t>self._count, self._n, scale, accumulate, result,
                       &o, &v)
        if status != FASTREG_OK:
            _fail(status, 0.0, 0.0, scale)
        return _scalar(result, v)

    def gradient(self, list targets=None, double scale=1.0, bint accumulate=False):
        """Write (or add) the gradients into the targets, bound before or given here."""
        self._bind_if_given(targets)
        self._write(GRADIENT, scale, accumulate, None)

    def value_and_gradient(self, list targets=None, double scale=1.0, bint accumulate=False,
                           dtype=None):
        """Write (or add) the gradients, and return the value, in one pass."""
        self._bind_if_given(targets)
        return self._write(BOTH, scale, accumulate, dtype)

    def survey(self):
        """Return n, sums, norm, max and counts of each array and of all together, from one pass.

        Returns
        -------
        rows : structured ndarray, one row for each array
            Fields n, sum_abs, sum_squares, norm, max_abs (float64), zeros, subnormals, nans, infs.
        total : the same fields, of all arrays
            Its sums are exact and rounded once.
        """
        cdef fastreg_options o
        _no_options(&o)
        return _surveyed(self._arrays, self._count, &o)

    cdef _in_place(self, double l1, double l2, double scale, int prox, bint flush):
        """Write every array in place: a gradient with these weights, or a proximal step."""
        cdef fastreg_options o
        cdef fastreg_status status
        cdef _poll_state poll
        cdef Py_ssize_t k
        cdef cnp.ndarray v
        cdef fastreg_array *copy
        copy = self._copy(l1, l2)
        try:
            for k in range(self._count):
                copy[k].gradient = <void *>copy[k].data
                copy[k].gradient_strides = copy[k].strides
                if prox:
                    copy[k].l1 = self._arrays[k].l1
                    copy[k].l2 = self._arrays[k].l2
            # Shapes and overlaps cannot change while the plan holds the arrays; writability can.
            if not self._can_be_written:
                if not _plainly_fit(copy, self._count, [host.data for host in self._hosts]):
                    _arrays.check_targets(self._hosts, self._hosts)
                self._can_be_written = True
            for k in range(self._count):
                v = <cnp.ndarray>self._hosts[k].data
                if not cnp.PyArray_ISWRITEABLE(v):
                    _arrays.check_targets(self._hosts, self._hosts)
        except BaseException:
            free(copy)
            raise
        _no_options(&o)
        poll.next = fr_milliseconds() + POLL_MILLISECONDS
        o.poll = _poll
        o.poll_context = &poll
        with nogil:
            if prox:
                status = fastreg_prox(copy, <size_t>self._count, scale, flush, &o)
            else:
                status = fastreg_gradient(copy, <size_t>self._count, scale, 0, &o)
        free(copy)
        if status == FASTREG_BAD_SCALE and prox:
            raise ArgumentError(message("a step that is finite and >= 0", repr(scale),
                                        "pass a non-negative number"))
        if status != FASTREG_OK:
            _fail(status, 0.0, 0.0, scale)

    def scale_(self, double factor):
        """Replace every x by ``RN_T(factor * x)``; factor is finite. A zero becomes +0 or -0."""
        self._in_place(0.0, 0.5, factor, 0, False)

    def prox_(self, double step, bint flush=False):
        """Take a proximal step of the penalty in place; ``flush`` turns subnormal results into 0.

        ``t = |x| - step * l1``; 0 if ``t <= 0``, else ``sign(x) * RN_T(t / (1 + 2 * step * l2))``.
        """
        self._in_place(0.0, 0.0, step, 1, flush)


# -- What is in use, and hooks for tests --------------------------------------------------------------

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


def _measure(arrays, str op, l1, l2, str dtype_name, isa=None, int threads=1, int first_tier=0,
             double error_scale=1.0, bytes_per_thread=1):
    """Return (value, deciding tier) with every choice forced; for tests.

    ``arrays`` is one array or a list. ``error_scale`` multiplies the proven bounds: large values make
    the fallbacks frequent, 0 removes the rounding test.
    """
    cdef fastreg_options o
    cdef int tier = -1
    cdef bytes name = b"" if isa is None else isa.encode()
    _no_options(&o)
    o.threads = threads
    o.bytes_per_thread = bytes_per_thread
    if isa is not None:
        o.level = name
    o.first_tier = first_tier
    o.error_factor = error_scale if error_scale != 0.0 else 1e-300
    o.tier = &tier
    if not isinstance(arrays, list):
        arrays = [arrays]
    if op == "norm":
        l1, l2 = 0.0, 1.0
    cdef fastreg_dtype result
    cdef double v = 0.0
    _list_number(VALUE if op == "value" else NORM, arrays, l1, l2, dtype_name, &o, &result, &v)
    return v, tier


def _gradient(x, double l1, double l2, double scale, out, bint accumulate, isa=None):
    """``gradient`` with the ISA level forced; for tests."""
    cdef bytes name = b"" if isa is None else isa.encode()
    return _with_gradient(GRADIENT, x, l1, l2, scale, out, accumulate, None, name)


def _value_and_gradient(x, double l1, double l2, double scale, out, bint accumulate, isa=None):
    """``value_and_gradient`` with the ISA level forced; for tests."""
    cdef bytes name = b"" if isa is None else isa.encode()
    return _with_gradient(BOTH, x, l1, l2, scale, out, accumulate, None, name)


def _survey(list arrays, isa=None, int threads=1, double error_scale=1.0):
    """``Plan.survey`` of arrays with every choice forced; for tests. See ``_measure``."""
    cdef fastreg_options o
    cdef bytes name = b"" if isa is None else isa.encode()
    cdef list zeros = [0.0] * len(arrays)
    cdef Plan plan = Plan(arrays, zeros, zeros)
    _no_options(&o)
    o.threads = threads
    o.bytes_per_thread = 1
    if isa is not None:
        o.level = name
    o.error_factor = error_scale
    return _surveyed(plan._arrays, plan._count, &o)
