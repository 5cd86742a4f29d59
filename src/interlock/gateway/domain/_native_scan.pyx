# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""The compiled form of what an event of a stream goes through: plain ones are counted and passed on here.

Reads no event; whatever may say something goes to the scanner's form in Python.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from libc.string cimport memchr, memcmp

ctypedef const unsigned char* Text

cdef enum:
    BOUNDS_MAX = 32
    # In one piece; more are left to the form in Python.
    EVENTS_MAX = 64

# Of each byte, whether something in a stream may begin with it that has to be looked at.
cdef bint MARKS[256]
for _mark in range(256):
    MARKS[_mark] = _mark in b'"[\r\n'


cdef bint _follows(Text text, Py_ssize_t at, Py_ssize_t end, const char* word, Py_ssize_t size) noexcept nogil:
    return end - at >= size and memcmp(text + at, word, size) == 0


cdef enum:
    # What stands in an event, or in some; the last is left to the form in Python.
    FINISH = 1
    USAGE = 2
    DONE = 4
    ODD = 8


cdef struct Event:
    # Without the blank line behind it; comments say nothing, whatever stands in them.
    Py_ssize_t first
    Py_ssize_t end
    int says
    bint is_comment


cdef int _member(Text text, Py_ssize_t at, Py_ssize_t end, unsigned char wanted, int found) noexcept nogil:
    """Tell what a member says whose name ends at `at`: `found` where its value begins with `wanted`, else nothing."""
    while at < end and (text[at] == 32 or text[at] == 9):
        at += 1
    if at < end and text[at] == 58:
        at += 1
        while at < end and (text[at] == 32 or text[at] == 9):
            at += 1
        if at < end and text[at] == wanted:
            return found
    # A name before other blanks is told apart by the form in Python.
    return ODD if at < end and 10 <= text[at] <= 13 else 0


cdef int _word(Text text, Py_ssize_t at, Py_ssize_t end) noexcept nogil:
    """Tell what begins at `at`, behind a quote or a bracket; the form in Python searches for the same words."""
    if text[at - 1] == 34:
        if _follows(text, at, end, b'finish_reason"', 14):
            return _member(text, at + 14, end, 34, FINISH)
        if _follows(text, at, end, b'usage"', 6):
            return _member(text, at + 6, end, 123, USAGE)
        return ODD if _follows(text, at, end, b'error"', 6) else 0
    if not _follows(text, at, end, b"DONE]", 5):
        return 0
    return DONE if at >= 7 and memcmp(text + at - 7, b"data: [", 7) == 0 else ODD


cdef int _events(Text text, Py_ssize_t size, Event* found, int* says, Py_ssize_t* plain) noexcept nogil:
    """Cut a piece into events and look through them; -1 where it is not whole, or too many.

    `says` is what they say together, `plain` how many there are, lines of comments not counted.
    """
    cdef Py_ssize_t at = 0
    cdef int count = 0
    cdef unsigned char each
    if size < 2 or text[size - 1] != 10 or text[size - 2] != 10:
        return -1
    while at < size and count < EVENTS_MAX:
        found[count].first = at
        found[count].says = 0
        found[count].is_comment = text[at] == 58
        plain[0] -= found[count].is_comment
        found[count].end = -1
        while at < size and found[count].end < 0:
            each = text[at]
            at += 1
            if not MARKS[each]:
                continue
            if each == 13:
                return -1
            if each != 10:
                found[count].says |= _word(text, at, size)
            elif at < size and text[at] == 10:
                found[count].end = at - 1
                at += 1
            elif at < size and text[at] == 58:
                plain[0] -= 1
        if found[count].end < 0:
            # One line end more than two, at the end.
            found[count].end = size
            found[count].says |= ODD
        says[0] |= found[count].says
        count += 1
    plain[0] += count
    return count if at >= size else -1


cdef Py_ssize_t _plain_deltas(Text text, Py_ssize_t size, Py_ssize_t bytes_max) noexcept nogil:
    """Return how many events a piece of the messages dialect is, if each adds to a block; -1 of any other piece."""
    cdef Py_ssize_t at = 0, first, events = 0
    cdef Text found
    if size < 2 or memchr(text, 13, size) != NULL:
        return -1
    while at < size:
        first = at
        if not _follows(text, at, size, b"event: content_block_delta", 26):
            return -1
        while True:
            found = <Text> memchr(text + at, 10, size - at)
            if found == NULL or found - text + 1 >= size:
                return -1
            at = found - text + 1
            if text[at] == 10:
                break
        if at - 1 - first > bytes_max:
            return -1
        at += 1
        events += 1
    return events


cdef class ScanState:
    """What a scanner of a stream keeps; `through` returns what the caller gets of a piece, None of one it leaves."""

    cdef public Py_ssize_t events
    cdef public object usage, failure
    cdef public bint is_finished, is_done

    cdef object through(self, bytes piece):
        return None


cdef class ChatState(ScanState):
    """What is kept of a stream of the chat dialect."""

    cdef public bytes _pending
    cdef public bint _swallow_lf

    def __cinit__(self):
        self._pending = b""

    cdef object through(self, bytes piece):
        cdef Event found[EVENTS_MAX]
        cdef Text text = <Text> PyBytes_AS_STRING(piece)
        cdef Py_ssize_t plain = 0
        cdef int says = 0, count
        if self.is_done or self._swallow_lf or self.failure is not None or self._pending:
            return None
        count = _events(text, PyBytes_GET_SIZE(piece), found, &says, &plain)
        if count < 0 or says & ODD:
            return None
        if says == 0:
            self.events += plain
            return piece
        if says & DONE and not _ends(text, found, count):
            return None
        return self._one_by_one(piece, found, count)

    cdef object _one_by_one(self, bytes piece, Event* found, int count):
        """Take what some of these events say; the form in Python reads usage, and tells who is to see it."""
        cdef int at
        cdef list kept = []
        for at in range(count):
            if found[at].says & DONE:
                self.is_done = True
            elif not found[at].is_comment:
                self.events += 1
                if found[at].says & FINISH:
                    self.is_finished = True
                if found[at].says & USAGE and not self._keeps(piece[found[at].first : found[at].end]):
                    continue
            kept.append(piece[found[at].first : found[at].end + 2])
        return piece if len(kept) == count else b"".join(kept)


cdef bint _ends(Text text, Event* found, int count) noexcept:
    """Tell whether the last of some events, and no other, is the end of a stream and nothing else."""
    cdef int at
    for at in range(count - 1):
        if found[at].says & DONE:
            return False
    at = count - 1
    return found[at].end - found[at].first == 12 and memcmp(text + found[at].first, b"data: [DONE]", 12) == 0


cdef class FrameState:
    """What is kept between pieces while they are cut into events."""

    cdef public Py_ssize_t _bytes_max
    cdef public bytes _pending
    cdef public bint _swallow_lf

    def __cinit__(self):
        self._pending = b""

    def __init__(self, Py_ssize_t bytes_max):
        self._bytes_max = bytes_max


cdef class MessagesState(ScanState):
    """What is kept of a stream of the messages dialect."""

    cdef public FrameState _frames

    def __init__(self, FrameState frames not None):
        self._frames = frames

    cdef object through(self, bytes piece):
        cdef Py_ssize_t events
        cdef FrameState frames = self._frames
        if frames is None or frames._swallow_lf or frames._pending or self.is_done or self.failure is not None:
            return None
        events = _plain_deltas(<Text> PyBytes_AS_STRING(piece), PyBytes_GET_SIZE(piece), frames._bytes_max)
        if events < 0:
            return None
        self.events += events
        return piece


cdef class Times:
    """Counts of times between bounds, in seconds, and their sum."""

    cdef double _bounds[BOUNDS_MAX]
    cdef long long _counts[BOUNDS_MAX + 1]
    cdef int _size
    cdef readonly double sum_s

    def __init__(self, tuple bounds):
        cdef int at
        if len(bounds) > BOUNDS_MAX:
            raise ValueError(f"more than {BOUNDS_MAX} bounds")
        self._size = len(bounds)
        for at in range(self._size):
            self._bounds[at] = bounds[at]

    @property
    def counts(self):
        """How many were up to each bound and above the one before; the last ones above them all."""
        return [self._counts[at] for at in range(self._size + 1)]

    def observe(self, double seconds):
        """Count one."""
        self.note(seconds)

    cdef void note(self, double seconds) noexcept:
        cdef int at = 0
        while at < self._size and self._bounds[at] < seconds:
            at += 1
        self._counts[at] += 1
        self.sum_s += seconds


cdef class Passing:
    """Passes the pieces of a stream on, each in the call that brings it."""

    cdef object _scanner, _feed, _push, _monotonic, _grant
    cdef ScanState _state
    cdef Times _times
    cdef public double came
    cdef readonly bytes last

    def __init__(self, scanner, push, Times times, monotonic, grant):
        self._scanner, self._feed, self._push = scanner, scanner.feed, push
        self._state = scanner if isinstance(scanner, ScanState) else None
        self._times, self._monotonic, self._grant = times, monotonic, grant
        self.came = 0.0
        self.last = b""

    cpdef scan(self, piece):
        """Return what the caller gets of a piece."""
        if self._state is not None and PyBytes_CheckExact(piece):
            block = self._state.through(piece)
            if block is not None:
                return block
        return self._feed(piece)

    def note_gap(self):
        """Count the time since the piece before."""
        cdef double now = self._monotonic()
        self._times.note(now - self.came)
        self.came = now

    def take(self, piece):
        """Pass a piece on; tell whether the stream goes on, and its reader takes more at once."""
        cdef double now = self._monotonic()
        cdef ScanState state = self._state
        self._times.note(now - self.came)
        self.came = now
        if state is None:
            return self._take_slowly(piece)
        block = self.scan(piece)
        if self._grant is not None:
            self._grant.output_tokens = state.events
        if state.is_done:
            self.last = block
            return False
        return (not block or self._push(block)) and state.failure is None

    cdef object _take_slowly(self, piece):
        """Pass on what a scanner says that keeps its state elsewhere."""
        block = self._feed(piece)
        if self._grant is not None:
            self._grant.output_tokens = self._scanner.events
        if self._scanner.is_done:
            self.last = block
            return False
        return (not block or self._push(block)) and self._scanner.failure is None
