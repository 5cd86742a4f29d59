# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, binding=False
"""The usual request without a task: it goes a way that one like it went before, and the call that brings its answer
also sends it.

States no rule: `ways.py` says which way may be kept. Whatever is not as usual goes on in a task, with the very objects
that were made here, as if it had been there from the beginning.
"""

cimport cython

from asyncio import get_running_loop

from cpython.bytes cimport PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from libc.stdint cimport int64_t
from libc.stdio cimport snprintf

import structlog

from interlock.foundation.telemetry import Attempt, Outcome, Timing
from interlock.foundation.telemetry import traces
from interlock.foundation.telemetry.traces import parent_lines
from interlock.foundation.wire import Exchange, Request, Timeouts
from interlock.gateway.adapters.upstream_http import upstream_request_id
from interlock.gateway.domain import dialect
from interlock.gateway.domain.breaker import BreakerState
from interlock.gateway.domain.cost import cost_usd_micros
from interlock.gateway.domain.envelope import encode_for_upstream
from interlock.gateway.domain.events import read_reply
from interlock.gateway.domain.limits import Used
from interlock.gateway.domain.translate.talk import Facts, talk_of
from interlock.gateway.service.admit import ANY_MODE
from interlock.gateway.service.attempts import Begun
from interlock.gateway.service.passage import Passage
from interlock.gateway.service.relay import Sent
from interlock.gateway.service.targets import Call

cdef extern from *:
    """
    #include "../../foundation/_native_slots.h"

    static Py_ssize_t places[48], spots[96];
    #define PEEK(self, slot) AT(self, places[slot])
    #define put_slot(self, slot, value) put_at(self, places[slot], value)
    #define IS_A(self, type) PyObject_TypeCheck(self, (PyTypeObject *)(type))
    """
    Py_ssize_t place_of_slot(object descriptor)
    Py_ssize_t places[48]
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
    TIMING_ROOM = 128
    PARENT_ROOM = 128
    UNBOUNDED = -1

cdef object log = structlog.get_logger("interlock.gateway")
cdef object CLOSED = BreakerState.CLOSED, OK = Outcome.OK
cdef tuple JSON = dialect.JSON
cdef bytes JSON_TYPE = dialect.JSON[1]
cdef str ANTHROPIC = dialect.ANTHROPIC
cdef bytes NOTHING = b""
cdef object WORD = traces._MASK
cdef unsigned long long SPREAD = traces._SPREAD

# The slots that are used, class by class, and their names in the same order.
cdef enum Slot:
    e_request, e_request_id, e_task,
    r_headers, r_peer, r_content, r_is_complete, r_refusal, r_received_us,
    p_exchange, p_frame, p_request_id, p_started, p_started_us, p_betas, p_common_headers, p_attempts, p_links, p_envelope,
    p_auth_ms, p_ttft_ms, p_upstream_ms, p_is_called, p_usage, p_outcome, p_status, p_rule, p_input_estimate, p_reservation, p_dialect,
    p_settled, p_cost, p_arm, p_ask,
    SLOTS
cdef str EXCHANGE = "request request_id task"
cdef str REQUEST = "headers peer _content is_complete _refusal received_us"
cdef str PASSAGE = (
    "exchange frame request_id started started_us betas common_headers attempts links envelope "
    "auth_ms ttft_ms upstream_ms is_called usage outcome status rule input_estimate reservation dialect "
    "_settled cost_usd_micros arm ask"
)
# How many slots a request has, all of which are copied from whoever showed its way.
cdef int spot_count = 0


cdef class Way:
    """What is the same for all requests that go one way: those of one head, peer and alias, streamed or not.

    `blank` is a request of which nothing is known but what all share, `story` what is written of it; `told` are its
    decisions without their moments, and of the body without its detail; `headers` those that each answer has. `ask`
    asks the place by a body and times. `limits` are the buckets of `applicable`, and `reserved` is how a story says that
    leases covered them.
    """

    cdef readonly object found, blank, story, place, plan, applicable, ask
    cdef readonly list headers
    cdef readonly tuple received, authenticated, parsed, model, route, attempt, reserved
    # The trace of the head, where it has one, and the end of what is said of it; None where the model server is not ours.
    cdef readonly tuple trace
    cdef readonly bint is_stream, is_limited, is_chat
    cdef bint _is_priced
    # What takes from leases what a request asks for; None where its price has to be asked first, or in Python.
    cdef object _limits, _take
    cdef object _tenant, _counted_at, _workspace_id, _placement, _rule
    cdef double _total_s, _connect_s, _first_byte_s, _idle_s
    cdef long _concurrent_max

    def __init__(self, *, found, blank, story, place, plan, applicable, limits, tuple reserved, tuple told, list headers, ask,
                 timeouts, bint is_chat, tuple trace):
        placement = blank.placement
        self.found, self.blank, self.story, self.headers = found, blank, story, headers
        self.place, self.plan, self.applicable, self.ask, self.is_chat = place, plan, applicable, ask, is_chat
        self.trace = trace
        self.received, self.authenticated, self.parsed, self.model, self.route, self.attempt = told
        self.is_stream, self.is_limited = blank.is_stream, bool(applicable.limits)
        self._limits, self.reserved, self._take = limits, reserved, None
        if limits.leases is not None and not applicable.counts_usd:
            self._take = limits.leases.take
        self._tenant, self._workspace_id, self._counted_at = blank.tenant.int, blank.workspace_id, placement.place
        self._placement, self._rule, self._total_s = placement, placement.rule, blank.total_s
        self._is_priced = placement.deployment.input_price_micro is not None
        self._connect_s, self._first_byte_s, self._idle_s = timeouts.connect_s, timeouts.first_byte_s, timeouts.idle_s
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
    cdef object _edge, _admission, _switches, _stopped, _stale_s, _renew, _chat, _estimator, _estimate, _entrance, _seats
    cdef object _targets, _limiter, _finished, _relay, _begin, _monotonic, _now_us
    cdef set _passages, _due
    cdef dict _minted
    cdef long _places, _kept
    cdef Py_ssize_t _body_bytes_max, _bodies_bytes_max, _answer_bytes_max, _event_bytes_max

    def __init__(self, *, edge, set passages, dict minted, stale_s, chat, finished, admission, switches, renew, estimator,
                 entrance, targets, limiter, relay, spool, clock, config):
        self.known = {}
        self._edge, self._passages, self._minted, self._stale_s, self._chat = edge, passages, minted, stale_s, chat
        self._admission, self._switches, self._renew, self._finished = admission, switches, renew, finished
        self._stopped = admission.stopped
        self._estimator, self._estimate, self._limiter, self._due = estimator, estimator.ask, limiter, limiter.due
        self._entrance, self._seats, self._targets, self._relay = entrance, entrance.seats, targets, relay
        self._begin = spool.begin
        self._monotonic, self._now_us = clock.monotonic, clock.now_us
        self._places, self._kept = self._seats._places, self._seats._kept
        self._body_bytes_max, self._bodies_bytes_max = config.body_bytes_max, config.body_bytes_held_max
        self._answer_bytes_max, self._event_bytes_max = config.answer_bytes_max, config.event_bytes_max

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
        cdef Errand errand
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
        if self._stale_s() is not None:
            return None
        now = self._monotonic()
        envelope = known.read(content)
        if envelope is None:
            return None
        way = (known.streamed if envelope.is_stream else known.whole).get(envelope.model)
        if way is None or (self._switches.kills and self._stopped(way.blank, ANY_MODE) is not None):
            return None
        load = self._free(way, PyBytes_GET_SIZE(content))
        if load is None:
            return None
        now_us = self._now_us()
        if not self._renew(way.found, now_us):
            return None
        passage = self._passage(exchange, request, way, envelope, now, now_us)
        ask = self._estimate(envelope, way._workspace_id)
        put_slot(passage, p_input_estimate, ask.input_tokens)
        put_slot(passage, p_ask, ask)
        if way.is_limited:
            if not self._reserve(way, passage, ask, now, now_us):
                return None
        errand = Errand.__new__(Errand)
        errand._errands, errand._server, errand._exchange, errand._way = self, server, exchange, way
        errand._started, errand._size, errand._load = now, PyBytes_GET_SIZE(content), load
        errand.passage, errand.ask = passage, ask
        return errand

    cdef bint _reserve(self, Way way, passage, ask, double now, now_us) except -1:
        """Reserve what a request asks for, where leases cover it, as `ChatService.reserve` does; tell whether they do."""
        cdef object reservation
        cdef bint was_due = bool(self._due)
        if way._take is None:
            return self._chat.reserve(passage, way.applicable, ask)
        reservation = way._take(way._limits, ask, now, now_us, self._due)
        if reservation is None:
            return False
        self._limiter.note_leased(was_due)
        put_slot(passage, p_reservation, reservation)
        decisions = <list>passage.decisions
        # At the moment at which its alias was known.
        decisions.append(dated(decisions[len(decisions) - 1][0], way.reserved, reservation.described()))
        return True

    cdef object _free(self, Way way, Py_ssize_t size):
        """Return the load of the target, if it takes one call more and a place is free that is kept for nobody."""
        if self._places - <long>self._seats.taken <= self._kept:
            return None
        if <Py_ssize_t>self._chat.body_bytes + size > self._bodies_bytes_max:
            return None
        load = self._targets.loads.get(way._counted_at)
        if load is None or load.breaker.state is not CLOSED:
            return None
        return load if way._concurrent_max == UNBOUNDED or <long>load.inflight < way._concurrent_max else None

    cdef object _passage(self, exchange, request, Way way, envelope, double now, now_us):
        """Return the request as it is once its alias is known."""
        cdef object passage = Passage.__new__(Passage), received_us = get(request, r_received_us)
        cdef double received = now - <double>(<int64_t>now_us - <int64_t>received_us) / 1e6, later = self._monotonic()
        cdef object at_us = <int64_t>((now - received) * 1e6), then_us = <int64_t>((later - received) * 1e6)
        copy_slots(way.blank, passage)
        put_slot(passage, p_exchange, exchange)
        request_id = get(exchange, e_request_id)
        put_slot(passage, p_request_id, self._minted.pop(request_id, None) or self._edge.uuid_of(request_id))
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
    cdef object _server, _exchange, _load, _talk, _attempt, _call, _target
    cdef Way _way
    cdef double _started, _began_ms
    cdef Py_ssize_t _size
    cdef bint _is_over
    # The task that has taken over, until its first step.
    cdef object _task
    cdef readonly object passage, ask, fault

    @property
    def begun(self):
        """The call of the model server, as the rules have it; None where it was not begun."""
        if self._target is None:
            return None
        sent = Sent(self._talk or self._made_talk(), self._attempt, self._began_ms, self._call)
        return Begun(self._target, sent, self._way.plan)

    def cancel(self):
        """Go on in a task, and cancel it: what a request holds is given back there."""
        if not self._is_over:
            self._go_on()
        if self._task is not None:
            # A task that is cancelled before its first step never takes it, and gives nothing back.
            get_running_loop().call_soon(self._task.cancel)
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
        if not is_answered:
            self._go_on()
            return
        try:
            self._end()
        except Exception:
            # The answer is out, and the connection that brought it is others' by now.
            log.exception("errand_fault", request_id=self._exchange.request_id)

    cdef int _ask(self) except -1:
        """Take what was found free, write the request down, and ask."""
        cdef Errands errands = self._errands
        put_slot(self._exchange, e_task, self)
        if not errands._seats.sit(self._way._tenant, self._started):
            raise RuntimeError("no place is free")
        errands._chat.body_bytes += self._size
        errands._passages.add(self.passage)
        try:
            self._write_down()
            self._put()
            if self._call.begin():
                self._call.listen(self)
            else:
                self._go_on()
        except Exception as fault:
            self._fail(fault)
        return 0

    cdef int _write_down(self) except -1:
        """Put the request on disk, as `Passage.open` does."""
        cdef object passage = self.passage, story = self._way.story.__copy__()
        story.id, story.started_us = get(passage, p_request_id), get(passage, p_started_us)
        story.links, story.decisions = get(passage, p_links), passage.decisions
        put_slot(passage, p_frame, self._errands._begin(story))
        return 0

    cdef int _put(self) except -1:
        """Put the question to the only target there is, as `Attempts.run` and `Relay.put` do."""
        cdef Errands errands = self._errands
        cdef Way way = self._way
        cdef object passage = self.passage, envelope = get(passage, p_envelope), place = way.place
        cdef double now = errands._monotonic()
        errands._targets.budget.note(now)
        at_us = <int64_t>((now - <double>passage._received) * 1e6)
        decisions = <list>passage.decisions
        decisions.append(dated(at_us, way.route, None))
        if way.is_chat:
            # Nobody translates: a talk is made for whoever takes over.
            body = encode_for_upstream(envelope, place.model)
        else:
            self._talk = self._made_talk()
            body = self._talk.question(place.model).body
        self._attempt = Attempt(n=1, deployment=way._placement.deployment.name)
        put_slot(passage, p_attempts, [self._attempt])
        decisions.append(dated(at_us, way.attempt, None))
        self._began_ms = (now - self._started) * 1_000
        left_s = max(0.001, way._total_s - (now - self._started))
        timeouts = Timeouts(way._connect_s, way._first_byte_s, way._idle_s, left_s)
        self._call = way.ask(body, timeouts, NOTHING if way.trace is None else self._parent())
        self._target = Call(errands._targets, way._counted_at, self._load, now, False)
        return 0

    cdef bytes _parent(self):
        """Return the lines that name the parent of the model server's spans, as `parent_lines` does."""
        cdef object number = get(self.passage, p_request_id).int, end = self._way.trace[1]
        cdef unsigned long long low = number & WORD, high = number >> 64, span = low ^ SPREAD
        cdef char text[PARENT_ROOM]
        cdef int size
        if self._way.trace[0] is not None:
            return parent_lines(get(self.passage, p_request_id), 1, *self._way.trace)
        size = snprintf(text, PARENT_ROOM, b"traceparent: 00-%016llx%016llx-%016llx", high, low, span or 1)
        return PyBytes_FromStringAndSize(text, size) + <bytes>end

    cdef object _made_talk(self):
        """Return how caller and model server talk, as `Relay.put` does."""
        cdef object passage = self.passage
        created_s = <int64_t>get(passage, p_started_us) // 1_000_000
        request_id, estimate = get(self._exchange, e_request_id), get(passage, p_input_estimate)
        facts = Facts(request_id, created_s, estimate, self._errands._event_bytes_max)
        return talk_of(get(passage, p_envelope), self._way.place.dialect, facts)

    cdef bint _answer(self) except -1:
        """Send a whole answer on as it is; tell whether it is one, and nothing has been done where it is none."""
        cdef Errands errands = self._errands
        cdef Way way = self._way
        cdef object passage = self.passage, call = self._call, attempt = self._attempt, content
        cdef double now
        if way.is_stream:
            return False
        content = call.whole(errands._answer_bytes_max)
        if content is None or call.status != 200 or call.headers.get(b"content-type") != JSON_TYPE:
            return False
        if not self._exchange.has_room(PyBytes_GET_SIZE(content)):
            return False
        try:
            if way.is_chat:
                usage = read_reply(content)
            else:
                content, usage = self._talk.whole(content)
        except ValueError:
            return False
        now = errands._monotonic()
        ttft_ms = (now - self._started) * 1_000
        put_slot(passage, p_is_called, True)
        put_slot(passage, p_usage, usage)
        put_slot(passage, p_ttft_ms, ttft_ms)
        attempt.status, attempt.upstream_request_id = 200, upstream_request_id(call)
        attempt.ttft_ms = <double>ttft_ms - self._began_ms
        passage.decide("head", "upstream.status_200", "ok", f"{PyBytes_GET_SIZE(content)} bytes")
        put_slot(passage, p_outcome, OK)
        put_slot(passage, p_status, 200)
        put_slot(passage, p_rule, way._rule)
        self._exchange.respond(200, self._headers(ttft_ms), content)
        return True

    cdef list _headers(self, double ttft_ms):
        """Return the headers of the answer, as `Relay.answer_headers` does."""
        cdef object passage = self.passage, reservation = get(passage, p_reservation)
        cdef double auth_ms = get(passage, p_auth_ms)
        cdef list headers
        cdef char text[TIMING_ROOM]
        cdef int size = snprintf(text, TIMING_ROOM, b"auth;dur=%.1f, upstream;dur=%.1f", auth_ms, ttft_ms)
        if size >= TIMING_ROOM or (reservation is not None and get(passage, p_dialect) == ANTHROPIC):
            return self._errands._relay.answer_headers(passage, JSON)
        headers = self._way.headers.copy()
        headers.append((b"server-timing", PyBytes_FromStringAndSize(text, size)))
        if reservation is not None:
            headers += reservation.headers()
        headers += <list>get(passage, p_common_headers)
        return headers

    cdef int _end(self) except -1:
        """Let go of all that the request held, and close its story; a fault in one of these leaves out none of the others."""
        cdef Errands errands = self._errands
        cdef object passage = self.passage, attempt = self._attempt
        cdef double now
        self._is_over = True
        try:
            self._call.end()
            now = errands._monotonic()
            total_ms = (now - self._started) * 1_000 - self._began_ms
            attempt.total_ms = total_ms
            put_slot(passage, p_upstream_ms, total_ms)
            self._target.succeeded(attempt.ttft_ms)
        finally:
            try:
                errands._chat.body_bytes -= self._size
                errands._entrance.give_back(self._way._tenant)
                self._target.abandoned()
                self._close()
            finally:
                self._server.over(self._exchange)
        return 0

    cdef int _close(self) except -1:
        """Settle the request and close its story, as `Edge.close` does; that does it where usage has to be estimated."""
        cdef Errands errands = self._errands
        cdef Way way = self._way
        cdef object passage = self.passage, usage = get(passage, p_usage), reservation = get(passage, p_reservation)
        cdef double total_ms
        if usage is None or usage.input_tokens is None or usage.output_tokens is None:
            errands._edge.close(passage)
            return 0
        errands._passages.discard(passage)
        put_slot(passage, p_settled, True)
        errands._estimator.observe(get(passage, p_envelope), way._workspace_id, usage.input_tokens)
        if way._is_priced:
            put_slot(passage, p_cost, cost_usd_micros(way._placement.deployment, usage))
        if reservation is not None:
            used = Used(usage.input_tokens, usage.output_tokens, get(passage, p_cost) or 0)
            tokens = used.input_tokens + used.output_tokens
            passage.decide("settle", "limits", "settled", f"reserved {reservation.tokens} used {tokens}")
            errands._limiter.settle(passage, used)
        passage.decide("finished", way._rule, OK, "status 200")
        frame = get(passage, p_frame)
        story = frame.story
        story.outcome, story.status, story.rule, story.arm = OK, 200, way._rule, get(way.blank, p_arm)
        story.attempts, story.usage = get(passage, p_attempts), usage
        if way._is_priced:
            story.cost = passage.cost(way._placement)
        total_ms = (<double>errands._monotonic() - self._started) * 1_000
        story.timing = Timing(
            auth_ms=get(passage, p_auth_ms), ttft_ms=get(passage, p_ttft_ms), total_ms=total_ms,
            gateway_ms=max(0.0, total_ms - <double>get(passage, p_upstream_ms)),
        )
        frame.close(story)
        errands._finished(passage)
        return 0

    cdef int _fail(self, fault) except -1:
        """Tell of a fault of ours in a task, as if it had come up there."""
        self.fault = fault
        if self._target is not None:
            self._target.abandoned()
        if self._call is not None:
            self._call.end()
        return self._go_on()

    cdef int _go_on(self) except -1:
        """Have a task take over from here."""
        self._is_over = True
        self._errands.handed_over += 1
        self._task = self._server.go_on(self._exchange, self._serve)
        put_slot(self._exchange, e_task, self)
        return 0

    def _serve(self, exchange):
        put_slot(exchange, e_task, self._task)
        self._task = None
        return self._errands._edge.handle(exchange, self)


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
