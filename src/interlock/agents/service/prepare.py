"""Makes a leg ready: what an earlier attempt left running is ended, the tree is that of the head, rules are read.

Runs nothing of the task.
"""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from interlock.agents.domain.journal import Step
from interlock.agents.domain.paths import named_in
from interlock.agents.domain.policy import CODE, PROTECT_DEFAULT, World, parse_grants
from interlock.agents.domain.replay import recording_of, task_of
from interlock.agents.domain.transcripts import Exchange
from interlock.agents.domain.types import (
    BundleRepo,
    EmptyRepo,
    FilesRepo,
    KillProof,
    ProcessRecord,
    RepoRefused,
    RepoSpec,
)
from interlock.agents.service.desk import Desk, LegParts
from interlock.agents.store.journal import SQL
from interlock.agents.store.rows import Input, Task
from interlock.foundation.errors import InterlockError
from interlock.foundation.ids import MalformedIdError, parse_id
from interlock.foundation.redaction import Redactor

EMPTY_TREE: Final = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"


async def read_input(parts: LegParts, task: Task) -> Input:
    """Return what the task begins with. Raises `store_unavailable` where it is gone."""
    content = await parts.journal.artifacts.get(task.row["input_key"])
    if content is None:
        raise InterlockError("store_unavailable", "The input of the task is not in the artifact store.")
    return msgspec.msgpack.decode(content, type=Input)


def repo_of(given: Input) -> RepoSpec:
    """Return the repository of an input."""
    match given.repo_kind:
        case "files":
            return FilesRepo(given.files)
        case "bundle":
            return BundleRepo(given.bundle)
        case _:
            return EmptyRepo()


async def end_leftovers(parts: LegParts, task: Task) -> float | None:
    """End what earlier attempts left running; return the seconds to wait for a machine that is away."""
    async with parts.journal.store.transaction(task.scope()) as tx:
        rows = await tx.fetch(SQL.live_processes, *task.key)
    for row in rows:
        record = record_of(row)
        proof = await parts.sandbox.kill(record)
        if proof.kind == "not_running" and _is_elsewhere(parts, record):
            # Each command also ends by itself, inside its namespace, at its own limit.
            left_s: float = row["started_us"] / 1e6 + row["timeout_s"] + 2.0 - parts.clock.now_us() / 1e6
            if left_s > 0:
                return left_s
    if rows:
        async with parts.journal.store.transaction(task.scope()) as tx:
            await tx.execute(SQL.processes_gone, *task.key, parts.clock.now_us())
    return None


async def lay_out(desk: Desk) -> RepoRefused | None:
    """Make the working copy that of the head step, from what is here or from the artifact store."""
    trees, place, task = desk.parts.trees, desk.place, desk.task
    desk.tree, desk.commit = task.row["tree"], task.row["commit_id"]
    is_here = await asyncio.to_thread(Path(place.root).exists)
    if is_here:
        await trees.adopt(place)
    if not (is_here and await trees.has(place, desk.commit)):
        made = await trees.create(place, repo_of(desk.input))
        if isinstance(made, RepoRefused):
            return made
        for step in desk.steps:
            if step.checkpoint is not None:
                bundle = await desk.parts.journal.artifacts.get(f"{step.checkpoint}.bundle")
                await trees.apply(place, bundle or b"")
    await trees.restore(place, desk.tree)
    await trees.adopt(place)
    return None


async def rules(parts: LegParts, task: Task, desk: Desk) -> World:
    """Return the rules of a task: the workspace's template, what was asked for, and what nobody writes to."""
    asked = parse_grants(task.row["grants"])
    layers = (CODE,) if isinstance(asked, str) or not task.row["grants"] else (CODE, asked)
    protect = tuple(task.row["protect"]) or PROTECT_DEFAULT
    test = task.wish.test
    if test is not None:
        listed = await parts.trees.diff(desk.place, EMPTY_TREE, task.row["base_tree"])
        named = named_in(test.command, listed.paths)
        protect += tuple(each for each in named if each != f"/{task.wish.target}")
    return World(layers, protect)


async def recording(parts: LegParts, task: Task) -> str | None:
    """Return what `replay` repeats: the calls of another task of the workspace."""
    named = task_of(task.wish.goal) if task.row["model"] == "replay" else None
    if named is None:
        return None
    try:
        other = await parts.journal.find(task.scope(), parse_id("task", named))
    except MalformedIdError:
        return None
    if other is None:
        return None
    steps = await parts.journal.steps(task.scope(), other)
    made = [Exchange(step.tool or "", step.given, step.outcome) for step in steps if _is_exchange(step)]
    return recording_of(made[:-1] if made and made[-1].name == "finish" else made)


def record_of(row: object) -> ProcessRecord:
    """Return the record of a row of `agents_processes`."""
    found: Mapping[str, object] = row  # type: ignore[assignment] # rows of the driver are mappings
    names = ("host_id", "boot_id", "pid", "pid_start", "pidns_inode", "uid")
    return ProcessRecord(*[found[name] for name in names])  # type: ignore[arg-type] # columns by name


def proof_of(proofs: list[KillProof], *, has_run: bool) -> KillProof:
    """Return the strongest proof, that of the last namespace that was ended."""
    ended = [proof for proof in proofs if proof.kind == "namespace_empty"]
    if ended:
        last = ended[-1]
        return KillProof(last.kind, last.pidns, sum(each.killed for each in ended), max(each.ms for each in ended))
    return KillProof("not_running" if has_run else "never_ran")


def redactor_of(secrets: Mapping[str, str]) -> Redactor:
    """Return what hides the secrets of a task, by their names, and whatever looks like one."""
    return Redactor(named={name: value.encode() for name, value in secrets.items()})


def _is_exchange(step: Step) -> bool:
    return step.is_live and step.kind == "tool" and step.tool is not None


def _is_elsewhere(parts: LegParts, record: ProcessRecord) -> bool:
    return record.host_id != parts.host_id
