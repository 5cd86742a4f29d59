"""Grants for self-hosted engines, and the embedded engine itself.

Entry points: `FrontService` (grants), `SchedulerServer` (the same over a socket), `EngineServer` (the model).
Invariants: a queue is bounded in time and in seats; a slot is held by a live grant or free; every request that
arrives ends with exactly one outcome.
"""

from interlock.scheduler.adapters.engine_server import EngineServer
from interlock.scheduler.adapters.engine_shelf import BACKENDS, EngineShelf
from interlock.scheduler.adapters.fake_engine import FakeEngine, Fault, Script, Shape
from interlock.scheduler.adapters.fake_steps import StepLoop
from interlock.scheduler.adapters.inspector import EngineInspector
from interlock.scheduler.adapters.model_files import ModelFile, find_model
from interlock.scheduler.adapters.parity_run import run_parity
from interlock.scheduler.adapters.pool_metrics import PoolMetrics
from interlock.scheduler.adapters.remote import EngineProbe, HttpProbe, RemoteSpeaker
from interlock.scheduler.adapters.xllamacpp_engine import XllamacppEngine
from interlock.scheduler.config import EngineConfig, SchedulerConfig
from interlock.scheduler.domain.classes import ACCELERATOR_OBJECTIVES, EMBEDDED_OBJECTIVES
from interlock.scheduler.domain.engines import Dialect, EngineGauges, EngineReport, GaugeTrust
from interlock.scheduler.domain.last_hour import LOADS, REPLICAS_MAX, Asked, Fleet, as_it_was, fleet_of, options
from interlock.scheduler.domain.parity import ParityResult
from interlock.scheduler.domain.profiles import StepProfile
from interlock.scheduler.routes import SchedulerServer
from interlock.scheduler.service import EngineSpec, FrontService, PoolSpec
from interlock.scheduler.service.pools import PoolRow, PoolService
from interlock.scheduler.service.reading import Decisions
from interlock.scheduler.service.rollout import NEWEST, PoolRollouts
from interlock.scheduler.service.what_if import Hour, WhatIf
from interlock.scheduler.worker import EngineWatch

__all__ = [
    "ACCELERATOR_OBJECTIVES", "BACKENDS", "EMBEDDED_OBJECTIVES", "LOADS", "NEWEST", "REPLICAS_MAX", "Asked",
    "Decisions", "Dialect", "EngineConfig", "EngineGauges", "EngineInspector", "EngineProbe", "EngineReport",
    "EngineServer", "EngineShelf", "EngineSpec", "EngineWatch", "FakeEngine", "Fault", "Fleet", "FrontService",
    "GaugeTrust", "Hour", "HttpProbe", "ModelFile", "ParityResult", "PoolMetrics", "PoolRollouts", "PoolRow",
    "PoolService", "PoolSpec", "RemoteSpeaker", "SchedulerConfig", "SchedulerServer", "Script", "Shape", "StepLoop",
    "StepProfile", "WhatIf", "XllamacppEngine", "as_it_was", "find_model", "fleet_of", "options", "run_parity",
]  # fmt: skip
