"""The kit of the control process: routes with a policy, envelope, lists, idempotency, OpenAPI.

Knows no system; a system hands over a list of `Route`. `app.build_app` serves them.
"""

from interlock.foundation.control.config import ControlConfig
from interlock.foundation.control.cursors import Page, Position
from interlock.foundation.control.route import Call, Handler, Level, Reply, Route
from interlock.foundation.control.story import STORY_HEADER, ControlStory, StoryDecision, StoryLink

__all__ = [
    "STORY_HEADER",
    "Call",
    "ControlConfig",
    "ControlStory",
    "Handler",
    "Level",
    "Page",
    "Position",
    "Reply",
    "Route",
    "StoryDecision",
    "StoryLink",
]
