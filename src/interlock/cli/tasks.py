"""`interlock tasks`: hand work to an agent, watch it, decide for it, take it back, bring it home.

Runs no agent; the platform does. Only `sandbox probe` tries this machine itself.
"""

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click

from interlock.agents.adapters.sandbox import BubblewrapSandbox
from interlock.agents.adapters.slots import MachineSlots
from interlock.agents.adapters.state_folder import state_folder
from interlock.agents.domain.types import ProbeReport
from interlock.cli.client import Client, Connection, connected, quoted, with_connection
from interlock.cli.output import cell, show_json, show_object, show_rows, with_json
from interlock.cli.task_repo import apply_patch, files_of, repo_of
from interlock.foundation.clock import SystemClock

_PATH: Final = "/v1/agents/tasks"
_FINAL: Final = frozenset({"complete", "failed", "canceled"})
_FIELDS: Final = ("id", "state", "reason", "model", "attempt", "head_step", "tree", "branch", "verify", "cancel")
_POLL_S: Final = 0.2


@click.group("tasks")
def command() -> None:
    """Long-running work of agents."""


@command.command("submit")
@click.option("--repo", type=click.Path(exists=True, path_type=Path), help="Folder, git checkout or bundle.")
@click.option("--goal", required=True, help="What is to be done.")
@click.option("--model", required=True, help="Alias of the model.")
@click.option("--target", help="The file that it is about.")
@click.option("--test", "test", metavar="CMD", help="Command that the agent may run.")
@click.option("--verify", metavar="CMD", help="Command that decides, hidden from the agent.")
@click.option("--verify-files", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Files laid over.")
@click.option("--expect", help="Text that the deciding command has to print.")
@click.option("--deadline-s", type=float, help="Seconds until the task fails.")
@click.option("--tools", help="Tools or grants, with commas.")
@click.option("--steps", type=int, help="Budget of steps.")
@click.option("--tokens", type=int, help="Budget of tokens.")
@click.option("--follow", is_flag=True, help="Print events until the task ends; exit 1 unless it is complete.")
@with_json
@connected
def submit(client: Client, *, follow: bool, as_json: bool, **given: Any) -> None:
    """Submit a task."""
    verify = None
    if given["verify"]:
        files = files_of(given["verify_files"]) if given["verify_files"] else {}
        verify = {"command": given["verify"], "files": files, "expect": given["expect"]}
    budget = {name: given[name] for name in ("steps", "tokens") if given[name] is not None}
    task = client.post(
        _PATH,
        {
            "goal": given["goal"],
            "model": given["model"],
            "repo": repo_of(given["repo"]),
            "target": given["target"],
            "test": {"command": given["test"]} if given["test"] else None,
            "verify": verify,
            "budget": budget or None,
            "deadline_s": given["deadline_s"],
            "tools": [part.strip() for part in given["tools"].split(",")] if given["tools"] else None,
        },
    )
    if not follow:
        show_object(task, _FIELDS, as_json=as_json)
        return
    click.echo(task["id"], err=as_json)
    for event in _following(client, task["id"], 0):
        click.echo(_event_line(event), err=as_json)
    task = _one(client, task["id"])
    show_object(task, _FIELDS, as_json=as_json)
    raise SystemExit(0 if task["state"] == "complete" else 1)


@command.command("list")
@click.option("--state", help="Only tasks in this state.")
@click.option("--label", help="Only tasks with this label: NAME or NAME=VALUE.")
@with_json
@connected
def listing(client: Client, state: str | None, label: str | None, *, as_json: bool) -> None:
    """List tasks, newest first."""
    page = client.rows(_PATH, state=state, label=label)
    show_rows(page, ("id", "state", "reason", "model", "created_at", "goal"), as_json=as_json)


@command.command("show")
@click.argument("task_id", metavar="ID")
@click.option("--steps", is_flag=True, help="With the journal.")
@click.option("--diff", is_flag=True, help="With the difference of base and head.")
@with_json
@connected
def show(client: Client, task_id: str, *, steps: bool, diff: bool, as_json: bool) -> None:
    """Show a task."""
    include = ",".join(name for name, is_wanted in (("steps", steps), ("diff", diff)) if is_wanted)
    task = client.get(f"{_PATH}/{quoted(task_id)}", include=include or None)
    show_object(task, (*_FIELDS, "goal", "deadline_at", "result", "budget", "approval"), as_json=as_json)
    if as_json:
        return
    if steps:
        columns = ("seq", "attempt", "kind", "tool", "status", "error", "request_id", "ms")
        show_rows({"data": task["steps"]}, columns, as_json=False)
    if diff:
        click.echo(task["diff"])


@command.command("events")
@click.argument("task_id", metavar="ID")
@click.option("--after", default=0, show_default=True, help="Only events behind this number.")
@click.option("--follow", is_flag=True, help="Go on until the task ends.")
@with_json
@connected
def events(client: Client, task_id: str, after: int, *, follow: bool, as_json: bool) -> None:
    """Print events in their order."""
    found = _following(client, task_id, after) if follow else _behind(client, task_id, after)
    for event in found:
        if as_json:
            show_json(event)
        else:
            click.echo(_event_line(event))


@command.command("cancel")
@click.argument("task_id", metavar="ID")
@click.option("--reason", default="", help="Why.")
@click.option("--wait-s", default=10.0, show_default=True, help="Wait so long for the proof.")
@with_json
@connected
def cancel(client: Client, task_id: str, reason: str, wait_s: float, *, as_json: bool) -> None:
    """Cancel a task and wait for the proof that nothing of it runs."""
    task = client.post(f"{_PATH}/{quoted(task_id)}/cancel", {"reason": reason})
    until = time.monotonic() + wait_s
    while task["state"] not in _FINAL and time.monotonic() < until:
        time.sleep(0.05)
        task = _one(client, task_id)
    show_object(task, ("id", "state", "cancel"), as_json=as_json)


@command.command("approve")
@click.argument("task_id", metavar="ID")
@click.option("--approval", required=True, help="The approval, apr_..")
@click.option("--decision", required=True, type=click.Choice(["approve", "deny"]))
@click.option("--note", default="")
@with_json
@connected
def approve(client: Client, task_id: str, approval: str, decision: str, note: str, *, as_json: bool) -> None:
    """Decide a step that waits for a human."""
    body = {"approval_id": approval, "decision": decision, "note": note}
    show_object(client.post(f"{_PATH}/{quoted(task_id)}/approve", body), _FIELDS, as_json=as_json)


@command.command("resume")
@click.argument("task_id", metavar="ID")
@click.option("--answer", help="The answer to a question.")
@click.option("--steps", type=int, help="New budget of steps.")
@click.option("--tokens", type=int, help="New budget of tokens.")
@click.option("--reconcile", type=click.Choice(["done", "not_done"]), help="Whether an effect happened.")
@with_json
@connected
def resume(
    client: Client, task_id: str, answer: str | None, reconcile: str | None, *, as_json: bool, **budget: int | None
) -> None:
    """Queue a blocked task again."""
    given = {name: value for name, value in budget.items() if value is not None}
    body = {"answer": answer, "reconcile": reconcile, "budget": given or None}
    show_object(client.post(f"{_PATH}/{quoted(task_id)}/resume", body), _FIELDS, as_json=as_json)


@command.command("undo")
@click.argument("task_id", metavar="ID")
@click.option("--to-step", required=True, type=int)
@with_json
@connected
def undo(client: Client, task_id: str, to_step: int, *, as_json: bool) -> None:
    """Go back to a step: files and journal together."""
    done = client.post(f"{_PATH}/{quoted(task_id)}/undo", {"to_step": to_step})
    show_object(done, ("undone_steps", "files_changed", "tree"), as_json=as_json)


@command.command("fork")
@click.argument("task_id", metavar="ID")
@click.option("--from-step", required=True, type=int)
@click.option("--goal", help="A goal of its own.")
@click.option("--model", help="A model of its own.")
@click.option("--deadline-s", type=float)
@with_json
@connected
def fork(client: Client, task_id: str, *, as_json: bool, **given: Any) -> None:
    """Make a new task from a step of this one."""
    show_object(client.post(f"{_PATH}/{quoted(task_id)}/fork", given), (*_FIELDS, "forked_from"), as_json=as_json)


@command.command("artifacts")
@click.argument("task_id", metavar="ID")
@click.argument("name", required=False)
@with_json
@connected
def artifacts(client: Client, task_id: str, name: str | None, *, as_json: bool) -> None:
    """List what a task kept, or print one artifact."""
    path = f"{_PATH}/{quoted(task_id)}/artifacts"
    if name is None:
        show_rows(client.rows(path), ("name", "bytes", "sha256", "step"), as_json=as_json)
        return
    found = client.get(f"{path}/{quoted(name)}")
    if isinstance(found, str):
        click.echo(found, nl=False)
    else:
        show_json(found)


@command.command("apply")
@click.argument("task_id", metavar="ID")
@click.option("--into", default=".", type=click.Path(exists=True, file_okay=False, path_type=Path), show_default=True)
@with_json
@connected
def apply(client: Client, task_id: str, into: Path, *, as_json: bool) -> None:
    """Write the difference into a checkout; refuse, and change nothing, where it does not apply."""
    paths = apply_patch(into, client.get(f"{_PATH}/{quoted(task_id)}", include="diff")["diff"])
    show_object({"id": task_id, "files": paths}, ("id", "files"), as_json=as_json)


@command.command("fsck")
@click.argument("task_id", metavar="ID", required=False)
@with_json
@connected
def fsck(client: Client, task_id: str | None, *, as_json: bool) -> None:
    """Check the books of one task, or of all: entries, events, steps, checkpoints. Exit 1 on a finding."""
    ids = [task_id] if task_id else [task["id"] for task in client.rows(_PATH)["data"]]
    found = [client.get(f"{_PATH}/{quoted(each)}/fsck") for each in ids]
    findings = [f"{each['id']}: {finding}" for each in found for finding in each["findings"]]
    if as_json:
        show_json({"tasks": len(found), "findings": findings})
    else:
        for finding in findings:
            click.echo(cell(finding))
        click.echo(f"{len(found)} tasks, {len(findings)} findings")
    raise SystemExit(1 if findings else 0)


@command.group("sandbox")
def sandbox() -> None:
    """The sandbox of this machine."""


@sandbox.command("probe")
@with_json
@with_connection
def probe(connection: Connection, *, as_json: bool) -> None:
    """Try every property of the sandbox; exit 1 where one does not hold."""
    data = connection.directory.root
    data.mkdir(mode=0o711, parents=True, exist_ok=True)
    report = asyncio.run(_probed(data))
    rows = [
        {"name": each.name, "ok": each.is_held, "ms": round(each.ms, 1), "errno": each.errno, "fix": each.fix}
        for each in report.probes
    ]
    if as_json:
        show_json({"launcher": report.launcher, "probes": rows})
    else:
        show_rows({"data": rows}, ("name", "ok", "ms", "errno", "fix"), as_json=False)
    raise SystemExit(0 if report.failed is None else 1)


async def _probed(data: Path) -> ProbeReport:
    state, slots = state_folder(data), MachineSlots(1)
    slot = slots.take() if os.geteuid() == 0 else None
    try:
        return await BubblewrapSandbox(state, SystemClock()).probe(slot)
    finally:
        if slot is not None:
            slots.give_back(slot)


def _one(client: Client, task_id: str) -> dict[str, Any]:
    found: dict[str, Any] = client.get(f"{_PATH}/{quoted(task_id)}")
    return found


def _behind(client: Client, task_id: str, after: int) -> Iterator[dict[str, Any]]:
    """Yield the events that are there."""
    cursor = None
    while True:
        page = client.get(f"{_PATH}/{quoted(task_id)}/events", after=after, cursor=cursor, limit=200)
        yield from page["data"]
        cursor = page["next_cursor"]
        if not cursor:
            return


def _following(client: Client, task_id: str, after: int) -> Iterator[dict[str, Any]]:
    """Yield events as they come, until the task ends or waits for somebody."""
    while True:
        event = None
        for event in _behind(client, task_id, after):
            yield event
            after = event["seq"]
            if event["event"] == "task.end":
                return
        if event is None and _one(client, task_id)["state"] in {"blocked", *_FINAL}:
            if not any(True for _ in _behind(client, task_id, after)):
                return
            continue
        time.sleep(_POLL_S)


def _event_line(event: dict[str, Any]) -> str:
    told = {key: value for key, value in event["data"].items() if key not in {"seq", "task_id", "at"} and value}
    words = " ".join(f"{key}={cell(value)[:160]}" for key, value in told.items())
    return f"{event['seq']:>4} {event['at']} {event['event']} {words}"
