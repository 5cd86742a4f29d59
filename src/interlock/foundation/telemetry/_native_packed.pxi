"""How the compiled form of a shipment goes through MessagePack: what a value is, what it says, and where it ends."""

cdef enum:
    ID_BYTES = 16

# What a value may be, by the first byte of it.
cdef enum:
    NIL = 1
    BOOL = 2
    INTEGER = 4
    FLOAT = 8
    TEXT = 16
    ID = 32
    LIST = 64


cdef bint are(const unsigned char *at, const unsigned char *end, const int *allowed, int count) except -1:
    """Tell whether a list holds lists of so many such values."""
    cdef uint64_t each = 0
    cdef const unsigned char *behind
    if not open_list(&at, end, &each):
        return False
    while each:
        each -= 1
        behind = at
        if not skip(&behind, end) or not is_one(at, behind, allowed, count):
            return False
        at = behind
    return True


cdef bint is_one(const unsigned char *at, const unsigned char *end, const int *allowed, int count) except -1:
    cdef int field
    if at >= end or at[0] != (0x90 | count):
        return False
    at += 1
    for field in range(count):
        if not goes_on(&at, end, allowed[field]):
            return False
    return at == end


cdef bint goes_on(const unsigned char **at, const unsigned char *end, int allowed) except -1:
    """Go behind a value that is one of those allowed. Raises `UnicodeDecodeError` where a text is none."""
    cdef const unsigned char *begin = at[0]
    cdef int found
    cdef Py_ssize_t size = 0
    if begin >= end:
        return False
    found = class_of(begin, end)
    if not found & allowed or not skip(at, end):
        return False
    if found == TEXT:
        begin = text_of(begin, &size)
        if not is_ascii(begin, size):
            PyUnicode_DecodeUTF8(<const char *>begin, size, NULL)
    return True


cdef bint is_ascii(const unsigned char *at, Py_ssize_t size) noexcept:
    cdef uint64_t word
    while size >= 8:
        memcpy(&word, at, 8)
        if word & 0x8080808080808080ULL:
            return False
        at += 8
        size -= 8
    while size:
        size -= 1
        if at[size] & 0x80:
            return False
    return True


cdef bint open_list(const unsigned char **at, const unsigned char *end, uint64_t *count) noexcept:
    """Go into a list of less than 16."""
    if at[0] >= end or at[0][0] & 0xF0 != 0x90:
        return False
    count[0] = at[0][0] & 15
    at[0] += 1
    return True


cdef int class_of(const unsigned char *at, const unsigned char *end) noexcept:
    """Return what a value is by its first byte, 0 for what no story has."""
    cdef uint8_t mark = at[0]
    if mark < 0x80 or mark >= 0xE0 or 0xCC <= mark <= 0xD3:
        return INTEGER
    if 0xA0 <= mark < 0xC0 or 0xD9 <= mark <= 0xDB:
        return TEXT
    if mark == 0xC0:
        return NIL
    if mark == 0xC2 or mark == 0xC3:
        return BOOL
    if mark == 0xCB:
        return FLOAT
    if 0x90 <= mark < 0xA0 or mark == 0xDC or mark == 0xDD:
        return LIST
    return ID if mark == 0xC4 and end - at >= 2 and at[1] == ID_BYTES else 0


cdef bint skip(const unsigned char **at, const unsigned char *end) noexcept:
    """Go behind a value with all that is in it; false where it goes beyond the end."""
    cdef uint64_t left = 1, size
    cdef const unsigned char *here = at[0]
    cdef uint8_t mark
    while left:
        if here >= end:
            return False
        mark = here[0]
        here += 1
        left -= 1
        size = 0
        if mark < 0x80 or mark >= 0xE0 or mark == 0xC0 or mark == 0xC2 or mark == 0xC3:
            continue
        if mark < 0x90:
            left += 2 * (mark & 15)
        elif mark < 0xA0:
            left += mark & 15
        elif mark < 0xC0:
            size = mark & 31
        elif 0xCC <= mark <= 0xD3:
            size = <uint64_t>1 << (mark & 3)
        elif mark == 0xCB:
            size = 8
        elif mark == 0xCA:
            size = 4
        else:
            if not behind_length(&here, end, mark, &size):
                return False
            if mark == 0xDC or mark == 0xDD:
                left += size
                size = 0
        if size > <uint64_t>(end - here):
            return False
        here += size
    at[0] = here
    return True


cdef bint behind_length(const unsigned char **here, const unsigned char *end, uint8_t mark, uint64_t *size) noexcept:
    """Read the length of bytes, a text or a list; false for what a story never has."""
    cdef int width
    if mark == 0xC4 or mark == 0xD9:
        width = 1
    elif mark == 0xC5 or mark == 0xDA or mark == 0xDC:
        width = 2
    elif mark == 0xC6 or mark == 0xDB or mark == 0xDD:
        width = 4
    else:
        return False
    if end - here[0] < width:
        return False
    size[0] = big(here[0], width)
    here[0] += width
    return True


cdef inline uint64_t big(const unsigned char *at, int width) noexcept:
    cdef uint64_t number = 0
    cdef int byte
    for byte in range(width):
        number = number << 8 | at[byte]
    return number


cdef bint number_at(const unsigned char *at, long long *number) noexcept:
    """Read an integer that was looked at before; false for one of 64 bits without a sign."""
    cdef uint8_t mark = at[0]
    if mark < 0x80:
        number[0] = mark
    elif mark >= 0xE0:
        number[0] = <signed char>mark
    elif mark <= 0xCE:
        number[0] = <long long>big(at + 1, 1 << (mark & 3))
    elif mark == 0xCF:
        number[0] = <long long>big(at + 1, 8)
        return number[0] >= 0
    elif mark == 0xD0:
        number[0] = <signed char>at[1]
    elif mark == 0xD1:
        number[0] = <short>big(at + 1, 2)
    elif mark == 0xD2:
        number[0] = <int>big(at + 1, 4)
    else:
        number[0] = <long long>big(at + 1, 8)
    return True


cdef const unsigned char *text_of(const unsigned char *at, Py_ssize_t *size) noexcept:
    """Return where the content of a text that was looked at before begins, and its length."""
    cdef int width
    if at[0] < 0xC0:
        size[0] = at[0] & 31
        return at + 1
    width = 1 << (at[0] - 0xD9)
    size[0] = big(at + 1, width)
    return at + 1 + width


cdef object text_at(const unsigned char *at):
    """Return a text or None that was looked at before. Raises `UnicodeDecodeError`."""
    cdef Py_ssize_t size = 0
    cdef const unsigned char *content
    if at[0] == 0xC0:
        return None
    content = text_of(at, &size)
    return PyUnicode_DecodeUTF8(<const char *>content, size, NULL)
