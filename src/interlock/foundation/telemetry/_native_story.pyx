# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""The compiled forms of a story's way into the ring: its steps, its fields, its bytes and their frame.

Decides nothing of its own: what is not the usual case is left to the forms in Python, which these ones equal
byte for byte (`steps.py`, `clean.py`, `spool.py`, `ring.py`).
"""

from uuid import UUID

from cython cimport final
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.float cimport PyFloat_AS_DOUBLE
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject, PyTypeObject
from cpython.set cimport PySet_Contains
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memmove, memset

from interlock.foundation.telemetry.clean import STORY_IDS, STORY_TEXTS, Clean
from interlock.foundation.telemetry.frames import Kind, encode
from interlock.foundation.telemetry.names import STEP_NUMBER, Outcome
from interlock.foundation.telemetry.records import Attempt, Cost, Link, Timing, Usage
from interlock.foundation.telemetry.ring import PREAMBLE, Ring
from interlock.foundation.telemetry.story import Story

cdef extern from *:
    """
    #include "../_native_slots.h"
    #include <stdatomic.h>

    /* An integer of 0 .. 2**128-1, its most significant byte first. */
    static int interlock_wide(PyObject *number, unsigned char *bytes) {
    #if PY_VERSION_HEX >= 0x030D0000
        return _PyLong_AsByteArray((PyLongObject *)number, bytes, 16, 0, 0, 1);
    #else
        return _PyLong_AsByteArray((PyLongObject *)number, bytes, 16, 0, 0);
    #endif
    }

    /* What stands before it is written before what stands behind it, as seen by whoever finds the file after a kill. */
    #define interlock_is_ascii(text) PyUnicode_IS_COMPACT_ASCII(text)
    #define interlock_ascii_size(text) PyUnicode_GET_LENGTH(text)
    #define interlock_ascii(text) ((const char *)PyUnicode_DATA(text))
    #define interlock_written() atomic_signal_fence(memory_order_seq_cst)
    """
    Py_ssize_t place_of_slot(object descriptor)
    PyObject *AT(object self, Py_ssize_t place)
    void put_at(object self, Py_ssize_t place, object value)
    int interlock_wide(object number, unsigned char *bytes) except -1
    void interlock_written() noexcept nogil
    bint interlock_is_ascii(PyObject *text) noexcept
    Py_ssize_t interlock_ascii_size(PyObject *text) noexcept
    const char *interlock_ascii(PyObject *text) noexcept

cdef extern from "Python.h":
    PyObject *Py_True
    PyTypeObject *Py_TYPE(PyObject *value) noexcept
    bint PyLong_CheckExact(object value) noexcept
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL
    long long PyLong_AsLongLongAndOverflow(object number, int *overflow) except? -1
    uint64_t PyLong_AsUnsignedLongLong(object number) except? 0xFFFFFFFFFFFFFFFF
    # Of a list or a tuple, without a look at which of them it is.
    Py_ssize_t PySequence_Fast_GET_SIZE(object holder) noexcept
    PyObject *PySequence_Fast_GET_ITEM(object holder, Py_ssize_t at) noexcept

cdef enum:
    # Slots that one shape names at most; a story has 29.
    SLOTS_MAX = 40
    # Lists within lists that are written here; deeper ones are msgspec's.
    DEPTH_MAX = 6
    HEADER_BYTES = 24
    HEAD_WORD = 10
    # Some 700 starts, those of 30 secrets, let one in 2,000 places be looked at again.
    SIEVE_SHIFT = 16
    SIEVE_BYTES = 8192

cdef dict _numbers = STEP_NUMBER
cdef int _begun = Kind.BEGUN
# Steps whose texts are figures: each is new, so nobody remembers it.
cdef frozenset _figures = frozenset({STEP_NUMBER[each] for each in ("parsed", "limits", "head", "settle")})
cdef object _story_type = Story
cdef object _attempt_type = Attempt
cdef object _outcome_type = Outcome
cdef object _uuid_type = UUID
cdef object _encode = encode


cdef class Steps:
    """The steps that were decided of one request; see `steps.py`."""

    cdef public object _monotonic
    cdef public double _received
    cdef public list decisions

    def decide(self, step, rule, verdict, detail=""):
        """Write down one step."""
        now = self._monotonic()
        cdef double us = ((PyFloat_AS_DOUBLE(now) if type(now) is float else <double>now) - self._received) * 1e6
        # What is no number of this size is judged, and refused, as Python does it.
        at_us = <int64_t>us if -1e15 < us < 1e15 else int(us)
        number = _numbers.get(step, step)
        self.decisions.append((at_us, number, rule, verdict, detail))


@final
cdef class Shape:
    """Where the objects of a class keep what some of its slots name."""

    cdef object kind
    cdef readonly tuple names
    cdef Py_ssize_t count
    cdef Py_ssize_t places[SLOTS_MAX]

    def __init__(self, kind, names):
        if len(names) > SLOTS_MAX:
            raise ValueError(f"{kind}: more than {SLOTS_MAX} slots")
        self.kind, self.names, self.count = kind, tuple(names), len(names)
        for at, name in enumerate(names):
            self.places[at] = place_of_slot(getattr(kind, name))
            if self.places[at] < 0:
                raise TypeError(f"{kind}: {name} is no slot")

    cdef inline PyObject *peek(self, object holder, Py_ssize_t at) noexcept:
        return AT(holder, self.places[at])

    cdef inline object held(self, object holder, Py_ssize_t at):
        cdef PyObject *value = self.peek(holder, at)
        if value is NULL:
            raise AttributeError(self.names[at])
        return <object>value


cdef class SlotCopier:
    """Copies slots of an object into slots of another: `names` are those of the first, each with the one of the second."""

    cdef Shape source
    cdef Shape target

    def __init__(self, source, target, names):
        self.source = Shape(source, tuple(names))
        self.target = Shape(target, tuple(names.values()))

    def __call__(self, source, target):
        cdef Py_ssize_t at
        if not isinstance(source, self.source.kind) or not isinstance(target, self.target.kind):
            raise TypeError(f"not {self.source.kind} and {self.target.kind}")
        for at in range(self.source.count):
            put_at(target, self.target.places[at], self.source.held(source, at))


cdef Shape _texts_of_story = Shape(Story, [each for each in STORY_TEXTS if each not in STORY_IDS])
cdef Shape _ids_of_story = Shape(Story, STORY_IDS)
cdef Shape _parts_of_story = Shape(Story, ("decisions", "attempts", "id"))
cdef Shape _texts_of_attempt = Shape(Attempt, ("error", "upstream_request_id"))
cdef Shape _of_clean = Shape(Clean, ("_redactor", "_known", "_generation"))
cdef Shape _of_ring = Shape(Ring, ("head", "tail", "capacity", "_view"))
cdef Shape _of_uuid = Shape(UUID, ("int",))


cdef struct Fields:
    PyTypeObject *kind
    Py_ssize_t count
    Py_ssize_t places[SLOTS_MAX]


# As they come most often; what is written of each are its fields in their order.
cdef Fields _structs[6]
cdef list _kinds = [Attempt, Usage, Cost, Timing, Story, Link]


cdef void note_structs() except *:
    cdef Shape shape
    cdef Py_ssize_t at, field
    for at, kind in enumerate(_kinds):
        config = kind.__struct_config__
        if not config.array_like or config.tag is not None:
            raise TypeError(f"{kind} is not written as its fields alone")
        shape = Shape(kind, kind.__struct_fields__)
        _structs[at].kind = <PyTypeObject *>kind
        _structs[at].count = shape.count
        for field in range(shape.count):
            _structs[at].places[field] = shape.places[field]


note_structs()


cdef struct Room:
    # Where the next byte goes, and the first that is not ours.
    unsigned char *at
    unsigned char *end


cdef inline bint put_raw(Room *room, const void *source, Py_ssize_t size) noexcept:
    """Write bytes as they are; like all below, tell whether there was room for them."""
    if size > room.end - room.at:
        return False
    memcpy(room.at, source, size)
    room.at += size
    return True


cdef inline bint put_mark(Room *room, uint8_t mark) noexcept:
    if room.at >= room.end:
        return False
    room.at[0] = mark
    room.at += 1
    return True


cdef bint put_number(Room *room, uint8_t mark, uint64_t value, int size) noexcept:
    """Write a mark and the lowest bytes of a number behind it, the highest of them first."""
    cdef int at
    if 1 + size > room.end - room.at:
        return False
    room.at[0] = mark
    for at in range(size, 0, -1):
        room.at[at] = value & 0xFF
        value >>= 8
    room.at += 1 + size
    return True


cdef inline bint put_count(Room *room, Py_ssize_t count) noexcept:
    if count < 16:
        return put_mark(room, 0x90 | <uint8_t>count)
    if count <= 0xFFFF:
        return put_number(room, 0xDC, count, 2)
    return count <= 0xFFFFFFFF and put_number(room, 0xDD, count, 4)


cdef inline bint put_text(Room *room, PyObject *value) except -1:
    cdef Py_ssize_t size = 0
    cdef const char *content
    cdef bint is_marked
    if interlock_is_ascii(value):
        size = interlock_ascii_size(value)
        content = interlock_ascii(value)
    else:
        content = PyUnicode_AsUTF8AndSize(<object>value, &size)
    if size < 32:
        is_marked = put_mark(room, 0xA0 | <uint8_t>size)
    elif size <= 0xFF:
        is_marked = put_number(room, 0xD9, size, 1)
    elif size <= 0xFFFF:
        is_marked = put_number(room, 0xDA, size, 2)
    else:
        is_marked = size <= 0xFFFFFFFF and put_number(room, 0xDB, size, 4)
    return is_marked and put_raw(room, content, size)


cdef bint put_integer(Room *room, PyObject *value) except -1:
    cdef int overflow = 0
    cdef long long number = PyLong_AsLongLongAndOverflow(<object>value, &overflow)
    if overflow:
        return put_other(room, value)
    if number >= 0:
        if number < 128:
            return put_mark(room, <uint8_t>number)
        if number <= 0xFF:
            return put_number(room, 0xCC, number, 1)
        if number <= 0xFFFF:
            return put_number(room, 0xCD, number, 2)
        return put_number(room, 0xCE, number, 4) if number <= 0xFFFFFFFF else put_number(room, 0xCF, number, 8)
    if number >= -32:
        return put_mark(room, <uint8_t>number)
    if number >= -0x80:
        return put_number(room, 0xD0, number, 1)
    if number >= -0x8000:
        return put_number(room, 0xD1, number, 2)
    return put_number(room, 0xD2, number, 4) if number >= -0x80000000LL else put_number(room, 0xD3, number, 8)


cdef inline bint put_float(Room *room, PyObject *value) noexcept:
    cdef double number = PyFloat_AS_DOUBLE(<object>value)
    cdef uint64_t bits
    memcpy(&bits, &number, 8)
    return put_number(room, 0xCB, bits, 8)


cdef bint put_uuid(Room *room, PyObject *value) except -1:
    """Write the id that a UUID of the standard library is."""
    cdef PyObject *number = _of_uuid.peek(<object>value, 0)
    if number is NULL or not PyLong_CheckExact(<object>number):
        return put_other(room, value)
    if 18 > room.end - room.at:
        return False
    room.at[0], room.at[1] = 0xC4, 16
    interlock_wide(<object>number, room.at + 2)
    room.at += 18
    return True


cdef bint put_other(Room *room, PyObject *value) except -1:
    """Write what is not known here, as msgspec does."""
    known = <object>value
    if isinstance(known, _uuid_type):
        # The driver of the store has a class of its own, of which the bytes are asked for fastest.
        packed = known.bytes
        if type(packed) is bytes and PyBytes_GET_SIZE(packed) == 16:
            return put_number(room, 0xC4, 16, 1) and put_raw(room, PyBytes_AS_STRING(packed), 16)
    packed = _encode(known)
    return put_raw(room, PyBytes_AS_STRING(packed), PyBytes_GET_SIZE(packed))


cdef bint put_struct(Room *room, Fields *fields, PyObject *value, int depth) except -1:
    cdef Py_ssize_t at
    cdef PyObject *each
    # Held here, as whoever writes a part of it might let go of it.
    holder = <object>value
    if not put_count(room, fields.count):
        return False
    for at in range(fields.count):
        each = (<PyObject **>(<char *>value + fields.places[at]))[0]
        if each is NULL:
            raise AttributeError("a field of the story is not set")
        if not put(room, each, depth):
            return False
    return True


cdef bint put_each(Room *room, PyObject *value, int depth) except -1:
    """Write a list or a tuple."""
    cdef Py_ssize_t at
    holder = <object>value
    cdef Py_ssize_t count = PySequence_Fast_GET_SIZE(holder)
    if depth >= DEPTH_MAX:
        return put_other(room, value)
    if not put_count(room, count):
        return False
    for at in range(count):
        # Asked again each time: a list may change while somebody else writes a part of it.
        if PySequence_Fast_GET_SIZE(holder) != count:
            raise RuntimeError("a list of the story changed")
        if not put(room, PySequence_Fast_GET_ITEM(holder, at), depth + 1):
            return False
    return True


cdef bint put(Room *room, PyObject *value, int depth) except -1:
    """Write a value in MessagePack, as msgspec does; False where there is no room for it."""
    cdef PyTypeObject *kind = Py_TYPE(value)
    cdef Py_ssize_t at
    if kind == <PyTypeObject *>str:
        return put_text(room, value)
    if value == <PyObject *>None:
        return put_mark(room, 0xC0)
    if kind == <PyTypeObject *>tuple or kind == <PyTypeObject *>list:
        return put_each(room, value, depth)
    if kind == <PyTypeObject *>int:
        return put_integer(room, value)
    if kind == <PyTypeObject *>float:
        return put_float(room, value)
    if kind == <PyTypeObject *>bool:
        return put_mark(room, 0xC3 if value == Py_True else 0xC2)
    if kind == <PyTypeObject *>_uuid_type:
        return put_uuid(room, value)
    if kind == <PyTypeObject *>_outcome_type:
        return put_text(room, value)
    for at in range(6):
        if kind == _structs[at].kind:
            return put_struct(room, &_structs[at], value, depth)
    return put_other(room, value)


@final
cdef class Scribe:
    """Writes stories into the ring of one spool, where that is the usual case; see `Spool`."""

    cdef object ring
    cdef object clean
    cdef Sieve sieve
    cdef Py_ssize_t reserve
    cdef Py_ssize_t bytes_max
    # A frame is laid out here and copied into the ring when it is whole.
    cdef unsigned char *content
    cdef bint is_busy

    def __cinit__(self, ring, clean, Py_ssize_t bytes_max, Py_ssize_t reserve):
        if type(ring) is not Ring or type(clean) is not Clean or bytes_max < 0 or reserve < 0:
            raise TypeError("not the ring and the redaction of a spool")
        self.ring, self.clean, self.reserve, self.bytes_max = ring, clean, reserve, bytes_max
        self.sieve = Sieve()
        self.content = <unsigned char *>PyMem_Malloc(bytes_max)
        if self.content is NULL:
            raise MemoryError

    def __dealloc__(self):
        PyMem_Free(self.content)

    def write(self, int kind, story):
        """Write the frame of a story, its id before it while it runs; return its position.

        None where the form in Python has to write it: too long, no room, or the edge of the ring.
        """
        cdef Room room
        if type(story) is not _story_type or self.is_busy:
            return None
        self.is_busy = True
        try:
            fresh = self.unknown(story)
            if fresh is None or (fresh and not self.clean.learn(fresh)):
                story = self.clean.story(story)
            room.at, room.end = self.content, self.content + self.bytes_max
            # An id in MessagePack is two bytes and then its own, which are laid over the two.
            if kind == _begun:
                identity = _parts_of_story.held(story, 2)
                if not put(&room, <PyObject *>identity, 0) or room.at - self.content != 18:
                    return None
                room.at = self.content + 16
                memmove(self.content, self.content + 2, 16)
            return self.appended(kind, room.at - self.content) if put(&room, <PyObject *>story, 0) else None
        finally:
            self.is_busy = False

    cdef list unknown(self, object story):
        """Return the texts of a story that were not found clean before; None where the form in Python has to look."""
        cdef Py_ssize_t at
        cdef list fresh = []
        cdef long long generation
        cdef bint is_figure
        redactor, known = _of_clean.held(self.clean, 0), _of_clean.held(self.clean, 1)
        decisions, attempts = _parts_of_story.held(story, 0), _parts_of_story.held(story, 1)
        generation = redactor.generation
        if _of_clean.held(self.clean, 2) != generation:
            return None
        if self.sieve.generation != generation:
            self.sieve.fill(redactor, generation)
        if type(known) is not set or type(decisions) is not list or type(attempts) is not list:
            return None
        for at in range(_texts_of_story.count):
            if not self.is_looked_up(known, _texts_of_story.peek(story, at), False, fresh):
                return None
        for at in range(_ids_of_story.count):
            if not self.is_looked_up(known, _ids_of_story.peek(story, at), True, fresh):
                return None
        for each in <list>decisions:
            if type(each) is not tuple or PyTuple_GET_SIZE(each) != 5:
                return None
            is_figure = PySet_Contains(_figures, <object>PyTuple_GET_ITEM(each, 1))
            if not self.is_looked_up(known, PyTuple_GET_ITEM(each, 4), is_figure, fresh):
                return None
        for each in <list>attempts:
            if type(each) is not _attempt_type:
                return None
            for at in range(_texts_of_attempt.count):
                if not self.is_looked_up(known, _texts_of_attempt.peek(each, at), at == 1, fresh):
                    return None
        return fresh

    cdef inline bint is_looked_up(self, object known, PyObject *text, bint is_new, list fresh) except -1:
        """Put a text that is not known to those that are not; false of what is no text, which may not even be hashed.

        One that is new each time is not looked for among the known ones, unless it does not pass the sieve.
        """
        if text is NULL or (type(<object>text) is not str and <object>text is not None):
            return False
        if text == <PyObject *>None or is_new and self.sieve.passes(text):
            return True
        if not PySet_Contains(known, <object>text):
            fresh.append(<object>text)
        return True

    cdef object appended(self, int kind, Py_ssize_t length):
        """Put this much of the content at the head of the ring."""
        cdef Py_buffer view
        cdef unsigned char *start
        cdef object position = _of_ring.held(self.ring, 0)
        cdef uint64_t head = PyLong_AsUnsignedLongLong(position)
        cdef uint64_t tail = PyLong_AsUnsignedLongLong(_of_ring.held(self.ring, 1))
        cdef uint64_t capacity = PyLong_AsUnsignedLongLong(_of_ring.held(self.ring, 2))
        cdef uint64_t size = (HEADER_BYTES + <uint64_t>length + 7) & ~<uint64_t>7
        cdef uint64_t offset = head % capacity if capacity else 0
        if head < tail or head - tail > capacity or offset + size > capacity:
            return None
        if capacity - (head - tail) < 2 * size + <uint64_t>self.reserve:
            return None
        PyObject_GetBuffer(_of_ring.held(self.ring, 3), &view, PyBUF_WRITABLE)
        try:
            if <uint64_t>view.len < <uint64_t>PREAMBLE + capacity:
                return None
            start = <unsigned char *>view.buf + <uint64_t>PREAMBLE + offset
            lay_header(start, length, checksum(head, kind, self.content, length), head, kind)
            memcpy(start + HEADER_BYTES, self.content, length)
            interlock_written()
            (<uint64_t *>view.buf)[HEAD_WORD] = head + size
        finally:
            PyBuffer_Release(&view)
        put_at(self.ring, _of_ring.places[0], head + size)
        return position


cdef class Sieve:
    """Tells of most texts that nothing begins in them that is looked for: no three characters of theirs are the first
    three of any. What does not pass is looked at by the redactor itself.
    """

    cdef unsigned char bits[SIEVE_BYTES]
    cdef long long generation

    def __cinit__(self):
        self.generation = -1

    cdef int fill(self, object redactor, long long generation) except -1:
        """Take over what a redactor looks for."""
        cdef const char *start
        cdef Py_ssize_t size = 0
        cdef uint32_t three
        memset(self.bits, 0, sizeof(self.bits))
        for each in redactor.starts:
            if len(each) != 3:
                raise ValueError("what is looked for begins with three characters")
            start = PyUnicode_AsUTF8AndSize(each, &size)
            # What is not ASCII is in no text that is.
            if size == 3:
                three = <uint8_t>start[0] << 16 | <uint8_t>start[1] << 8 | <uint8_t>start[2]
                self.bits[first_bit(three) >> 3] |= 1 << (first_bit(three) & 7)
                self.bits[second_bit(three) >> 3] |= 1 << (second_bit(three) & 7)
        self.generation = generation
        return 0

    cdef bint passes(self, PyObject *text) noexcept:
        cdef const unsigned char *content
        cdef Py_ssize_t at, size
        cdef uint32_t three
        if not interlock_is_ascii(text):
            return False
        size, content = interlock_ascii_size(text), <const unsigned char *>interlock_ascii(text)
        if size < 3:
            return True
        three = content[0] << 8 | content[1]
        for at in range(2, size):
            three = (three << 8 | content[at]) & 0xFFFFFF
            if self.has(first_bit(three)) and self.has(second_bit(three)):
                return False
        return True

    cdef inline bint has(self, uint32_t bit) noexcept:
        return self.bits[bit >> 3] >> (bit & 7) & 1


cdef inline uint32_t first_bit(uint32_t three) noexcept:
    return three * 0x9E3779B1U >> (32 - SIEVE_SHIFT)


cdef inline uint32_t second_bit(uint32_t three) noexcept:
    return three * 0x85EBCA6BU >> (32 - SIEVE_SHIFT)


cdef void lay_header(unsigned char *start, uint32_t length, uint32_t crc, uint64_t position, uint8_t kind) noexcept:
    """Write the header of `frames.HEADER`, the lowest bytes first."""
    cdef int at
    for at in range(4):
        start[at] = length >> (8 * at) & 0xFF
        start[4 + at] = crc >> (8 * at) & 0xFF
    for at in range(8):
        start[8 + at] = position >> (8 * at) & 0xFF
        start[16 + at] = 0
    start[16] = kind


cdef uint32_t _tables[8][256]


cdef void fill_tables() noexcept:
    """Slicing by 8, as in "A Systematic Approach to Building High Performance Software-Based CRC Generators"."""
    cdef uint32_t crc
    cdef int byte, turn
    for byte in range(256):
        crc = byte
        for turn in range(8):
            crc = (crc >> 1) ^ (0xEDB88320U if crc & 1 else 0U)
        _tables[0][byte] = crc
    for byte in range(256):
        for turn in range(1, 8):
            _tables[turn][byte] = (_tables[turn - 1][byte] >> 8) ^ _tables[0][_tables[turn - 1][byte] & 0xFF]


fill_tables()


cdef uint32_t checksum(uint64_t position, uint64_t kind, const unsigned char *payload, Py_ssize_t length) noexcept:
    """Return what `frames.checksum` does."""
    cdef uint32_t crc = ~<uint32_t>(position ^ kind << 24 ^ <uint64_t>length << 8)
    while length >= 8:
        crc ^= payload[0] | <uint32_t>payload[1] << 8 | <uint32_t>payload[2] << 16 | <uint32_t>payload[3] << 24
        crc = (
            _tables[7][crc & 0xFF] ^ _tables[6][crc >> 8 & 0xFF] ^ _tables[5][crc >> 16 & 0xFF] ^ _tables[4][crc >> 24]
            ^ _tables[3][payload[4]] ^ _tables[2][payload[5]] ^ _tables[1][payload[6]] ^ _tables[0][payload[7]]
        )
        payload += 8
        length -= 8
    while length > 0:
        crc = (crc >> 8) ^ _tables[0][(crc ^ payload[0]) & 0xFF]
        payload += 1
        length -= 1
    return ~crc
