"""The life of one pool in virtual time: arrivals of many workspaces, engines that read in order, edges that report."""

import heapq
import random
from dataclasses import replace
from itertools import count
from uuid import UUID

from interlock.contracts.scheduling import Refused, Settlement, SettleOutcome
from interlock.foundation.ids import WorkspaceId
from interlock.scheduler.domain.decisions import RecordedPolicy
from tests.scheduler.calls import grant_request
from tests.scheduler.test_policy import READY, RULES, SECOND, tenant

# Prompts of 20 to 400 tokens at 1,000 a second: 1.0 offers what the engine can read.
MEAN_TOKENS = 210
RULES_OF_A_LIFE = replace(RULES, queue_seats_max=500, tenant_seats_max=500)
ENGINE = replace(READY, slots=16, kv_tokens=16_384, tpot_ms=10.0)


class Life:
    """Drives a core; `ended` is told of every request that was served to its end."""

    def __init__(self, core, seed, *, load, workspaces=40, engines=(ENGINE,)):
        self.core, self.dice, self.load, self.workspaces = core, random.Random(seed), load, workspaces
        self.events, self.order = [], count()
        self.now_us, self.number = 0, 0
        self.read_by_us = dict.fromkeys((each.engine_id for each in engines), 0)
        self.granted, self.in_slo, self.looks = [], {}, []
        for each in engines:
            core.engine_changed(0, each)

    def run(self, seconds, looked=None):
        self.at(self.now_us, self.arrive, self.now_us + seconds * SECOND)
        self.at(self.now_us, self.tick)
        while self.events:
            self.now_us, _, act, arguments = heapq.heappop(self.events)
            act(*arguments)
            self.pump()
            if looked is not None:
                looked(self)
        return self

    def at(self, when_us, act, *arguments):
        heapq.heappush(self.events, (round(when_us), next(self.order), act, arguments))

    def arrive(self, until_us):
        name, dice = f"r{self.number}", self.dice
        self.number += 1
        request = replace(
            grant_request(
                name, organization=tenant(dice.randrange(1, 9)), input_tokens=dice.randrange(20, 401), max_tokens=40
            ),
            workspace_id=WorkspaceId(UUID(int=dice.randrange(1, self.workspaces + 1))),
        )
        self.core.arrive(self.now_us, request)
        if dice.random() < 0.03:
            self.at(self.now_us + dice.randrange(1, SECOND), self.leave, name)
        after_us = self.now_us + dice.expovariate(self.load * 1_000 / MEAN_TOKENS) * SECOND
        if after_us < until_us:
            self.at(after_us, self.arrive, until_us)

    def leave(self, name):
        self.core.cancel(self.now_us, name)

    def tick(self):
        self.core.expire(self.now_us)
        if not self.core.is_idle or self.events:
            self.at(self.now_us + SECOND // 4, self.tick)

    def pump(self):
        for grant in self.core.next_grants(self.now_us):
            self.granted.append(grant)
            name, engine = grant.request.request_id, grant.engine.engine_id
            read_us = grant.request.input_tokens * SECOND / grant.engine.prefill_tps
            first_us = max(self.now_us, self.read_by_us[engine]) + read_us
            self.read_by_us[engine] = first_us
            tokens = self.dice.randrange(1, 41)
            end_us = first_us + (tokens - 1) * 10_000
            self.at(first_us, self.first, name, round(first_us - self.now_us) // 1_000)
            self.at(end_us, self.end, grant, tokens, (first_us - self.now_us) // 1_000, (end_us - self.now_us) // 1_000)

    def first(self, name, ttft_ms):
        self.core.progress(self.now_us, name, 1, ttft_ms)

    def end(self, grant, tokens, ttft_ms, total_ms):
        name, read = grant.request.request_id, grant.request.input_tokens
        settlement = Settlement(SettleOutcome.OK, read, 0, tokens, round(ttft_ms), round(total_ms))
        self.in_slo[name] = self.core.settle(self.now_us, name, settlement).in_slo


def recording(rules=RULES_OF_A_LIFE):
    return RecordedPolicy(rules, {}, None)


def is_refused(arrival):
    return isinstance(arrival.outcome, Refused)
