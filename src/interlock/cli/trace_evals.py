"""The stories of evals for `interlock trace`: a run, a gate, a verdict, an incident, a rollout, one line a decision.

Shows no output of a target; its samples do.
"""

from collections.abc import Callable, Iterator
from typing import Any, Final

import click

from interlock.cli.client import Client, quoted
from interlock.cli.output import cell, show_json

_LOOKS: Final = 50
Told = dict[str, Any]


def show(client: Client, named: str, *, as_json: bool) -> bool:
    """Print the story of an id of evals; tell whether it was one."""
    path, lines = STORIES.get(named.partition("_")[0], (None, None))
    if path is None or lines is None:
        return False
    told = client.get(f"{path}/{quoted(named)}")
    if named.startswith("rol_"):
        told = {**told, "looks": client.get(f"{path}/{quoted(named)}/looks", limit=str(_LOOKS))["data"]}
    if as_json:
        show_json(told)
        return True
    for line in lines(told):
        click.echo(cell(line))
    return True


def _run(told: Told) -> Iterator[str]:
    done = told["completeness"]
    yield (
        f"run.manifest {told['suite']}@{told['suite_version']} expected={done['expected']}"
        f" candidate={told['candidate_digest']} baseline={told['baseline_digest']}"
    )
    yield f"run.{told['state']} scored={done['scored']} errored={done['errored']} missing={done['missing']}"
    if told.get("paired"):
        yield f"run.paired {told['paired']} power={told['power']}"
    if told.get("evidence_digest"):
        yield f"run.sealed {told['evidence_digest']}"


def _gate(told: Told) -> Iterator[str]:
    armed = "armed" if told["armed"] else "disarmed: " + "; ".join(told["armed_reasons"])
    yield f"gate {told['name']} of {told['route']} {told['mode']} {armed}"
    for each in told["controls"]:
        held = "ok" if each["ok"] else "NOT OK"
        words = (
            each["at"],
            each["check"],
            each["kind"],
            f"expected {each['expected']}, observed {each['observed']}",
            held,
        )
        yield f"gate.control {' '.join(words)} ({each['sabotage']})"
    for each in told["verdicts_live"]:
        yield f"gate.verdict {each['id']} {each['verdict']} {each['artifact_digest']} until {each['expires_at']}"


def _verdict(told: Told) -> Iterator[str]:
    yield f"gate.verdict {told['id']} {told['state']} runs={told.get('runs') or [c['run_id'] for c in told['checks']]}"
    if told["state"] == "pending":
        return
    for check in told["checks"]:
        suite = f"{check['suite']}@{check['suite_version']}"
        yield f"gate.check {check['name']} {check['verdict']} {suite} {check['run_id']}"
    for reason in told["reasons"]:
        numbers = reason["numbers"]
        figures = " ".join(f"{name}={numbers.get(name)}" for name in ("statistic", "n", "threshold"))
        yield f"gate.reason {reason['check'] or told['gate']} {reason['code']}: {reason['text']} {figures}"
    yield f"gate.verdict {told['verdict']} attempt={told['attempt']} admits={told['admits']} until {told['expires_at']}"


def _incident(told: Told) -> Iterator[str]:
    yield f"incident {told['id']} {told['state']} {told['severity']} {told['title']} occurrences={told['occurrences']}"
    for each in told["timeline"]:
        words = [each["at"], f"incident.{each['kind']}", each["note"], each["detail"] or None]
        yield " ".join(str(word) for word in words if word)


def _rollout(told: Told) -> Iterator[str]:
    versions = f"{told['from_version']} -> {told['to_version']}"
    yield f"rollout {told['route']} {versions} {told['state']} stage={told['stage']} weight={told['weight']}"
    for look in reversed(told["looks"]):
        codes = " ".join(reason["code"] for reason in look["reasons"])
        yield f"{look['at']} rollout.look {look['look']} weight={look['weight']} {look['decision']} {codes}"


STORIES: Final[dict[str, tuple[str, Callable[[Told], Iterator[str]]]]] = {
    "run": ("/v1/evals/runs", _run),
    "gate": ("/v1/gates", _gate),
    "vdt": ("/v1/gates/verdicts", _verdict),
    "inc": ("/v1/incidents", _incident),
    "rol": ("/v1/rollouts", _rollout),
}
