# SPDX-License-Identifier: BSD-3-Clause
# Part of fastreg/_kernels.pyx: the functions of one array, which are public.

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
        pins = []
        _pin(pins, x if keep is None else keep.data)
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
    cdef bint is_given = out is not None
    keep = _fill(&a, x)
    if a.dtype >= FASTREG_BOOL:
        raise _arguments.not_differentiable(
            _arrays.describe(x), "numpy.asarray(x).astype('float64')")
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
            # Views of our own: a handler may assign to an array's shape while they are looked at.
            source, target = source.view(), target.view()
            _describe(&a, <cnp.ndarray>source, a.dtype)
            _describe(&g, <cnp.ndarray>target, g.dtype)
            if not _same_shape(&g, &a):
                raise LayoutError(message("arrays that nobody changes meanwhile", "a changed shape",
                                          "call it again"))
            _targets.check_target(source, target)
    a.l1 = l1
    a.l2 = l2
    a.gradient = <void *>g.data
    a.gradient_strides = g.strides
    _no_options(&o)
    if _count(&a) >= HOLD_LOCK_BELOW:
        pins = []
        _pin(pins, source)
        _pin(pins, out if keep_out is None else keep_out.data)
        status = _run_long(op, &a, scale, accumulate, result, &o, &v)
    elif op == GRADIENT:
        status = fastreg_gradient(&a, 1, scale, accumulate, &o)
    else:
        status = fastreg_value_and_gradient(&a, 1, scale, accumulate, result, &o, &v)
    if is_given and keep_out is not None:
        _targets.wrote(out)
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

    The result is a number, in no graph and on no tape: added to a loss it shows, but gives no gradient.
    ``penalty`` of :mod:`fastreg.torch`, :mod:`fastreg.tensorflow`, :mod:`fastreg.jax` and
    :mod:`fastreg.keras` is for losses.

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

    Notes
    -----
    The result is in no graph and on no tape: nothing can be differentiated once more.

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
        As in :func:`fastreg.penalty`, of which one array is a list of one.
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

    Notes
    -----
    Both are in no graph and on no tape, as in :func:`value`.

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
    if (_is_plain(l1) and _is_plain(l2) and select is None and convention == "keras"
            and PyFloat_CheckExact(weights) and <double>weights == 1.0):
        _weights(l1, l2, &w1, &w2)
    else:
        w1, w2 = _weights_of_one(x, l1, l2, select, weights, convention)
    return _with_gradient(BOTH, x, w1, w2, _scale(scale), out,
                          accumulate is not None and accumulate, dtype)


cdef inline bint _is_plain(object weight):
    return weight is None or PyFloat_CheckExact(weight) or isinstance(weight, int)


cdef object _is_array = None
cdef object _of_container = None
cdef object _weights_of_one = None


def set_containers(is_array, value_and_gradient, weights_of_one):
    """Say what is an array, what `value_and_gradient` does for everything else, and what weights
    given as for a container come to for one array."""
    global _is_array, _of_container, _weights_of_one
    _is_array = is_array
    _of_container = value_and_gradient
    _weights_of_one = weights_of_one
