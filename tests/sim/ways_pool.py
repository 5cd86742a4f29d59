"""A scheduler in memory: places on the engine of the pool `p`, each as it was drawn before.

Orders nothing and knows no shares; what became of each place is written down.
"""

from dataclasses import asdict

from interlock.contracts.scheduling import (
    AdoptReply,
    Granted,
    GrantProgress,
    Predicted,
    ProgressReply,
    Refused,
    Settled,
)

ENGINE = "http://192.0.2.20:8000"


class Grants:
    """`plans` are answers in order of the questions: seconds of waiting, a refusal, when the place is taken back."""

    def __init__(self, clock, plans):
        self._clock, self._plans = clock, plans
        self._asked = 0
        self._held = {}
        self.told = []
        self.is_away = False

    async def acquire(self, request):
        number, self._asked = self._asked, self._asked + 1
        wait_s, refused, revoked_s = self._plans[number % len(self._plans)]
        self.told.append(("asked", asdict(request)))
        if self.is_away:
            return Refused("no_capacity", 503, 1.0)
        # At a moment of its own, as those of the world are.
        await self._clock.sleep(wait_s + 5e-5 + number * 1e-7)
        if refused is not None:
            code, status, retry_s = refused
            return Refused(code, status, retry_s, "", {"rule": f"pool.{code}"}, ({"step": "refused"},))
        grant_id = f"gnt_{number}"
        self._held[grant_id] = self._clock.monotonic() + revoked_s
        return Granted(
            grant_id=grant_id, engine_id="eng_1", engine_url=ENGINE, engine_model="model-p", expires_in_ms=10_000,
            queue_wait_ms=round(wait_s * 1_000), predicted=Predicted(50, None, None, None), promise="none",
            decision=({"step": "granted", "engine": "eng_1"},),
        )  # fmt: skip

    async def progress(self, grants: list[GrantProgress]):
        now = self._clock.monotonic()
        revoked = tuple(each.grant_id for each in grants if self._held.get(each.grant_id, now) < now)
        self.told += [("revoked", each) for each in revoked]
        for each in revoked:
            del self._held[each]
        return ProgressReply((), revoked)

    async def settle(self, grant_id, settlement):
        if self.is_away:
            raise ConnectionError("away")
        self._held.pop(grant_id, None)
        self.told.append(("settled", grant_id, asdict(settlement)))
        return Settled(True, settlement.input_tokens, 0, "0", 0)

    async def cancel(self, request_id):
        self.told.append(("canceled", request_id))

    async def adopt(self, _worker, grants):
        return AdoptReply(len(grants), ())

    @property
    def held(self):
        """How many places are given."""
        return len(self._held)
