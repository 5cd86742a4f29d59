# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The compiled forms of a story's way from the ring to the store: a batch is taken in one walk, and read in another.

Reads no story that is not the usual one: `ring.py` and `shipment.py` read all, and say the same.
"""

from uuid import UUID

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.unicode cimport PyUnicode_DecodeASCII, PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from lz4.block import compress

from interlock.foundation.telemetry.frames import Kind
from interlock.foundation.telemetry.records import Attempt, Cost, Link, Timing, Usage
from interlock.foundation.telemetry.story import FORM, Story, read_packed
from interlock.foundation.telemetry.tally import MINUTE_US as _MINUTE_US, Tally

cdef enum:
    HEADER_BYTES = 24
    PREAMBLE = 4096
    STORY_FIELDS = 29
    # Characters of a number of 64 bits with what stands behind it.
    NUMBER_CHARS = 21
    USD_DIGITS_MAX = 15

cdef long long MINUTE_US = _MINUTE_US
# Figures beyond it are added up in Python.
cdef long long FIGURE_MAX = 1LL << 50
# The last millisecond of which a reader can make a date.
cdef uint64_t MS_MAX = 253_402_300_799_999ULL
cdef int _pad = Kind.PAD, _story = Kind.STORY
cdef bytes _form = FORM

include "_native_packed.pxi"


def taken(content, uint64_t position, uint64_t head, uint64_t capacity, kinds, Py_ssize_t frames_max):
    """Return what `Ring.taken` does of the frames from a position on."""
    cdef Py_buffer view
    cdef const unsigned char *base
    cdef uint64_t offset, rest, length
    cdef uint32_t wanted = 0
    cdef int kind
    cdef list frames = [], positions = []
    for each in kinds:
        wanted |= <uint32_t>1 << <int>each
    PyObject_GetBuffer(content, &view, PyBUF_SIMPLE)
    try:
        base = <const unsigned char *>view.buf
        if capacity == 0 or <uint64_t>view.len < PREAMBLE + capacity:
            raise ValueError("not the bytes of a ring")
        while position < head and len(frames) < frames_max:
            offset = position % capacity
            rest = capacity - offset
            if rest < HEADER_BYTES:
                position += rest
                continue
            length = little(base + PREAMBLE + offset)
            kind = base[PREAMBLE + offset + 16]
            if kind == _pad:
                position += rest
                continue
            if length > rest - HEADER_BYTES:
                raise ValueError("a frame that goes beyond its ring")
            if kind < 32 and wanted >> kind & 1:
                frames.append((kind, PyBytes_FromStringAndSize(<char *>base + PREAMBLE + offset + HEADER_BYTES, length)))
                positions.append(position)
            position += HEADER_BYTES + length + 7 & ~<uint64_t>7
    finally:
        PyBuffer_Release(&view)
    return frames, positions, position


cdef inline uint32_t little(const unsigned char *at) noexcept:
    return at[0] | <uint32_t>at[1] << 8 | <uint32_t>at[2] << 16 | <uint32_t>at[3] << 24


cdef struct Figures:
    # The number of the frame that was the first of its likeness, and what is added up of all of them.
    Py_ssize_t first
    long long requests
    long long tokens[4]
    long long cost_usd_micros


cdef struct Look:
    # Where each field of a story begins, and behind the last one.
    const unsigned char *fields[STORY_FIELDS + 1]
    long long minute
    long long tokens[4]
    long long cost_usd_micros
    bint is_priced
    const unsigned char *price_version
    const unsigned char *behind_price


def read(list frames, Py_ssize_t bytes_max, shortened):
    """Return columns, further ids of upstreams and tallies of stories; None where a frame is not a usual story.

    Of a story that is longer than `bytes_max` what the store keeps is asked of `shortened`.
    """
    cdef Batch batch = Batch(frames, bytes_max, shortened)
    return batch.told() if batch.walk() else None


cdef class Batch:
    """The frames of one shipment, and what is made of them on a walk."""

    cdef list frames, clients, traces, upstream, more, stories
    cdef dict likes
    cdef object shortened
    cdef Py_ssize_t bytes_max, count, likes_count
    cdef Figures *figures
    cdef char *ids
    cdef char *kinds
    cdef char *starts
    cdef char *sizes
    cdef Py_ssize_t kinds_size, starts_size, sizes_size, start
    cdef bytes like
    cdef Py_ssize_t like_number

    def __cinit__(self, list frames, Py_ssize_t bytes_max, shortened):
        cdef Py_ssize_t count = len(frames)
        self.frames, self.bytes_max, self.shortened, self.count = frames, bytes_max, shortened, count
        self.clients, self.traces, self.upstream, self.more, self.stories = [], [], [], [], []
        self.likes = {}
        self.start = 1
        self.figures = <Figures *>PyMem_Malloc(count * sizeof(Figures))
        self.ids = <char *>PyMem_Malloc(count * (2 * ID_BYTES + 1) + 2)
        self.kinds = <char *>PyMem_Malloc(count * NUMBER_CHARS + 2)
        self.starts = <char *>PyMem_Malloc(count * NUMBER_CHARS + 2)
        self.sizes = <char *>PyMem_Malloc(count * NUMBER_CHARS + 2)
        if not (self.figures and self.ids and self.kinds and self.starts and self.sizes):
            raise MemoryError

    def __dealloc__(self):
        PyMem_Free(self.figures)
        PyMem_Free(self.ids)
        PyMem_Free(self.kinds)
        PyMem_Free(self.starts)
        PyMem_Free(self.sizes)

    cdef bint walk(self) except -1:
        """Look at each frame; false where one is not the usual."""
        cdef Py_ssize_t at
        cdef Look look
        if not self.count:
            return False
        for at in range(self.count):
            each = self.frames[at]
            if type(each) is not tuple or len(<tuple>each) != 2 or (<tuple>each)[0] != _story:
                return False
            payload = (<tuple>each)[1]
            if type(payload) is not bytes or not is_usual(<bytes>payload, &look):
                return False
            self.note_id(at, look.fields[0] + 2)
            self.kinds_size = number_into(self.kinds, self.kinds_size, self.tally(at, &look) + 1)
            self.clients.append(text_at(look.fields[6]))
            self.traces.append(text_at(look.fields[7]))
            self.note_upstream(&look)
            self.note_story(<bytes>payload)
        return True

    cdef tuple told(self):
        cdef Py_ssize_t at
        cdef list tallies = []
        cdef Figures *figures
        for at in range(self.likes_count):
            figures = self.figures + at
            record = read_packed((<tuple>self.frames[figures.first])[1])
            tallies.append(Tally(record, figures.requests, *[figures.tokens[each] for each in range(4)],
                                 figures.cost_usd_micros))
        return (
            listed(self.ids, self.count * (2 * ID_BYTES + 1)), listed(self.kinds, self.kinds_size), self.clients,
            self.traces, b"".join(self.stories), listed(self.starts, self.starts_size),
            listed(self.sizes, self.sizes_size), self.upstream, self.more, tallies,
        )

    cdef void note_id(self, Py_ssize_t at, const unsigned char *identity) noexcept:
        cdef const char *digits = "0123456789abcdef"
        cdef char *to = self.ids + at * (2 * ID_BYTES + 1)
        cdef int byte
        to[0] = c","
        for byte in range(ID_BYTES):
            to[1 + 2 * byte] = digits[identity[byte] >> 4]
            to[2 + 2 * byte] = digits[identity[byte] & 15]

    cdef Py_ssize_t tally(self, Py_ssize_t at, Look *look) except -1:
        """Add the figures of a story to those of its like; return the number of the likeness."""
        cdef bytes like = likeness(look)
        cdef Figures *figures
        cdef int each
        if self.like is None or like != self.like:
            known = self.likes.get(like)
            if known is None:
                known = self.likes[like] = self.likes_count
                figures = self.figures + self.likes_count
                figures.first, figures.requests, figures.cost_usd_micros = at, 0, 0
                for each in range(4):
                    figures.tokens[each] = 0
                self.likes_count += 1
            self.like, self.like_number = like, known
        figures = self.figures + self.like_number
        figures.requests += 1
        figures.cost_usd_micros += look.cost_usd_micros
        for each in range(4):
            figures.tokens[each] += look.tokens[each]
        return self.like_number

    cdef int note_upstream(self, Look *look) except -1:
        """Note the id that the last upstream gave, and apart from it those that were given before."""
        cdef const unsigned char *at = look.fields[21]
        cdef const unsigned char *end = look.fields[22]
        cdef uint64_t attempts = 0, field
        last = None
        open_list(&at, end, &attempts)
        while attempts:
            attempts -= 1
            at += 1
            for field in range(7):
                skip(&at, end)
            text = text_at(at)
            skip(&at, end)
            if text:
                if last is not None:
                    self.more.append((self.like_number, UUID(bytes=look.fields[0][2:18]), last))
                last = text
        self.upstream.append(last)
        return 0

    cdef int note_story(self, bytes payload) except -1:
        cdef bytes packed
        cdef Py_ssize_t size
        if PyBytes_GET_SIZE(payload) <= self.bytes_max:
            packed = compress(payload)
            self.stories.append(_form)
            self.stories.append(packed)
            size = 1 + PyBytes_GET_SIZE(packed)
        else:
            packed = self.shortened(payload)
            self.stories.append(packed)
            size = PyBytes_GET_SIZE(packed)
        self.starts_size = number_into(self.starts, self.starts_size, self.start)
        self.sizes_size = number_into(self.sizes, self.sizes_size, size)
        self.start += size
        return 0


cdef bytes likeness(Look *look):
    """Return in bytes what `tally.likeness` names; each is told with its length."""
    cdef const unsigned char **fields = look.fields
    cdef Py_ssize_t size = 10 + look.behind_price - look.price_version
    cdef bytes like
    cdef char *to
    # Whether it is complete and whose; endpoint; outcome and status; alias; deployment and arm; tags.
    cdef int[12] spans = [2, 6, 8, 9, 11, 13, 15, 16, 17, 19, 28, 29]
    cdef int at
    for at in range(0, 12, 2):
        size += fields[spans[at + 1]] - fields[spans[at]]
    like = PyBytes_FromStringAndSize(NULL, size)
    to = PyBytes_AS_STRING(like)
    memcpy(to, &look.minute, 8)
    to[8] = look.is_priced
    # An empty list is one byte.
    to[9] = fields[21][0] == 0x90
    to += 10
    memcpy(to, look.price_version, look.behind_price - look.price_version)
    to += look.behind_price - look.price_version
    for at in range(0, 12, 2):
        size = fields[spans[at + 1]] - fields[spans[at]]
        memcpy(to, fields[spans[at]], size)
        to += size
    return like


cdef Py_ssize_t number_into(char *to, Py_ssize_t at, Py_ssize_t number) noexcept:
    """Write a comma and a number that is not below zero; return where it ends."""
    cdef char[NUMBER_CHARS] digits
    cdef int count = 0, place
    to[at] = c","
    while True:
        digits[count] = c"0" + number % 10
        number //= 10
        count += 1
        if not number:
            break
    for place in range(count):
        to[at + 1 + place] = digits[count - 1 - place]
    return at + 1 + count


cdef str listed(char *given, Py_ssize_t size):
    """Return numbers or ids, each behind a comma, as an array in words."""
    given[0] = c"{"
    given[size] = c"}"
    return PyUnicode_DecodeASCII(given, size + 1, NULL)


# What each field of a story may be, and those of its parts.
cdef int[STORY_FIELDS] _of_story = [
    ID, INTEGER, BOOL, NIL | ID, NIL | ID, NIL | ID, NIL | TEXT, NIL | TEXT, TEXT, NIL | TEXT, BOOL, TEXT, INTEGER,
    NIL | TEXT, TEXT, NIL | TEXT, NIL | INTEGER, NIL | TEXT, NIL | TEXT, NIL | TEXT, LIST, LIST, LIST, LIST, LIST, LIST,
    TEXT, TEXT, TEXT,
]
cdef int[8] _of_attempt = [
    INTEGER, TEXT, NIL | INTEGER, NIL | TEXT, NIL | INTEGER | FLOAT, NIL | INTEGER | FLOAT, NIL | INTEGER | FLOAT, NIL | TEXT,
]
cdef int[5] _of_usage = [NIL | INTEGER, NIL | INTEGER, NIL | INTEGER, NIL | INTEGER, BOOL]
cdef int[3] _of_cost = [NIL | TEXT, NIL | TEXT, NIL | TEXT | INTEGER]
cdef int[6] _of_timing = [
    NIL | INTEGER | FLOAT, NIL | INTEGER | FLOAT, NIL | INTEGER | FLOAT, NIL | INTEGER | FLOAT, NIL | INTEGER | FLOAT,
    NIL | INTEGER | FLOAT,
]
cdef int[2] _of_link = [TEXT, TEXT]


def require_fields():
    """Raise `TypeError` where a class of a story has other fields than are read here."""
    known = ((Story, STORY_FIELDS), (Attempt, 8), (Usage, 5), (Cost, 3), (Timing, 6), (Link, 2))
    for kind, count in known:
        if len(kind.__struct_fields__) != count:
            raise TypeError(f"{kind} has other fields")
    places = {name: at for at, name in enumerate(Story.__struct_fields__)}
    read_here = {
        "id": 0, "started_us": 1, "complete": 2, "organization_id": 3, "workspace_id": 4, "key_id": 5,
        "client_request_id": 6, "trace_id": 7, "endpoint": 8, "outcome": 11, "status": 12, "alias": 15,
        "deployment": 17, "arm": 18, "links": 20, "attempts": 21, "usage": 22, "cost": 23, "timing": 24, "tags": 28,
    }
    if any(places[name] != at for name, at in read_here.items()):
        raise TypeError("a story has its fields in another order")


require_fields()


cdef bint is_usual(bytes payload, Look *look) except -1:
    """Look at a story; false where it is not as it is usually written."""
    cdef const unsigned char *at = <const unsigned char *>PyBytes_AS_STRING(payload)
    cdef const unsigned char *end = at + PyBytes_GET_SIZE(payload)
    cdef long long started_us = 0
    cdef uint64_t ms = 0
    cdef int byte
    # A list of 29.
    if end - at < 3 or at[0] != 0xDC or at[1] != 0 or at[2] != STORY_FIELDS:
        return False
    at += 3
    for byte in range(STORY_FIELDS):
        look.fields[byte] = at
        if not goes_on(&at, end, _of_story[byte]):
            return False
    look.fields[STORY_FIELDS] = at
    # One that is not complete would have to be merged with the one that is.
    if at != end or look.fields[2][0] != 0xC3 or not number_at(look.fields[1], &started_us) or started_us < 0:
        return False
    look.minute = started_us // MINUTE_US
    for byte in range(6):
        ms = ms << 8 | look.fields[0][2 + byte]
    return (
        ms <= MS_MAX
        and are(look.fields[20], look.fields[21], _of_link, 2)
        and are(look.fields[21], look.fields[22], _of_attempt, 8)
        and is_one(look.fields[24], look.fields[25], _of_timing, 6)
        and reads_usage(look)
        and reads_cost(look)
    )


cdef bint reads_usage(Look *look) except -1:
    cdef const unsigned char *at = look.fields[22]
    cdef int field
    if not is_one(at, look.fields[23], _of_usage, 5):
        return False
    at += 1
    for field in range(4):
        look.tokens[field] = 0
        if at[0] != 0xC0 and (not number_at(at, &look.tokens[field]) or not 0 <= look.tokens[field] <= FIGURE_MAX):
            return False
        skip(&at, look.fields[23])
    return True


cdef bint reads_cost(Look *look) except -1:
    """Read dollars of at most six decimals, and where the version of their price stands."""
    cdef const unsigned char *at = look.fields[23]
    cdef Py_ssize_t size = 0, place
    cdef int decimals = -1
    cdef const unsigned char *text
    if not is_one(at, look.fields[24], _of_cost, 3):
        return False
    at += 1
    look.cost_usd_micros, look.is_priced = 0, at[0] != 0xC0
    if look.is_priced:
        text = text_of(at, &size)
        if size < 1 or size > USD_DIGITS_MAX or text[0] == c".":
            return False
        for place in range(size):
            if text[place] == c"." and decimals < 0:
                decimals = 0
            elif c"0" <= text[place] <= c"9" and decimals < 6:
                look.cost_usd_micros = 10 * look.cost_usd_micros + text[place] - c"0"
                decimals += decimals >= 0
            else:
                return False
        for place in range(6 - max(0, decimals)):
            if look.cost_usd_micros > FIGURE_MAX:
                return False
            look.cost_usd_micros *= 10
    skip(&at, look.fields[24])
    skip(&at, look.fields[24])
    look.price_version = at
    look.behind_price = look.fields[24]
    return True
