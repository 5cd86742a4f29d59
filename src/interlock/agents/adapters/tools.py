"""Performs the calls of a task: file tools from the host, everything that runs in the sandbox.

Whether a call may be is decided before; what came of it is written down after. Here it only happens.
"""

import asyncio
import errno
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any, Final

from interlock.agents.adapters import candidates, tool_files
from interlock.agents.adapters.files import PathRefusedError, TreeFiles
from interlock.agents.adapters.output import CleanText, clean, shortened
from interlock.agents.adapters.tree_walk import remove, tidy
from interlock.agents.domain.policy import World, is_readable
from interlock.agents.domain.ports import Bench, Sandbox
from interlock.agents.domain.types import (
    AskHuman,
    Finish,
    LimitSet,
    Mount,
    Place,
    SandboxCommand,
    SandboxRun,
    SandboxUnavailableError,
    SaveArtifact,
    ToolCall,
    ToolResult,
    UndoTo,
)
from interlock.foundation.clock import Clock
from interlock.foundation.ids import IdFactory

ARTIFACT_BYTES_MAX: Final = 16 << 20
_PYTHON: Final = "/opt/bin/python3"
_PLAN: Final = "/opt/plan.json"
_DRIVER: Final = Path(candidates.__file__).read_text()
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class TaskTools:
    """Implements `ports.Tools`."""

    def __init__(self, sandbox: Sandbox, clock: Clock, ids: IdFactory) -> None:
        self._sandbox = sandbox
        self._clock = clock
        self._ids = ids

    async def execute(self, call: ToolCall, bench: Bench) -> ToolResult:
        """Perform one call; what the model did wrong is a result."""
        began = self._clock.monotonic()
        try:
            result = await self._performed(call, bench)
        except PathRefusedError as error:
            result = _failed("tool_error", str(error), bench)
        except SandboxUnavailableError as error:
            result = _failed("sandbox_unavailable", str(error), bench)
        except OSError as error:
            code = "disk_full" if error.errno in _NO_ROOM else "tool_error"
            result = _failed(code, os.strerror(error.errno or 0), bench)
        return replace(result, seconds=self._clock.monotonic() - began)

    async def check(self, command: str, folder: PurePath, bench: Bench) -> SandboxRun:
        """Run a verification on an exported folder, without the task's secrets."""
        return await self._sandbox.run(_shell(command, bench, folder, bench.limits, {}), on_start=bench.on_start)

    async def _performed(self, call: ToolCall, bench: Bench) -> ToolResult:
        given = call.arguments
        match call.name:
            case "run":
                result = await self._run(given["command"], given["timeout_s"], bench)
            case "run_tests" if bench.test_command is not None:
                result = await self._run(bench.test_command, given["timeout_s"] or bench.test_timeout_s, bench)
            case "try_edits" if bench.test_command is not None:
                result = await self._try(given["candidates"], bench, stop_at_first=given["stop_at_first"])
            case "run_tests" | "try_edits":
                result = _failed("tool_error", "The task has no test command.", bench)
            case "save_artifact":
                result = await asyncio.to_thread(_artifact, given["name"], given["path"], bench)
            case "undo_to":
                result = ToolResult("{}", act=UndoTo(given["step"]))
            case "ask_human":
                result = ToolResult("{}", act=AskHuman(bench.redactor.text(given["question"])))
            case "finish":
                summary = bench.redactor.text(given["summary"])
                result = ToolResult("{}", act=Finish(summary, is_done=given["status"] == "done"))
            case _:
                result = await asyncio.to_thread(_file_tool, call, bench)
        return result

    async def _run(self, command: str, timeout_s: float, bench: Bench) -> ToolResult:
        limits = replace(bench.limits, timeout_s=min(timeout_s, bench.limits.timeout_s))
        text = CleanText(bench.redactor)
        shown: list[str] = []

        async def show(piece: str) -> None:
            shown.append(piece)
            if piece and bench.on_output is not None:
                await bench.on_output(piece)

        async def take(piece: bytes) -> None:
            await show(text.feed(piece))

        wanted = _shell(command, bench, bench.place.work, limits, bench.environment)
        ran = await self._sandbox.run(wanted, on_start=bench.on_start, on_bytes=take)
        await show(text.finish())
        told = {
            "exit_code": ran.exit_code,
            "stopped_by": ran.stopped_by,
            "output": shortened("".join(shown)),
            "is_cut": ran.is_cut,
            "ms": round(ran.seconds * 1000),
        }
        error = ran.stopped_by or ("output_cut" if ran.is_cut else None)
        return ToolResult(json.dumps(told), error, ran.exit_code, redactions=text.redactions)

    async def _try(self, wanted: list[Any], bench: Bench, *, stop_at_first: bool) -> ToolResult:
        folder = bench.place.scratch / str(self._ids.new())
        plan = {
            "command": bench.test_command,
            "timeout_s": bench.test_timeout_s,
            "candidates": [each["edits"] for each in wanted],
            "stop_at_first": stop_at_first,
        }
        try:
            await asyncio.to_thread(_lay_out, bench.place, folder, plan)
            mounts = (
                Mount(folder / "tree", "/task", is_writable=True),
                Mount(bench.place.work, candidates.PRISTINE),
                Mount(folder / "plan.json", _PLAN),
            )
            argv = (_PYTHON, "-I", "-c", _DRIVER, _PLAN)
            command = SandboxCommand(argv, bench.place.slot, mounts, limits=bench.limits)
            ran = await self._sandbox.run(command, on_start=bench.on_start)
        finally:
            await asyncio.to_thread(_clear, folder)
        return _tried(ran, len(wanted), bench)


def _shell(
    command: str, bench: Bench, folder: PurePath, limits: LimitSet, environment: Mapping[str, str]
) -> SandboxCommand:
    mounts = (Mount(folder, "/task", is_writable=True),)
    return SandboxCommand(
        ("/bin/sh", "-c", command), bench.place.slot, mounts, environment=environment, limits=limits
    )  # fmt: skip


def _file_tool(call: ToolCall, bench: Bench) -> ToolResult:
    files = TreeFiles(bench.place.work, bench.place.slot)
    world, given = bench.world, call.arguments
    if call.name == "read_file":
        _require_readable(files, world, given["path"])
    acts: dict[str, Callable[[], dict[str, Any]]] = {
        "list_files": lambda: tool_files.list_files(files, world, files.real(given["path"])),
        "search": lambda: tool_files.search(files, world, given["query"], files.real(given["path"])),
        "read_file": lambda: tool_files.read_file(files, given["path"], given["offset"], given["limit"]),
        "write_file": lambda: tool_files.write_file(files, given["path"], given["content"]),
        "apply_edits": lambda: tool_files.apply_edits(files, given["edits"]),
        "delete_file": lambda: tool_files.delete_file(files, given["path"]),
    }
    return _told(acts[call.name](), bench)


def _require_readable(files: TreeFiles, world: World, path: str) -> None:
    """Hold a path to the rules of where it leads: a link of the tree gives no leave that its target does not have."""
    real = files.real(path)
    if real != path and not is_readable(real, world):
        raise PathRefusedError(f"{path or 'the tree'}: leads to what may not be read")


def _artifact(name: str, path: str, bench: Bench) -> ToolResult:
    files = TreeFiles(bench.place.work, bench.place.slot)
    _require_readable(files, bench.world, path)
    content = files.read(path, ARTIFACT_BYTES_MAX + 1)
    if len(content) > ARTIFACT_BYTES_MAX:
        return _failed("tool_error", f"{path} is larger than {ARTIFACT_BYTES_MAX} bytes", bench)
    # One character a byte, so that a file that is no text comes out as it was.
    kept, redactions = content, 0
    if bench.redactor.is_suspect(content.decode("latin-1")):
        text = bench.redactor.text(content.decode("utf-8", "surrogateescape"))
        redactions = text.count("[redacted:")
        kept = text.encode("utf-8", "surrogateescape")
    told = {"name": name, "bytes": len(kept)}
    return ToolResult(json.dumps(told), redactions=redactions, act=SaveArtifact(name, kept))


def _lay_out(place: Place, folder: PurePath, plan: Mapping[str, Any]) -> None:
    """Make the copy's folder and the plan, both the slot's."""
    for each in (folder, folder / "tree"):
        Path(each).mkdir(mode=0o700)
        os.chown(each, place.slot.uid, place.slot.gid)
    path = folder / "plan.json"
    Path(path).write_text(json.dumps(plan))
    os.chown(path, place.slot.uid, place.slot.gid)


def _clear(folder: PurePath) -> None:
    if Path(folder).exists():
        tidy(folder)
        remove(folder)


def _tried(ran: SandboxRun, count: int, bench: Bench) -> ToolResult:
    """Read the driver's lines; a run that was stopped still tells what came of the candidates before."""
    lines = [json.loads(line) for line in ran.output.decode("utf-8", "replace").splitlines() if line.startswith("{")]
    if not lines:
        text = clean(bench.redactor, ran.output)[0]
        return _failed(ran.stopped_by or "tool_error", f"No candidate was run. {shortened(text, 2_000)}", bench)
    outcomes = ["not_run"] * count
    for line in lines[1:]:
        outcomes[line["number"]] = _outcome(line)
    told = {
        "baseline": {"outcome": _outcome(lines[0]), "ms": round(lines[0]["seconds"] * 1000)},
        "outcomes": outcomes,
        "passed": [number for number, outcome in enumerate(outcomes) if outcome == "passed"],
        "stopped_by": ran.stopped_by,
    }
    # What was tried before a limit is worth keeping, so the limit alone makes no failure.
    return _told(told, bench)


def _outcome(line: Mapping[str, Any]) -> str:
    if line.get("is_invalid"):
        return "invalid"
    if line["exit_code"] is None:
        return "timeout"
    return "passed" if line["exit_code"] == 0 else "failed"


def _told(answer: dict[str, Any], bench: Bench) -> ToolResult:
    text = json.dumps(bench.redactor.value(answer))
    return ToolResult(text, redactions=text.count("[redacted:"))


def _failed(code: str, message: str, bench: Bench) -> ToolResult:
    return ToolResult(json.dumps({"error": code, "message": bench.redactor.text(message)}), code)
