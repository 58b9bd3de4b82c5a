# SPDX-License-Identifier: BSD-3-Clause
# Part of fastreg/_kernels.pyx: sums that go on from call to call.

cdef class Accumulator:
    """The sums and counts of arrays that are read one after the other, each released before the next.

    Nearly always the first reading decides every rounding. Where a method answers None it does not:
    then all that was added has to be added once more, with ``exactly=True``, in any order.
    """

    cdef fastreg_accumulator _state

    def __cinit__(self):
        memset(&self._state, 0, sizeof(fastreg_accumulator))

    def add(self, Arrays arrays, bint exactly=False):
        """Add described arrays, whose weights play no part; an interrupted call has added nothing."""
        # A copy, for another thread may look at what there is meanwhile.
        cdef fastreg_accumulator state = self._state
        cdef fastreg_options o
        cdef fastreg_status status
        cdef _poll_state poll
        _no_options(&o)
        poll.next = fr_milliseconds() + POLL_MILLISECONDS
        o.poll = _poll
        o.poll_context = &poll
        arrays._running += 1
        with nogil:
            status = fastreg_accumulator_add(&state, arrays._arrays, <size_t>arrays._length,
                                             exactly, &o)
        arrays._running -= 1
        if status != FASTREG_OK:
            _fail(status, arrays._arrays, <size_t>arrays._length)
        self._state = state

    def merge(self, Accumulator other not None):
        """Add all that another one has."""
        cdef fastreg_status status = fastreg_accumulator_merge(&self._state, &other._state)
        if status != FASTREG_OK:
            _fail(status, NULL, 0)

    def value(self, l1, l2):
        """Return l1·Σ|x| + l2·Σx², exact and rounded once to float64; None if that is undecided."""
        cdef double v = 0.0
        cdef double w1 = _arguments.weight(l1, "l1"), w2 = _arguments.weight(l2, "l2")
        cdef fastreg_status status = fastreg_accumulator_value(&self._state, w1, w2, FASTREG_F64,
                                                               &v)
        if status == FASTREG_UNDECIDED:
            return None
        if status != FASTREG_OK:
            _fail(status, NULL, 0)
        return v

    def statistics(self):
        """Return what :meth:`Arrays.statistics` has as its total; None if that is undecided."""
        cdef cnp.ndarray row = np.empty(1, _statistics_dtype)
        cdef fastreg_status status = fastreg_accumulator_statistics(
            &self._state, <fastreg_statistics *>cnp.PyArray_DATA(row))
        if status == FASTREG_UNDECIDED:
            return None
        if status != FASTREG_OK:
            _fail(status, NULL, 0)
        return row[0]
