"""Every section of the settings by its name.

Reads nothing; `foundation.config.load` does.
"""

from collections.abc import Mapping
from typing import Any, Final

from interlock.agents.config import AgentsConfig
from interlock.console import ConsoleConfig
from interlock.crawler import CrawlerConfig
from interlock.evals.config import EvalsConfig, RolloutConfig
from interlock.foundation.artifacts import ArtifactsConfig
from interlock.foundation.audit import AuditConfig
from interlock.foundation.control import ControlConfig
from interlock.foundation.flags import FlagsConfig
from interlock.foundation.identity import IdentityConfig
from interlock.foundation.redaction import RedactionConfig
from interlock.foundation.secrets import SecretsConfig
from interlock.foundation.store import StoreConfig
from interlock.foundation.supervisor import SupervisorConfig
from interlock.foundation.telemetry import OtlpConfig, TelemetryConfig
from interlock.foundation.wire import ClientLimits, WireLimits
from interlock.gateway import EdgeConfig, InferenceConfig, LimitsConfig, UsageConfig
from interlock.retrieval import RetrievalConfig
from interlock.scheduler import EngineConfig, SchedulerConfig

SECTIONS: Final[Mapping[str, type[Any]]] = {
    "store": StoreConfig,
    "supervisor": SupervisorConfig,
    "wire": WireLimits,
    "client": ClientLimits,
    "identity": IdentityConfig,
    "control": ControlConfig,
    "console": ConsoleConfig,
    "audit": AuditConfig,
    "flags": FlagsConfig,
    "secrets": SecretsConfig,
    "redaction": RedactionConfig,
    "telemetry": TelemetryConfig,
    "otlp": OtlpConfig,
    "artifacts": ArtifactsConfig,
    "edge": EdgeConfig,
    "limits": LimitsConfig,
    "usage": UsageConfig,
    "evals": EvalsConfig,
    "rollouts": RolloutConfig,
    "inference": InferenceConfig,
    "scheduler": SchedulerConfig,
    "engine": EngineConfig,
    "crawler": CrawlerConfig,
    "retrieval": RetrievalConfig,
    "agents": AgentsConfig,
}
