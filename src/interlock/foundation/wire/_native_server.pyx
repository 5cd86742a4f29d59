# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The compiled form of the usual request and the usual event of the server; the forms in Python say the same.

Takes a request whose head is known and whose body is all there, an answer in one piece, and an event of a stream;
everything else it hands to the form in Python. Decides nothing of its own. The classes stay those of Python: their
slots are read and written in place, where `equip` finds them.
"""

from asyncio import Task, get_running_loop

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_GetItemWithError
from cpython.list cimport PyList_CheckExact
from cpython.object cimport PyObject
from cpython.sequence cimport PySequence_Fast_GET_ITEM, PySequence_Fast_GET_SIZE
from cpython.tuple cimport PyTuple_CheckExact, PyTuple_GET_ITEM, PyTuple_GET_SIZE
from cpython.unicode cimport PyUnicode_CheckExact, PyUnicode_GET_LENGTH
from libc.string cimport memchr, memcmp

cdef extern from *:
    """
    #include <string.h>
    #include "../_native_slots.h"

    static Py_ssize_t places[96];
    #define PEEK(self, slot) AT(self, places[slot])
    #define put_slot(self, slot, value) put_at(self, places[slot], value)
    #define IS_A(self, type) PyObject_TypeCheck(self, (PyTypeObject *)(type))
    #define HOLDS_A(self, slot, type) (PEEK(self, slot) && IS_A(PEEK(self, slot), type))
    #define ASCII_OF(text) ((const char *)PyUnicode_1BYTE_DATA(text))
    static inline int is_empty(PyObject *of) {
        if (of && PyBytes_CheckExact(of)) return PyBytes_GET_SIZE(of) == 0;
        if (of && PyUnicode_CheckExact(of)) return PyUnicode_GET_LENGTH(of) == 0;
        return of && PyList_CheckExact(of) && PyList_GET_SIZE(of) == 0;
    }
    /* The pieces are bytes, in one; the caller holds them. */
    static PyObject *joined(PyObject **pieces, int count) {
        Py_ssize_t size = 0;
        PyObject *made;
        char *to;
        for (int each = 0; each < count; each++) size += PyBytes_GET_SIZE(pieces[each]);
        made = PyBytes_FromStringAndSize(NULL, size);
        if (!made) return NULL;
        to = PyBytes_AS_STRING(made);
        for (int each = 0; each < count; to += PyBytes_GET_SIZE(pieces[each++]))
            memcpy(to, PyBytes_AS_STRING(pieces[each]), PyBytes_GET_SIZE(pieces[each]));
        return made;
    }
    """
    Py_ssize_t place_of_slot(object descriptor)
    Py_ssize_t places[96]
    PyObject *PEEK(object self, int slot)
    bint is_empty(PyObject *of)
    bytes joined(PyObject **pieces, int count)
    void put_slot(object self, int slot, object value)
    object bare(object type)
    bint IS_A(object self, object type)
    bint HOLDS_A(object self, int slot, object type)
    const char *ASCII_OF(object text)
    bint PyUnicode_IS_COMPACT_ASCII(object text)
    PyObject *Py_None
    PyObject *Py_True
    PyObject *Py_False

cdef enum:
    DIGITS_MAX = 15
    FIELDS_MAX = 64
    PIECES_MAX = 4 * FIELDS_MAX + 9
    # A Py_ssize_t has 19 digits at most.
    DIGITS_ROOM = 24

cdef object NEVER = float("inf")
cdef bytes NOTHING = b"", COLON = b": ", LINE_END = b"\r\n", GOES_ON = b"\r\n\r\n"
cdef bytes ENDS = b"\r\nconnection: close\r\n\r\n", CHUNKED = b"transfer-encoding: chunked\r\n"
cdef bytes LENGTH = b"content-length: ", NAMED = b"x-request-id: ", NAMED_AGAIN = b"\r\nrequest-id: "
cdef const char *DIGITS = b"0123456789abcdef"
cdef str TASK_NAME = "wire.request"

# The classes, the forms in Python of what is replaced here, and their constants.
cdef object Connection, Exchange, Request, Server, KnownHeads
cdef object receive_by_python, respond_by_python, start_by_python, write_by_python, push_by_python, finish_by_python
cdef object head_by_python, has_room_by_python
cdef dict status_lines
cdef frozenset owned_names, statuses_without_body
cdef bytes last_chunk
cdef Py_ssize_t joined_bytes_max
# By the length of a name, which first letters names have that the server writes itself.
cdef unsigned int owned_letters[32]

# The slots that are used, class by class, and their names in the same order.
cdef enum Slot:
    c_active, c_receiving, c_is_deaf, c_is_ending, c_is_gone, c_is_paused, c_held, c_queue, c_request_id,
    c_beat_by, c_beat_s, c_blank_lines, c_head_by, c_idle_by, c_is_clogged, c_limits, c_peer, c_requests, c_received_us,
    c_server, c_ticker, c_transport, c_deadline,
    e_has_body, e_wire, e_head_sent, e_is_chunked, e_is_finished, e_is_last, e_request, e_request_id, e_route, e_status,
    e_task,
    r_headers, r_is_continue_expected, r_method, r_path, r_query, r_target, r_version,
    r_chunked, r_gate, r_limit, r_peer, r_refusal, r_waiter,
    r_content, r_is_complete, r_left, r_length, r_received, r_received_us,
    s_answers_total, s_date_line, s_handler, s_heads, s_is_draining, s_mint, s_now_us, s_on_metrics, s_running, s_take,
    k_requests,
    SLOTS
cdef str CONNECTION = (
    "_active _receiving _is_deaf _is_ending _is_gone _is_paused _held _queue _request_id "
    "_beat_by _beat_s _blank_lines _head_by _idle_by is_clogged _limits _peer _requests _received_us "
    "server _ticker _transport deadline"
)
cdef str EXCHANGE = "_has_body _wire head_sent _is_chunked is_finished is_last request request_id route status task"
cdef str REQUEST = (
    "headers is_continue_expected method path query target version _chunked _gate _limit peer _refusal _waiter "
    "_content is_complete _left length _received received_us"
)
cdef str SERVER = "_answers_total date_line _handler heads is_draining mint now_us _on_metrics _running _take"
cdef str KNOWN_HEADS = "_requests"


include "_native_done.pxi"


def equip(modules):
    """Put these forms in the place of those in Python, which are kept for all that is not usual."""
    global Connection, Exchange, Request, Server, KnownHeads
    global receive_by_python, respond_by_python, start_by_python, write_by_python, push_by_python, finish_by_python
    global head_by_python, has_room_by_python, status_lines, owned_names, statuses_without_body, last_chunk, joined_bytes_max
    exchange = modules["exchange"]
    Connection, Server = modules["connection"].Connection, modules["server"].Server
    Exchange, Request, KnownHeads = exchange.Exchange, modules["message"].Request, modules["head"].KnownHeads
    find_slots()
    status_lines, owned_names = exchange._STATUS_LINE, exchange._OWNED
    statuses_without_body, last_chunk = exchange._WITHOUT_BODY, exchange._LAST_CHUNK
    joined_bytes_max = exchange._JOINED_BYTES_MAX
    for name in owned_names:
        assert len(name) < 32 and name.isascii() and name[:1].islower(), "a name that the tables cannot hold"
        owned_letters[len(name)] |= 1 << (name[0] - c"a")
    receive_by_python, Connection.data_received = Connection.data_received, data_received
    respond_by_python, Exchange.respond = Exchange.respond, respond
    has_room_by_python, Exchange.has_room = Exchange.has_room, has_room
    start_by_python, Exchange.start = Exchange.start, start
    write_by_python, Exchange.write = Exchange.write, write
    push_by_python, Exchange.push = Exchange.push, push
    finish_by_python, Exchange.finish = Exchange.finish, finish
    head_by_python, exchange.head_bytes = exchange.head_bytes, head_bytes


# What takes the place of methods.


def data_received(self, chunk):
    """Take what came from the client: of `Connection`."""
    cdef object request
    if IS_A(self, Connection) and PyBytes_CheckExact(chunk) and is_at_rest(self):
        request = known_request(self, chunk)
        if request is not None:
            begin(self, request)
            return
    receive_by_python(self, chunk)


def respond(self, status, headers=(), body=b""):
    """Answer in one piece: of `Exchange`."""
    cdef bytes piece = None
    cdef object wire
    if may_begin(self, status) and PyBytes_CheckExact(body) and PyBytes_GET_SIZE(body) <= joined_bytes_max:
        wire = get(self, e_wire)
        if PEEK(wire, c_is_clogged) is Py_False:
            piece = head_of(self, wire, status, headers, length_line(PyBytes_GET_SIZE(body)), body)
    if piece is None:
        return respond_by_python(self, status, headers, body)
    if not send(wire, piece):
        return self._end_when_drained()
    answered(wire, self)
    return DONE


def has_room(self, count_bytes):
    """Tell whether an answer of so many bytes would be sent in one piece, without a wait: of `Exchange`."""
    cdef object wire = get(self, e_wire) if IS_A(self, Exchange) else None
    if wire is None or not IS_A(wire, Connection) or <Py_ssize_t>count_bytes > joined_bytes_max:
        return has_room_by_python(self, count_bytes)
    if PEEK(wire, c_is_clogged) is not Py_False:
        return False
    unsent = <Py_ssize_t>get(wire, c_transport).get_write_buffer_size()
    return unsent + 2 * <Py_ssize_t>count_bytes < <Py_ssize_t>get(wire, c_limits).write_buffer_bytes


def start(self, status, headers=()):
    """Send the head of a stream: of `Exchange`."""
    cdef bytes head = None
    if may_begin(self, status) and get(request_of(self), r_version) == "1.1":
        head = head_of(self, get(self, e_wire), status, headers, CHUNKED, NOTHING)
    if head is None:
        return start_by_python(self, status, headers)
    put_slot(self, e_is_chunked, True)
    send(get(self, e_wire), head)
    return DONE


def write(self, data):
    """Send a piece and wait where the client is slow: of `Exchange`."""
    cdef object wire
    if not is_streaming(self) or not PyBytes_CheckExact(data) or not PyBytes_GET_SIZE(data):
        return write_by_python(self, data)
    wire = get(self, e_wire)
    return DONE if send(wire, framed(self, data, NOTHING)) else wire.drained()


def push(self, data):
    """Send a piece without waiting: of `Exchange`."""
    if not is_streaming(self) or not PyBytes_CheckExact(data):
        return push_by_python(self, data)
    return send(get(self, e_wire), framed(self, data, NOTHING))


def finish(self, data=b""):
    """End a stream: of `Exchange`."""
    cdef object wire
    if not is_streaming(self) or not PyBytes_CheckExact(data) or PEEK(self, e_is_chunked) is not Py_True:
        return finish_by_python(self, data)
    wire = get(self, e_wire)
    send(wire, framed(self, data, last_chunk) if PyBytes_GET_SIZE(data) else last_chunk)
    answered(wire, self)
    return DONE


def head_bytes(status, headers, request_id, framing, *, is_last):
    """Return the head of an answer: of the module."""
    cdef bytes head = None
    if PyBytes_CheckExact(framing):
        head = rendered(status, headers, request_id, framing, NOTHING, NOTHING, is_last)
    return head_by_python(status, headers, request_id, framing, is_last=is_last) if head is None else head


# Reading.


cdef bint is_at_rest(object self) except -1:
    """Whether nothing was begun on a connection, nothing waits, and it goes on."""
    cdef int slot
    for slot in range(c_active, c_receiving + 1):
        if PEEK(self, slot) is not Py_None:
            return False
    for slot in range(c_is_deaf, c_is_paused + 1):
        if PEEK(self, slot) is not Py_False:
            return False
    for slot in range(c_held, c_request_id + 1):
        if not is_empty(PEEK(self, slot)):
            return False
    return HOLDS_A(self, c_server, Server)


cdef object known_request(object self, bytes chunk):
    """Return the request that `chunk` is, if it is a known head and its whole body and no more; else None."""
    cdef const char *raw = PyBytes_AS_STRING(chunk)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(chunk), at = 0, stop = 0, end = end_of_head(raw, size), length
    cdef PyObject *found
    cdef object place, told
    cdef dict known
    if end < 0:
        return None
    length = cut_length(raw, end, &at, &stop)
    if length >= 0:
        place = (PyBytes_FromStringAndSize(raw, at), PyBytes_FromStringAndSize(raw + stop, end - stop))
    else:
        place = (chunk if end == size else PyBytes_FromStringAndSize(raw, end), NOTHING)
    known = get(checked(get(get(self, c_server), s_heads), KnownHeads), k_requests)
    found = PyDict_GetItemWithError(known, place)
    if found is NULL:
        return None
    told = length if length >= 0 else get(checked(<object>found, Request), r_length)
    if told is None or told != size - end:
        return None
    return made_like(<object>found, told, PyBytes_FromStringAndSize(raw + end, size - end) if end < size else NOTHING)


cdef Py_ssize_t end_of_head(const char *raw, Py_ssize_t size) noexcept:
    """Return where the first empty line ends, or -1."""
    cdef const char *at = raw
    cdef const char *line
    while True:
        line = <const char *>memchr(at, c'\n', size - (at - raw))
        if line is NULL:
            return -1
        if line - raw >= 3 and memcmp(line - 3, b"\r\n\r", 3) == 0:
            return line - raw + 1
        at = line + 1


cdef Py_ssize_t cut_length(const char *raw, Py_ssize_t end, Py_ssize_t *at, Py_ssize_t *stop) noexcept:
    """Return the length whose digits `head.py` cuts out of a head, and where they stand; -1 where there are none."""
    cdef Py_ssize_t place = end - 7, length = 0
    cdef const char *line
    while place >= 0 and not (raw[place + 5] == c':' and memcmp(raw + place, b"ength: ", 7) == 0):
        place -= 1
    if place < 0:
        return -1
    at[0] = place + 7
    line = <const char *>memchr(raw + at[0], c'\r', end - at[0])
    if line is NULL or not 0 < line - raw - at[0] <= DIGITS_MAX:
        return -1
    stop[0] = line - raw
    for place in range(at[0], stop[0]):
        if not c'0' <= raw[place] <= c'9':
            return -1
        length = length * 10 + (raw[place] - c'0')
    return length


cdef object made_like(object like, object length, bytes content):
    """Return a request with the head of another one, held before a collection can begin, and its whole body."""
    cdef object head = checked(like, Request), made = bare(Request)
    cdef int slot
    for slot in range(r_headers, r_version + 1):
        put_slot(made, slot, get(head, <Slot>slot))
    for slot in range(r_chunked, r_waiter + 1):
        put_slot(made, slot, None)
    put_slot(made, r_content, content)
    put_slot(made, r_is_complete, True)
    put_slot(made, r_left, 0)
    put_slot(made, r_length, length)
    put_slot(made, r_received, length)
    put_slot(made, r_received_us, 0)
    return made


cdef object begin(object self, object request):
    """Name a request and have it taken on, or start its handler: `_read_head`, `_open`, `Server.run` of a connection at rest."""
    cdef object server = get(self, c_server), exchange
    cdef object request_id = get(server, s_mint)()
    cdef object received_us = get(server, s_now_us)()
    cdef Py_ssize_t requests = <Py_ssize_t>get(self, c_requests) + 1
    cdef int slot
    put_slot(self, c_blank_lines, 0)
    put_slot(self, c_idle_by, NEVER)
    put_slot(self, c_head_by, NEVER)
    put_slot(self, c_received_us, received_us)
    put_slot(self, c_requests, requests)
    put_slot(request, r_peer, get(self, c_peer))
    put_slot(request, r_received_us, received_us)
    if requests >= <Py_ssize_t>get(self, c_limits).keep_alive_requests_max:
        put_slot(self, c_is_ending, True)
    exchange = bare(Exchange)
    put_slot(exchange, e_wire, self)
    put_slot(exchange, e_has_body, get(request, r_method) != "HEAD")
    for slot in range(e_head_sent, e_is_finished + 1):
        put_slot(exchange, slot, False)
    put_slot(exchange, e_request, request)
    put_slot(exchange, e_request_id, request_id)
    put_slot(exchange, e_route, "")
    put_slot(exchange, e_status, 0)
    put_slot(exchange, e_is_last, get(self, c_is_ending))
    put_slot(exchange, e_task, None)
    put_slot(self, c_active, exchange)
    get(server, s_running).add(exchange)
    take = get(server, s_take)
    if take is None or not take(exchange, server):
        serving = server._serve(exchange, get(server, s_handler))
        put_slot(exchange, e_task, Task(serving, loop=get_running_loop(), name=TASK_NAME))


# Answering.


cdef bint is_open(object wire) except -1:
    """Whether a wire is a connection whose client is there."""
    return IS_A(wire, Connection) and PEEK(wire, c_is_gone) is Py_False and HOLDS_A(wire, c_server, Server)


cdef bint may_begin(object self, object status) except -1:
    """Whether an answer with a body may begin: nothing of it is sent, and the client is there."""
    return (
        IS_A(self, Exchange)
        and PEEK(self, e_head_sent) is Py_False
        and PEEK(self, e_has_body) is Py_True
        and status not in statuses_without_body
        and is_open(get(self, e_wire))
    )


cdef bint is_streaming(object self) except -1:
    """Whether a piece may be sent: the head of an answer with a body is, its end is not, and the client is there."""
    return (
        IS_A(self, Exchange)
        and PEEK(self, e_head_sent) is Py_True
        and PEEK(self, e_is_finished) is Py_False
        and PEEK(self, e_has_body) is Py_True
        and is_open(get(self, e_wire))
    )


cdef bint send(object wire, bytes piece) except -1:
    """Put bytes on the wire of a client that is there; tells whether there is room for more."""
    cdef double beat_s
    get(wire, c_transport).write(piece)
    beat_s = get(wire, c_beat_s)
    if beat_s:
        put_slot(wire, c_beat_by, <double>get(wire, c_ticker).now + beat_s)
    return PEEK(wire, c_is_clogged) is Py_False


cdef int answered(object wire, object exchange) except -1:
    """Note a complete answer, as `Connection.answered` does."""
    cdef object server = checked(get(wire, c_server), Server)
    put_slot(exchange, e_is_finished, True)
    put_slot(wire, c_active, None)
    if <double>get(wire, c_beat_s):
        put_slot(wire, c_beat_s, 0.0)
        put_slot(wire, c_beat_by, NEVER)
    completed(server, exchange)
    if PEEK(wire, c_is_gone) is not Py_False:
        return 0
    if (
        PEEK(exchange, e_is_last) is not Py_False
        or PEEK(server, s_is_draining) is not Py_False
        or PEEK(request_of(exchange), r_is_complete) is not Py_True
    ):
        wire._close()
    elif is_at_rest(wire):
        put_slot(wire, c_idle_by, due(wire, get(wire, c_limits).keep_alive_s))
    else:
        wire._advance()
    return 0


cdef int completed(object server, object exchange) except -1:
    """Count a complete answer, as `Server.completed` does."""
    cdef object on_metrics = get(server, s_on_metrics)
    cdef long long took_us
    put_slot(server, s_answers_total, <Py_ssize_t>get(server, s_answers_total) + 1)
    if on_metrics is not None:
        took_us = <long long>get(server, s_now_us)() - <long long>get(request_of(exchange), r_received_us)
        on_metrics(get(exchange, e_route), get(exchange, e_status), took_us / 1e6)
    return 0


cdef object due(object wire, double seconds):
    cdef object ticker = get(wire, c_ticker)
    cdef double by = <double>ticker.now + seconds
    cdef object told = by
    if by < <double>get(wire, c_deadline):
        put_slot(wire, c_deadline, told)
        ticker.watch(wire)
    return told


cdef bytes framed(object self, bytes data, bytes tail):
    """Return a piece as the answer frames it, with what stands behind it."""
    cdef PyObject *pieces[5]
    cdef bytes size
    if PEEK(self, e_is_chunked) is not Py_True:
        return data
    size = digits_of(PyBytes_GET_SIZE(data), 16)
    pieces[0], pieces[2], pieces[4] = <PyObject *>size, <PyObject *>data, <PyObject *>tail
    pieces[1] = pieces[3] = <PyObject *>LINE_END
    return joined(pieces, 5)


cdef bytes head_of(object self, object wire, object status, object headers, bytes framing, bytes body):
    """Return the head of an answer with its body, and note that it has begun; None where the form in Python decides."""
    cdef object server = get(wire, c_server), date_line = get(server, s_date_line)
    cdef bint is_last
    cdef bytes head
    if not PyBytes_CheckExact(date_line):
        return None
    is_last = (
        PEEK(self, e_is_last) is not Py_False
        or PEEK(server, s_is_draining) is not Py_False
        or PEEK(request_of(self), r_is_complete) is not Py_True
    )
    head = rendered(status, headers, get(self, e_request_id), date_line, framing, body, is_last)
    if head is not None:
        put_slot(self, e_is_last, is_last)
        put_slot(self, e_head_sent, True)
        put_slot(self, e_status, status)
    return head


cdef bytes rendered(object status, object headers, object name, bytes date, bytes framing, bytes body, bint is_last):
    """Write a head and a body into one piece; None where the form in Python decides.

    The fields live meanwhile in `headers`: nothing here runs code of Python, or makes what a collection would begin at.
    """
    cdef PyObject *pieces[PIECES_MAX]
    cdef PyObject *line = PyDict_GetItemWithError(status_lines, status)
    cdef bytes text, ends = ENDS if is_last else GOES_ON
    cdef int count = keep_fields(headers, pieces + 1)
    if count < 0 or line is NULL or not PyUnicode_CheckExact(name) or not PyUnicode_IS_COMPACT_ASCII(name):
        return None
    pieces[0], count = line, count + 1
    text = PyBytes_FromStringAndSize(ASCII_OF(name), PyUnicode_GET_LENGTH(name))
    pieces[count], pieces[count + 1], pieces[count + 2] = <PyObject *>date, <PyObject *>framing, <PyObject *>NAMED
    pieces[count + 3] = pieces[count + 5] = <PyObject *>text
    pieces[count + 4], pieces[count + 6] = <PyObject *>NAMED_AGAIN, <PyObject *>ends
    pieces[count + 7] = <PyObject *>body
    return joined(pieces, count + 8)


cdef int keep_fields(object headers, PyObject **pieces) except -2:
    """Note the pieces of the fields that are sent, and return how many; -1 where the form in Python decides."""
    cdef Py_ssize_t each, given
    cdef int kept = 0
    cdef object field, name, value
    if not PyList_CheckExact(headers) and not PyTuple_CheckExact(headers):
        return -1
    given = PySequence_Fast_GET_SIZE(headers)
    if given > FIELDS_MAX:
        return -1
    for each in range(given):
        field = <object>PySequence_Fast_GET_ITEM(headers, each)
        if not PyTuple_CheckExact(field) or PyTuple_GET_SIZE(field) != 2:
            return -1
        name, value = <object>PyTuple_GET_ITEM(field, 0), <object>PyTuple_GET_ITEM(field, 1)
        if not PyBytes_CheckExact(name) or not PyBytes_CheckExact(value):
            return -1
        if is_owned(name):
            continue
        if splits(name) or splits(value):
            return -1
        pieces[kept], pieces[kept + 1] = <PyObject *>name, <PyObject *>COLON
        pieces[kept + 2], pieces[kept + 3] = <PyObject *>value, <PyObject *>LINE_END
        kept += 4
    return kept


cdef bint is_owned(bytes name) except -1:
    """Whether the server writes a field itself; by length and first letter most names are told apart."""
    cdef Py_ssize_t size = PyBytes_GET_SIZE(name)
    cdef int letter
    if not 0 < size < 32:
        return False
    letter = (PyBytes_AS_STRING(name)[0] | 32) - c'a'
    if not 0 <= letter < 26 or not owned_letters[size] >> letter & 1:
        return False
    return name.lower() in owned_names


cdef bint splits(bytes text) noexcept:
    """Whether a text holds CR, LF or NUL."""
    cdef const char *raw = PyBytes_AS_STRING(text)
    cdef Py_ssize_t place
    for place in range(PyBytes_GET_SIZE(text)):
        if <unsigned char>raw[place] <= 13 and (raw[place] == c'\r' or raw[place] == c'\n' or raw[place] == 0):
            return True
    return False


cdef bytes length_line(Py_ssize_t length):
    cdef bytes digits = digits_of(length, 10)
    cdef PyObject *pieces[3]
    pieces[0], pieces[1], pieces[2] = <PyObject *>LENGTH, <PyObject *>digits, <PyObject *>LINE_END
    return joined(pieces, 3)


cdef bytes digits_of(Py_ssize_t number, Py_ssize_t base):
    """Return the digits of a number that is not negative."""
    cdef char digits[DIGITS_ROOM]
    cdef Py_ssize_t place = DIGITS_ROOM - 1
    digits[place] = DIGITS[number % base]
    while number >= base:
        number //= base
        place -= 1
        digits[place] = DIGITS[number % base]
    return PyBytes_FromStringAndSize(digits + place, DIGITS_ROOM - place)


# Slots.


cdef int find_slots() except -1:
    """Read from the classes' own descriptors where their slots lie."""
    cdef Py_ssize_t slot = 0, place
    for owner, names in (
        (Connection, CONNECTION), (Exchange, EXCHANGE), (Request, REQUEST), (Server, SERVER), (KnownHeads, KNOWN_HEADS)
    ):
        for name in names.split():
            place = place_of_slot(owner.__dict__[name])
            if place < 0 or slot >= SLOTS:
                raise TypeError(f"{owner.__name__}.{name} is no slot that is used")
            places[slot] = place
            slot += 1
    if slot != SLOTS:
        raise TypeError("slots are missing")
    return 0


cdef inline object get(object self, Slot slot):
    cdef PyObject *found = PEEK(self, slot)
    if found is NULL:
        raise AttributeError("a slot is empty")
    return <object>found


cdef inline object request_of(object exchange):
    return checked(get(exchange, e_request), Request)


cdef inline object checked(object self, object kind):
    """Return an object whose slots may be looked at: one of another class has others."""
    if not IS_A(self, kind):
        raise TypeError(f"{kind.__name__} is expected")
    return self
