"""What sandbox, trees, tools and the task engine say to each other; plain frozen values.

Knows neither rows nor requests: those types belong to the store and the routes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import PurePath
from typing import Any


class Outcome(StrEnum):
    """What a rule says of a call; deny beats ask, ask beats allow."""

    ALLOW = "allow"
    ASK = "ask"
    DENY = "deny"


class Effect(StrEnum):
    """What a tool changes, and so what a crash in the middle of it calls for."""

    NONE = "none"
    WORKTREE = "worktree"
    EXTERNAL = "external"


@dataclass(frozen=True, slots=True)
class Grant:
    """One line of a permission: `outcome` for a `scope` such as `fs.write`, on paths of `glob` where it takes paths."""

    outcome: Outcome
    scope: str
    glob: str | None = None

    @property
    def text(self) -> str:
        """The line as it is written: `ask:fs.write:/task/**`."""
        prefix = "" if self.outcome is Outcome.ALLOW else f"{self.outcome}:"
        return prefix + self.scope + (f":{self.glob}" if self.glob is not None else "")


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of a call. `rule` names the line that decided; `grant` is the grant that allowed or asked."""

    outcome: Outcome
    rule: str
    grant: str | None = None


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call whose name is known and whose arguments fit; `call_id` is the model's own name for it."""

    call_id: str
    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ToolRefused:
    """A call that nobody can perform: unknown name, broken JSON, wrong arguments. Its step is `tool_error`."""

    call_id: str
    name: str
    message: str


@dataclass(frozen=True, slots=True)
class Finish:
    """The model says that it is through; `is_done` is False where it gave up."""

    summary: str
    is_done: bool


@dataclass(frozen=True, slots=True)
class AskHuman:
    """The task waits for a person's answer."""

    question: str


@dataclass(frozen=True, slots=True)
class UndoTo:
    """The files go back to how they were after this step."""

    step: int


@dataclass(frozen=True, slots=True)
class SaveArtifact:
    """A file of the tree is to be kept under a name; `content` is redacted already."""

    name: str
    content: bytes


# What a tool cannot do by itself, as it belongs to the journal; the task engine does it.
ToolAct = Finish | AskHuman | UndoTo | SaveArtifact


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What came of a call. `text` is the JSON that the model sees, redacted and within the output limit.

    `error` is None, or a code of the journal: `tool_error`, `timeout`, `output_cut` (no failure), `disk_full`,
    `memory_exceeded`, `tree_too_large`, `sandbox_unavailable`, `killed`.
    """

    text: str
    error: str | None = None
    exit_code: int | None = None
    seconds: float = 0.0
    redactions: int = 0
    act: ToolAct | None = None

    @property
    def is_failed(self) -> bool:
        """Whether the step counts as failed; a program that exits with 1 is a result, not a failure."""
        return self.error not in {None, "output_cut"}


@dataclass(frozen=True, slots=True)
class FilesRepo:
    """A repository given as texts by path."""

    files: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class BundleRepo:
    """A repository given as a git bundle; HEAD of it, else its only branch, is the base."""

    content: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class EmptyRepo:
    """Nothing to begin with."""


RepoSpec = FilesRepo | BundleRepo | EmptyRepo


@dataclass(frozen=True, slots=True)
class RepoRefused:
    """Not taken: `unsafe_path` with `path`, `repo_too_large` with `limit` and `size`, `repo_invalid` with `message`."""

    code: str
    message: str
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Base:
    """Where a task begins: the commit of `refs/steps/0` and its tree."""

    commit: str
    tree: str


@dataclass(frozen=True, slots=True)
class Slot:
    """One place to work on a machine: a number, and the uid and gid that own its trees and run its programs."""

    number: int
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Place:
    """The folders of one task while it works in a slot. `work` is mounted as `/task`; the others never are."""

    root: PurePath
    slot: Slot

    @property
    def git(self) -> PurePath:
        """The bare git folder, which the sandbox does not see."""
        return self.root / "git"

    @property
    def work(self) -> PurePath:
        """The tree that the agent works on."""
        return self.root / "work"

    @property
    def scratch(self) -> PurePath:
        """Copies for candidates and checks; empty between calls."""
        return self.root / "scratch"


@dataclass(frozen=True, slots=True)
class Change:
    """One path that differs between two trees; `status` is git's letter: A, D, M or T (another kind of file)."""

    path: str
    status: str


@dataclass(frozen=True, slots=True)
class TreeDiff:
    """What differs between two trees, by path."""

    changes: tuple[Change, ...] = ()

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths alone."""
        return tuple(change.path for change in self.changes)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The tree after a step, kept as `refs/steps/<step>`; `diff` is against the parent commit."""

    commit: str
    tree: str
    diff: TreeDiff


@dataclass(frozen=True, slots=True)
class TreeRefused:
    """The tree is beyond its limits; restore the one before. `code` is `tree_too_large` or `disk_full`."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Patch:
    """A unified diff; `is_cut` where it would have been longer than asked for."""

    text: str
    is_cut: bool


@dataclass(frozen=True, slots=True)
class LimitSet:
    """The most that one command may take."""

    timeout_s: float = 60.0
    output_bytes: int = 1 << 20
    address_space_bytes: int = 1 << 30
    memory_bytes: int = 1 << 30
    processes: int = 64
    file_bytes: int = 128 << 20
    tmp_bytes: int = 64 << 20
    tree_bytes: int = 512 << 20
    tree_files: int = 50_000


@dataclass(frozen=True, slots=True)
class Mount:
    """A host folder shown in the sandbox at `target`."""

    source: PurePath
    target: str
    is_writable: bool = False


@dataclass(frozen=True, slots=True)
class SandboxCommand:
    """One program in a namespace of its own: `argv` in folder `cwd`, with `environment` on top of the fixed one.

    `mounts` come on top of `/usr`, `/proc`, `/dev` and `/tmp`; nothing else of the host is there.
    """

    argv: tuple[str, ...]
    slot: Slot
    mounts: tuple[Mount, ...] = ()
    cwd: str = "/task"
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    limits: LimitSet = field(default_factory=LimitSet)


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """What tells a running sandbox from every other process, for the row of `agents_processes`.

    `pid` is the first process of the namespace as the host sees it, `pid_start` its start time in clock ticks since
    boot, `pidns_inode` the namespace. Only where host, boot, start and inode are all equal is it the same.
    """

    host_id: str
    boot_id: str
    pid: int
    pid_start: int
    pidns_inode: int
    uid: int


@dataclass(frozen=True, slots=True)
class KillProof:
    """Why nothing of a task runs any more. `kind`: `namespace_empty`, `never_ran`, `not_running` or `expired`.

    `killed` counts the processes that were struck by name; the kernel takes the others along with the first one.
    """

    kind: str
    pidns: int | None = None
    killed: int = 0
    ms: float = 0.0


@dataclass(frozen=True, slots=True)
class SandboxRun:
    """How a command ended; by then its namespace is empty.

    `stopped_by` is None, or `timeout`, `memory_exceeded`, `disk_full`, `tree_too_large`, `killed`. `output` holds both
    streams in the order of writing, up to the limit; `is_cut` where there was more.
    """

    exit_code: int | None
    stopped_by: str | None
    output: bytes = field(repr=False)
    is_cut: bool
    seconds: float
    proof: KillProof


@dataclass(frozen=True, slots=True)
class Probe:
    """One property of the sandbox, tried out. `errno` and `fix` are told where it does not hold."""

    name: str
    is_held: bool
    ms: float
    errno: str | None = None
    message: str = ""
    fix: str | None = None


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """All probes of the launcher that is used, or of the last one tried; `launcher` is None where none passed."""

    launcher: str | None
    probes: tuple[Probe, ...]

    @property
    def failed(self) -> Probe | None:
        """The first probe that does not hold."""
        return next((probe for probe in self.probes if not probe.is_held), None)


class SandboxUnavailableError(Exception):
    """No program can run here; `probe` names the property that is missing, with its errno and what would mend it."""

    def __init__(self, probe: Probe) -> None:
        super().__init__(f"{probe.name}: {probe.message}")
        self.probe = probe
