"""The addresses of the console, each with who may open it.

Renders nothing and reads nothing; the modules beside it do.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from interlock.console.addresses import HTML, Sampler, as_type, page_at
from interlock.console.assets import Assets
from interlock.console.config import ConsoleConfig
from interlock.console.filters import SavedFilters, filter_routes
from interlock.console.frame import Frame
from interlock.console.groups import GroupPages
from interlock.console.keys import Keys
from interlock.console.overview import Hours, Overview
from interlock.console.people import PeoplePages
from interlock.console.people_forms import PeopleForms
from interlock.console.people_routes import people_routes
from interlock.console.requests import Requests
from interlock.console.screens import SCREENS, Screen
from interlock.console.sign_in import SignIn, error_page
from interlock.console.standing import Standings, Watcher
from interlock.console.views import is_of_console
from interlock.foundation.audit import AuditLog
from interlock.foundation.clock import Clock
from interlock.foundation.control.dispatch import ErrorPage
from interlock.foundation.control.route import Call, Handler, Level, Reply, Route
from interlock.foundation.flags import KillSwitches
from interlock.foundation.identity import IdentityService, KeyService, People, Sessions
from interlock.foundation.ids import format_id
from interlock.foundation.scope import Scope
from interlock.foundation.telemetry import StoryFilters, StoryStore
from interlock.gateway import Stories


@dataclass(frozen=True, slots=True)
class Console:
    """What pages need. `degraded` names what is away right now; `public_url` is how callers reach the platform."""

    stories: StoryStore
    lookup: Stories
    identity: IdentityService
    keys: KeyService
    sessions: Sessions
    kills: KillSwitches
    clock: Clock
    audit: AuditLog
    config: ConsoleConfig = field(default_factory=ConsoleConfig)
    degraded: Callable[[], Sequence[str]] = tuple
    public_url: str = ""
    # Screens that show one thing: what is newest of it in a scope, as the id in its path.
    samples: dict[str, Sampler] = field(default_factory=dict)
    # Screens that have something to say on the overview: how their things stand in a scope, by the screen's id.
    watchers: dict[str, Watcher] = field(default_factory=dict)

    @property
    def frame(self) -> Frame:
        """What all pages share."""
        return Frame(self.kills, self.clock, self.config.csv_rows_max, self.degraded)

    @property
    def error_page(self) -> ErrorPage:
        """What renders refusals of HTML routes; `build_app` takes it."""
        return error_page(self.frame)


def routes(console: Console) -> list[Route]:
    """Return the routes of the console."""
    config, frame, clock = console.config, console.frame, console.clock
    hours, standings = Hours(console.stories, clock, config), Standings(console.watchers, clock, config)
    console.watchers["requests"] = hours.standing
    overview = Overview(frame, hours, standings, clock, config)
    filters = SavedFilters(console.audit, clock)
    requests = Requests(frame, console.lookup, clock, config, filters)
    keys = Keys(frame, console.identity, console.keys, clock, config)
    sign_in = SignIn(console.sessions, is_https=console.public_url.startswith("https://"))
    return [
        *_reading(overview, requests),
        *filter_routes(filters),
        page_at("/standing", standings.show, "How the platform stands.", ("seen", "workspace_id")),
        *_keys(keys),
        *_people(console),
        Route("GET", "/console/login", Level.PUBLIC, sign_in.form, "The form to sign in.", is_html=True,
              query=("next", "once"), media_type=HTML),
        Route("POST", "/console/login", Level.PUBLIC, sign_in.enter, "Sign in by a key or a one-time link.",
              is_html=True, status=303, codes=("invalid_key", "admin_rate_limit"), body_bytes_max=8_192,
              query=("next",), media_type=HTML),
        Route("POST", "/console/logout", Level.SESSION, sign_in.leave, "Sign out.", action="console", is_html=True,
              status=303, media_type=HTML),
        Route("GET", "/console/screens.json", Level.SESSION, _Screens(console.stories, console.samples).list,
              "The screens, each with a path to look at.", action="console"),
        Route("GET", "/console/bars", Level.SESSION, frame.bars, "What is stopped or degraded right now.",
              action="console", is_html=True, query=("seen",), media_type=HTML),
        Route("GET", "/console/static/{path:path}", Level.PUBLIC, Assets(config.static_max_age_s).serve,
              "A file of the pages.", is_html=True, codes=("not_found",), query=("v",), media_type="*/*"),
    ]  # fmt: skip


def _reading(overview: Overview, requests: Requests) -> list[Route]:
    filters = ("outcome", "alias", "endpoint", "key_id", "client_request_id", "upstream_request_id", "trace_id",
               "within", "own", "workspace_id")  # fmt: skip
    return [
        page_at("", overview.show, "The last hour.", ("workspace_id",)),
        as_type(page_at("/live/overview", overview.live, "The last hour, as it goes on.", ("workspace_id",),
                        codes=("overloaded",)), "text/event-stream"),
        page_at("/requests", requests.show, "Requests, newest first.", (*filters, "cursor"), codes=("invalid_cursor",)),
        as_type(page_at("/requests.csv", requests.export, "The requests as CSV.", filters), "text/csv"),
        page_at("/requests/fresh", requests.fresh, "How many requests are newer.", (*filters, "after")),
        page_at("/requests/{id}", requests.story, "The story of one request.", codes=("request_not_found",)),
        page_at("/find", requests.find, "Open what an id names.", ("id",), codes=("request_not_found",)),
    ]  # fmt: skip


def _keys(keys: Keys) -> list[Route]:
    return [
        Route("GET", "/console/keys", Level.ORGANIZATION, keys.show, "Keys.", action="admin:read", is_html=True,
              query=("cursor",), media_type=HTML),
        Route("GET", "/console/keys.csv", Level.ORGANIZATION, keys.export, "The keys as CSV, without their secrets.",
              action="admin:read", is_html=True, media_type="text/csv"),
        _change("/keys", keys.create, "Create a key; it is shown once."),
        _change("/keys/{id}/rotate", keys.rotate, "Replace a key; the new one is shown once."),
        _change("/keys/{id}/revoke", keys.revoke, "Revoke a key."),
    ]  # fmt: skip


def _people(console: Console) -> list[Route]:
    people = People(console.identity, console.config.people_rows_max)
    pages = PeoplePages(console.frame, people, console.clock, console.config)
    forms = PeopleForms(console.frame, console.identity, console.keys, console.clock)
    console.samples.update({**pages.samplers, **GroupPages(pages).samplers})
    return people_routes(pages, forms)


def _change(path: str, handler: Handler, summary: str) -> Route:
    return Route("POST", f"/console{path}", Level.ORGANIZATION, handler, summary, action="admin:write", is_html=True,
                 is_mutation=True, body_bytes_max=65_536, media_type=HTML)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Screens:
    stories: StoryStore
    samples: Mapping[str, Sampler]

    async def list(self, call: Call) -> Reply:
        listed = [
            {
                "id": screen.id,
                "title": screen.title,
                "path": screen.path,
                "sample_path": screen.path if screen.is_listed else await self._sample_path(screen, call.within),
            }
            for screen in SCREENS
            if call.may_open(screen.path)
        ]
        return Reply(body={"data": listed})

    async def _sample_path(self, screen: Screen, scope: Scope) -> str | None:
        sampler = self._story if screen.id == "story" else self.samples.get(screen.id)
        sample = await sampler(scope) if sampler else None
        return sample and re.sub(r"\{\w+\}", sample, screen.path)

    async def _story(self, scope: Scope) -> str | None:
        newest = (await self.stories.search(scope, StoryFilters())).records
        # A call of a model shows most; then what callers asked for, and the console's own at last.
        best = min(newest, key=lambda each: (not each.alias, is_of_console(each)), default=None)
        return None if best is None else format_id("req", best.id)
