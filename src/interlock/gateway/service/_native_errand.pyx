# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, binding=False
"""The usual request without a task: it goes a way that one like it went before, and the call that brings its answer
also sends it.

States no rule: `ways.py` says which way may be kept. Whatever is not as usual goes on in a task, with the very objects
that were made here, as if it had been there from the beginning.
"""

cimport cython

from asyncio import get_running_loop

from cpython.bytes cimport PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from libc.stdint cimport int64_t

import structlog

from interlock.foundation.telemetry import Outcome
from interlock.foundation.wire import Exchange, Request
from interlock.gateway.adapters.upstream_http import upstream_request_id
from interlock.gateway.domain import dialect
from interlock.gateway.domain.breaker import BreakerState
from interlock.gateway.service.passage import Passage

cdef extern from *:
    """
    #include "../../foundation/_native_slots.h"

    static Py_ssize_t places[32], spots[96];
    #define PEEK(self, slot) AT(self, places[slot])
    #define put_slot(self, slot, value) put_at(self, places[slot], value)
    #define IS_A(self, type) PyObject_TypeCheck(self, (PyTypeObject *)(type))
    """
    Py_ssize_t place_of_slot(object descriptor)
    Py_ssize_t places[32]
    Py_ssize_t spots[96]
    PyObject *PEEK(object self, int slot)
    PyObject *AT(object self, Py_ssize_t place)
    void put_slot(object self, int slot, object value)
    void put_at(object self, Py_ssize_t place, object value)
    bint IS_A(object self, object type)
    PyObject *Py_None
    PyObject *Py_True

cdef enum:
    SPOTS_MAX = 96
    UNBOUNDED = -1

cdef object log = structlog.get_logger("interlock.gateway")
cdef object CLOSED = BreakerState.CLOSED, OK = Outcome.OK
cdef tuple JSON = dialect.JSON
cdef bytes JSON_TYPE = dialect.JSON[1]

# The slots that are used, class by class, and their names in the same order.
cdef enum Slot:
    e_request, e_request_id, e_task,
    r_headers, r_peer, r_content, r_is_complete, r_refusal, r_received_us,
    p_exchange, p_frame, p_request_id, p_started, p_started_us, p_betas, p_common_headers, p_attempts, p_links, p_envelope,
    p_auth_ms, p_ttft_ms, p_upstream_ms, p_is_called, p_usage, p_outcome, p_status, p_rule, p_input_estimate,
    SLOTS
cdef str EXCHANGE = "request request_id task"
cdef str REQUEST = "headers peer _content is_complete _refusal received_us"
cdef str PASSAGE = (
    "exchange frame request_id started started_us betas common_headers attempts links envelope "
    "auth_ms ttft_ms upstream_ms is_called usage outcome status rule input_estimate"
)
# How many slots a request has, all of which are copied from whoever showed its way.
cdef int spot_count = 0


cdef class Way:
    """What is the same for all requests that go one way: those of one head, peer and alias, streamed or not.

    `blank` is a request of which nothing is known but what all share, `story` what is written of it; `told` are its
    decisions without their moments, and of the body without its detail; `headers` those that each answer has.
    """

    cdef readonly object found, blank, story, placement, place, applicable
    cdef readonly list headers
    cdef readonly tuple received, authenticated, parsed, model, route
    cdef readonly bint is_stream, is_limited
    cdef object _tenant, _counted_at, _workspace_id
    cdef long _concurrent_max

    def __init__(self, found, blank, story, place, applicable, tuple told, list headers):
        placement = blank.placement
        self.found, self.blank, self.story, self.headers = found, blank, story, headers
        self.placement, self.place, self.applicable = placement, place, applicable
        self.received, self.authenticated, self.parsed, self.model, self.route = told
        self.is_stream, self.is_limited = blank.is_stream, bool(applicable.limits)
        self._tenant, self._workspace_id, self._counted_at = blank.tenant.int, blank.workspace_id, placement.place
        most = placement.deployment.max_concurrent
        self._concurrent_max = UNBOUNDED if most is None else most


cdef class Known:
    """The ways of one head and peer, by alias, while `directory` is the one in force; `read` reads their bodies."""

    cdef readonly object directory, read
    cdef readonly dict whole, streamed

    def __init__(self, directory, read):
        self.directory, self.read, self.whole, self.streamed = directory, read, {}, {}


cdef class Errands:
    """Takes on what goes a known way; `known` is filled by whoever learns ways."""

    cdef readonly dict known
    # How many were taken on, and of these, how many went on in a task.
    cdef readonly long long taken, handed_over
    cdef object _edge, _admission, _switches, _stale_s, _renew, _chat, _estimate, _seats, _targets
    cdef object _attempts, _relay, _begin, _monotonic, _now_us
    cdef long _places, _kept
    cdef Py_ssize_t _body_bytes_max, _bodies_bytes_max, _answer_bytes_max

    def __init__(self, *, edge, admission, switches, stale_s, renew, chat, estimate, seats, targets, attempts, relay,
                 spool, clock, config):
        self.known = {}
        self._edge, self._admission, self._switches, self._stale_s, self._renew = edge, admission, switches, stale_s, renew
        self._chat, self._estimate = chat, estimate
        self._seats, self._targets, self._attempts, self._relay = seats, targets, attempts, relay
        self._begin = spool.begin
        self._monotonic, self._now_us = clock.monotonic, clock.now_us
        self._places, self._kept = seats._places, seats._kept
        self._body_bytes_max, self._bodies_bytes_max = config.body_bytes_max, config.body_bytes_held_max
        self._answer_bytes_max = config.answer_bytes_max

    def take(self, exchange, server):
        """Take a request on that goes a known way; tell whether it does. Until then nothing is changed by it."""
        cdef Errand errand
        try:
            errand = self._set_out(exchange, server)
        except Exception:
            log.exception("way_fault", request_id=exchange.request_id)
            return False
        if errand is None:
            return False
        self.taken += 1
        errand._ask()
        return True

    cdef Errand _set_out(self, exchange, server):
        cdef Known known
        cdef Way way
        cdef object request, content, envelope, passage, ask, load
        cdef double now
        if not IS_A(exchange, Exchange):
            return None
        request = checked(get(exchange, e_request), Request)
        known = self.known.get((get(request, r_headers), get(request, r_peer)))
        if known is None or known.directory is not self._admission.directory:
            return None
        content = get(request, r_content)
        if PEEK(request, r_is_complete) is not Py_True or PEEK(request, r_refusal) is not Py_None:
            return None
        if not PyBytes_CheckExact(content) or PyBytes_GET_SIZE(content) > self._body_bytes_max:
            return None
        if self._switches.kills or self._stale_s() is not None:
            return None
        now = self._monotonic()
        envelope = known.read(content)
        if envelope is None:
            return None
        way = (known.streamed if envelope.is_stream else known.whole).get(envelope.model)
        if way is None or not self._has_room(way, PyBytes_GET_SIZE(content)):
            return None
        now_us = self._now_us()
        if not self._renew(way.found, now_us):
            return None
        passage = self._passage(exchange, request, way, envelope, now, now_us)
        ask = self._estimate(envelope, way._workspace_id)
        put_slot(passage, p_input_estimate, ask.input_tokens)
        if way.is_limited:
            if not self._chat.reserve(passage, way.applicable, ask):
                return None
        return _errand(self, server, exchange, way, passage, ask, now)

    cdef bint _has_room(self, Way way, Py_ssize_t size) except -1:
        """Tell whether a place is free that is kept for nobody, and the target takes one call more."""
        if self._places - <long>self._seats.taken <= self._kept:
            return False
        if <Py_ssize_t>self._chat.body_bytes + size > self._bodies_bytes_max:
            return False
        load = self._targets.loads.get(way._counted_at)
        if load is None or load.breaker.state is not CLOSED:
            return False
        return way._concurrent_max == UNBOUNDED or <long>load.inflight < way._concurrent_max

    cdef object _passage(self, exchange, request, Way way, envelope, double now, now_us):
        """Return the request as it is once its alias is known."""
        cdef object passage = Passage.__new__(Passage), received_us = get(request, r_received_us)
        cdef double received = now - <double>(<int64_t>now_us - <int64_t>received_us) / 1e6, later = self._monotonic()
        cdef object at_us = <int64_t>((now - received) * 1e6), then_us = <int64_t>((later - received) * 1e6)
        copy_slots(way.blank, passage)
        put_slot(passage, p_exchange, exchange)
        put_slot(passage, p_request_id, self._edge.uuid_of(get(exchange, e_request_id)))
        put_slot(passage, p_started, now)
        put_slot(passage, p_started_us, received_us)
        put_slot(passage, p_auth_ms, (later - now) * 1_000)
        put_slot(passage, p_envelope, envelope)
        put_slot(passage, p_betas, [])
        put_slot(passage, p_attempts, [])
        put_slot(passage, p_common_headers, list(get(way.blank, p_common_headers)))
        put_slot(passage, p_links, list(get(way.blank, p_links)))
        passage._monotonic, passage._received = self._monotonic, received
        size = PyBytes_GET_SIZE(get(request, r_content))
        passage.decisions = [
            dated(at_us, way.received, None),
            dated(then_us, way.authenticated, None),
            dated(then_us, way.parsed, f"{size} bytes, stream true" if way.is_stream else f"{size} bytes, stream false"),
            dated(then_us, way.model, None),
        ]
        return passage


@cython.freelist(16)
cdef class Errand:
    """One request on its way; stands for its task, until it needs one."""

    cdef Errands _errands
    cdef object _server, _exchange
    cdef Way _way
    cdef double _began_at
    cdef bint _is_over
    cdef readonly object passage, ask, begun, fault

    def cancel(self):
        """Go on in a task, and cancel it: what a request holds is given back there."""
        if not self._is_over:
            get_running_loop().call_soon(self._go_on().cancel)
        return True

    def __call__(self):
        """Answer, now that the head of the answer is here; or go on in a task, where that is more than its sending."""
        if self._is_over:
            return
        try:
            is_answered = self._answer()
        except Exception as fault:
            self._fail(fault)
            return
        if is_answered:
            self._end()
        else:
            self._go_on()

    cdef int _ask(self) except -1:
        """Take what was found free, write the request down, and ask."""
        cdef Errands errands = self._errands
        cdef object passage = self.passage
        put_slot(self._exchange, e_task, self)
        try:
            errands._chat.hold(passage)
            errands._edge.enter(passage)
            self._write_down(passage)
            errands._targets.budget.note(self._began_at)
            passage.decide(*self._way.route)
            self.begun = errands._attempts.begin(passage, self._way.placement, self._way.place)
            if self.begun.sent.call.begin():
                self.begun.sent.call.listen(self)
            else:
                self._go_on()
        except Exception as fault:
            self._fail(fault)
        return 0

    cdef int _write_down(self, passage) except -1:
        """Put the request on disk, as `Passage.open` does."""
        story = self._way.story.__copy__()
        story.id, story.started_us = get(passage, p_request_id), get(passage, p_started_us)
        story.links, story.decisions = get(passage, p_links), passage.decisions
        put_slot(passage, p_frame, self._errands._begin(story))
        return 0

    cdef bint _answer(self) except -1:
        """Send a whole answer on as it is; tell whether it is one, and nothing has been done where it is none."""
        cdef Errands errands = self._errands
        cdef object passage = self.passage, sent = self.begun.sent, attempt = sent.attempt, call = sent.call, content
        if self._way.is_stream:
            return False
        content = call.whole(errands._answer_bytes_max)
        if content is None or call.status != 200 or call.headers.get(b"content-type") != JSON_TYPE:
            return False
        if not self._exchange.has_room(PyBytes_GET_SIZE(content)):
            return False
        try:
            content, usage = sent.talk.whole(content)
        except ValueError:
            return False
        put_slot(passage, p_is_called, True)
        put_slot(passage, p_usage, usage)
        attempt.status, attempt.upstream_request_id = 200, upstream_request_id(call)
        attempt.ttft_ms = errands._relay.note_first(passage) - sent.began
        passage.decide("head", "upstream.status_200", "ok", f"{PyBytes_GET_SIZE(content)} bytes")
        errands._relay.succeed(passage, OK)
        self._exchange.respond(200, errands._relay.answer_headers(passage, JSON), content)
        return True

    cdef int _end(self) except -1:
        """Let go of all that the request held, and close its story."""
        cdef Errands errands = self._errands
        cdef object passage = self.passage, sent = self.begun.sent
        self._is_over = True
        try:
            sent.call.end()
            sent.attempt.total_ms = passage.elapsed_ms() - sent.began
            put_slot(passage, p_upstream_ms, sent.attempt.total_ms)
            self.begun.call.succeeded(passage.ttft_ms - sent.began)
            errands._chat.let_go(passage)
        finally:
            errands._edge.close(passage)
            self._server.over(self._exchange)
        return 0

    cdef object _fail(self, fault):
        """Tell of a fault of ours in a task, as if it had come up there."""
        self.fault = fault
        if self.begun is not None:
            self.begun.call.abandoned()
            self.begun.sent.call.end()
        return self._go_on()

    cdef object _go_on(self):
        """Have a task take over from here."""
        self._is_over = True
        self._errands.handed_over += 1
        return self._server.go_on(self._exchange, self._serve)

    def _serve(self, exchange):
        return self._errands._edge.handle(exchange, self)


cdef Errand _errand(Errands errands, server, exchange, Way way, passage, ask, double now):
    cdef Errand errand = Errand.__new__(Errand)
    errand._errands, errand._server, errand._exchange, errand._way, errand._began_at = errands, server, exchange, way, now
    errand.passage, errand.ask = passage, ask
    return errand


cdef tuple dated(at_us, tuple told, detail):
    """Return a decision with its moment, and with a detail of its own where one is given."""
    return (at_us, told[0], told[1], told[2], told[3] if detail is None else detail)


# Slots.


cdef int find_slots() except -1:
    """Read from the classes' own descriptors where their slots lie."""
    global spot_count
    cdef Py_ssize_t slot = 0, place
    for owner, names in ((Exchange, EXCHANGE), (Request, REQUEST), (Passage, PASSAGE)):
        for name in names.split():
            place = place_of_slot(owner.__dict__[name])
            if place < 0 or slot >= SLOTS:
                raise TypeError(f"{owner.__name__}.{name} is no slot that is used")
            places[slot] = place
            slot += 1
    if slot != SLOTS or len(Passage.__slots__) > SPOTS_MAX:
        raise TypeError("slots are missing, or there are too many")
    for name in Passage.__slots__:
        spots[spot_count] = place_of_slot(Passage.__dict__[name])
        if spots[spot_count] < 0:
            raise TypeError(f"{name} is no slot")
        spot_count += 1
    return 0


find_slots()


cdef int copy_slots(object like, object made) except -1:
    """Copy every slot of a request into a new one."""
    cdef int at
    cdef PyObject *value
    for at in range(spot_count):
        value = AT(like, spots[at])
        if value is NULL:
            raise AttributeError("a slot is empty")
        put_at(made, spots[at], <object>value)
    return 0


cdef inline object get(object self, Slot slot):
    cdef PyObject *found = PEEK(self, slot)
    if found is NULL:
        raise AttributeError("a slot is empty")
    return <object>found


cdef inline object checked(object self, object kind):
    """Return an object whose slots may be looked at: one of another class has others."""
    if not IS_A(self, kind):
        raise TypeError(f"{kind.__name__} is expected")
    return self
