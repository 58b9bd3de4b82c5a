# SPDX-License-Identifier: BSD-3-Clause
# Part of fastreg/_kernels.pyx: exact states, and sums with bounds.

cdef int _fail_state(fastreg_status status) except -1:
    """Raise what a status of a state's function means."""
    if status == FASTREG_BELOW_ZERO:
        raise ArgumentError(message("a state that holds all that is subtracted",
                                    "one that would fall below zero",
                                    "subtract only what was added to it, unchanged since"))
    if status == FASTREG_NOT_NARROW:
        raise ArgumentError(message("a state with room in the narrow layout",
                                    "numbers of float64 beyond float32's range or precision",
                                    'pass layout="wide", in every process'))
    if status == FASTREG_BAD_STATE:
        raise ArgumentError(message("digits of a state, or a sum of digits of one layout",
                                    "what no arrays could have given",
                                    "sum digits of one layout, of at most 2**31 states (int64) or "
                                    "2**15 - 1 (int32), with an integer SUM"))
    if status == FASTREG_BAD_SHAPE:
        raise ArgumentError(message("states of at most 2**63 - 1 elements together", "more",
                                    "merge fewer of them"))
    return _fail(status, NULL, 0)


cdef class States:
    """Exact states, one for each row, empty at first.

    Parameters
    ----------
    length : int
        How many rows.
    """

    cdef fastreg_state *_rows
    cdef Py_ssize_t _length

    def __cinit__(self, Py_ssize_t length):
        self._rows = <fastreg_state *>calloc(<size_t>length + 1, sizeof(fastreg_state))
        if self._rows == NULL:
            raise MemoryError
        self._length = length

    def __dealloc__(self):
        free(self._rows)

    def __len__(self):
        return self._length

    cdef fastreg_state *_row(self, Py_ssize_t row) except NULL:
        if not 0 <= row < self._length:
            raise IndexError(row)
        return &self._rows[row]

    def row(self, Py_ssize_t row):
        """Return a copy of one row."""
        cdef States one = States(1)
        one._rows[0] = self._row(row)[0]
        return one

    def fill(self, Arrays arrays, Py_ssize_t row=0):
        """Add described arrays, whose weights play no part; an interrupted call has added nothing."""
        # A copy, for another thread may look at what there is meanwhile.
        cdef fastreg_state state = self._row(row)[0]
        cdef fastreg_options o
        cdef fastreg_status status
        cdef _poll_state poll
        if arrays._options is None:
            _no_options(&o)
        else:
            o = arrays._options._options
        _prepare(&o, &poll)
        arrays._running += 1
        with nogil:
            status = fastreg_state_fill(&state, arrays._arrays, <size_t>arrays._length, &o)
        arrays._running -= 1
        if status != FASTREG_OK:
            _fail(status, arrays._arrays, <size_t>arrays._length)
        self._rows[row] = state

    cdef States _with(self, States other, bint less):
        cdef States out = States(self._length)
        cdef Py_ssize_t k
        cdef fastreg_status status
        if other._length != self._length:
            raise IndexError(other._length)
        memcpy(out._rows, self._rows, <size_t>self._length * sizeof(fastreg_state))
        for k in range(self._length):
            if less:
                status = fastreg_state_subtract(&out._rows[k], &other._rows[k])
            else:
                status = fastreg_state_add(&out._rows[k], &other._rows[k])
            if status != FASTREG_OK:
                _fail_state(status)
        return out

    def plus(self, States other not None):
        """Return the sums row by row."""
        return self._with(other, False)

    def minus(self, States other not None):
        """Return the differences row by row."""
        return self._with(other, True)

    def total(self):
        """Return the sum of all rows, in one."""
        cdef States out = States(1)
        cdef Py_ssize_t k
        for k in range(self._length):
            status = fastreg_state_add(out._rows, &self._rows[k])
            if status != FASTREG_OK:
                _fail_state(status)
        return out

    def counts(self, Py_ssize_t row):
        """Return n, zeros, NaNs, positive and negative infinities of a row."""
        cdef fastreg_state *s = self._row(row)
        return s.n, s.zeros, s.nans, s.positive_infinities, s.negative_infinities

    def is_wide(self, Py_ssize_t row):
        """Tell whether float64 was filled into a row."""
        return self._row(row).layout == FASTREG_WIDE

    def value(self, list l1 not None, list l2 not None, object dtype=None, bint root=False):
        """Return the penalty with a weight for each row, or its root, as a NumPy scalar."""
        cdef double *w = NULL
        cdef double v = 0.0
        cdef Py_ssize_t k
        cdef fastreg_dtype result
        cdef fastreg_status status
        _result(dtype, FASTREG_F64, &result)
        if len(l1) != self._length or len(l2) != self._length:
            raise IndexError(len(l1))
        w = <double *>malloc((2 * <size_t>self._length + 1) * sizeof(double))
        if w == NULL:
            raise MemoryError
        try:
            for k in range(self._length):
                w[k] = _weight(l1[k], "l1")
                w[self._length + k] = _weight(l2[k], "l2")
            if root:
                status = fastreg_state_norm(self._rows, w, w + self._length,
                                            <size_t>self._length, result, &v)
            else:
                status = fastreg_state_value(self._rows, w, w + self._length,
                                             <size_t>self._length, result, &v)
        finally:
            free(w)
        if status == FASTREG_BAD_WEIGHT:
            for k in range(self._length):
                _arguments.weight(l1[k], "l1")
                _arguments.weight(l2[k], "l2")
        if status != FASTREG_OK:
            _fail_state(status)
        return _scalar(result, v)

    def digits(self, Py_ssize_t row, bint narrow_integers, bint wide):
        """Return a row as digits: int64, or int32 if narrow_integers; of the layout asked for."""
        cdef Py_ssize_t count
        cdef cnp.ndarray out
        cdef fastreg_status status
        cdef fastreg_state *s = self._row(row)
        if narrow_integers:
            count = FASTREG_DIGITS32_WIDE if wide else FASTREG_DIGITS32_NARROW
            out = np.empty(count, np.int32)
            status = fastreg_state_digits32(s, <int *>cnp.PyArray_DATA(out), <size_t>count)
        else:
            count = FASTREG_DIGITS64_WIDE if wide else FASTREG_DIGITS64_NARROW
            out = np.empty(count, np.int64)
            status = fastreg_state_digits64(s, <long long *>cnp.PyArray_DATA(out), <size_t>count)
        if status != FASTREG_OK:
            _fail_state(status)
        return out

    def read_digits(self, Py_ssize_t row, cnp.ndarray digits not None):
        """Replace a row by what contiguous digits, of int64 or int32, stand for."""
        cdef fastreg_state *s = self._row(row)
        cdef size_t count = <size_t>cnp.PyArray_SIZE(digits)
        cdef fastreg_status status
        if not cnp.PyArray_IS_C_CONTIGUOUS(digits) or digits.dtype not in (np.int64, np.int32):
            raise TypeError(digits.dtype)
        if digits.dtype == np.int64:
            status = fastreg_state_from_digits64(s, <long long *>cnp.PyArray_DATA(digits), count)
        else:
            status = fastreg_state_from_digits32(s, <int *>cnp.PyArray_DATA(digits), count)
        if status == FASTREG_BAD_SHAPE:
            raise ArgumentError(message(
                f"{FASTREG_DIGITS64_NARROW} or {FASTREG_DIGITS64_WIDE} digits of int64, or "
                f"{FASTREG_DIGITS32_NARROW} or {FASTREG_DIGITS32_WIDE} of int32", f"{count} of "
                f"{digits.dtype}", "pass what State.digits gave, summed element by element"))
        if status != FASTREG_OK:
            _fail_state(status)

    def save(self, Py_ssize_t row):
        """Return a row's canonical bytes."""
        cdef fastreg_state *s = self._row(row)
        cdef size_t nbytes = fastreg_state_nbytes(s)
        cdef bytearray out = bytearray(nbytes)
        cdef fastreg_status status = fastreg_state_save(s, <char *>out, nbytes)
        if status != FASTREG_OK:
            _fail_state(status)
        return bytes(out)

    def load(self, Py_ssize_t row, bytes data not None):
        """Replace a row by what bytes say."""
        cdef fastreg_status status = fastreg_state_load(self._row(row), <const char *>data,
                                                        <size_t>len(data))
        if status == FASTREG_BAD_STATE:
            raise ArgumentError(message("the canonical bytes of a state",
                                        "bytes that are cut, of another format, or of numbers that "
                                        "no arrays could have given", "pass bytes(state) as it was"))
        if status != FASTREG_OK:
            _fail_state(status)


cdef class Enclosure:
    """The weighted penalty of arrays with a bound on its error; empty at first."""

    cdef fastreg_sum _sum

    def __cinit__(self):
        memset(&self._sum, 0, sizeof(fastreg_sum))

    @staticmethod
    def of(Arrays arrays not None, list times=None, bint norm=False):
        """Return that of described arrays; for a norm, each counts ``times`` with l2 = 1."""
        cdef Enclosure self = Enclosure()
        cdef fastreg_options o
        cdef fastreg_status status
        cdef _poll_state poll
        cdef Py_ssize_t k
        cdef fastreg_array *copy = arrays._copy()
        try:
            for k in range(arrays._length if norm else 0):
                copy[k].l1 = 0.0
                copy[k].l2 = 1.0 if times is None else times[k]
            if arrays._options is None:
                _no_options(&o)
            else:
                o = arrays._options._options
            _prepare(&o, &poll)
            arrays._running += 1
            with nogil:
                status = fastreg_enclose(copy, <size_t>arrays._length, &o, &self._sum)
            arrays._running -= 1
            if status != FASTREG_OK:
                _fail(status, copy, <size_t>arrays._length)
        finally:
            free(copy)
        return self

    def merge(self, Enclosure other not None):
        """Add another one."""
        cdef fastreg_status status = fastreg_sum_merge(&self._sum, &other._sum)
        if status != FASTREG_OK:
            _fail_state(status)

    def value(self, dtype=None, bint root=False):
        """Return the penalty, or its root, as a NumPy scalar; None if the bound leaves a choice."""
        cdef double v = 0.0
        cdef fastreg_dtype result
        cdef fastreg_status status
        _result(dtype, FASTREG_F64, &result)
        if root:
            status = fastreg_sum_norm(&self._sum, result, &v)
        else:
            status = fastreg_sum_value(&self._sum, result, &v)
        if status == FASTREG_UNDECIDED:
            return None
        if status != FASTREG_OK:
            _fail_state(status)
        return _scalar(result, v)

    def digits(self):
        """Return it as digits of int64, to be summed over processes."""
        cdef cnp.ndarray out = np.empty(FASTREG_SUM_DIGITS64, np.int64)
        cdef fastreg_status status = fastreg_sum_digits64(
            &self._sum, <long long *>cnp.PyArray_DATA(out))
        if status != FASTREG_OK:
            _fail_state(status)
        return out


def decide(cnp.ndarray digits not None, dtype=None, bint root=False):
    """Return what summed digits of enclosures decide, as a NumPy scalar; None if nothing."""
    cdef double v = 0.0
    cdef fastreg_dtype result
    cdef fastreg_status status
    _result(dtype, FASTREG_F64, &result)
    if (digits.dtype != np.int64 or not cnp.PyArray_IS_C_CONTIGUOUS(digits)
            or cnp.PyArray_SIZE(digits) != FASTREG_SUM_DIGITS64):
        raise ArgumentError(message(f"{FASTREG_SUM_DIGITS64} digits of int64, contiguous",
                                    f"{cnp.PyArray_SIZE(digits)} of {digits.dtype}",
                                    "pass what Enclosure.digits gave, summed element by element"))
    status = fastreg_digits64_decide(<long long *>cnp.PyArray_DATA(digits), root, result, &v)
    if status == FASTREG_UNDECIDED:
        return None
    if status != FASTREG_OK:
        _fail_state(status)
    return _scalar(result, v)
