# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The compiled form of the usual request and the usual event of the server; the forms in Python say the same.

Takes a request whose head is known and whose body is all there, an answer in one piece, and an event of a stream;
everything else it hands to the form in Python. Decides nothing of its own. The classes stay those of Python: their
slots are read and written in place, where `equip` finds them.
"""

from asyncio import Task, get_running_loop

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_CheckExact, PyDict_GetItemWithError
from cpython.list cimport PyList_CheckExact, PyList_GET_ITEM, PyList_GET_SIZE
from cpython.object cimport PyObject
from cpython.tuple cimport PyTuple_CheckExact, PyTuple_GET_ITEM, PyTuple_GET_SIZE
from cpython.unicode cimport PyUnicode_CheckExact, PyUnicode_GET_LENGTH
from libc.string cimport memchr, memcmp, memcpy

cdef extern from *:
    """
    #include <structmember.h>

    /* Where a slot of a class of Python lies in its objects; -1 of anything that is no such slot. */
    static Py_ssize_t place_of_slot(PyObject *descriptor) {
        PyMemberDef *member;
        if (!Py_IS_TYPE(descriptor, &PyMemberDescr_Type)) return -1;
        member = ((PyMemberDescrObject *)descriptor)->d_member;
        return member->type == T_OBJECT_EX ? member->offset : -1;
    }
    static Py_ssize_t places[96];
    #define PEEK(self, slot) (*(PyObject **)((char *)(self) + places[slot]))
    static inline void put_slot(PyObject *self, int slot, PyObject *value) {
        PyObject *before = PEEK(self, slot);
        Py_INCREF(value);
        PEEK(self, slot) = value;
        Py_XDECREF(before);
    }
    static inline PyObject *bare(PyObject *type) {
        return ((PyTypeObject *)type)->tp_alloc((PyTypeObject *)type, 0);
    }
    #define IS_A(self, type) PyObject_TypeCheck(self, (PyTypeObject *)(type))
    #define ASCII_OF(text) ((const char *)PyUnicode_1BYTE_DATA(text))
    """
    Py_ssize_t place_of_slot(object descriptor)
    Py_ssize_t places[96]
    PyObject *PEEK(object self, int slot)
    void put_slot(object self, int slot, object value)
    object bare(object type)
    bint IS_A(object self, object type)
    const char *ASCII_OF(object text)
    bint PyUnicode_IS_COMPACT_ASCII(object text)
    PyObject *Py_None
    PyObject *Py_True
    PyObject *Py_False

cdef enum:
    DIGITS_MAX = 15
    FIELDS_MAX = 64

cdef double NEVER = float("inf")
cdef object ENDLESS = NEVER
cdef bytes NAMED = b"x-request-id: "
cdef bytes NAMED_AGAIN = b"\r\nrequest-id: "
cdef bytes GOES_ON = b"\r\n\r\n"
cdef bytes ENDS = b"\r\nconnection: close\r\n\r\n"
cdef bytes LENGTH = b"content-length: "
cdef bytes LINE_END = b"\r\n"
cdef bytes NOTHING = b""
cdef const char *HEX = b"0123456789abcdef"
cdef str TASK_NAME = "wire.request"

# The classes, the forms in Python of what is replaced here, and their constants.
cdef object Connection, Exchange, Request, Server, KnownHeads
cdef object receive_by_python, respond_by_python, write_by_python, push_by_python, finish_by_python, head_by_python
cdef dict status_lines
cdef frozenset owned_names, statuses_without_body
cdef bytes last_chunk
cdef Py_ssize_t joined_bytes_max
# By the length of a name, which first letters names have that the server writes itself.
cdef unsigned int owned_letters[32]

# The slots that are used, class by class, and their names in the same order.
cdef enum Slot:
    c_active, c_beat_by, c_beat_s, c_blank_lines, c_head_by, c_held, c_idle_by, c_is_clogged, c_is_deaf, c_is_ending,
    c_is_gone, c_is_paused, c_limits, c_peer, c_queue, c_receiving, c_request_id, c_requests, c_received_us,
    c_server, c_ticker, c_transport, c_deadline,
    e_has_body, e_is_chunked, e_wire, e_head_sent, e_is_finished, e_is_last, e_request, e_request_id, e_route,
    e_status, e_task,
    r_headers, r_is_continue_expected, r_method, r_path, r_query, r_target, r_version,
    r_chunked, r_gate, r_limit, r_peer, r_refusal, r_waiter,
    r_content, r_is_complete, r_left, r_length, r_received, r_received_us,
    s_answers_total, s_date_line, s_heads, s_is_draining, s_mint, s_now_us, s_on_metrics, s_running,
    k_requests,
    SLOTS
cdef str CONNECTION = (
    "_active _beat_by _beat_s _blank_lines _head_by _held _idle_by is_clogged _is_deaf _is_ending _is_gone "
    "_is_paused _limits _peer _queue _receiving _request_id _requests _received_us server _ticker _transport "
    "deadline"
)
cdef str EXCHANGE = "_has_body _is_chunked _wire head_sent is_finished is_last request request_id route status task"
cdef str REQUEST = (
    "headers is_continue_expected method path query target version _chunked _gate _limit peer _refusal _waiter "
    "_content is_complete _left length _received received_us"
)
cdef str SERVER = "_answers_total date_line heads is_draining mint now_us _on_metrics _running"
cdef str KNOWN_HEADS = "_requests"


cdef class Done:
    """What a call returns that is over when it returns: awaiting it takes no turn of the loop."""

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        raise StopIteration


cdef Done DONE = Done()


def equip(modules):
    """Put these forms in the place of those in Python, which are kept for all that is not usual."""
    global Connection, Exchange, Request, Server, KnownHeads
    global receive_by_python, respond_by_python, write_by_python, push_by_python, finish_by_python, head_by_python
    global status_lines, owned_names, statuses_without_body, last_chunk, joined_bytes_max
    exchange = modules["exchange"]
    Connection, Server = modules["connection"].Connection, modules["server"].Server
    Exchange, Request, KnownHeads = exchange.Exchange, modules["message"].Request, modules["head"].KnownHeads
    find_slots()
    status_lines, owned_names = exchange._STATUS_LINE, exchange._OWNED
    statuses_without_body, last_chunk = exchange._WITHOUT_BODY, exchange._LAST_CHUNK
    joined_bytes_max = exchange._JOINED_BYTES_MAX
    for name in owned_names:
        owned_letters[len(name)] |= 1 << (name[0] - c"a")
    receive_by_python, Connection.data_received = Connection.data_received, data_received
    respond_by_python, Exchange.respond = Exchange.respond, respond
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
    cdef bytes piece
    cdef object wire
    if (
        not IS_A(self, Exchange)
        or PEEK(self, e_head_sent) is not Py_False
        or PEEK(self, e_has_body) is not Py_True
        or not PyBytes_CheckExact(body)
        or PyBytes_GET_SIZE(body) > joined_bytes_max
        or status in statuses_without_body
    ):
        return respond_by_python(self, status, headers, body)
    wire = get(self, e_wire)
    if not is_open(wire) or PEEK(wire, c_is_clogged) is not Py_False:
        return respond_by_python(self, status, headers, body)
    piece = head_of(self, wire, status, headers, NOTHING, PyBytes_GET_SIZE(body), body)
    if piece is None:
        return respond_by_python(self, status, headers, body)
    send(wire, piece)
    if PEEK(wire, c_is_clogged) is not Py_False:
        return self._end_when_drained()
    answered(wire, self)
    return DONE


def write(self, data):
    """Send a piece and wait where the client is slow: of `Exchange`."""
    cdef object wire
    if not is_streaming(self) or not PyBytes_CheckExact(data) or not PyBytes_GET_SIZE(data):
        return write_by_python(self, data)
    wire = get(self, e_wire)
    send(wire, framed(self, data, NOTHING))
    return DONE if PEEK(wire, c_is_clogged) is Py_False else wire.drained()


def push(self, data):
    """Send a piece without waiting: of `Exchange`."""
    cdef object wire
    if not is_streaming(self) or not PyBytes_CheckExact(data):
        return push_by_python(self, data)
    wire = get(self, e_wire)
    send(wire, framed(self, data, NOTHING))
    return PEEK(wire, c_is_clogged) is Py_False


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
        head = rendered(status, headers, request_id, framing, NOTHING, -1, NOTHING, is_last)
    return head_by_python(status, headers, request_id, framing, is_last=is_last) if head is None else head


# Reading.


cdef bint is_at_rest(object self) except -1:
    """Whether nothing was begun on a connection, nothing waits, and it goes on."""
    cdef PyObject *request_id = PEEK(self, c_request_id)
    cdef PyObject *held = PEEK(self, c_held)
    cdef PyObject *queue = PEEK(self, c_queue)
    return (
        PEEK(self, c_active) is Py_None
        and PEEK(self, c_receiving) is Py_None
        and PEEK(self, c_is_gone) is Py_False
        and PEEK(self, c_is_deaf) is Py_False
        and PEEK(self, c_is_ending) is Py_False
        and PEEK(self, c_is_paused) is Py_False
        and request_id is not NULL
        and PyUnicode_CheckExact(<object>request_id)
        and PyUnicode_GET_LENGTH(<object>request_id) == 0
        and held is not NULL
        and PyBytes_CheckExact(<object>held)
        and PyBytes_GET_SIZE(<object>held) == 0
        and queue is not NULL
        and PyList_CheckExact(<object>queue)
        and PyList_GET_SIZE(<object>queue) == 0
        and is_server(PEEK(self, c_server))
    )


cdef object known_request(object self, bytes chunk):
    """Return the request that `chunk` is, if it is a known head and its whole body and no more; else None."""
    cdef const char *raw = PyBytes_AS_STRING(chunk)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(chunk), at = 0, stop = 0, length = 0, end = end_of_head(raw, size)
    cdef PyObject *found
    cdef object place, like, told
    if end < 0:
        return None
    if cut_length(raw, end, &at, &stop):
        length = number_of(raw + at, stop - at)
        place = (PyBytes_FromStringAndSize(raw, at), PyBytes_FromStringAndSize(raw + stop, end - stop))
    else:
        place = (chunk if end == size else PyBytes_FromStringAndSize(raw, end), NOTHING)
        stop = 0
    known = get(get(get(self, c_server), s_heads), k_requests)
    if not PyDict_CheckExact(known):
        return None
    found = PyDict_GetItemWithError(known, place)
    if found is NULL:
        return None
    like = <object>found
    told = get(like, r_length)
    if stop:
        told = length
    elif told is None:
        return None
    else:
        length = told
    if length != size - end:
        return None
    return made_like(like, told, PyBytes_FromStringAndSize(raw + end, length) if length else NOTHING)


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


cdef bint cut_length(const char *raw, Py_ssize_t end, Py_ssize_t *at, Py_ssize_t *stop) noexcept:
    """Find the digits of a length as `head.py` cuts them out; false where there are none."""
    cdef Py_ssize_t place = end - 7
    cdef const char *line
    while place >= 0 and not (raw[place + 5] == c':' and memcmp(raw + place, b"ength: ", 7) == 0):
        place -= 1
    if place < 0:
        return False
    at[0] = place + 7
    line = <const char *>memchr(raw + at[0], c'\r', end - at[0])
    if line is NULL:
        return False
    stop[0] = line - raw
    if not 0 < stop[0] - at[0] <= DIGITS_MAX:
        return False
    for place in range(at[0], stop[0]):
        if not c'0' <= raw[place] <= c'9':
            return False
    return True


cdef Py_ssize_t number_of(const char *digits, Py_ssize_t count) noexcept:
    cdef Py_ssize_t place, number = 0
    for place in range(count):
        number = number * 10 + (digits[place] - c'0')
    return number


cdef object made_like(object like, object length, bytes content):
    """Return a request with the head of another one, and its whole body."""
    cdef object made = bare(Request)
    cdef int slot
    for slot in range(r_headers, r_version + 1):
        put_slot(made, slot, get(like, <Slot>slot))
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
    """Name a request and start its handler: `_read_head`, `_open` and `Server.run` of a connection at rest."""
    cdef object server = get(self, c_server), exchange
    cdef object request_id = get(server, s_mint)()
    cdef object received_us = get(server, s_now_us)()
    cdef Py_ssize_t requests = <Py_ssize_t>get(self, c_requests) + 1
    put_slot(self, c_blank_lines, 0)
    put_slot(self, c_idle_by, ENDLESS)
    put_slot(self, c_head_by, ENDLESS)
    put_slot(self, c_received_us, received_us)
    put_slot(self, c_requests, requests)
    put_slot(request, r_peer, get(self, c_peer))
    put_slot(request, r_received_us, received_us)
    if requests >= <Py_ssize_t>get(self, c_limits).keep_alive_requests_max:
        put_slot(self, c_is_ending, True)
    exchange = bare(Exchange)
    put_slot(exchange, e_wire, self)
    put_slot(exchange, e_has_body, get(request, r_method) != "HEAD")
    put_slot(exchange, e_is_chunked, False)
    put_slot(exchange, e_request, request)
    put_slot(exchange, e_request_id, request_id)
    put_slot(exchange, e_route, "")
    put_slot(exchange, e_status, 0)
    put_slot(exchange, e_head_sent, False)
    put_slot(exchange, e_is_finished, False)
    put_slot(exchange, e_is_last, get(self, c_is_ending))
    put_slot(exchange, e_task, None)
    put_slot(self, c_active, exchange)
    get(server, s_running).add(exchange)
    put_slot(exchange, e_task, Task(server._serve(exchange), loop=get_running_loop(), name=TASK_NAME))


# Answering.


cdef bint is_open(object wire) except -1:
    """Whether a wire is a connection whose client is there."""
    return (
        IS_A(wire, Connection)
        and PEEK(wire, c_is_gone) is Py_False
        and is_server(PEEK(wire, c_server))
    )


cdef bint is_server(PyObject *host) except -1:
    return host is not NULL and IS_A(<object>host, Server)


cdef bint is_streaming(object self) except -1:
    """Whether a piece may be sent: the head of an answer with a body is, its end is not, and the client is there."""
    return (
        IS_A(self, Exchange)
        and PEEK(self, e_head_sent) is Py_True
        and PEEK(self, e_is_finished) is Py_False
        and PEEK(self, e_has_body) is Py_True
        and is_open(get(self, e_wire))
    )


cdef int send(object wire, bytes piece) except -1:
    """Put bytes on the wire of a client that is there."""
    cdef double beat_s
    get(wire, c_transport).write(piece)
    beat_s = get(wire, c_beat_s)
    if beat_s:
        put_slot(wire, c_beat_by, <double>get(wire, c_ticker).now + beat_s)
    return 0


cdef int answered(object wire, object exchange) except -1:
    """Note a complete answer, as `Connection.answered` does."""
    cdef object server = get(wire, c_server)
    put_slot(exchange, e_is_finished, True)
    put_slot(wire, c_active, None)
    if <double>get(wire, c_beat_s):
        put_slot(wire, c_beat_s, 0.0)
        put_slot(wire, c_beat_by, ENDLESS)
    completed(server, exchange)
    if PEEK(wire, c_is_gone) is not Py_False:
        return 0
    if (
        PEEK(exchange, e_is_last) is not Py_False
        or PEEK(server, s_is_draining) is not Py_False
        or PEEK(get(exchange, e_request), r_is_complete) is not Py_True
    ):
        wire._close()
    elif is_at_rest(wire):
        put_slot(wire, c_idle_by, due(wire, get(wire, c_limits).keep_alive_s))
    else:
        wire._advance()
    return 0


cdef int completed(object server, object exchange) except -1:
    """Count a complete answer, as `Server.completed` does."""
    cdef object on_metrics = get(server, s_on_metrics), request
    cdef long long took_us
    put_slot(server, s_answers_total, <Py_ssize_t>get(server, s_answers_total) + 1)
    if on_metrics is not None:
        took_us = <long long>get(server, s_now_us)() - <long long>get(get(exchange, e_request), r_received_us)
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
    cdef Py_ssize_t size = PyBytes_GET_SIZE(data), left = size, digits = 1, tail_size = PyBytes_GET_SIZE(tail)
    cdef bytes made
    cdef char *to
    if PEEK(self, e_is_chunked) is not Py_True:
        return data
    while left > 15:
        left >>= 4
        digits += 1
    made = PyBytes_FromStringAndSize(NULL, digits + size + 4 + tail_size)
    to = PyBytes_AS_STRING(made)
    left = size
    for place in range(digits - 1, -1, -1):
        to[place] = HEX[left & 15]
        left >>= 4
    to = added(to + digits, LINE_END)
    to = added(to, data)
    to = added(to, LINE_END)
    added(to, tail)
    return made


cdef bytes head_of(object self, object wire, object status, object headers, bytes framing, Py_ssize_t length, bytes body):
    """Return the head of an answer with its body, and note that it has begun; None where the form in Python decides."""
    cdef object server = get(wire, c_server), date_line = get(server, s_date_line)
    cdef bint is_last
    cdef bytes head
    if not PyBytes_CheckExact(date_line):
        return None
    is_last = (
        PEEK(self, e_is_last) is not Py_False
        or PEEK(server, s_is_draining) is not Py_False
        or PEEK(get(self, e_request), r_is_complete) is not Py_True
    )
    head = rendered(status, headers, get(self, e_request_id), date_line, framing, length, body, is_last)
    if head is not None:
        put_slot(self, e_is_last, is_last)
        put_slot(self, e_head_sent, True)
        put_slot(self, e_status, status)
    return head


cdef bytes rendered(
    object status, object headers, object name, bytes date_line, bytes framing, Py_ssize_t length, bytes body, bint is_last
):
    """Write a head and a body into one piece; None where the form in Python decides.

    The fields stay where they are meanwhile: nothing that is called here runs code of Python.
    """
    cdef PyObject *fields[2 * FIELDS_MAX]
    cdef PyObject *line = PyDict_GetItemWithError(status_lines, status)
    cdef Py_ssize_t count, each, size
    cdef char digits[24]
    cdef Py_ssize_t digits_size = 0, name_size
    cdef bytes made, ending = ENDS if is_last else GOES_ON
    cdef char *to
    if line is NULL or not PyUnicode_CheckExact(name) or not PyUnicode_IS_COMPACT_ASCII(name):
        return None
    name_size = PyUnicode_GET_LENGTH(name)
    size = 0
    count = kept_fields(headers, fields, &size)
    if count < 0:
        return None
    size += PyBytes_GET_SIZE(<object>line) + PyBytes_GET_SIZE(date_line) + PyBytes_GET_SIZE(framing)
    size += PyBytes_GET_SIZE(NAMED) + PyBytes_GET_SIZE(NAMED_AGAIN) + 2 * name_size + PyBytes_GET_SIZE(ending)
    size += PyBytes_GET_SIZE(body)
    if length >= 0:
        digits_size = written(length, digits)
        size += PyBytes_GET_SIZE(LENGTH) + digits_size + 2
    made = PyBytes_FromStringAndSize(NULL, size)
    to = added(PyBytes_AS_STRING(made), <bytes>line)
    for each in range(count):
        to = added(to, <bytes>fields[2 * each])
        to[0], to[1] = c':', c' '
        to = added(to + 2, <bytes>fields[2 * each + 1])
        to = added(to, LINE_END)
    to = added(added(to, date_line), framing)
    if length >= 0:
        to = added(to, LENGTH)
        memcpy(to, digits, digits_size)
        to = added(to + digits_size, LINE_END)
    to = added(to, NAMED)
    memcpy(to, ASCII_OF(name), name_size)
    to = added(to + name_size, NAMED_AGAIN)
    memcpy(to, ASCII_OF(name), name_size)
    to = added(to + name_size, ending)
    added(to, body)
    return made


cdef Py_ssize_t kept_fields(object headers, PyObject **fields, Py_ssize_t *size) except -2:
    """Note the fields that are sent, and add up their lines; -1 where the form in Python decides."""
    cdef Py_ssize_t each, given, kept = 0
    cdef object field, name, value
    cdef bint is_list = PyList_CheckExact(headers)
    if not is_list and not PyTuple_CheckExact(headers):
        return -1
    given = PyList_GET_SIZE(headers) if is_list else PyTuple_GET_SIZE(headers)
    if given > FIELDS_MAX:
        return -1
    for each in range(given):
        field = <object>PyList_GET_ITEM(headers, each) if is_list else <object>PyTuple_GET_ITEM(headers, each)
        if not PyTuple_CheckExact(field) or PyTuple_GET_SIZE(field) != 2:
            return -1
        name, value = <object>PyTuple_GET_ITEM(field, 0), <object>PyTuple_GET_ITEM(field, 1)
        if not PyBytes_CheckExact(name) or not PyBytes_CheckExact(value):
            return -1
        if is_owned(name):
            continue
        if splits(name) or splits(value):
            return -1
        fields[2 * kept] = <PyObject *>name
        fields[2 * kept + 1] = <PyObject *>value
        kept += 1
        size[0] += PyBytes_GET_SIZE(name) + PyBytes_GET_SIZE(value) + 4
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


cdef Py_ssize_t written(Py_ssize_t number, char *to) noexcept:
    """Write a number that is not negative, and return how many digits it has."""
    cdef Py_ssize_t digits = 1, place, left = number
    while left > 9:
        left //= 10
        digits += 1
    for place in range(digits - 1, -1, -1):
        to[place] = <char>(c'0' + number % 10)
        number //= 10
    return digits


cdef inline char *added(char *to, bytes piece) noexcept:
    memcpy(to, PyBytes_AS_STRING(piece), PyBytes_GET_SIZE(piece))
    return to + PyBytes_GET_SIZE(piece)


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
