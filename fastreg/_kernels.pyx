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
from libc.stdlib cimport free, malloc

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
    static PyObject *fr_new_float32(float v)
    {
        PyObject *s = PyArrayScalar_New(Float);
        if (s)
            PyArrayScalar_ASSIGN(s, Float, v);
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
    static double fr_now(void)
    {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
    }
    #define fr_new_scalar_of(bits, descr) PyArray_Scalar((bits), (PyArray_Descr *)(descr), NULL)
    """
    const char *fr_compiler()
    object fr_new_float64(double v)
    object fr_new_float32(float v)
    object fr_new_float16(unsigned short v)
    double fr_now() noexcept nogil
    int NPY_HALF
    object fr_new_scalar_of(void *bits, PyObject *descr)

cdef extern from "Python.h":
    int PyErr_CheckSignals() except -1
    PyObject *PyErr_Occurred()

# Below this many elements a call is over before another thread could use the lock.
cdef enum: HOLD_LOCK_BELOW = 16384
# Between two looks at pending signals: a third of the 100 ms that are promised.
cdef double POLL_SECONDS = 0.03

cdef dict _dtype_codes = {
    "f16": FASTREG_F16, "bf16": FASTREG_BF16, "f32": FASTREG_F32, "f64": FASTREG_F64,
    "bool": FASTREG_BOOL, "i8": FASTREG_I8, "u8": FASTREG_U8, "i16": FASTREG_I16,
    "u16": FASTREG_U16, "i32": FASTREG_I32, "u32": FASTREG_U32, "i64": FASTREG_I64,
    "u64": FASTREG_U64,
}
cdef tuple _float_names = ("f16", "bf16", "f32", "f64")
cdef object _float64 = np.float64
cdef object _float32 = np.float32


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
    host = _arrays.host_array(x)
    _describe(a, <cnp.ndarray>host.data, <fastreg_dtype><int>_dtype_codes[host.dtype])
    return host


cdef inline void _describe(fastreg_array *a, cnp.ndarray v, fastreg_dtype dtype) noexcept:
    a.data = cnp.PyArray_DATA(v)
    a.ndim = cnp.PyArray_NDIM(v)
    a.shape = <const Py_ssize_t *>cnp.PyArray_DIMS(v)
    a.strides = (NULL if cnp.PyArray_IS_C_CONTIGUOUS(v)
                 else <const Py_ssize_t *>cnp.PyArray_STRIDES(v))
    a.dtype = dtype


cdef inline size_t _count(const fastreg_array *a) noexcept:
    cdef size_t n = 1
    cdef int d
    for d in range(a.ndim):
        n *= <size_t>a.shape[d]
    return n


# -- Scalars out ----------------------------------------------------------------------------------

cdef object _scalar(fastreg_dtype dtype, double v):
    cdef unsigned short bits
    if dtype == FASTREG_F64:
        return fr_new_float64(v)
    if dtype == FASTREG_F32:
        return fr_new_float32(<float>v)
    fastreg_pack(dtype, v, &bits)
    if dtype == FASTREG_F16:
        return fr_new_float16(bits)
    descr = _arrays.bfloat16_dtype()
    return fr_new_scalar_of(&bits, <PyObject *>descr)


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
    double next


cdef int _poll(void *context) noexcept nogil:
    """Look at pending signals every POLL_SECONDS; 1 stops the call with the exception set."""
    cdef _poll_state *p = <_poll_state *>context
    cdef double now = fr_now()
    if now < p.next:
        return 0
    p.next = now + POLL_SECONDS
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
    poll.next = fr_now() + POLL_SECONDS
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


cdef object _with_gradient(_operation op, object x, double l1, double l2, double scale, object out,
                           bint accumulate, object dtype, const char *level, bint plain=False):
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
        _arrays.check_target(source, target)
    a.l1 = l1
    a.l2 = l2
    a.gradient = <void *>g.data
    a.gradient_strides = g.strides
    _no_options(&o)
    o.level = level
    status = _call(op, &a, 1, _count(&a), scale, accumulate, result, &o, &v)
    if status != FASTREG_OK:
        _fail(status, l1, l2, scale)
    if op == GRADIENT:
        return out
    return (v if plain else _scalar(result, v)), out


def sum_squares(x, *, dtype=None):
    """Placeholder replaced below by the text of fastreg.functional."""
    return _value(VALUE, x, 0.0, 1.0, dtype)


def sum_abs(x, *, dtype=None):
    return _value(VALUE, x, 1.0, 0.0, dtype)


def l2_loss(x, *, dtype=None):
    return _value(VALUE, x, 0.0, 0.5, dtype)


def norm(x, *, dtype=None):
    return _value(NORM, x, 0.0, 1.0, dtype)


def value(x, *, double l1=0.0, double l2=0.0, dtype=None):
    return _value(VALUE, x, l1, l2, dtype)


def gradient(x, *, double l1=0.0, double l2=0.0, double scale=1.0, out=None, bint accumulate=False):
    return _with_gradient(GRADIENT, x, l1, l2, scale, out, accumulate, None, NULL)


def value_and_gradient(x, *, double l1=0.0, double l2=0.0, double scale=1.0, out=None,
                       bint accumulate=False, dtype=None):
    return _with_gradient(BOTH, x, l1, l2, scale, out, accumulate, dtype, NULL)


# The rounded value as a Python float, which bfloat16 needs where ml_dtypes is not installed.

def plain_value(x, double l1, double l2, dtype):
    """``float(value(x, l1=l1, l2=l2, dtype=dtype))``, for the framework rooms."""
    return _value(VALUE, x, l1, l2, dtype, True)


def plain_value_and_gradient(x, double l1, double l2, out, dtype):
    """``value_and_gradient`` with the value as a Python float, for the framework rooms."""
    return _with_gradient(BOTH, x, l1, l2, 1.0, out, False, dtype, NULL, True)


# -- Lists of arrays --------------------------------------------------------------------------------

cdef object _list(_operation op, object arrays, object l1, object l2, object dtype,
                  fastreg_options *o, bint plain=False):
    """One call over many arrays, whose weights are numbers or sequences of numbers."""
    cdef list items = list(arrays)
    cdef size_t count = len(items), k
    cdef fastreg_array *a
    cdef fastreg_dtype result
    cdef fastreg_status status
    cdef double v = 0.0
    cdef size_t n = 0
    cdef list kept = []
    cdef list l1s = _weights(l1, count), l2s = _weights(l2, count)
    _result(dtype, FASTREG_F64, &result)
    a = <fastreg_array *>malloc((count + 1) * sizeof(fastreg_array))
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
        status = _call(op, a, count, n, 1.0, False, result, o, &v)
    finally:
        free(a)
    if status == FASTREG_BAD_WEIGHT:
        for k in range(count):
            if not (0.0 <= l1s[k] < float("inf") and 0.0 <= l2s[k] < float("inf")):
                _fail(status, l1s[k], l2s[k], 1.0)
    if status != FASTREG_OK:
        _fail(status, 0.0, 0.0, 1.0)
    return v if plain else _scalar(result, v)


cdef list _weights(object w, size_t count):
    if isinstance(w, (int, float)):
        return [float(w)] * count
    ws = [float(v) for v in w]
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


def plain_list_value(arrays, l1, l2, dtype):
    """``float(list_value(arrays, l1=l1, l2=l2, dtype=dtype))``, for the framework rooms."""
    cdef fastreg_options o
    _no_options(&o)
    return _list(VALUE, arrays, l1, l2, dtype, &o, True)


def list_norm(arrays, *, dtype=None):
    """Return the Euclidean norm of several arrays taken together, rounded once.

    Parameters and result as in :func:`list_value`.
    """
    cdef fastreg_options o
    _no_options(&o)
    return _list(NORM, arrays, 0.0, 1.0, dtype, &o)


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
    result = _list(VALUE if op == "value" else NORM, arrays, l1, l2, dtype_name, &o)
    return float(result), tier


def _gradient(x, double l1, double l2, double scale, out, bint accumulate, isa=None):
    """``gradient`` with the ISA level forced; for tests."""
    cdef bytes name = b"" if isa is None else isa.encode()
    return _with_gradient(GRADIENT, x, l1, l2, scale, out, accumulate, None,
                          NULL if isa is None else <const char *>name)


def _value_and_gradient(x, double l1, double l2, double scale, out, bint accumulate, isa=None):
    """``value_and_gradient`` with the ISA level forced; for tests."""
    cdef bytes name = b"" if isa is None else isa.encode()
    return _with_gradient(BOTH, x, l1, l2, scale, out, accumulate, None,
                          NULL if isa is None else <const char *>name)
