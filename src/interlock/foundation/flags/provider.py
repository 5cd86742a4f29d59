"""Flags behind the API of OpenFeature, evaluated in memory.

Reads no store; `FlagBook.reload` does, when the feed says that flags changed.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar
from uuid import UUID

import structlog
from openfeature.evaluation_context import EvaluationContext
from openfeature.exception import ErrorCode
from openfeature.flag_evaluation import FlagResolutionDetails, Reason
from openfeature.provider import AbstractProvider, Metadata

from interlock.foundation.clock import Clock
from interlock.foundation.flags.config import FlagsConfig
from interlock.foundation.flags.domain.flags import Evaluation, Flag, evaluate
from interlock.foundation.flags.store import load_flags
from interlock.foundation.store import Store

ValueT = TypeVar("ValueT")
_log = structlog.get_logger("interlock.flags")


class FlagBook:
    """All flags in memory, by organization and name."""

    def __init__(self, store: Store, clock: Clock, config: FlagsConfig | None = None) -> None:
        self._store = store
        self._clock = clock
        self._config = config or FlagsConfig()
        self._flags: dict[UUID, dict[str, Flag]] = {}
        self._warned: set[tuple[UUID, str]] = set()

    async def reload(self) -> None:
        """Read all flags anew."""
        flags: dict[UUID, dict[str, Flag]] = {}
        for flag in await load_flags(self._store, self._config.flags_max):
            flags.setdefault(flag.organization_id, {})[flag.name] = flag
        self._flags = flags
        self._warned.clear()

    def evaluate(self, name: str, organization_id: UUID, workspace_id: UUID) -> Evaluation | None:
        """Return what a flag is for a workspace; an expired one answers its default, with a warning."""
        found = evaluate(
            self._flags.get(organization_id, {}), name, organization_id, workspace_id, self._clock.now_us()
        )
        if found is not None and found.rule == "expired" and (organization_id, name) not in self._warned:
            self._warned.add((organization_id, name))
            _log.warning("flag_expired", flag=name, organization_id=str(organization_id))
        return found


class FlagProvider(AbstractProvider):
    """OpenFeature's provider; the context needs `organization_id` and `workspace_id`."""

    def __init__(self, book: FlagBook) -> None:
        super().__init__()
        self._book = book

    def get_metadata(self) -> Metadata:
        """Name the provider."""
        return Metadata(name="interlock")

    def get_provider_hooks(self) -> list[Any]:
        """Return no hooks."""
        return []

    def resolve_boolean_details(
        self,
        flag_key: str,
        default_value: bool,  # noqa: FBT001 - OpenFeature names it so
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[bool]:
        """Resolve a boolean flag."""
        return self._resolve(flag_key, default_value, bool, evaluation_context)

    def resolve_string_details(
        self, flag_key: str, default_value: str, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[str]:
        """Resolve a variant that is a text."""
        return self._resolve(flag_key, default_value, str, evaluation_context)

    def resolve_integer_details(
        self, flag_key: str, default_value: int, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[int]:
        """Resolve a variant that is a whole number."""
        return self._resolve(flag_key, default_value, int, evaluation_context)

    def resolve_float_details(
        self, flag_key: str, default_value: float, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[float]:
        """Resolve a variant that is a number."""
        return self._resolve(flag_key, default_value, float, evaluation_context)

    def resolve_object_details(
        self,
        flag_key: str,
        default_value: Sequence[Any] | Mapping[str, Any],
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[Any]:
        """Resolve a variant that is an object."""
        return self._resolve(flag_key, default_value, object, evaluation_context)

    def _resolve(
        self, name: str, default: ValueT, kind: type[Any], context: EvaluationContext | None
    ) -> FlagResolutionDetails[ValueT]:
        attributes = context.attributes if context is not None else {}
        try:
            tenant = UUID(str(attributes["organization_id"])), UUID(str(attributes["workspace_id"]))
        except (KeyError, ValueError):
            return FlagResolutionDetails(default, error_code=ErrorCode.INVALID_CONTEXT, reason=Reason.ERROR)
        found = self._book.evaluate(name, *tenant)
        if found is None:
            return FlagResolutionDetails(default, error_code=ErrorCode.FLAG_NOT_FOUND, reason=Reason.ERROR)
        # A boolean is an integer to Python; to whoever asks for a number it is the wrong flag.
        is_wrong = not isinstance(found.value, kind) or (isinstance(found.value, bool) and kind in {int, float})
        if is_wrong:
            return FlagResolutionDetails(default, error_code=ErrorCode.TYPE_MISMATCH, reason=Reason.ERROR)
        return FlagResolutionDetails(found.value, variant=found.variant, reason=found.rule.upper())
