"""The order that a pool's settings name.

Holds no order itself.
"""

from collections.abc import Mapping

from interlock.scheduler.domain.asks import Order
from interlock.scheduler.domain.promises import PromiseOrder, Rules
from interlock.scheduler.domain.rates import Rates
from interlock.scheduler.domain.replay import POLICIES
from interlock.scheduler.domain.share import Shares
from interlock.scheduler.domain.types import PoolRules


def build_order(rules: PoolRules, rates: Rates, weights: Mapping[str, float]) -> Order:
    """Return the order of a pool; the compared ones are as published and know neither shares nor objectives."""
    if rules.policy != "interlock":
        return POLICIES[rules.policy](rates, rules.share_level)
    promised = Rules(
        classes=rules.classes,
        predicts=rules.predicts,
        displaces=rules.displaces,
        seats_max=rules.queue_seats_max,
        tenant_seats_max=rules.tenant_seats_max,
        wait_factor=rules.queue_wait_factor,
    )
    return PromiseOrder(rates, Shares(rules.share_level, weights), promised)
