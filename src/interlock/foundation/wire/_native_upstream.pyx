# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, binding=False
"""The compiled form of a request to an upstream: its connection, its answer and its block.

Reads the usual answer itself: its head whole in the first read, framed by one length or in chunks. Judges no other: what is
not the usual goes to the form in Python, in `upstream.py`, from the first byte that is not, so faults are found there alone.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_CompareWithASCIIString
from libc.stdio cimport snprintf
from libc.string cimport memchr, memcmp, memcpy

import select
from asyncio import get_running_loop as _get_running_loop

from httptools import HttpResponseParser as _HttpResponseParser

from interlock.foundation.wire.message import Headers as _Headers
from interlock.foundation.wire.upstream import Answer as _AnswerInPython
from interlock.foundation.wire.upstream import UpstreamBroken, UpstreamConnection

cdef extern from "poll.h" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd *fds, unsigned long count, int timeout_ms)

ctypedef const unsigned char *Text

cdef enum Mode:
    RESTS  # nothing was asked
    ASKED  # nothing has come
    LENGTH  # the body has a length
    CHUNKS  # the body comes in chunks
    PARSED  # the form in Python reads this answer

# What comes next in a body of chunks.
cdef enum Stage:
    SIZE
    CONTENT
    BEHIND  # the line end behind the content of a chunk
    LAST  # the line end behind the last chunk, where no trailer stands

cdef enum:
    # A length has 19 digits at most.
    LINE_ROOM = 64

cdef double NEVER = float("inf")
cdef short WOKEN_BY = select.POLLIN | getattr(select, "POLLRDHUP", 0)
cdef object get_running_loop = _get_running_loop
cdef object HttpResponseParser = _HttpResponseParser
cdef object pieces_of = _AnswerInPython.chunks

# What stands for the head of an answer whose chunks a parser has to read on.
cdef bytes CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"

include "_native_done.pxi"
include "_native_upstream_head.pxi"


cdef class Carrier:
    """What is hot of an `UpstreamConnection`, and all the state that both share; what is cold is inherited from there."""

    cdef public object _client, _ticker, _limits, _transport, _parser, _headers, _pieces_whole
    cdef public object _waiter, _fault, _take, _take_fault, origin, address
    # Whoever is told, without a task, that a head or a fault is there.
    cdef object _listener
    cdef public list _fields, _pieces
    cdef public str _phase
    cdef public bint _is_head_done, _is_complete, _is_until_close, _keeps_alive, _is_head_request, _is_paused
    cdef public int _status
    cdef public Py_ssize_t _head_bytes, _buffered_bytes
    cdef public double _idle_s, _patience_s, _phase_by, _total_by, believed_until, deadline
    cdef Mode _mode
    cdef Stage _stage
    # What is left of the length or of the chunk; and of the line that tells a chunk's size, what was read.
    cdef Py_ssize_t _left, _size
    cdef int _digits, _fd
    cdef bint _has_cr
    cdef Py_ssize_t _buffer_bytes_max, _head_bytes_max, _headers_max
    cdef double _tick_s

    def connection_made(self, transport):
        super(Carrier, self).connection_made(transport)
        self._fd = transport.get_extra_info("socket").fileno()
        limits = self._limits
        self._buffer_bytes_max, self._head_bytes_max = limits.buffer_bytes, limits.head_bytes_max
        self._headers_max, self._tick_s = limits.headers_max, limits.tick_s

    # What the client asks.

    cdef bint _can_be_kept(self) except -1:
        """Tell what `is_reusable` does."""
        return self._is_complete and self._keeps_alive and self._fault is None and not self._transport.is_closing()

    cdef bint _is_alive(self) except -1:
        """Tell what `is_alive` does."""
        cdef pollfd asked
        if self._fault is not None or self._transport.is_closing():
            return False
        asked.fd, asked.events, asked.revents = self._fd, WOKEN_BY, 0
        return poll(&asked, 1, 0) == 0

    def rest(self, double until):
        """Go idle until the deadline."""
        self._pieces.clear()
        self._buffered_bytes = 0
        if self._is_paused:
            self._resume()
        self._total_by = NEVER
        self._wait_until_then(until)
        self._phase = "rest"
        self._parser = None
        self._mode = RESTS

    async def ask(self, str method, bytes request, timeouts, double end):
        """Send a request and return when the head of its answer is there."""
        self._begin(method, request, timeouts, self._client.clock.monotonic(), end)
        while not self._is_head_done:
            try:
                await self._awaited()
            finally:
                self._waiter = None
        self._phase_by = NEVER
        return _answer(self, 0.0)

    cdef int _begin(self, str method, bytes request, timeouts, double now, double end) except -1:
        self._head_bytes = 0
        self._pieces_whole = None
        self._is_head_done = self._is_complete = self._is_until_close = self._keeps_alive = False
        self._is_head_request = PyUnicode_CompareWithASCIIString(method, b"HEAD") == 0
        self._idle_s = timeouts.idle_s
        self._patience_s = self._tick_s + self._idle_s
        self._total_by = end
        self._phase = "first_byte"
        self._wait_until_then(now + <double>timeouts.first_byte_s)
        self._mode = ASKED
        if self._is_head_request:
            self._parse_from_here()
        self._transport.write(request)
        return 0

    cdef int _wait_until_then(self, double by) except -1:
        self._phase_by = by
        by = min(by, self._total_by)
        if by < self.deadline:
            self.deadline = by
            self._ticker.watch(self)
        return 0

    cdef int _await_piece(self) except -1:
        self._phase = "idle"
        self._wait_until_then(<double>self._client.clock.monotonic() + self._idle_s)
        return 0

    cdef object _awaited(self):
        """Return what is awaited until something has come."""
        if self._fault is not None:
            raise self._fault
        self._waiter = waiter = get_running_loop().create_future()
        return waiter

    cdef bytes _taken(self):
        """Return what is here of the body, without waiting."""
        cdef list pieces = self._pieces
        cdef bytes whole
        self._phase_by = NEVER
        self._buffered_bytes = 0
        if self._is_paused:
            self._resume()
        if len(pieces) == 1:
            return <bytes>pieces.pop()
        if not pieces:
            return b""
        whole = b"".join(pieces)
        pieces.clear()
        return whole

    async def pump(self, take):
        """Hand over what is here, then each piece in the call that brought it."""
        if self._pieces and not take(self._taken()):
            return
        self._take = take
        self._await_piece()
        try:
            while self._take is not None and not self._is_complete:
                try:
                    await self._awaited()
                finally:
                    self._waiter = None
        finally:
            self._take = None
            self._phase_by = NEVER
        fault, self._take_fault = self._take_fault, None
        if fault is not None:
            raise fault

    # What the transport tells.

    def data_received(self, bytes chunk not None):
        cdef list pieces = self._pieces
        cdef Py_ssize_t size = PyBytes_GET_SIZE(chunk), count = len(pieces), at = 0
        if self._is_complete or self._mode == RESTS:
            self._keeps_alive = False
            self._transport.abort()
            return
        if self._mode == ASKED:
            at = self._read_head(chunk)
            if at < 0:
                self._parse_from_here()
        if self._mode == PARSED:
            super(Carrier, self).data_received(chunk)
            return
        if self._mode == LENGTH:
            self._read_length(chunk, at)
        elif not self._read_chunks(chunk, at):
            return
        if len(pieces) > count:
            self._head_bytes = 0
        else:
            self._head_bytes += size
            if self._head_bytes > self._head_bytes_max:
                self._head_bytes -= size
                if self._is_overlong(size):
                    return
        self._pass_on(size)
        if self._listener is not None:
            listener, self._listener = self._listener, None
            # The last that happens here: whoever listens may let go of this connection.
            listener()

    cdef int _pass_on(self, Py_ssize_t size) except -1:
        """Give what came to whoever takes it, or hold it for whoever reads it, up to a bound."""
        cdef list pieces = self._pieces
        take = self._take
        if take is None:
            self._buffered_bytes += size
            if self._buffered_bytes > self._buffer_bytes_max and not self._is_paused:
                self._is_paused = True
                self._transport.pause_reading()
            self._wake_up()
            return 0
        if not pieces:
            return 0
        piece = pieces.pop() if len(pieces) == 1 else self._taken()
        # Never too early, late by a tick at most, and no call of the clock for each piece.
        self._phase_by = <double>self._ticker.now + self._patience_s
        try:
            if take(piece):
                return 0
        except Exception as fault:
            self._take_fault = fault
        self._take = None
        return self._wake_up()

    cdef int _wake_up(self) except -1:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
        return 0

    def _wake(self):
        """Wake whoever waits, and whoever listens in a turn of the loop of its own: parsers and faults tell of it midway."""
        self._wake_up()
        if self._listener is not None:
            listener, self._listener = self._listener, None
            get_running_loop().call_soon(listener)

    cdef int _finish(self, bint is_last) except -1:
        """Note that the answer is whole. What stands behind it in the same read belongs to nobody."""
        self._is_complete = True
        if not is_last:
            self._keeps_alive = False
        return self._wake_up()

    # How the usual answer is read.

    cdef Py_ssize_t _read_head(self, bytes chunk) except -2:
        """Take the head of an answer; return where its body begins, or -1 where it is not the usual, untouched."""
        cdef Head head
        cdef Fields fields
        if not _is_usual(<Text>PyBytes_AS_STRING(chunk), PyBytes_GET_SIZE(chunk), self._headers_max, &head):
            return -1
        fields = Fields.__new__(Fields)
        fields._head, fields._begin = PyBytes_FromStringAndSize(PyBytes_AS_STRING(chunk), head.end), head.begin
        self._headers, self._status, self._keeps_alive = fields, head.status, not head.closes
        self._is_head_done = True
        self._left, self._mode = max(head.length, 0), CHUNKS if head.is_chunked else LENGTH
        self._stage, self._size, self._digits, self._has_cr = SIZE, 0, 0, False
        return head.end

    cdef int _read_length(self, bytes chunk, Py_ssize_t at) except -1:
        """Take what belongs to a body that has a length."""
        cdef Py_ssize_t count = PyBytes_GET_SIZE(chunk) - at
        cdef bint is_last = count <= self._left
        if not is_last:
            count = self._left
        if count:
            self._pieces.append(_cut(chunk, at, count))
            self._left -= count
        if self._left == 0:
            self._finish(is_last)
        return 0

    cdef bint _read_chunks(self, bytes chunk, Py_ssize_t at) except -1:
        """Take well-formed chunks; the form in Python goes on where one is not, and tells whether all is well."""
        cdef Text text = <Text>PyBytes_AS_STRING(chunk)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(chunk), count
        while at < size:
            if self._stage == CONTENT:
                count = min(self._left, size - at)
                self._pieces.append(_cut(chunk, at, count))
                at += count
                self._left -= count
                if self._left == 0:
                    self._stage = BEHIND
            elif self._stage == SIZE:
                at = self._read_size(text, at, size)
                if at < 0:
                    return self._hand_over(chunk[-1 - at:])
            elif text[at] != (10 if self._has_cr else 13):
                return self._hand_over(chunk[at:])
            else:
                at += 1
                self._has_cr = not self._has_cr
                if not self._has_cr:
                    if self._stage == LAST:
                        self._finish(at == size)
                        return True
                    self._stage = SIZE
        return True

    cdef Py_ssize_t _read_size(self, Text text, Py_ssize_t at, Py_ssize_t end) noexcept:
        """Read on in the line of a chunk's size; return where it ends, or -1 less the place of what is not the usual."""
        cdef unsigned char digit
        while at < end:
            digit = DIGIT[text[at]]
            if self._has_cr:
                if text[at] != 10:
                    return -1 - at
                self._left, self._stage = self._size, CONTENT if self._size else LAST
                self._size, self._digits, self._has_cr = 0, 0, False
                return at + 1
            if digit < 16 and self._digits < DIGITS_MAX:
                self._size, self._digits = self._size * 16 + digit, self._digits + 1
            elif text[at] == 13 and self._digits:
                self._has_cr = True
            else:
                return -1 - at
            at += 1
        return at

    # How the form in Python is given what is not the usual.

    cdef int _parse_from_here(self) except -1:
        self._fields = []
        self._parser = HttpResponseParser(self)
        self._mode = PARSED
        return 0

    cdef bint _hand_over(self, bytes rest) except -1:
        """Bring a parser to where this answer stands, and have it read the rest; tell whether all is well."""
        cdef list pieces = self._pieces
        cdef Py_ssize_t count = len(pieces)
        cdef bytes so_far = b"1\r\n_"
        headers, status, keeps_alive = self._headers, self._status, self._keeps_alive
        if self._stage == LAST:
            so_far = b"0\r\n"
        elif self._stage == SIZE:
            so_far = b"%0*x" % (self._digits, self._size) if self._digits else b""
        self._parse_from_here()
        self._parser.feed_data(CHUNKED + so_far + (b"\r" if self._has_cr else b""))
        del pieces[count:]
        # Fields behind the body are counted with those of the head, and stand among them.
        self._headers, self._fields, self._status, self._keeps_alive = headers, headers.items, status, keeps_alive
        if not self._parse(rest):
            return False
        if self._pieces_whole is not None:
            del pieces[self._pieces_whole:]
        return True


class Connection(Carrier, UpstreamConnection):
    """One connection to an origin; carries one request at a time."""


@cython.freelist(16)
cdef class Answer:
    """The head of an answer and its body, as in `upstream.py`."""

    cdef public Carrier _connection
    cdef public object headers
    cdef public int status
    cdef public bint is_over
    cdef public double connect_s

    def chunks(self):
        """Yield pieces of the body as they come. Raises `UpstreamTimeout` and `UpstreamBroken`."""
        return pieces_of(self)

    def within(self, double seconds):
        """Return what waits for the next piece of the body, as long as `seconds`."""
        self._require_open()
        return self._connection.piece_within(seconds)

    def pump(self, take):
        """Return what hands pieces of the body to `take` as they come, until it says no or the body ends."""
        self._require_open()
        return self._connection.pump(take)

    async def skip(self, double within_s):
        """Let the rest of the body go by, so that the connection can be kept. Raises as `chunks`."""
        if not self.is_over and not (self._connection._is_complete and not self._connection._pieces):
            await self._connection.skip(within_s)

    @property
    def has_piece(self):
        """Whether a piece of the body is here already."""
        return len(self._connection._pieces) > 0

    async def read(self, Py_ssize_t limit):
        """Return the whole body; one longer than `limit` bytes raises `UpstreamBroken`."""
        cdef Carrier connection = self._connection
        cdef list pieces = []
        cdef Py_ssize_t size = 0
        cdef bytes piece
        while True:
            self._require_open()
            if not connection._pieces and not connection._is_complete:
                piece = await connection.next_piece()
            else:
                piece = connection._taken()
            if not piece:
                break
            size += PyBytes_GET_SIZE(piece)
            if size > limit:
                raise UpstreamBroken(f"the answer is longer than {limit} bytes", head_received=True)
            pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _next(self):
        self._require_open()
        return self._connection.next_piece()

    cdef int _require_open(self) except -1:
        if self.is_over:
            # The connection may carry another request by now.
            raise RuntimeError("the block of this request has ended")
        return 0


@cython.freelist(16)
cdef class Call:
    """The context of one request."""

    cdef object _client, _origin, _timeouts
    cdef str _method
    cdef bytes _request
    cdef Carrier _connection
    cdef Answer _answer

    def __cinit__(self, client, origin, str method, bytes request, timeouts):
        self._client, self._origin, self._timeouts = client, origin, timeouts
        self._method, self._request = method, request

    # What is asked without a task: `begin`, then `listen` or, in a task, the block; `whole` and `end` are its short form.

    def begin(self):
        """Ask over a kept connection that needs no wait; tell whether there is one."""
        cdef double now = self._client.clock.monotonic()
        cdef Carrier connection = self._kept(now)
        if connection is None:
            return False
        self._connection = connection
        try:
            connection._begin(self._method, self._request, self._timeouts, now, now + <double>self._timeouts.total_s)
        except:
            connection.abort()
            raise
        return True

    def listen(self, listener):
        """Have `listener` called from the loop, once, when the head of the answer is there or can no more be."""
        self._connection._listener = listener

    def whole(self, Py_ssize_t limit):
        """Return the body of an answer that is here, whole and in one piece of at most `limit` bytes; else None."""
        cdef Carrier connection = self._connection
        if not connection._is_complete or connection._fault is not None or len(connection._pieces) != 1:
            return None
        body = connection._pieces[0]
        return body if len(body) <= limit else None

    @property
    def status(self):
        """The status of an answer whose head is here."""
        return self._connection._status

    @property
    def headers(self):
        """The fields of an answer whose head is here."""
        return self._connection._headers

    def end(self):
        """Keep the connection of an answer that is complete, or close it."""
        cdef Carrier connection = self._connection
        if connection is not None:
            connection._listener = None
            if connection._can_be_kept():
                self._release(connection)
            else:
                connection.abort()

    async def __aenter__(self):
        cdef Carrier connection = self._connection
        cdef double now, asked_at, connect_s = 0.0
        timeouts = self._timeouts
        try:
            if connection is None:
                now = asked_at = self._client.clock.monotonic()
                connection = self._kept(now)
                if connection is None:
                    connection = await self._client.acquire(self._origin, min(timeouts.connect_s, timeouts.total_s))
                    asked_at = self._client.clock.monotonic()
                    connect_s = asked_at - now
                self._connection = connection
                connection._begin(self._method, self._request, timeouts, asked_at, now + <double>timeouts.total_s)
            connection._listener = None
            while not connection._is_head_done:
                try:
                    await connection._awaited()
                finally:
                    connection._waiter = None
        except:
            if connection is not None:
                connection.abort()
            raise
        connection._phase_by = NEVER
        self._answer = answer = _answer(connection, connect_s)
        return answer

    def __aexit__(self, kind, error, trace):
        cdef Carrier connection = self._connection
        if connection is not None and self._answer is not None:
            self._answer.is_over = True
            if connection._can_be_kept():
                self._release(connection)
            else:
                connection.abort()
        return DONE

    cdef Carrier _kept(self, double now):
        """Return a connection that needs neither a wait nor a look at its name, or what the client finds instead."""
        cdef Carrier last
        cdef Py_ssize_t count
        cdef list idle = self._client._idle.get(self._origin)
        if not idle:
            return None
        last = idle[len(idle) - 1]
        if (last.address is None or now < last.believed_until) and last._is_alive():
            idle.pop()
            return last
        return self._client.kept(self._origin, now)

    cdef int _release(self, Carrier connection) except -1:
        cdef list idle = self._client._idle.get(connection.origin)
        limits = self._client.limits
        if idle is None or len(idle) >= <Py_ssize_t>limits.idle_connections_max:
            self._client.release(connection)
            return 0
        connection.rest(<double>connection._ticker.now + connection._tick_s + <double>limits.idle_s)
        idle.append(connection)
        return 0


cdef class Asker:
    """Asks one URL by one method and headers, as `Client.request` does; its head lacks only the length."""

    cdef object _client, _origin
    cdef str _method
    cdef bytes _head

    def __init__(self, client, origin, str method not None, bytes head not None):
        self._client, self._origin, self._method, self._head = client, origin, method, head

    def __call__(self, bytes body not None, timeouts, bytes lines not None):
        """Return the call of a request with this body, and header lines of its own."""
        cdef char line[LINE_ROOM]
        cdef Py_ssize_t size = PyBytes_GET_SIZE(self._head), more = PyBytes_GET_SIZE(lines), count = PyBytes_GET_SIZE(body)
        cdef int written = snprintf(line, LINE_ROOM, b"content-length: %zd\r\n\r\n", count)
        cdef bytes request = PyBytes_FromStringAndSize(NULL, size + more + written + count)
        cdef char *text = PyBytes_AS_STRING(request)
        memcpy(text, PyBytes_AS_STRING(self._head), size)
        memcpy(text + size, PyBytes_AS_STRING(lines), more)
        size += more
        memcpy(text + size, line, written)
        memcpy(text + size + written, PyBytes_AS_STRING(body), count)
        self._client._requests_total += 1
        return Call(self._client, self._origin, self._method, request, timeouts)


cdef Answer _answer(Carrier connection, double connect_s):
    cdef Answer answer = Answer.__new__(Answer)
    answer._connection = connection
    answer.headers = connection._headers
    answer.status = connection._status
    answer.connect_s = connect_s
    return answer


cdef bytes _cut(bytes chunk, Py_ssize_t at, Py_ssize_t count):
    """Return a part of a read: the read itself where it is all of it."""
    if count == PyBytes_GET_SIZE(chunk):
        return chunk
    return PyBytes_FromStringAndSize(PyBytes_AS_STRING(chunk) + at, count)
