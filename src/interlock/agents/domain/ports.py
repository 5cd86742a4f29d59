"""What the task engine asks of the outside world: a sandbox, versioned trees, tools, slots.

Promises only; the adapters keep them. Every method that fails in an expected way returns that as a value.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Protocol

from interlock.agents.domain.policy import World
from interlock.agents.domain.types import (
    Base,
    KillProof,
    LimitSet,
    Patch,
    Place,
    ProbeReport,
    ProcessRecord,
    RepoRefused,
    RepoSpec,
    SandboxCommand,
    SandboxRun,
    Slot,
    Snapshot,
    ToolCall,
    ToolResult,
    TreeDiff,
    TreeRefused,
)
from interlock.foundation.redaction import Redactor

# Awaited before the program is let go, so that nothing runs unrecorded.
OnStart = Callable[[ProcessRecord], Awaitable[None]]
# Called with each redacted piece of output as it comes.
OnOutput = Callable[[str], Awaitable[None]]


class Slots(Protocol):
    """Uids that no other worker of the machine uses at the same time."""

    def take(self) -> Slot | None:
        """Take a free slot; None where all are in use."""
        ...

    def give_back(self, slot: Slot) -> None:
        """Let others have it; nothing of its uid may run any more."""
        ...


class Sandbox(Protocol):
    """Runs programs in namespaces of their own. There is no way around it and no switch that weakens it."""

    @property
    def report(self) -> ProbeReport | None:
        """The outcome of the last probe; None before the first."""
        ...

    async def probe(self, slot: Slot | None = None) -> ProbeReport:
        """Try out every property, by name; nothing runs before a probe that passed.

        `slot` lends its uid to the probes; it is needed where the worker is root.
        """
        ...

    async def run(
        self,
        command: SandboxCommand,
        *,
        on_start: OnStart | None = None,
        on_bytes: Callable[[bytes], Awaitable[None]] | None = None,
    ) -> SandboxRun:
        """Run to the end, to a limit or until the awaiting task is cancelled; the namespace is empty on return.

        Raises `SandboxUnavailableError` where no launcher passed its probes.
        """
        ...

    async def kill(self, record: ProcessRecord) -> KillProof:
        """Kill a namespace that another worker of this host started; `not_running` where it is gone already."""
        ...


@dataclass(frozen=True, slots=True)
class Commit:
    """What goes into the commit of a step. `parent` is the commit of the step before it in the branch."""

    step: int
    parent: str
    at_us: int
    trailers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Export:
    """A tree to be checked: `protect` comes from `base`, and `files` are laid over it."""

    tree: str
    base: str
    protect: Sequence[str] = ()
    files: Mapping[str, str] = field(default_factory=dict)


class Trees(Protocol):
    """One git folder a task. Trees are named by the ids of git; host git runs nothing that a tree brings along."""

    def place(self, task: str, slot: Slot) -> Place:
        """Return the folders of a task, there or not."""
        ...

    async def check(self, repo: RepoSpec) -> Base | RepoRefused:
        """Tell where a task would begin, or why it cannot; leaves nothing behind."""
        ...

    async def create(self, place: Place, repo: RepoSpec) -> Base | RepoRefused:
        """Make the folders anew and check the base out. The same repo gives the same commit everywhere."""
        ...

    async def adopt(self, place: Place) -> None:
        """Give the folders to the uid of the place's slot; called at the start of each leg."""
        ...

    async def has(self, place: Place, commit: str) -> bool:
        """Tell whether the folders are here and hold this commit with all it needs."""
        ...

    async def snapshot(self, place: Place, commit: Commit) -> Snapshot | TreeRefused:
        """Keep the tree as it is now."""
        ...

    async def restore(self, place: Place, tree: str) -> None:
        """Make the tree equal to this one; what git ignores goes too."""
        ...

    async def point(self, place: Place, branch: str, commit: str) -> None:
        """Move a branch."""
        ...

    async def diff(self, place: Place, before: str, after: str) -> TreeDiff:
        """Return the paths that differ between two trees or commits."""
        ...

    async def patch(self, place: Place, before: str, after: str, bytes_max: int) -> Patch:
        """Return the difference as text that `git apply` takes."""
        ...

    async def export(self, place: Place, export: Export) -> PurePath:
        """Write a tree to an empty folder below `scratch` and return it; `discard` removes it."""
        ...

    async def holds_secret(self, place: Place, diff: TreeDiff, after: str, redactor: Redactor) -> str | None:
        """Return the first changed path whose content or name holds a secret that the redactor was told."""
        ...

    async def discard(self, place: Place, folder: PurePath) -> None:
        """Remove a folder below `scratch`."""
        ...

    async def bundle(self, place: Place, step: int, since: str | None) -> bytes:
        """Pack the commit of a step with what came after the commit `since`; None packs everything."""
        ...

    async def apply(self, place: Place, bundle: bytes) -> None:
        """Take the steps of a bundle in. Raises `InterlockError` `repo_invalid` for bytes that are none of ours."""
        ...

    async def bundle_branch(self, place: Place, branch: str, commit: str) -> bytes:
        """Pack a branch with its whole history, for whoever asked for the work."""
        ...

    async def remove(self, place: Place) -> None:
        """Remove all folders of a task."""
        ...


@dataclass(frozen=True, slots=True)
class Bench:
    """What a tool works with in one step."""

    place: Place
    limits: LimitSet
    redactor: Redactor
    world: World
    test_command: str | None = None
    test_timeout_s: float = 30.0
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    on_start: OnStart | None = None
    on_output: OnOutput | None = None


class Tools(Protocol):
    """Performs calls that a decision allowed; asks nobody and writes no journal."""

    async def execute(self, call: ToolCall, bench: Bench) -> ToolResult:
        """Perform one call. Cancelling the awaiting task kills what it started before this returns."""
        ...

    async def check(self, command: str, folder: PurePath, bench: Bench) -> SandboxRun:
        """Run a verification command on an exported folder, mounted as `/task`."""
        ...
