"""What an answer cost, by the price of its deployment.

Knows no price of its own: a deployment without one makes no cost, which is not the same as zero.
"""

from typing import Final

from interlock.foundation.telemetry import Usage
from interlock.gateway.domain.directory import Deployment
from interlock.gateway.domain.limits import Ask

_MILLION: Final = 1_000_000


def cost_usd_micros(deployment: Deployment, usage: Usage | None) -> int | None:
    """Return millionths of a dollar, rounded half up; None where price or usage is not known."""
    input_price_micro, output_price_micro = deployment.input_price_micro, deployment.output_price_micro
    if usage is None or input_price_micro is None or output_price_micro is None:
        return None
    if usage.input_tokens is None or usage.output_tokens is None:
        return None
    total = usage.input_tokens * input_price_micro + usage.output_tokens * output_price_micro
    cached_price_micro = deployment.cached_input_price_micro
    if cached_price_micro is not None and usage.cached_input_tokens:
        # An upstream that counts more cached than given is not believed beyond what was given.
        total += min(usage.cached_input_tokens, usage.input_tokens) * (cached_price_micro - input_price_micro)
    return (total + _MILLION // 2) // _MILLION


def estimated_usd_micros(deployment: Deployment, ask: Ask) -> int | None:
    """Return millionths of a dollar that a request may cost, rounded half up; None where no price is known."""
    input_price_micro, output_price_micro = deployment.input_price_micro, deployment.output_price_micro
    if input_price_micro is None or output_price_micro is None:
        return None
    total = ask.input_tokens * input_price_micro + ask.output_tokens * output_price_micro
    return (total + _MILLION // 2) // _MILLION


def dollars(micros: int) -> str:
    """Return dollars as a decimal string."""
    return f"{micros // _MILLION}.{micros % _MILLION:06d}"
