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
from cpython.weakref cimport PyWeakref_NewRef
from libc.stdint cimport uintptr_t
from libc.stdlib cimport calloc, free, malloc, qsort, realloc
from libc.string cimport memcpy, memset

from contextvars import ContextVar

import numpy as np

from fastreg._core import arguments as _arguments
from fastreg._core import arrays as _arrays
from fastreg._core import targets as _targets
from fastreg._core.dtypes import BF16, F32, F64
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
    /* Whether a flag was free, and now is taken. */
    static int fr_take(int *flag) { return !__atomic_exchange_n(flag, 1, __ATOMIC_ACQUIRE); }
    static void fr_give_back(int *flag) { __atomic_store_n(flag, 0, __ATOMIC_RELEASE); }
    #define fr_new_scalar_of(bits, descr) PyArray_Scalar((bits), (PyArray_Descr *)(descr), NULL)
    """
    const char *fr_compiler()
    object fr_new_float64(double v)
    object fr_new_float32(const void *bits)
    object fr_new_float16(unsigned short v)
    long long fr_milliseconds() noexcept nogil
    int fr_take(int *flag) noexcept
    void fr_give_back(int *flag) noexcept
    int NPY_HALF
    object fr_new_scalar_of(void *bits, PyObject *descr)

cdef extern from "machine.h":
    ctypedef struct fr_environment:
        pass
    fr_environment fr_environment_enter() noexcept nogil
    void fr_environment_leave(fr_environment saved) noexcept nogil

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


cdef int _pin(list pins, object x) except -1:
    """Have NumPy refuse to resize x, and what it is a view of, while `pins` lives.

    NumPy does so for an array with a weak reference, even with ``refcheck=False``, which would free
    memory that a call reads or that a plan stands for.
    """
    cdef PyObject *base
    while True:
        if isinstance(x, memoryview):
            x = x.obj
        if not isinstance(x, cnp.ndarray):
            return 0
        pins.append(PyWeakref_NewRef(x, None))
        base = cnp.PyArray_BASE(<cnp.ndarray>x)
        if base == NULL:
            return 0
        x = <object>base


def pins(x):
    """Return what keeps an ndarray, and what it is a view of, from being resized while it lives."""
    found = []
    _pin(found, x)
    return found


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
        result[0] = <fastreg_dtype><int>_arguments.result_dtype(dtype).code
    return 0


# -- Numbers in -----------------------------------------------------------------------------------

cdef inline double _weight(object w, str what) except? -1.0:
    """A weight; whether a float is in its range, C finds."""
    return <double>w if PyFloat_CheckExact(w) else <double>_arguments.weight(w, what)


cdef inline int _weights(object l1, object l2, double *w1, double *w2) except -1:
    """Two weights, of which one at least is given."""
    if l1 is None and l2 is None:
        _arguments.two_weights(None, None)
    w1[0] = 0.0 if l1 is None else _weight(l1, "l1")
    w2[0] = 0.0 if l2 is None else _weight(l2, "l2")
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
        with clean_environment():  # where denormals count as zero, -5e-324 seems to be >= 0
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


# -- The caller's floating-point environment ----------------------------------------------------------

cdef class clean_environment:
    """Round to nearest and keep subnormal numbers within a ``with`` block, on this thread.

    For the arithmetic on numbers that goes before and after the kernels, which the caller's rounding
    mode and flush-to-zero must not change either. What the caller had, flags included, comes back.
    """

    cdef fr_environment _saved

    def __enter__(self):
        self._saved = fr_environment_enter()

    def __exit__(self, kind, error, trace):
        fr_environment_leave(self._saved)


_arguments.set_environment(clean_environment)


# -- One user at a time -------------------------------------------------------------------------------

cdef class one_at_a_time:
    """Refuse a second entry to a ``with`` block: by another thread, or by a signal's handler.

    Parameters
    ----------
    what : str
        What is in use then, for the message.
    """

    cdef int _taken
    cdef str _what

    def __cinit__(self, str what):
        self._taken = 0
        self._what = what

    def __enter__(self):
        if not fr_take(&self._taken):
            raise FastregError(message(f"{self._what} that is used by one call at a time",
                                       "a call while another is in it",
                                       "make one for each thread and each signal handler"))

    def __exit__(self, kind, error, trace):
        fr_give_back(&self._taken)


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
    _prepare(o, &poll)
    with nogil:
        status = _run_now(c, a, count, o, value)
    return status


# The number of threads that the running task or thread asked for, 0 for the process' setting. A
# variable of the context, not of the thread: tasks of one thread take turns within their blocks.
cdef object _scoped_threads = ContextVar("fastreg.num_threads", default=0)


cdef void _prepare(fastreg_options *o, _poll_state *poll) noexcept:
    """Have a call look at signals, and use as many threads as the context says."""
    poll.next = fr_milliseconds() + POLL_MILLISECONDS
    o.poll = _poll
    o.poll_context = poll
    if o.threads == 0:
        o.threads = _scoped_threads.get()


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


include "_binding/one_array.pxi"
include "_binding/arrays.pxi"
include "_binding/state.pxi"
include "_binding/capi.pxi"


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
    cdef int n, previous
    fastreg_set_thread_num_threads(_scoped_threads.get(), &previous)
    n = fastreg_get_num_threads()
    fastreg_set_thread_num_threads(previous, NULL)
    return n


def set_process_threads(int threads):
    """Set the number of threads for the process, 0 for automatic; return the setting before."""
    cdef int previous = 0
    if fastreg_set_num_threads(threads, &previous) != FASTREG_OK:
        _bad_threads(threads)
    return previous


def set_scoped_threads(int threads):
    """Set the number of threads for the context, 0 for the process' one; return that before."""
    if threads < 0:
        _bad_threads(threads)
    previous = _scoped_threads.get()
    _scoped_threads.set(threads)
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
