# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""The compiled form of what an event of a stream goes through: plain ones are counted and passed on here.

Reads no event; whatever may say something goes to the scanner's form in Python.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from libc.string cimport memchr, memcmp

ctypedef const unsigned char* Text

cdef enum:
    BOUNDS_MAX = 32

# Of each byte, whether something in a stream may begin with it that has to be looked at.
cdef bint MARKS[256]
for _mark in range(256):
    MARKS[_mark] = _mark in b'"[\r\n'


cdef bint _follows(Text text, Py_ssize_t at, Py_ssize_t end, const char* word, Py_ssize_t size) noexcept nogil:
    return end - at >= size and memcmp(text + at, word, size) == 0


cdef Py_ssize_t _plain_events(Text text, Py_ssize_t size) noexcept nogil:
    """Return how many events a piece is, comments not counted; -1 where it is not whole, or has to be looked into.

    The words that the form in Python searches for are found by their first character. One that says null says nothing.
    """
    cdef Py_ssize_t at = 0, events = 0
    cdef unsigned char each
    if size < 2 or text[size - 1] != 10 or text[size - 2] != 10:
        return -1
    if text[0] == 58:
        events -= 1
    while at < size:
        each = text[at]
        at += 1
        if not MARKS[each]:
            continue
        if each == 34:
            if _follows(text, at, size, b'finish_reason"', 14):
                if not _follows(text, at + 14, size, b":null", 5):
                    return -1
            elif _follows(text, at, size, b'usage"', 6):
                if not _follows(text, at + 6, size, b":null", 5):
                    return -1
            elif _follows(text, at, size, b'error"', 6):
                return -1
        elif each == 91:
            if _follows(text, at, size, b"DONE]", 5):
                return -1
        elif each == 13:
            return -1
        else:
            if at < size and text[at] == 10:
                events += 1
                at += 1
            if at < size and text[at] == 58:
                events -= 1
    return events


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
    """What a scanner of a stream keeps; `pass_on` says yes to what may go on as it is, and counts it."""

    cdef public Py_ssize_t events
    cdef public object usage, failure
    cdef public bint is_finished, is_done

    cdef bint pass_on(self, piece):
        return False


cdef class ChatState(ScanState):
    """What is kept of a stream of the chat dialect."""

    cdef public bytes _pending
    cdef public bint _swallow_lf

    def __cinit__(self):
        self._pending = b""

    cdef bint pass_on(self, piece):
        cdef Py_ssize_t events
        if self.is_done or self._swallow_lf or self.failure is not None or self._pending:
            return False
        events = _plain_events(<Text> PyBytes_AS_STRING(piece), PyBytes_GET_SIZE(piece))
        if events < 0:
            return False
        self.events += events
        return True


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

    cdef bint pass_on(self, piece):
        cdef Py_ssize_t events
        cdef FrameState frames = self._frames
        if frames is None or frames._swallow_lf or frames._pending or self.is_done or self.failure is not None:
            return False
        events = _plain_deltas(<Text> PyBytes_AS_STRING(piece), PyBytes_GET_SIZE(piece), frames._bytes_max)
        if events < 0:
            return False
        self.events += events
        return True


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
        if state is not None and PyBytes_CheckExact(piece) and state.pass_on(piece):
            if self._grant is not None:
                self._grant.output_tokens = state.events
            return self._push(piece)
        block = self._feed(piece)
        if self._grant is not None:
            self._grant.output_tokens = self._scanner.events
        if self._scanner.is_done:
            self.last = block
            return False
        return (not block or self._push(block)) and self._scanner.failure is None
