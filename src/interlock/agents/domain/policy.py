"""Grants: what a task may do. One decision for every call, one check of every tree, deny by default.

Judges calls and differences of trees; it neither runs nor reverts anything.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from interlock.agents.domain.paths import is_matched, protected_by
from interlock.agents.domain.tools import TOOLS, paths_of
from interlock.agents.domain.types import Decision, Grant, Outcome, ToolCall, TreeDiff

ROOT: Final = "/task"
_WITH_PATHS: Final = frozenset({"fs.read", "fs.write"})
SCOPES: Final = frozenset({*_WITH_PATHS, "shell.run", "tests.run", "artifact.write", "human.ask"})
PROTECT_DEFAULT: Final = ("tests/**", "test_*.py", "*_test.py", "conftest.py", ".git*", ".github/**")
CODE: Final = (
    Grant(Outcome.ALLOW, "fs.read", f"{ROOT}/**"),
    Grant(Outcome.ALLOW, "fs.write", f"{ROOT}/**"),
    Grant(Outcome.ALLOW, "shell.run"),
    Grant(Outcome.ALLOW, "tests.run"),
    Grant(Outcome.ALLOW, "artifact.write"),
    Grant(Outcome.ALLOW, "human.ask"),
)
_STRICTNESS: Final = {Outcome.ALLOW: 0, Outcome.ASK: 1, Outcome.DENY: 2}


@dataclass(frozen=True, slots=True)
class World:
    """The rules of one task: every layer (workspace, request) has to allow; nobody writes to `protect`."""

    layers: tuple[tuple[Grant, ...], ...]
    protect: tuple[str, ...] = PROTECT_DEFAULT


@dataclass(frozen=True, slots=True)
class Violation:
    """A path that a step changed and must not have."""

    path: str
    rule: str


def parse_grant(text: str) -> Grant | None:
    """Read one line of the grammar, or the name of a tool, which stands for the grant that it needs; else None."""
    outcome = Outcome.ALLOW
    for each in (Outcome.ASK, Outcome.DENY):
        if text.startswith(f"{each}:"):
            outcome, text = each, text.removeprefix(f"{each}:")
            break
    spec = TOOLS.get(text)
    if spec is not None:
        return Grant(outcome, spec.scope, f"{ROOT}/**" if spec.scope in _WITH_PATHS else None) if spec.scope else None
    scope, colon, glob = text.partition(":")
    if scope not in SCOPES or (scope in _WITH_PATHS) != bool(glob) or (colon and not glob):
        return None
    return Grant(outcome, scope, _absolute(glob) if glob else None)


def parse_grants(texts: Iterable[str]) -> tuple[Grant, ...] | str:
    """Read a request's `tools`; return the first line that is none. `finish` needs no grant and may be named."""
    grants = []
    for text in texts:
        if text == "finish":
            continue
        grant = parse_grant(text)
        if grant is None:
            return text
        grants.append(grant)
    return tuple(grants)


def first_wider(asked: Sequence[Grant], allowed: Sequence[Grant]) -> Grant | None:
    """Return the first grant of a request that its workspace does not cover."""
    for grant in asked:
        if grant.outcome is not Outcome.DENY and not any(_covers(each, grant) for each in allowed):
            return grant
    return None


def decide(call: ToolCall, world: World) -> Decision:
    """Decide one call: deny beats ask, ask beats allow, and what nothing names is denied."""
    spec = TOOLS[call.name]
    if spec.scope is None:
        return Decision(Outcome.ALLOW, f"tool:{call.name}")
    paths = paths_of(call)
    named: list[str | None] = [*paths] or [None]
    found = [_by_scope(spec.scope, path, world) for path in named]
    if spec.scope == "artifact.write":
        found += [_by_scope("fs.read", path, world) for path in paths]
    if spec.scope == "tests.run":
        # Candidates write to copies only, but what passes with another test says nothing.
        found += [_by_scope("fs.write", path, world) for path in paths]
    if spec.scope == "fs.write" or call.name == "try_edits":
        found += [_by_protection(path, world) for path in paths]
    return max(found, key=lambda each: _STRICTNESS[each.outcome])


def is_readable(path: str, world: World) -> bool:
    """Tell whether the file tools may show a path."""
    return _by_scope("fs.read", path, world).outcome is Outcome.ALLOW


def violations(diff: TreeDiff, world: World) -> tuple[Violation, ...]:
    """Return the paths of a difference that its step must not have changed, by whatever means it did."""
    found = []
    for path in diff.paths:
        for decision in (_by_protection(path, world), _by_scope("fs.write", path, world)):
            # A question cannot be asked after the fact.
            if decision.outcome is not Outcome.ALLOW:
                found.append(Violation(path, decision.rule))
                break
    return tuple(found)


def usable_tools(world: World) -> list[str]:
    """Return the tools that some call could use, for the list that a model is offered."""
    return [name for name, spec in TOOLS.items() if spec.scope is None or _is_ever_allowed(spec.scope, world)]


def needs_sandbox(world: World) -> bool:
    """Tell whether a tool that runs programs is among them."""
    return any(TOOLS[name].is_process for name in usable_tools(world))


def _by_scope(scope: str, path: str | None, world: World) -> Decision:
    decisions = [_in_layer(scope, path, layer) for layer in world.layers]
    denied = Decision(Outcome.DENY, f"default:deny:{scope}")
    return max(decisions, key=lambda each: _STRICTNESS[each.outcome], default=denied)


def _in_layer(scope: str, path: str | None, layer: Sequence[Grant]) -> Decision:
    """The strictest line that names it. A call that names no path asks only whether its scope is granted at all."""
    absolute = None if path is None else f"{ROOT}/{path}"
    named = [
        grant
        for grant in layer
        if grant.scope == scope
        and (grant.glob is None or (_is_whole(grant) if absolute is None else is_matched(grant.glob, absolute)))
    ]
    if not named:
        return Decision(Outcome.DENY, f"default:deny:{scope}")
    grant = max(named, key=lambda each: _STRICTNESS[each.outcome])
    return Decision(grant.outcome, grant.text, None if grant.outcome is Outcome.DENY else grant.text)


def _is_whole(grant: Grant) -> bool:
    """Whether a line counts for a call without a path: a refusal only where it is for everything."""
    return grant.outcome is Outcome.ALLOW or grant.glob == f"{ROOT}/**"


def _by_protection(path: str, world: World) -> Decision:
    glob = protected_by(world.protect, path)
    if glob is None:
        return Decision(Outcome.ALLOW, "protect:none")
    return Decision(Outcome.DENY, f"protect:{glob}")


def _is_ever_allowed(scope: str, world: World) -> bool:
    for layer in world.layers:
        named = [grant for grant in layer if grant.scope == scope]
        refused = any(grant.outcome is Outcome.DENY and grant.glob in {None, f"{ROOT}/**"} for grant in named)
        if refused or all(grant.outcome is Outcome.DENY for grant in named):
            return False
    return bool(world.layers)


def _covers(allowed: Grant, asked: Grant) -> bool:
    if allowed.scope != asked.scope or allowed.outcome is Outcome.DENY:
        return False
    if _STRICTNESS[asked.outcome] < _STRICTNESS[allowed.outcome]:
        return False
    if allowed.glob is None or asked.glob is None or allowed.glob == asked.glob:
        return True
    return allowed.glob.endswith("/**") and asked.glob.startswith(allowed.glob.removesuffix("**"))


def _absolute(glob: str) -> str:
    return glob if glob.startswith("/") else f"{ROOT}/{glob}"
