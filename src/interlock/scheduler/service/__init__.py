"""Use cases of the scheduler: grants for callers, pools for operators, what is remembered of both."""

from interlock.scheduler.service.front import FrontService, Observer
from interlock.scheduler.service.measuring import Measuring
from interlock.scheduler.service.specs import EngineSpec, Flags, PoolSpec, engine_id, rules_of

__all__ = ["EngineSpec", "Flags", "FrontService", "Measuring", "Observer", "PoolSpec", "engine_id", "rules_of"]
