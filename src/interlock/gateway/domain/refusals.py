"""A refusal as a value: what the edge says instead of serving, with the rule that decided.

Renders nothing; `dialect.py` does.
"""

from dataclasses import dataclass, field
from typing import Any

from interlock.foundation.errors import ERRORS


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is not served. `rule` names what decided and stands in the story.

    `status`, `message` and `retry_after_s` are those of the error table where they are not given.
    `detail` goes into the `interlock` object of the answer. `step` is the decision step it belongs to.
    """

    code: str
    rule: str
    message: str | None = None
    param: str | None = None
    status: int | None = None
    retry_after_s: float | None = None
    detail: dict[str, Any] = field(default_factory=dict)
    headers: tuple[tuple[bytes, bytes], ...] = ()
    step: str = "parsed"
    note: str = ""

    @property
    def http_status(self) -> int:
        """The status of the answer."""
        return self.status or ERRORS[self.code].http_status

    @property
    def text(self) -> str:
        """The sentence that the caller reads."""
        return self.message or ERRORS[self.code].message

    @property
    def wait_s(self) -> float | None:
        """When a repeat may help, in seconds from now; None when it cannot."""
        if self.retry_after_s is not None:
            return self.retry_after_s
        spec = ERRORS.get(self.code)
        return spec.retry_after_s if spec else None
