"""A recorded log is decided alike again; a changed line is named, and what is no log is refused."""

import random

import pytest

from interlock.contracts.scheduling import AdoptedGrant, Settlement, SettleOutcome
from interlock.scheduler.domain.decisions import RecordedPolicy, replay_decisions
from interlock.scheduler.domain.log_lines import LogInvalidError
from interlock.scheduler.domain.types import EngineCondition
from tests.scheduler.calls import grant_request
from tests.scheduler.test_policy import READY, RULES, SECOND, tenant


def recorded(seed, events=400):
    """Return the lines of a random life of a pool: every kind of call, in an order that only the seed decides."""
    dice, lines, now_us = random.Random(seed), [], 0
    policy = RecordedPolicy(RULES, {str(tenant(1)): 3.0}, lines.append)

    policy.engine_changed(0, READY)
    for number in range(events):
        now_us += dice.randrange(120_000)
        live = list(policy.running)
        match dice.randrange(9):
            case 0 | 1 | 2:
                request = grant_request(
                    f"r{number}", organization=tenant(dice.randrange(4)), input_tokens=dice.randrange(1, 700),
                    deadline_ms=dice.choice([None, 900, 60_000]), prefix=tuple(f"{each:016x}" for each in range(3)),
                )  # fmt: skip
                policy.arrive(now_us, request)
            case 3 | 4 if live:
                policy.progress(now_us, dice.choice(live), dice.randrange(9), dice.choice([None, 70, 400]))
            case 5 if live:
                outcome = dice.choice(list(SettleOutcome))
                policy.settle(now_us, dice.choice(live), Settlement(outcome, 30, 4, dice.randrange(20), 90, 300))
            case 6 if policy.waiting:
                policy.cancel(now_us, dice.choice(list(policy.waiting)))
            case 7:
                policy.engine_scraped(now_us, "eng_a", dice.randrange(3), 0.9)
                policy.statistics(now_us)
            case 8:
                condition = dice.choice([EngineCondition.READY, EngineCondition.READY, EngineCondition.DOWN])
                policy.engine_changed(now_us, type(READY)(**{**_fields(READY), "condition": condition}))
        policy.expire(now_us)
        policy.next_grants(now_us)
    policy.adopt(now_us, AdoptedGrant(grant_request("old"), "gnt_a", "eng_a", 30, 2))
    policy.recall(now_us, policy.keep())
    policy.configure(now_us, RULES, {})
    policy.drain(now_us + SECOND, is_draining=True)
    return lines


def _fields(value):
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


@pytest.mark.parametrize("seed", range(12))
def test_what_was_recorded_is_decided_alike_again(seed):
    lines = recorded(seed)
    fed, difference = replay_decisions(lines)
    assert difference is None
    assert fed == len(lines) - 1
    assert {b"arrive", b"settle", b"progress", b"cancel"} <= {line.split(b'"')[3] for line in lines}


def test_one_changed_line_is_named():
    lines = recorded(3)
    at = next(number for number, line in enumerate(lines) if b'"promise":"final"' in line and b'"arrive"' in line)
    lines[at] = lines[at].replace(b'"promise":"final"', b'"promise":"provisional"')
    fed, difference = replay_decisions(lines)
    assert (difference.line, difference.call, fed) == (at + 1, "arrive", at)
    assert '"provisional"' in difference.recorded
    assert '"final"' in difference.decided


@pytest.mark.parametrize(
    "content",
    [b"{", b"[]", b"\xff", b'{"call":"arrive","at_us":1,"args":[],"result":null}',
     b'{"call":"fly","at_us":1,"args":[],"result":null}'],
)  # fmt: skip
def test_what_is_no_log_is_refused_with_its_line(content):
    with pytest.raises(LogInvalidError, match="line 2"):
        replay_decisions([recorded(1, events=0)[0], content])
    with pytest.raises(LogInvalidError, match="line 1"):
        replay_decisions([content])
