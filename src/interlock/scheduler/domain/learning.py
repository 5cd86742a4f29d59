"""What a pool learns from the tokens of a running request: how fast prompts are read, and how well it predicted.

Decides nothing; `policy.py` does.
"""

from typing import TYPE_CHECKING, Final

from interlock.contracts.scheduling import SettleOutcome
from interlock.scheduler.domain.replicas import Running

if TYPE_CHECKING:
    from interlock.scheduler.domain.policy import Policy


# Two probes in a row find a dead engine out in about this time.
DOUBT_US: Final = 2_000_000


def note_output(policy: "Policy", now_us: int, running: Running, output_tokens: int, ttft_ms: int | None) -> None:
    """Take in what an edge saw of a running request."""
    replica = policy.fleet.replicas.get(running.engine_id)
    if running.ttft_ms is None and ttft_ms is not None and replica is not None:
        running.ttft_ms = ttft_ms
        first_us = running.granted_us + ttft_ms * 1_000
        replica.ttft_ms.add(ttft_ms)
        replica.first_token(running, min(now_us, first_us))
        policy.served.note(running.ask.prefill)
        if running.first_due_us is not None:
            policy.residuals.add(first_us - running.first_due_us)
    if output_tokens > running.output_tokens:
        policy.served.note(2 * (output_tokens - running.output_tokens))
        running.output_tokens = output_tokens


def note_stream(policy: "Policy", now_us: int, running: Running, output_tokens: int, *, is_ended: bool) -> None:
    """Learn how far apart tokens come from an answer that is seen to grow.

    What is heard at its end alone would make a slow engine of a slow caller; it counts where it may free an engine.
    """
    replica = policy.fleet.replicas.get(running.engine_id)
    if replica is not None and running.ttft_ms is not None and (replica.tempo.is_held or not is_ended):
        replica.streamed(running, now_us, output_tokens, policy.rules.gaps_us)


def note_whole(policy: "Policy", now_us: int, running: Running, output_tokens: int) -> None:
    """Learn from an answer that came whole: its prompt was read before the tokens that followed were made."""
    policy.served.note(running.ask.prefill)
    replica = policy.fleet.replicas.get(running.engine_id)
    if replica is not None:
        made_us = max(0, output_tokens - 1) * replica.tpot_us
        replica.first_token(running, max(running.granted_us + 1, now_us - made_us))


def note_silence(policy: "Policy", now_us: int, running: Running, outcome: SettleOutcome) -> None:
    """Ask others for a moment after a grant ended without a byte: whoever is asked again would meet it again."""
    replica = policy.fleet.replicas.get(running.engine_id)
    is_failed = outcome in {SettleOutcome.UPSTREAM_ERROR, SettleOutcome.TIMEOUT}
    if replica is not None and is_failed and running.ttft_ms is None:
        replica.doubted_until_us = now_us + DOUBT_US
