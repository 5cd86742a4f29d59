# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The compiled forms of rules that are arithmetic over a small state: leases of limits, places, loads and breakers.

States no refusal: what it does not let through at once is decided by the forms in Python, `pools.py`, `limits.py`,
`seats.py`, `balance.py` and `breaker.py`.
Amounts are millionths and fit 64 bits: a limit and its burst are at most 10**12, so a level is at most 10**18 either way.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.long cimport PyLong_AsLongLongAndOverflow
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.math cimport ceil, exp
from libc.stdint cimport uint64_t
from libc.string cimport memcpy

from interlock.gateway.domain.buckets import Refill, period_end_us, period_start_us
from interlock.gateway.domain.leasing import LeaseMode

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL

cdef extern from *:
    # A rate by microseconds, which does not fit 64 bits.
    ctypedef long long wide "__int128"

cdef enum:
    # Of what a story says of limits, and of the figures of one of them, each with its words.
    TEXT_ROOM = 2048
    FIGURES_ROOM = 80

# Where the step of a plan stops being the kernel's: its levels stand in the reservation itself.
LIMITS_MAX = 16
cdef long long MICRO = 1_000_000
cdef long long MINUTE_US = 60_000_000
# Amounts beyond it are no tokens that a lease could ever cover; two of them, in millionths, still fit 64 bits.
cdef long long UNITS_MAX = 4_500_000_000_000
# Of `pools.py`; with one amount more it still fits 64 bits.
cdef long long USED_MAX = 8 * 10**18
# Below it a double holds every whole number, so that a quotient of two is the one that Python finds.
cdef long long EXACT_MAX = 1LL << 53
# Of `seats.py`, `breaker.py` and `balance.py`, whose tests hold both forms to the same.
cdef double RATE_S = 5.0, DECAY_S = 10.0
cdef long long WINDOW_S = 10, NO_SECOND = -(1LL << 62)
cdef int KIND_MINUTE = 0, KIND_PERIOD = 1, KIND_SLOTS = 2
# Places of amounts: those of `Dimension`, of which the first four have headers and the last two are dollars.
cdef int HEADED = 4, SLOT = 4, USD = 5
cdef object _MINUTE = Refill.MINUTE, _SLOTS = Refill.SLOTS, _LEASED = LeaseMode.LEASED
cdef tuple _REMAINING = (
    b"x-ratelimit-remaining-requests", b"x-ratelimit-remaining-tokens", b"x-ratelimit-remaining-input-tokens",
    b"x-ratelimit-remaining-output-tokens",
)
cdef tuple _RESET = (
    b"x-ratelimit-reset-requests", b"x-ratelimit-reset-tokens", b"x-ratelimit-reset-input-tokens",
    b"x-ratelimit-reset-output-tokens",
)


cdef class PoolState:
    """What a worker holds of one bucket; its rules are `pools.Pool`'s."""

    cdef public long long left, half, level, level_us, back, spent, slots, passed, _used
    cdef public double ends_at, _mark, _rate
    cdef public bint is_renewing
    cdef public long workers
    # What an upstream says was used is added to it, whatever it says.
    cdef public object credit
    cdef object _bucket
    cdef long long _burst, _per_minute
    # The day or month that was looked up last.
    cdef long long _since_us, _until_us
    cdef int _kind

    @property
    def bucket(self):
        """The bucket, of which the figures are kept as numbers."""
        return self._bucket

    @bucket.setter
    def bucket(self, bucket):
        self._burst, self._per_minute = bucket.burst_micro, bucket.rate_micro
        refill = bucket.refill
        self._kind = KIND_MINUTE if refill is _MINUTE else KIND_SLOTS if refill is _SLOTS else KIND_PERIOD
        self._since_us = self._until_us = 0
        self._bucket = bucket

    cdef long long _level_now(self, long long now_us) except? -1:
        """Return what `Pool.level_now` does."""
        cdef long long level = self.level, passed_us
        if self.level_us and self._kind == KIND_MINUTE:
            passed_us = now_us - self.level_us
            if passed_us > 0:
                if <wide>passed_us * self._per_minute // MINUTE_US >= <wide>self._burst - level:
                    level = self._burst
                else:
                    level += <long long>(<wide>passed_us * self._per_minute // MINUTE_US)
            level = min(level, self._burst)
        elif self.level_us and self._kind == KIND_PERIOD:
            if not self._since_us <= now_us < self._until_us:
                self._since_us = period_start_us(self._bucket.refill, now_us)
                self._until_us = period_end_us(self._bucket.refill, now_us)
            if self._since_us > self.level_us:
                level = self._burst
        return min(self._burst, level + self.left)


cdef class Leases:
    """The pools of a plan in its order, with all that is said of them and does not change."""

    cdef tuple _pools, _words, _told, _scopes
    cdef bytes _places, _enforced
    cdef int _count

    def __init__(self, pools, places, enforced, words, told, scopes):
        """Take, by limit: pool, place of its amount, whether it refuses, its words, its header and that of its scope."""
        self._pools, self._words, self._told, self._scopes = tuple(pools), tuple(words), tuple(told), tuple(scopes)
        self._places, self._enforced = bytes(places), bytes(enforced)
        self._count = len(self._pools)
        if not self._count == len(self._places) == len(self._enforced) == len(self._words) == len(self._told):
            raise ValueError("one of each for each limit")
        if len(self._scopes) != self._count or self._count > LIMITS_MAX or max(places) > 6:
            raise ValueError("more limits, or another dimension, than are known here")
        for pool in self._pools:
            if not isinstance(pool, PoolState):
                raise TypeError("a pool")

    def take(self, plan, ask, double now, long long now_us, set due):
        """Take what a request asks for from the leases; None where one does not cover it, and nothing is taken.

        Pools of which less than half is left are put into `due`.
        """
        cdef long long given = _whole(ask.input_tokens), made = _whole(ask.output_tokens), usd = _whole(ask.usd_micros)
        cdef const char *places = PyBytes_AS_STRING(self._places)
        cdef const char *enforced = PyBytes_AS_STRING(self._enforced)
        cdef Leased leased
        cdef PoolState pool
        cdef long long amount
        cdef int at
        if given < 0 or made < 0 or usd < 0:
            return None
        leased = Leased.__new__(Leased)
        _fill(leased.amounts, given, made, usd, MICRO)
        for at in range(self._count):
            pool = <PoolState>self._pools[at]
            amount = leased.amounts[places[at]]
            if amount > pool.left or now > pool.ends_at or (enforced[at] and amount > pool._burst):
                return None
        for at in range(self._count):
            pool = <PoolState>self._pools[at]
            amount = leased.amounts[places[at]]
            pool.left -= amount
            pool.spent += amount
            pool._used = min(pool._used + amount, USED_MAX)
            pool.passed += 1
        for at in range(self._count):
            pool = <PoolState>self._pools[at]
            leased.levels[at] = pool._level_now(now_us)
            if pool._kind == KIND_SLOTS:
                pool.slots += leased.amounts[places[at]]
            if pool.left < pool.half:
                due.add(pool)
        leased.leases = self
        leased.plan = plan
        leased.at_us = now_us
        leased.tokens = given + made
        return leased


cdef class Leased:
    """A reservation that leases covered; says the same as `limits.Reservation`."""

    cdef Leases leases
    cdef readonly object plan
    cdef readonly long long at_us, tokens
    cdef long long[7] amounts
    cdef long long[16] levels

    @property
    def mode(self):
        """Who decided."""
        return _LEASED

    @property
    def levels_micro(self):
        """The levels of all limits after the debit."""
        return [self.levels[at] for at in range(self.leases._count)]

    def described(self):
        """Return what the story says of all buckets."""
        cdef Leases leases = self.leases
        cdef const char *places = PyBytes_AS_STRING(leases._places)
        # An old debt may be as low as 64 bits go, so that what it is less than the burst needs one bit more.
        cdef wide used
        cdef long long amount
        cdef int at
        cdef Py_ssize_t size = 0
        cdef const char *words
        cdef char[TEXT_ROOM] text
        cdef char *end = text
        for at in range(leases._count):
            words = PyUnicode_AsUTF8AndSize(<object>leases._words[at], &size)
            if size + FIGURES_ROOM > text + TEXT_ROOM - end:
                return self._described_at_length()
            if at:
                end = put_text(end, b"; ", 2)
            end = put_text(end, words, size)
            used = <wide>(<PoolState>leases._pools[at])._burst - self.levels[at]
            amount = self.amounts[places[at]]
            end = put_text(end, b" used=", 6)
            if places[at] >= USD:
                end = put_dollars(put_text(put_dollars(end, <uint64_t>used), b" requested=", 11), amount)
            else:
                end = put_digits(end, <uint64_t>((used + MICRO - 1) // MICRO))
                end = put_digits(put_text(end, b" requested=", 11), amount // MICRO)
        return PyUnicode_DecodeUTF8(text, end - text, NULL)

    cdef str _described_at_length(self):
        """Return what the story says where names of models are longer than the room that is kept for it."""
        cdef list told = []
        cdef const char *places = PyBytes_AS_STRING(self.leases._places)
        cdef int at
        for at in range(self.leases._count):
            used = <object>(<PoolState>self.leases._pools[at])._burst - <object>self.levels[at]
            amount = <object>self.amounts[places[at]]
            if places[at] >= USD:
                told.append(f"{self.leases._words[at]} used={told_usd(used)} requested={told_usd(amount)}")
            else:
                told.append(f"{self.leases._words[at]} used={-(-used // MICRO)} requested={amount // MICRO}")
        return "; ".join(told)

    def headers(self):
        """Return what `limits.rate_headers` does."""
        cdef Leases leases = self.leases
        cdef const char *places = PyBytes_AS_STRING(leases._places)
        cdef list headers = []
        cdef long long least, left
        cdef int place, at, tight
        for place in range(HEADED):
            tight, least = -1, 0
            for at in range(leases._count):
                if places[at] == place:
                    left = max(0, self.levels[at]) // MICRO
                    if tight < 0 or left < least:
                        tight, least = at, left
            if tight >= 0:
                headers.append(leases._told[tight])
                headers.append((_REMAINING[place], number_bytes(least)))
                headers.append((_RESET[place], self._reset(tight)))
        headers.append(leases._scopes[self._tightest()])
        return headers

    def give_back(self, used, set due):
        """Give back what is not used, once; return the slots that are free by pool."""
        cdef Leases leases = self.leases
        cdef const char *places = PyBytes_AS_STRING(leases._places)
        cdef long long[7] kept
        cdef long long given = 0, made = 0, usd = 0
        cdef PoolState pool
        cdef bint is_plain = True
        cdef int at
        cdef list slots = None
        for at in range(7):
            kept[at] = 0
        amounts = None
        if used is not None:
            given, made, usd = _whole(used.input_tokens), _whole(used.output_tokens), _whole(used.usd_micros)
            is_plain = given >= 0 and made >= 0 and usd >= 0
            if is_plain:
                _fill(kept, given, made, usd, 0)
            else:
                amounts = used.amounts()
        for at in range(leases._count):
            pool = <PoolState>leases._pools[at]
            if pool._kind == KIND_SLOTS:
                slots = [] if slots is None else slots
                slots.append((pool, self.amounts[places[at]]))
                continue
            unused = self.amounts[places[at]] - (kept[places[at]] if is_plain else amounts[places[at]])
            if unused:
                pool.credit = pool.credit + unused
                due.add(pool)
        return slots or ()

    cdef object _reset(self, int at):
        """Write down how long it takes until a bucket that refills by and by is full."""
        cdef PoolState pool = <PoolState>self.leases._pools[at]
        cdef wide missing = <wide>pool._burst - self.levels[at]
        cdef wide wait_us
        cdef double seconds
        cdef long long whole
        cdef char[FIGURES_ROOM] text
        cdef char *end = text
        if missing <= 0 or pool._per_minute <= 0:
            return b"0ms"
        wait_us = (missing * MINUTE_US + pool._per_minute - 1) // pool._per_minute
        if wait_us >= EXACT_MAX:
            seconds = pool._bucket.wait_us(<object>pool._burst - <object>self.levels[at], self.at_us) / MICRO
        else:
            seconds = <double><long long>wait_us / 1e6
        if seconds < 1:
            end = put_text(put_digits(text, <uint64_t>ceil(seconds * 1_000)), b"ms", 2)
            return PyBytes_FromStringAndSize(text, end - text)
        whole = <long long>ceil(seconds)
        if whole >= 60:
            end = put_text(put_digits(end, whole // 60), b"m", 1)
            whole = whole % 60
        end = put_text(put_digits(end, whole), b"s", 1)
        return PyBytes_FromStringAndSize(text, end - text)

    cdef int _tightest(self) except -1:
        """Return which bucket has the smallest part left."""
        cdef Leases leases = self.leases
        cdef PoolState pool
        cdef int at, found = 0
        cdef double part, least = 0
        if leases._count == 1:
            return 0
        for at in range(leases._count):
            pool = <PoolState>leases._pools[at]
            if -EXACT_MAX < self.levels[at] < EXACT_MAX and pool._burst < EXACT_MAX:
                part = <double>self.levels[at] / <double>pool._burst
            else:
                part = (<object>self.levels[at]) / (<object>pool._burst)
            if at == 0 or part < least:
                found, least = at, part
        return found


cdef long long _whole(object number) except? -2:
    """Return a number of tokens or of millionths of a dollar, or -1 for one that is none."""
    cdef int is_over = 0
    cdef long long value = PyLong_AsLongLongAndOverflow(number, &is_over)
    return value if not is_over and 0 <= value <= UNITS_MAX else -1


cdef str told_usd(object micros):
    """Return millionths of a dollar as `limits.told_usd` does."""
    return "%d.%06d" % divmod(micros, MICRO)


cdef inline char *put_text(char *at, const char *text, Py_ssize_t size) noexcept:
    """Write characters; like those below, return where the next one goes."""
    memcpy(at, text, size)
    return at + size


cdef char *put_digits(char *at, uint64_t number) noexcept:
    cdef char[20] digits
    cdef int count = 0
    while True:
        digits[count] = 48 + <char>(number % 10)
        count += 1
        number //= 10
        if not number:
            break
    while count:
        count -= 1
        at[0] = digits[count]
        at += 1
    return at


cdef char *put_dollars(char *at, uint64_t micros) noexcept:
    """Write millionths of a dollar as `limits.told_usd` does."""
    cdef int place
    at = put_digits(at, micros // <uint64_t>MICRO)
    at[0] = c"."
    micros %= <uint64_t>MICRO
    for place in range(6, 0, -1):
        at[place] = 48 + <char>(micros % 10)
        micros //= 10
    return at + 7


cdef bytes number_bytes(uint64_t number):
    cdef char[20] text
    return PyBytes_FromStringAndSize(text, put_digits(text, number) - text)


cdef void _fill(long long *amounts, long long given, long long made, long long usd, long long slot) noexcept:
    """Set the amounts of a request, in the order of the dimensions."""
    amounts[0] = MICRO
    amounts[1] = (given + made) * MICRO
    amounts[2] = given * MICRO
    amounts[3] = made * MICRO
    amounts[4] = slot
    amounts[5] = usd
    amounts[6] = usd


cdef class Rate:
    """What `seats.Rate` is."""

    cdef double _value, _at, _began

    def __init__(self, double now):
        self._value = 0.0
        self._at = self._began = now

    cpdef note(self, double now):
        """Count one."""
        self._value = self._faded(now) + 1 / RATE_S
        self._at = now

    def per_s(self, double now):
        """Return the rate as it stands; infinite while there is nothing to judge by."""
        cdef double seen = 1 - exp(-(now - self._began) / RATE_S)
        return self._faded(now) / seen if seen > 0.1 else float("inf")

    cdef double _faded(self, double now) noexcept:
        return self._value * exp(-(now - self._at) / RATE_S)


cdef class Sitting:
    """Who has a place: `seats.Seats` without its line. The last places are given by the rules in Python."""

    cdef public long taken, _places, _kept
    cdef public bint _is_crowded
    cdef public dict _taken, _present
    cdef public object _queue
    cdef public Rate _freed

    def sit(self, organization_id, double now):
        """Take a place if one is free for an organization; tells whether it did."""
        if self._places - self.taken <= self._kept:
            return self._sit_inside(organization_id, now)
        self._take(organization_id, now)
        return True

    def leave(self, organization_id, double now):
        """Give a place back to whoever is next."""
        self._freed.note(now)
        _lower(self._taken, organization_id)
        _lower(self._present, organization_id)
        self.taken -= 1
        if self._queue:
            self._seat_next(now)
        if 2 * self.taken < self._places:
            self._is_crowded = False

    cpdef _take(self, organization_id, double now):
        _raise(self._taken, organization_id)
        _raise(self._present, organization_id)
        self.taken += 1
        if self.taken >= self._places - self._kept and not self._is_crowded:
            self._is_crowded = True
            self._freed = Rate(now)


cdef int _raise(dict counts, object owner) except -1:
    count = counts.get(owner)
    counts[owner] = 1 if count is None else <object>(<long>count + 1)
    return 0


cdef int _lower(dict counts, object owner) except -1:
    cdef long left = <long>counts[owner] - 1
    if left:
        counts[owner] = left
    else:
        del counts[owner]
    return 0


def know_states(closed, half_open):
    """Learn the states of breakers, whose names are Python's."""
    global _closed, _half_open
    _closed, _half_open = closed, half_open


cdef object _closed = None, _half_open = None


cdef class BreakerCounts:
    """What a breaker counts while it is closed; its rules are `breaker.Breaker`'s."""

    cdef public object state
    cdef public double until, opened_at
    cdef public long opens, _passed, _connects, _calls, _failed
    cdef public bint probing
    # Seconds that are over, and the one that runs: second, calls, failures.
    cdef list _seconds
    cdef long long _second
    cdef long _second_calls, _second_failed

    def __cinit__(self):
        self._seconds = []
        self._second = NO_SECOND

    def admits(self, double now):
        """Tell whether the deployment may be called now."""
        return self.state is _closed or self._admits(now)

    def begin(self):
        """Note a call that was admitted; return whether it is the probe."""
        self.probing = self.state is _half_open
        return self.probing

    def succeed(self, double now, *, bint is_probe):
        """Note a call that was answered."""
        self._connects = 0
        if is_probe or self.state is not _closed:
            self._succeed(now, is_probe=is_probe)
        else:
            self._count(now, 0)

    cpdef _count(self, double now, long failed):
        cdef long long second = <long long>now
        if second != self._second:
            if self._second != NO_SECOND:
                self._seconds.append((self._second, self._second_calls, self._second_failed))
            self._second, self._second_calls, self._second_failed = second, 0, 0
            while self._seconds and self._seconds[0][0] <= second - WINDOW_S:
                _, calls, bad = self._seconds.pop(0)
                self._calls -= calls
                self._failed -= bad
        self._second_calls += 1
        self._second_failed += failed
        self._calls += 1
        self._failed += failed

    def _forget(self):
        self._seconds.clear()
        self._second = NO_SECOND
        self._calls = self._failed = self._connects = 0


cdef class LoadState:
    """What `balance.Load` knows of one deployment."""

    cdef public long inflight
    cdef public object breaker
    cdef public double _peak_ms, _at

    def observe(self, double latency_ms, double now):
        """Note how long a call took until its first output."""
        cdef double kept = exp(-max(0.0, now - self._at) / DECAY_S)
        self._peak_ms = max(latency_ms, self._peak_ms * kept + latency_ms * (1 - kept))
        self._at = now


cdef class Call:
    """One call of a deployment; ended once, by what it said. What it says of a failure, `targets.Call` knows."""

    cdef readonly object _targets, _place
    cdef readonly LoadState _load
    cdef readonly double _began
    cdef readonly bint _is_pooled, _is_probe
    cdef bint _is_over

    def __init__(self, targets, place, LoadState load, double now, bint is_pooled):
        self._targets, self._place, self._load, self._began, self._is_pooled = targets, place, load, now, is_pooled
        self._is_probe = (<BreakerCounts?>load.breaker).begin()
        load.inflight += 1

    def succeeded(self, double first_ms):
        """The deployment answered; `first_ms` is the time to its first output."""
        cdef double now
        if self._closed():
            now = self._targets.clock.monotonic()
            self._load.observe(first_ms, now)
            (<BreakerCounts?>self._load.breaker).succeed(now, is_probe=self._is_probe)

    def abandoned(self):
        """The call ended without a word about the deployment."""
        if self._closed() and self._is_probe:
            self._load.breaker.probing = False

    cpdef bint _closed(self) except? -1:
        if self._is_over:
            return False
        self._is_over = True
        self._load.inflight -= 1
        self._targets.freed(self._place)
        return True
