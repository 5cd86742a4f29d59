"""What control tells the edge about a call: one internal header, which the edge turns into the request's story.

Not an answer to the caller: the edge strips the header.
"""

import base64
from typing import Final
from uuid import UUID

import msgspec

STORY_HEADER: Final = "x-interlock-story"


class StoryDecision(msgspec.Struct, frozen=True):
    """One step: what was decided by which rule."""

    step: str
    rule: str
    verdict: str
    detail: str = ""


class StoryLink(msgspec.Struct, frozen=True):
    """Another object that the request belongs to."""

    kind: str
    id: str


class ControlStory(msgspec.Struct, kw_only=True):
    """The content of the header. `outcome_code` is the error code, or `ok`."""

    organization_id: UUID | None = None
    workspace_id: UUID | None = None
    key_id: UUID | None = None
    outcome_code: str = "ok"
    rule: str = "control.ok"
    decisions: list[StoryDecision] = []
    links: list[StoryLink] = []

    def to_header(self) -> str:
        """Return base64url of the MessagePack map."""
        return base64.urlsafe_b64encode(msgspec.msgpack.encode(self)).rstrip(b"=").decode()

    @classmethod
    def from_header(cls, text: str) -> "ControlStory":
        """Read what `to_header` wrote. Raises `ValueError`."""
        try:
            raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
            return msgspec.msgpack.decode(raw, type=cls)
        except msgspec.MsgspecError as error:
            raise ValueError("not a story header") from error
