# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""The compiled form of what reads the body of a request: plain ones are read here, all others by the form in Python.

Accepts nothing that the form in Python would refuse, and refuses nothing itself: what is unusual it leaves undecided.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport uint64_t
from libc.string cimport memchr, memcmp, memcpy

from msgspec import Raw

ctypedef const unsigned char* Text

# Beyond these the form in Python decides; its own bounds are wider, or there are none.
cdef enum:
    MEMBERS_MAX = 48
    NESTED_MAX = 32
    NUMBER_BYTES_MAX = 24
    DIGITS_MAX = 15

cdef uint64_t ONES = 0x0101010101010101
cdef uint64_t HIGHS = 0x8080808080808080


cdef struct Member:
    # Where the name stands, without its quotes, and where its value.
    Py_ssize_t name
    Py_ssize_t name_end
    Py_ssize_t value
    Py_ssize_t value_end


# JSON (RFC 8259). Each function takes the place at which its part begins, and returns the one behind it; -1 where it
# does not decide. None reads at or behind `end`.


cdef inline Py_ssize_t _blanks(Text text, Py_ssize_t at, Py_ssize_t end) noexcept nogil:
    while at < end and (text[at] == 32 or text[at] == 10 or text[at] == 13 or text[at] == 9):
        at += 1
    return at


cdef int _unit(Text text, Py_ssize_t at, Py_ssize_t end) noexcept nogil:
    """Return the number of the four hexadecimal digits at `at`, -1 where they are none."""
    cdef int value = 0
    cdef unsigned char each
    cdef Py_ssize_t stop = at + 4
    if stop > end:
        return -1
    while at < stop:
        each = text[at]
        if 48 <= each <= 57:
            value = value * 16 + each - 48
        elif 97 <= (each | 32) <= 102:
            value = value * 16 + (each | 32) - 87
        else:
            return -1
        at += 1
    return value


cdef Py_ssize_t _escape(Text text, Py_ssize_t at, Py_ssize_t end) noexcept nogil:
    """Pass over an escape, whose backslash is at `at`; half of a pair of surrogates is left undecided."""
    cdef int unit
    at += 1
    if at >= end:
        return -1
    if text[at] != 117:
        return at + 1 if memchr(b'"\\/bfnrt', text[at], 8) != NULL else -1
    unit = _unit(text, at + 1, end)
    at += 5
    if 0xD800 <= unit < 0xE000:
        if unit >= 0xDC00 or at + 6 > end or text[at] != 92 or text[at + 1] != 117:
            return -1
        unit = _unit(text, at + 2, end)
        return at + 6 if 0xDC00 <= unit < 0xE000 else -1
    return at if unit >= 0 else -1


cdef Py_ssize_t _string(Text text, Py_ssize_t at, Py_ssize_t end, uint64_t* seen) noexcept nogil:
    """Pass over a string, whose quote is at `at`; the high bits of its bytes are noted in `seen`."""
    cdef uint64_t word, odd
    cdef unsigned char each
    at += 1
    while True:
        while at + 8 <= end:
            # Eight bytes at once while there is no control character, no quote and no backslash among them.
            memcpy(&word, text + at, 8)
            odd = (word - ONES * 32) & ~word
            odd |= ((word ^ ONES * 34) - ONES) & ~(word ^ ONES * 34)
            odd |= ((word ^ ONES * 92) - ONES) & ~(word ^ ONES * 92)
            if odd & HIGHS:
                break
            seen[0] |= word
            at += 8
        while True:
            if at >= end:
                return -1
            each = text[at]
            if each == 34:
                return at + 1
            if each == 92:
                at = _escape(text, at, end)
                if at < 0:
                    return -1
                break
            if each < 32:
                return -1
            seen[0] |= each
            at += 1


cdef inline Py_ssize_t _digits(Text text, Py_ssize_t at, Py_ssize_t end) noexcept nogil:
    cdef Py_ssize_t first = at
    while at < end and 48 <= text[at] <= 57:
        at += 1
    return at if at > first else -1


cdef Py_ssize_t _number(Text text, Py_ssize_t at, Py_ssize_t end) noexcept nogil:
    cdef Py_ssize_t first = at
    if text[at] == 45:
        at += 1
    if at < end and text[at] == 48:
        at += 1
    else:
        at = _digits(text, at, end)
    if 0 <= at < end and text[at] == 46:
        at = _digits(text, at + 1, end)
    if 0 <= at < end and (text[at] | 32) == 101:
        at += 1
        if at < end and (text[at] == 43 or text[at] == 45):
            at += 1
        at = _digits(text, at, end)
    return at if at - first <= NUMBER_BYTES_MAX else -1


cdef Py_ssize_t _scalar(Text text, Py_ssize_t at, Py_ssize_t end, uint64_t* seen) noexcept nogil:
    """Pass over a value that is neither array nor object."""
    cdef unsigned char first = text[at]
    if first == 34:
        return _string(text, at, end, seen)
    if first == 45 or 48 <= first <= 57:
        return _number(text, at, end)
    if first == 116 and end - at >= 4 and memcmp(text + at, b"true", 4) == 0:
        return at + 4
    if first == 110 and end - at >= 4 and memcmp(text + at, b"null", 4) == 0:
        return at + 4
    if first == 102 and end - at >= 5 and memcmp(text + at, b"false", 5) == 0:
        return at + 5
    return -1


cdef Py_ssize_t _name(Text text, Py_ssize_t at, Py_ssize_t end, uint64_t* seen) noexcept nogil:
    """Pass over the name of a member and its colon, to where its value begins."""
    at = _blanks(text, at, end)
    if at >= end or text[at] != 34:
        return -1
    at = _string(text, at, end, seen)
    if at < 0:
        return -1
    at = _blanks(text, at, end)
    if at >= end or text[at] != 58:
        return -1
    return _blanks(text, at + 1, end)


cdef Py_ssize_t _value(Text text, Py_ssize_t at, Py_ssize_t end, uint64_t* seen) noexcept nogil:
    """Pass over a value with all that is in it; a bit for each array (0) and object (1) around the place."""
    cdef uint64_t objects = 0
    cdef int depth = 0
    cdef unsigned char each
    while True:
        if at >= end:
            return -1
        each = text[at]
        if each == 123 or each == 91:
            if depth == NESTED_MAX:
                return -1
            depth += 1
            objects = objects << 1 | (each == 123)
            at = _blanks(text, at + 1, end)
            if at >= end:
                return -1
            # The closing bracket is two behind the opening one, of both kinds.
            if text[at] != each + 2:
                if each == 123:
                    at = _name(text, at, end, seen)
                    if at < 0:
                        return -1
                continue
        else:
            at = _scalar(text, at, end, seen)
            if at < 0 or depth == 0:
                return at
            at = _blanks(text, at, end)
        while True:
            # Behind a value, or at the end of an empty array or object.
            if at >= end:
                return -1
            each = text[at]
            at += 1
            if each == 44:
                at = _name(text, at, end, seen) if objects & 1 else _blanks(text, at, end)
                if at < 0:
                    return -1
                break
            if each != (125 if objects & 1 else 93):
                return -1
            objects >>= 1
            depth -= 1
            if depth == 0:
                return at
            at = _blanks(text, at, end)


cdef int _members(Text text, Py_ssize_t at, Py_ssize_t end, Member* found, uint64_t* seen) noexcept nogil:
    """Find the members of the object that is all of `text[at:end]`; -1 also where a name is given twice, or odd."""
    cdef int count = 0
    cdef uint64_t odd = 0
    at = _blanks(text, at, end)
    if at >= end or text[at] != 123:
        return -1
    at = _blanks(text, at + 1, end)
    if at < end and text[at] == 125:
        return 0 if _blanks(text, at + 1, end) == end else -1
    while count < MEMBERS_MAX:
        at = _blanks(text, at, end)
        found[count].name = at + 1
        at = _name(text, at, end, &odd)
        if at < 0 or odd & HIGHS:
            return -1
        found[count].value = at
        at = _value(text, at, end, seen)
        if at < 0:
            return -1
        found[count].value_end = at
        if not _is_plain_name(text, found, count):
            return -1
        count += 1
        at = _blanks(text, at, end)
        if at >= end:
            return -1
        at += 1
        if text[at - 1] == 125:
            return count if _blanks(text, at, end) == end else -1
        if text[at - 1] != 44:
            return -1
    return -1


cdef bint _is_plain_name(Text text, Member* found, int last) noexcept nogil:
    """Note where the last name ends; tell whether it is without escapes and like none before it."""
    cdef Py_ssize_t at = found[last].name, size
    cdef int each
    # It was read as a string, so there is a quote in front of its value.
    while text[at] != 34:
        if text[at] == 92:
            return False
        at += 1
    found[last].name_end = at
    size = at - found[last].name
    for each in range(last):
        if found[each].name_end - found[each].name == size:
            if memcmp(text + found[each].name, text + found[last].name, size) == 0:
                return False
    return True


cdef inline bint _is(Text text, Member* member, const char* name, Py_ssize_t size) noexcept nogil:
    return member.name_end - member.name == size and memcmp(text + member.name, name, size) == 0


cdef inline bint _is_null(Text text, Member* member) noexcept nogil:
    return text[member.value] == 110


cdef long long _whole(Text text, Member* member) noexcept nogil:
    """Return a value that is digits alone, -1 of any other."""
    cdef Py_ssize_t at = member.value
    cdef long long value = 0
    if member.value_end - at > DIGITS_MAX:
        return -1
    while at < member.value_end:
        if not 48 <= text[at] <= 57:
            return -1
        value = value * 10 + text[at] - 48
        at += 1
    return value


# The body of a request.


cdef bint _may_hold_pictures(Text text, Py_ssize_t size) noexcept nogil:
    """Tell whether `image` or `base64` stands anywhere: by their rarest letters, which are found at once."""
    cdef Text end = text + size
    cdef Text at = text
    while True:
        at = <Text> memchr(at, 54, end - at)
        if at == NULL:
            break
        if at - text >= 4 and end - at >= 2 and memcmp(at - 4, b"base64", 6) == 0:
            return True
        at += 1
    at = text
    while True:
        at = <Text> memchr(at, 103, end - at)
        if at == NULL:
            return False
        if at - text >= 3 and end - at >= 2 and memcmp(at - 3, b"image", 5) == 0:
            return True
        at += 1


cdef struct Fields:
    # Places among the members, -1 of what is not there; figures are 0 where there is none, and -1 where it is odd.
    int model
    int stream
    int options
    long long max_tokens
    long long max_completion_tokens
    long long max_output_tokens
    long long n


cdef class BodyReader:
    """Reads bodies of one dialect; None is whatever it does not decide."""

    cdef object _envelope, _dialect, _wants_usage, _weigh
    cdef bint _is_streamed
    cdef long long _tokens_max, _output_tokens_max, _completion_tokens_max, _n_max

    def __init__(self, envelope, dialect, bint is_streamed, dict figures, wants_usage, weigh):
        self._envelope, self._dialect = envelope, dialect
        self._is_streamed = is_streamed
        self._wants_usage, self._weigh = wants_usage, weigh
        # The greatest of each that is allowed; 0 of those that this dialect does not know.
        self._tokens_max = figures.get("max_tokens", 0)
        self._completion_tokens_max = figures.get("max_completion_tokens", 0)
        self._output_tokens_max = figures.get("max_output_tokens", 0)
        self._n_max = figures.get("n", 0)

    def read(self, body):
        """Return the envelope of a body, or None."""
        cdef Member members[MEMBERS_MAX]
        cdef Fields fields
        cdef uint64_t seen = 0
        cdef Text text
        cdef Py_ssize_t size, images = 0, text_bytes
        cdef int count, stream
        cdef bint wants_usage = False
        if not PyBytes_CheckExact(body):
            return None
        text, size = <Text> PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body)
        count = _members(text, 0, size, members, &seen)
        if count <= 0 or not self._find(text, members, count, &fields):
            return None
        stream = self._stream(text, members, fields.stream)
        model = _plain_text(text, members, fields.model)
        if stream < 0 or model is None or (seen & HIGHS and not _is_utf8(text, size)):
            return None
        top = _top(text, members, count)
        if fields.options >= 0:
            asked = True if _asks_usage(text, &members[fields.options]) else self._wants_usage(top)
            if asked is None:
                return None
            wants_usage = asked
        text_bytes = size
        if _may_hold_pictures(text, size):
            text_bytes, images = self._weigh(body)
        tokens = fields.max_completion_tokens or fields.max_tokens or fields.max_output_tokens
        return self._envelope(
            model, stream == 1, tokens or None, fields.n or 1, wants_usage, text_bytes, images, top, self._dialect
        )

    cdef bint _find(self, Text text, Member* members, int count, Fields* fields) noexcept:
        """Find the fields that decide; tell whether every figure is one."""
        cdef int at
        cdef Member* each
        fields.model = fields.stream = fields.options = -1
        fields.max_tokens = fields.max_completion_tokens = fields.max_output_tokens = fields.n = 0
        for at in range(count):
            each = &members[at]
            if _is(text, each, b"model", 5):
                fields.model = at
            elif _is(text, each, b"stream", 6):
                fields.stream = at
            elif _is(text, each, b"stream_options", 14):
                fields.options = at
            elif _is(text, each, b"max_tokens", 10):
                fields.max_tokens = _figure(text, each, self._tokens_max)
            elif _is(text, each, b"max_completion_tokens", 21):
                fields.max_completion_tokens = _figure(text, each, self._completion_tokens_max)
            elif _is(text, each, b"max_output_tokens", 17):
                fields.max_output_tokens = _figure(text, each, self._output_tokens_max)
            elif _is(text, each, b"n", 1):
                fields.n = _figure(text, each, self._n_max)
        if fields.max_tokens < 0 or fields.max_completion_tokens < 0 or fields.max_output_tokens < 0:
            return False
        return fields.n >= 0

    cdef int _stream(self, Text text, Member* members, int at) noexcept:
        """Return whether a stream is asked for; -1 where it cannot be had, or is not plain."""
        cdef unsigned char first
        if at < 0:
            return 0
        first = text[members[at].value]
        if first == 116:
            return 1 if self._is_streamed else -1
        return 0 if first == 102 or first == 110 else -1


cdef bint _asks_usage(Text text, Member* member) noexcept:
    """Tell whether the options of a stream are the usual ones, to the byte."""
    cdef Py_ssize_t size = member.value_end - member.value
    if size == 22:
        return memcmp(text + member.value, b'{"include_usage":true}', 22) == 0
    return size == 23 and memcmp(text + member.value, b'{"include_usage": true}', 23) == 0


cdef long long _figure(Text text, Member* member, long long maximum) noexcept:
    """Return a figure, 0 where there is none or it is nobody's, -1 where it is not within its bounds."""
    cdef long long value
    if maximum == 0 or _is_null(text, member):
        return 0
    value = _whole(text, member)
    return value if 0 < value <= maximum else -1


cdef object _plain_text(Text text, Member* members, int at):
    """Return a text of one character or more without escapes, None of anything else."""
    cdef Py_ssize_t first, size
    if at < 0 or text[members[at].value] != 34:
        return None
    first = members[at].value + 1
    size = members[at].value_end - 1 - first
    if size <= 0 or memchr(text + first, 92, size) != NULL:
        return None
    try:
        return PyUnicode_DecodeUTF8(<char*> text + first, size, NULL)
    except UnicodeDecodeError:
        return None


cdef bint _is_utf8(Text text, Py_ssize_t size):
    try:
        PyUnicode_DecodeUTF8(<char*> text, size, NULL)
    except UnicodeDecodeError:
        return False
    return True


cdef dict _top(Text text, Member* members, int count):
    cdef dict top = {}
    cdef int at
    cdef Member* each
    for at in range(count):
        each = &members[at]
        name = PyUnicode_DecodeUTF8(<char*> text + each.name, each.name_end - each.name, NULL)
        top[name] = Raw(PyBytes_FromStringAndSize(<char*> text + each.value, each.value_end - each.value))
    return top
