"""How the compiled form of `upstream.py` reads the head of the usual answer, and what it keeps of it."""

cdef struct Head:
    int status
    bint closes
    bint is_chunked
    Py_ssize_t length
    # Where the fields begin, and where the body does.
    Py_ssize_t begin
    Py_ssize_t end

cdef object Headers = _Headers

# Digits of a length or of a size that fits whatever counts it; more are for the form in Python.
cdef int DIGITS_MAX = 15

# The small letter of what a name may hold, 0 of what it may not (RFC 9110, section 5.6.2).
cdef unsigned char[256] NAME
# Whether a value may hold it.
cdef unsigned char[256] VALUE
# The number of a hexadecimal digit, 255 of anything else.
cdef unsigned char[256] DIGIT


cdef int _fill_tables() except -1:
    cdef int each
    for each in range(256):
        letter = bytes((each,))
        place = b"0123456789abcdef".find(letter.lower())
        DIGIT[each] = place if place >= 0 else 255
        NAME[each] = ord(letter.lower()) if each < 128 and (letter.isalnum() or letter in b"!#$%&'*+-.^_`|~") else 0
        VALUE[each] = each == 9 or 32 <= each < 127 or each > 127
    return 0


_fill_tables()


@cython.freelist(16)
cdef class Fields:
    """What `Headers` is, read from a judged head when it is asked for: of most fields nobody ever asks."""

    cdef bytes _head
    cdef Py_ssize_t _begin
    cdef object _headers

    def get(self, name):
        """Return the first value under a lower-case name."""
        if self._headers is not None or type(name) is not bytes:
            return self._whole().get(name)
        return self._find(name)

    def getall(self, name):
        """Return every value under a lower-case name, in order."""
        return self._whole().getall(name)

    def forget(self, name):
        """Take out the one field under a lower-case name, while nobody else holds these headers."""
        self._whole().forget(name)

    def __contains__(self, name):
        return self.get(name) is not None

    @property
    def items(self):
        """The fields in the order received."""
        return self._whole().items

    @property
    def first(self):
        """The first value under each name."""
        return self._whole().first

    cdef bytes _find(self, bytes name):
        cdef Text text = <Text>PyBytes_AS_STRING(self._head)
        cdef Py_ssize_t at = self._begin, size = PyBytes_GET_SIZE(self._head), count = PyBytes_GET_SIZE(name)
        cdef Text stop
        while at < size:
            stop = <Text>memchr(text + at, 13, size - at)
            if stop == NULL or stop == text + at:
                break
            if count < stop - text - at and text[at + count] == 58 and _is(text + at, PyBytes_AS_STRING(name), count):
                return _trimmed(text + at + count + 1, stop - text - at - count - 1)
            at = stop - text + 2
        return None

    cdef object _whole(self):
        cdef Text text = <Text>PyBytes_AS_STRING(self._head), stop, colon
        cdef Py_ssize_t at = self._begin, size = PyBytes_GET_SIZE(self._head)
        cdef list fields
        if self._headers is None:
            fields = []
            while at < size:
                stop = <Text>memchr(text + at, 13, size - at)
                if stop == NULL or stop == text + at:
                    break
                colon = <Text>memchr(text + at, 58, stop - text - at)
                name = PyBytes_FromStringAndSize(<char *>text + at, colon - text - at).lower()
                fields.append((name, _trimmed(colon + 1, stop - colon - 1)))
                at = stop - text + 2
            self._headers = Headers(fields)
        return self._headers


cdef bint _is(Text text, const char *name, Py_ssize_t size) noexcept:
    """Tell whether a name is this one, which is given in small letters."""
    cdef Py_ssize_t at
    for at in range(size):
        if NAME[text[at]] != <unsigned char>name[at] or not name[at]:
            return False
    return True


cdef bytes _trimmed(Text text, Py_ssize_t size):
    """Return a value without the blanks around it."""
    cdef Py_ssize_t begin = 0
    while begin < size and (text[begin] == 32 or text[begin] == 9):
        begin += 1
    while size > begin and (text[size - 1] == 32 or text[size - 1] == 9):
        size -= 1
    return PyBytes_FromStringAndSize(<char *>text + begin, size - begin)


cdef bint _is_usual(Text text, Py_ssize_t size, Py_ssize_t fields_max, Head *head) noexcept:
    """Judge the head of an answer; tell whether it is whole and the usual one, with a body that is framed once."""
    cdef Py_ssize_t at = _after_status(text, size, head), begin, stop
    cdef bint is_told = False
    cdef Py_ssize_t count = 0
    head.length, head.closes, head.is_chunked, head.begin = -1, False, False, at
    while 0 <= at < size and text[at] != 13:
        begin = at
        while at < size and NAME[text[at]]:
            at += 1
        stop = at
        count += 1
        if stop == begin or stop == size or text[stop] != 58 or count > fields_max:
            return False
        at += 1
        while at < size and VALUE[text[at]]:
            at += 1
        if at + 1 >= size or text[at] != 13 or text[at + 1] != 10:
            return False
        if not _is_framed(text + begin, stop - begin, text + stop + 1, at - stop - 1, head, &is_told):
            return False
        at += 2
    if at < 0 or at + 1 >= size or text[at + 1] != 10:
        return False
    head.end = at + 2
    return head.length >= 0 or head.is_chunked


cdef bint _is_framed(Text name, Py_ssize_t size, Text value, Py_ssize_t count, Head *head, bint *is_told) noexcept:
    """Note what a field says of the frame of its answer; tell whether it says it plainly and for the first time."""
    if size == 14 and _is(name, b"content-length", 14):
        if head.length >= 0 or head.is_chunked:
            return False
        _trim(&value, &count)
        head.length = _decimal(value, count)
        return head.length >= 0
    if size == 17 and _is(name, b"transfer-encoding", 17):
        if head.length >= 0 or head.is_chunked:
            return False
        _trim(&value, &count)
        head.is_chunked = count == 7 and _is(value, b"chunked", 7)
        return head.is_chunked
    if size == 10 and _is(name, b"connection", 10):
        if is_told[0]:
            return False
        is_told[0] = True
        _trim(&value, &count)
        head.closes = count == 5 and _is(value, b"close", 5)
        return head.closes or (count == 10 and _is(value, b"keep-alive", 10))
    return not (size == 7 and _is(name, b"upgrade", 7)) and not (size == 16 and _is(name, b"proxy-connection", 16))


cdef void _trim(Text *text, Py_ssize_t *size) noexcept:
    while size[0] > 0 and (text[0][0] == 32 or text[0][0] == 9):
        text[0] += 1
        size[0] -= 1
    while size[0] > 0 and (text[0][size[0] - 1] == 32 or text[0][size[0] - 1] == 9):
        size[0] -= 1


cdef Py_ssize_t _after_status(Text text, Py_ssize_t size, Head *head) noexcept:
    """Return where the fields begin, -1 where the first line is not that of the usual answer with a body."""
    cdef Py_ssize_t at
    if size < 19 or memcmp(text, b"HTTP/1.1 ", 9) or text[12] != 32:
        return -1
    for at in range(9, 12):
        if text[at] < 48 or text[at] > 57:
            return -1
    head.status = (text[9] - 48) * 100 + (text[10] - 48) * 10 + text[11] - 48
    if head.status < 200 or head.status > 599 or head.status == 204 or head.status == 304:
        return -1
    at = 13
    while at < size and 32 <= text[at] < 127:
        at += 1
    if at + 1 >= size or text[at] != 13 or text[at + 1] != 10:
        return -1
    return at + 2


cdef Py_ssize_t _decimal(Text text, Py_ssize_t size) noexcept:
    """Return a number of few digits, -1 of anything else."""
    cdef Py_ssize_t at, number = 0
    if size < 1 or size > DIGITS_MAX:
        return -1
    for at in range(size):
        if text[at] < 48 or text[at] > 57:
            return -1
        number = number * 10 + text[at] - 48
    return number
