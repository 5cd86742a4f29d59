"""`interlock trace ID`: the story of a request, a task, a run, a gate, a verdict, an incident or a rollout, as lines.

Does not show content; stories hold none.
"""

import click

from interlock.cli import trace_evals
from interlock.cli.client import Client, RefusedError, connected, quoted
from interlock.cli.output import cell, show_json, with_json
from interlock.foundation.telemetry import trace_lines

KEPT = "stories are kept for 14 days unless the workspace says otherwise"


@click.command("trace")
@click.argument("request_id", metavar="ID")
@with_json
@connected
def command(client: Client, request_id: str, *, as_json: bool) -> None:
    """Tell what happened to a request, a task, a run, a gate, a verdict, an incident or a rollout, and why."""
    if request_id.startswith("task_"):
        _task(client, request_id, as_json=as_json)
        return
    if trace_evals.show(client, request_id, as_json=as_json):
        return
    try:
        story = client.get(f"/v1/requests/{quoted(request_id)}")
    except RefusedError as error:
        if error.status == 404:
            raise click.ClickException(
                f"request_not_found: no request {request_id} that the key may see; {KEPT}"
            ) from None
        raise
    if as_json:
        show_json(story)
        return
    for line in trace_lines(story):
        click.echo(cell(line))


def _task(client: Client, task_id: str, *, as_json: bool) -> None:
    """Tell a task's story: each step with what decided it, what it cost, and the request that its model call was."""
    task = client.get(f"/v1/agents/tasks/{quoted(task_id)}", include="steps")
    if as_json:
        show_json(task)
        return
    reason = f" ({task['reason']})" if task["reason"] else ""
    click.echo(cell(f"{task['id']} {task['state']}{reason} model={task['model']} attempt={task['attempt']}"))
    for step in task["steps"]:
        rule = (step["decision"] or {}).get("rule")
        words = [f"{step['seq']:>4}", step["started_at"], step["kind"], step["tool"], step["status"], step["error"]]
        words += [f"rule={rule}" if rule else None, step["request_id"], f"{step['ms'] or 0:.1f} ms"]
        click.echo(cell(" ".join(str(word) for word in words if word)))
    if task["cancel"]:
        click.echo(cell(f"cancel {task['cancel']['proof']}"))
    click.echo(cell(f"result {task['result']}"))
