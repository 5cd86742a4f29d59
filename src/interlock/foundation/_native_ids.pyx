# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The compiled form of minting and writing an id, and of the clock that it begins with; `ids.py` and `clock.py` have
the forms in Python, which say the same. Reads no id.
"""

from uuid import UUID, SafeUUID

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.unicode cimport PyUnicode_CheckExact, PyUnicode_GET_LENGTH
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy
from posix.time cimport CLOCK_REALTIME, clock_gettime, timespec

cdef extern from *:
    """
    #include "_native_slots.h"

    static inline PyObject *number_of(const unsigned char *raw) {
    #if PY_VERSION_HEX >= 0x030D0000
        return PyLong_FromUnsignedNativeBytes(raw, 16, Py_ASNATIVEBYTES_BIG_ENDIAN);
    #else
        return _PyLong_FromByteArray(raw, 16, 0, 0);
    #endif
    }
    static inline int bytes_of(PyObject *number, unsigned char *raw) {
    #if PY_VERSION_HEX >= 0x030D0000
        Py_ssize_t size = PyLong_AsNativeBytes(number, raw, 16,
            Py_ASNATIVEBYTES_BIG_ENDIAN | Py_ASNATIVEBYTES_UNSIGNED_BUFFER | Py_ASNATIVEBYTES_REJECT_NEGATIVE);
        if (size > 16) PyErr_SetString(PyExc_OverflowError, "the number of a uuid has more than 128 bits");
        return size < 0 || size > 16 ? -1 : 0;
    #else
        return _PyLong_AsByteArray((PyLongObject *)number, raw, 16, 0, 0);
    #endif
    }
    #define CHARS_OF(text) ((char *)PyUnicode_1BYTE_DATA(text))
    """
    Py_ssize_t place_of_slot(object descriptor)
    PyObject *AT(object self, Py_ssize_t place)
    void put_at(object self, Py_ssize_t place, object value)
    object bare(object type)
    object number_of(const unsigned char *raw)
    int bytes_of(object number, unsigned char *raw) except -1
    char *CHARS_OF(object text)
    object PyUnicode_New(Py_ssize_t size, Py_UCS4 highest)
    bint PyLong_CheckExact(object number)

cdef enum:
    TAILS_DRAWN = 64
    BODY_CHARS = 26

cdef const char *ALPHABET = b"0123456789abcdefghjkmnpqrstvwxyz"
cdef object UNKNOWN = SafeUUID.unknown
cdef Py_ssize_t NUMBER = place_of_slot(UUID.__dict__["int"])
cdef Py_ssize_t SAFETY = place_of_slot(UUID.__dict__["is_safe"])
if NUMBER < 0 or SAFETY < 0:
    raise ImportError("a uuid of this Python has no slots")

cdef object kinds, format_by_python


def now_us():
    """Return microseconds since the Unix epoch, UTC."""
    cdef timespec now
    if clock_gettime(CLOCK_REALTIME, &now):
        raise OSError("the machine tells no time")
    return <int64_t>now.tv_sec * 1_000_000 + now.tv_nsec // 1_000


def equip(known_kinds, format_id):
    """Take the kinds that there are, and the form in Python for anything that is no id."""
    global kinds, format_by_python
    kinds, format_by_python = known_kinds, format_id


def format_id(kind, value):
    """Return `kind_` and 26 lower-case Crockford base32 characters."""
    cdef unsigned char raw[16]
    cdef PyObject *number
    cdef Py_ssize_t place, size
    cdef uint64_t high, low
    cdef object text
    cdef char *to
    if type(value) is not UUID or not PyUnicode_CheckExact(kind) or kind not in kinds:
        return format_by_python(kind, value)
    number = AT(value, NUMBER)
    if number is NULL or not PyLong_CheckExact(<object>number):
        return format_by_python(kind, value)
    bytes_of(<object>number, raw)
    high, low = read(raw), read(raw + 8)
    size = PyUnicode_GET_LENGTH(kind)
    text = PyUnicode_New(size + 1 + BODY_CHARS, 127)
    to = CHARS_OF(text)
    memcpy(to, CHARS_OF(kind), size)
    to[size] = c"_"
    to += size + 1
    for place in range(BODY_CHARS - 1, -1, -1):
        to[place] = ALPHABET[low & 31]
        low = low >> 5 | high << 59
        high >>= 5
    return text


cdef class IdFactory:
    """Mints uuid7 (RFC 9562, section 5.7), strictly rising within a process; see the form in Python.

    Needs no lock: from the look at the last id to the next one no code of Python runs.
    """

    cdef object _clock, _dice
    cdef int64_t _last_ms
    cdef uint64_t _counter
    cdef uint64_t _tails[TAILS_DRAWN]
    cdef int _left

    def __init__(self, clock, dice):
        self._clock, self._dice = clock, dice
        self._last_ms = self._counter = self._left = 0

    def new(self):
        """Return the next uuid7."""
        cdef unsigned char raw[16]
        cdef int64_t now_ms = <int64_t>self._clock.now_us() // 1_000
        cdef object made
        if not self._left:
            self._draw()
        if now_ms > self._last_ms:
            self._last_ms, self._counter = now_ms, 0
        else:
            self._counter += 1
            if self._counter >> 12:
                self._last_ms, self._counter = self._last_ms + 1, 0
        self._left -= 1
        put(raw, <uint64_t>self._last_ms << 16 | 0x7000 | self._counter)
        put(raw + 8, <uint64_t>0b10 << 62 | self._tails[self._left])
        made = bare(UUID)
        put_at(made, NUMBER, number_of(raw))
        put_at(made, SAFETY, UNKNOWN)
        return made

    cdef int _draw(self) except -1:
        """Draw 62 random bits for each of the next ids: each question for chance is a call of the system."""
        cdef int place
        drawn = self._dice.randbytes(8 * TAILS_DRAWN)
        if not PyBytes_CheckExact(drawn) or PyBytes_GET_SIZE(drawn) != 8 * TAILS_DRAWN:
            raise ValueError("chance has another length than was asked for")
        memcpy(self._tails, PyBytes_AS_STRING(drawn), 8 * TAILS_DRAWN)
        for place in range(TAILS_DRAWN):
            self._tails[place] &= (<uint64_t>1 << 62) - 1
        self._left = TAILS_DRAWN
        return 0


cdef uint64_t read(const unsigned char *raw) noexcept:
    cdef uint64_t number = 0
    cdef int place
    for place in range(8):
        number = number << 8 | raw[place]
    return number


cdef void put(unsigned char *raw, uint64_t number) noexcept:
    cdef int place
    for place in range(7, -1, -1):
        raw[place] = number & 255
        number >>= 8
