# SPDX-License-Identifier: BSD-3-Clause
# Part of fastreg/_kernels.pyx: a list of described arrays x the verbs.

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

STATISTICS = _statistics_dtype


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
    cdef list _pins      # what keeps these from being resized
    cdef list _targets   # what was named by bind
    cdef list _target_pins
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
            _pin(self._pins, self._views[k])
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
        self._pins = []
        self._options = options
        self._length = len(items)
        l1s, l2s = _numbers(l1, self._length, "l1"), _numbers(l2, self._length, "l2")
        self._arrays = <fastreg_array *>calloc(<size_t>self._length + 1, sizeof(fastreg_array))
        if self._arrays == NULL:
            self._length = 0
            raise MemoryError
        for k in range(self._length):
            self._arrays[k].l1 = _weight(l1s[k], "l1")
            self._arrays[k].l2 = _weight(l2s[k], "l2")
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
        views = []
        self._target_pins = []
        try:
            for k in range(self._length):
                view = None
                if targets[k] is not None:
                    keep = _fill(&g, targets[k])
                    view = targets[k] if keep is None else keep.data
                    _pin(self._target_pins, view)
                    if g.strides != NULL:
                        # A view of our own: assigning to an array's shape must not move what C reads.
                        view = view.view()
                        g.strides = <const Py_ssize_t *>cnp.PyArray_STRIDES(<cnp.ndarray>view)
                    alike = alike and g.dtype == self._arrays[k].dtype and \
                        _same_shape(&g, &self._arrays[k])
                    self._arrays[k].gradient = <void *>g.data
                    self._arrays[k].gradient_strides = g.strides
                views.append(view)
            if not (fresh and alike) and not (alike and _plainly_fit(
                    self._arrays, self._length, views, &first, &second)):
                _targets.check_targets(self._hosts(), [
                    None if t is None else _arrays.host_array(t) for t in targets])
        except BaseException:
            for k in range(self._length):
                self._arrays[k].gradient = NULL
                self._arrays[k].gradient_strides = NULL
            raise
        self._targets = views

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
            _targets.check_targets(hosts, hosts)
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
            if c.op != GRADIENT or c.scale != 1.0:
                self._do(c, copy, None, False)
        finally:
            free(copy)
        return 0

    def scale_(self, factor):
        """Replace every x by ``RN_T(factor * x)``; by 1 nothing is written, not even to a NaN."""
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
        _prepare(&o, &poll)
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


def own_their_memory(list items):
    """Tell whether these are ndarrays of NumPy's floats, none a view, none there twice."""
    cdef cnp.ndarray v
    for x in items:
        if not cnp.PyArray_CheckExact(x):
            return False
        v = <cnp.ndarray>x
        if cnp.PyArray_BASE(v) != NULL or not cnp.PyArray_CHKFLAGS(v, cnp.NPY_ARRAY_OWNDATA):
            return False
        if cnp.PyArray_TYPE(v) not in (NPY_HALF, cnp.NPY_FLOAT, cnp.NPY_DOUBLE) or \
                not cnp.PyArray_ISNOTSWAPPED(v):
            return False
    return len(set(map(id, items))) == len(items)


def first_changed(list arrays, list views):
    """Return the first position at which an ndarray is not what its view was made of, or -1.

    Whether it has other memory or elements; another shape of the same elements is no change.
    """
    cdef cnp.ndarray x, v
    cdef int d, ndim
    cdef Py_ssize_t k
    for k in range(len(arrays)):
        x, v = <cnp.ndarray?>arrays[k], <cnp.ndarray?>views[k]
        if cnp.PyArray_DATA(x) != cnp.PyArray_DATA(v) or cnp.PyArray_SIZE(x) != cnp.PyArray_SIZE(v):
            return k
        if cnp.PyArray_DESCR(x) is not cnp.PyArray_DESCR(v) and x.dtype != v.dtype:
            return k
        if cnp.PyArray_IS_C_CONTIGUOUS(x) and cnp.PyArray_IS_C_CONTIGUOUS(v):
            continue
        ndim = cnp.PyArray_NDIM(x)
        if ndim != cnp.PyArray_NDIM(v):
            return k
        for d in range(ndim):
            if cnp.PyArray_DIM(x, d) != cnp.PyArray_DIM(v, d) or \
                    cnp.PyArray_STRIDE(x, d) != cnp.PyArray_STRIDE(v, d):
                return k
    return -1


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
