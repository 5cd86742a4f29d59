"""The tools a model may call: their arguments, what they change, and which grant each needs.

Performs none of them. A tool that is not in this table does not exist for anybody.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import msgspec

from interlock.agents.domain.paths import is_safe
from interlock.agents.domain.types import Effect, ToolCall, ToolRefused

CONTENT_CHARS_MAX: Final = 1 << 20
COMMAND_CHARS_MAX: Final = 32 << 10
# Linux takes 128 KiB for one argument.
COMMAND_BYTES_MAX: Final = 96 << 10
CANDIDATES_MAX: Final = 64
EDITS_MAX: Final = 64
_MOUNT: Final = "/task"

_Path = Annotated[str, msgspec.Meta(min_length=1, max_length=1_000, description="relative to the root of the tree")]
_Folder = Annotated[str, msgspec.Meta(max_length=1_000, description="a folder; empty for the whole tree")]
_Content = Annotated[str, msgspec.Meta(max_length=CONTENT_CHARS_MAX)]
_Old = Annotated[str, msgspec.Meta(min_length=1, max_length=CONTENT_CHARS_MAX, description="occurs exactly once")]
_Seconds = Annotated[float, msgspec.Meta(gt=0, le=3_600)]
_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=4_000)]


class _Arguments(msgspec.Struct, forbid_unknown_fields=True):
    """Arguments of a tool."""


class ListFiles(_Arguments):
    """List files below a folder."""

    path: _Folder = ""


class Search(_Arguments):
    """Find lines that hold a text, in files below a folder."""

    query: Annotated[str, msgspec.Meta(min_length=1, max_length=500)]
    path: _Folder = ""


class ReadFile(_Arguments):
    """Read lines of a file; `offset` is the number of lines to skip."""

    path: _Path
    offset: Annotated[int, msgspec.Meta(ge=0)] = 0
    limit: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 2_000


class WriteFile(_Arguments):
    """Write a file whole."""

    path: _Path
    content: _Content


class Edit(_Arguments):
    """Replace one place of a file; `old` must occur in it exactly once."""

    path: _Path
    old: _Old
    new: _Content


_Edits = Annotated[list[Edit], msgspec.Meta(min_length=1, max_length=EDITS_MAX)]


class ApplyEdits(_Arguments):
    """Edit files; all edits or none."""

    edits: _Edits


class DeleteFile(_Arguments):
    """Delete a file."""

    path: _Path


class Run(_Arguments):
    """Run a shell command at the root of the tree, without network."""

    command: Annotated[str, msgspec.Meta(min_length=1, max_length=COMMAND_CHARS_MAX)]
    timeout_s: _Seconds = 60.0


class RunTests(_Arguments):
    """Run the tests of the task."""

    timeout_s: _Seconds | None = None


class Candidate(_Arguments):
    """One way to change the tree."""

    edits: _Edits


class TryEdits(_Arguments):
    """Run the tests on copies of the tree, one for each candidate; the tree itself stays as it is."""

    candidates: Annotated[list[Candidate], msgspec.Meta(min_length=1, max_length=CANDIDATES_MAX)]
    stop_at_first: bool = True


class Undo(_Arguments):
    """Put the files back to how they were after a step."""

    step: Annotated[int, msgspec.Meta(ge=0)]


class KeepArtifact(_Arguments):
    """Keep a file of the tree for whoever asked for the work."""

    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    path: _Path


class Ask(_Arguments):
    """Ask a human, and wait for the answer."""

    question: _Text


class End(_Arguments):
    """End the work: `done`, or `gave_up`."""

    summary: Annotated[str, msgspec.Meta(max_length=4_000)]
    status: Literal["done", "gave_up"] = "done"


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A row of the table. `scope` is the grant that it needs, None where it needs none.

    `is_process` says that it needs the sandbox; `is_idempotent` that a second call changes nothing more.
    """

    name: str
    arguments: type[_Arguments]
    scope: str | None
    effect: Effect
    is_process: bool = False
    is_idempotent: bool = True

    @property
    def description(self) -> str:
        """What the model is told of it."""
        return (self.arguments.__doc__ or "").strip()


_ROWS: Final = (
    ToolSpec("list_files", ListFiles, "fs.read", Effect.NONE),
    ToolSpec("search", Search, "fs.read", Effect.NONE),
    ToolSpec("read_file", ReadFile, "fs.read", Effect.NONE),
    ToolSpec("write_file", WriteFile, "fs.write", Effect.WORKTREE),
    ToolSpec("apply_edits", ApplyEdits, "fs.write", Effect.WORKTREE, is_idempotent=False),
    ToolSpec("delete_file", DeleteFile, "fs.write", Effect.WORKTREE, is_idempotent=False),
    ToolSpec("run", Run, "shell.run", Effect.WORKTREE, is_process=True, is_idempotent=False),
    ToolSpec("run_tests", RunTests, "tests.run", Effect.WORKTREE, is_process=True),
    ToolSpec("try_edits", TryEdits, "tests.run", Effect.NONE, is_process=True),
    ToolSpec("undo_to", Undo, "fs.write", Effect.WORKTREE),
    ToolSpec("save_artifact", KeepArtifact, "artifact.write", Effect.NONE),
    ToolSpec("ask_human", Ask, "human.ask", Effect.NONE),
    ToolSpec("finish", End, None, Effect.NONE),
)
TOOLS: Final[Mapping[str, ToolSpec]] = {row.name: row for row in _ROWS}


def offered(names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the tools in the form of the chat API."""
    return [
        {
            "type": "function",
            "function": {
                "name": name,
                "description": TOOLS[name].description,
                "parameters": _schema(TOOLS[name].arguments),
            },
        }
        for name in names
    ]


def parse_call(call_id: str, name: str, arguments: str) -> ToolCall | ToolRefused:
    """Check what a model wrote. Paths come out relative, whether they were written from `/task` or not."""
    spec = TOOLS.get(name)
    if spec is None:
        return ToolRefused(call_id, name[:100], f"There is no tool {name[:100]!r}; there are {', '.join(TOOLS)}.")
    try:
        parsed = msgspec.json.decode(arguments or "{}", type=spec.arguments)
    except (msgspec.DecodeError, ValueError) as error:
        return ToolRefused(call_id, name, f"The arguments do not fit: {error}.")
    plain: dict[str, Any] = msgspec.to_builtins(parsed)
    command = plain.get("command", "")
    # What no machine takes as an argument of a program would end the leg and not the call.
    if "\0" in command or len(command.encode()) > COMMAND_BYTES_MAX:
        return ToolRefused(call_id, name, f"The command holds a NUL, or more than {COMMAND_BYTES_MAX} bytes.")
    unsafe = _with_relative_paths(plain)
    if unsafe is not None:
        return ToolRefused(call_id, name, f"{unsafe[:100]!r} is not a path inside the tree.")
    return ToolCall(call_id, name, plain)


def paths_of(call: ToolCall) -> list[str]:
    """Return the paths that a call names, for the rules; empty where it names none."""
    return [holder["path"] for holder in _path_holders(dict(call.arguments)) if holder["path"]]


def _with_relative_paths(plain: dict[str, Any]) -> str | None:
    """Make all paths of the arguments relative in place, and return the first that leaves the tree."""
    for holder in _path_holders(plain):
        path: str = holder["path"]
        if path == _MOUNT or path.startswith(f"{_MOUNT}/"):
            path = path.removeprefix(_MOUNT).lstrip("/")
        path = path.removeprefix("./").rstrip("/")
        holder["path"] = "" if path == "." else path
        if not is_safe(holder["path"]) and (holder["path"] or holder is not plain):
            return path
    return None


def _path_holders(plain: dict[str, Any]) -> list[dict[str, Any]]:
    edits = [*plain.get("edits", ()), *(edit for each in plain.get("candidates", ()) for edit in each["edits"])]
    return [*([plain] if "path" in plain else []), *edits]


def _schema(kind: type[_Arguments]) -> dict[str, Any]:
    (_,), parts = msgspec.json.schema_components((kind,), ref_template="#/$defs/{name}")
    root = parts.pop(kind.__name__)
    if parts:
        root["$defs"] = parts
    # A copy through text, as the parts share objects that a caller may change.
    copied: dict[str, Any] = json.loads(json.dumps(root))
    return copied
