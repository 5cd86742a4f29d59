"""`interlock evals canary|compare|power`: the rules on files alone. No store, no server, no key.

Draws no conclusion of its own: the same code judges live rollouts and gates.
"""

import base64
import json
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

import click

from interlock.cli.output import show_json, with_json
from interlock.evals.domain.canary import Decision, MetricRules, Rules
from interlock.evals.domain.evidence import verify_bundle
from interlock.evals.domain.pairing import compare_files
from interlock.evals.domain.pii import redact
from interlock.evals.domain.replay import METRIC, replay
from interlock.evals.domain.rules import Rule, Thresholds, Verdict
from interlock.evals.domain.stats import pp, smallest_visible_drop

_ALPHA: Final = click.FloatRange(0.001, 0.2)
_file = click.argument("file", type=click.Path(path_type=Path, allow_dash=True))


@click.command("canary")
@_file
@click.option("--alpha", default=0.05, show_default=True, type=_ALPHA, help="False roll-backs, at any number of looks.")
@click.option("--alpha-promote", default=0.05, show_default=True, type=_ALPHA, help="Wrong promotions.")
@click.option(
    "--r-max", default=1.5, show_default=True, type=click.FloatRange(1.0, 100.0, min_open=True), help="Relative risk."
)
@click.option(
    "--bad-max",
    default=0.01,
    show_default=True,
    type=click.FloatRange(0.0, 1.0, min_open=True, max_open=True),
    help="Share of bad units.",
)
@with_json
def canary(file: Path, alpha: float, alpha_promote: float, r_max: float, bad_max: float, *, as_json: bool) -> None:
    """Replay counts (JSON lines) through the monitor of live rollouts; exit 1 on a ROLLBACK or a bad line."""
    rules = Rules({METRIC: MetricRules(alpha, alpha_promote, r_max, bad_max)})
    with opened(file) as lines:
        answers = replay(lines, rules)
    for answer in answers:
        show_json(answer)
    if not as_json:
        counts = Counter(answer["decision"] for answer in answers)
        click.echo(", ".join(f"{counts[each]} {each}" for each in Decision), err=True)
    is_bad = any(reason["code"] == "counts_invalid" for answer in answers for reason in answer["reasons"])
    raise SystemExit(is_bad or any(answer["decision"] == Decision.ROLLBACK for answer in answers))


@click.command("compare")
@click.argument("baseline", type=click.Path(path_type=Path, allow_dash=True))
@click.argument("candidate", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--rule", default="non_inferior", show_default=True, type=click.Choice([str(each) for each in Rule]))
@click.option(
    "--margin-pp", default=5.0, show_default=True, type=click.FloatRange(0.0, 20.0, min_open=True), help="Largest drop."
)
@click.option("--alpha", default=0.05, show_default=True, type=_ALPHA)
@click.option("--repeats", default=5, show_default=True, type=click.IntRange(1, 100), help="For must_pass.")
@with_json
def compare(baseline: Path, candidate: Path, *, as_json: bool, **limits: Any) -> None:
    """Compare two files of results (JSON lines); exit 0 only for PASS."""
    wanted = Thresholds(**{**limits, "rule": Rule(limits["rule"])})
    with opened(baseline) as base, opened(candidate) as cand:
        found = compare_files(base, cand, wanted)
    show_document(found.public(), as_json=as_json)
    raise SystemExit(found.ruling.verdict is not Verdict.PASS)


@click.command("power")
@click.option("--n", required=True, type=click.IntRange(1, 10_000_000), help="Pairs of results.")
@click.option("--churn", default=0.06, show_default=True, type=click.FloatRange(0.0, 1.0), help="Share that differs.")
@click.option("--alpha", default=0.05, show_default=True, type=_ALPHA)
@with_json
def power(n: int, churn: float, alpha: float, *, as_json: bool) -> None:
    """Tell the smallest drop that a comparison of this size sees in four of five cases."""
    visible = pp(smallest_visible_drop(n, churn, alpha))
    show_document({"mde_pp": visible, "n": n, "power": 0.8}, as_json=as_json)


@click.command("verify")
@_file
@click.option("--public-key", help="Ed25519 key in base64, from `interlock gates keys`; else the one in the seal.")
@with_json
def verify(file: Path, public_key: str | None, *, as_json: bool) -> None:
    """Check an evidence bundle: bytes, chain, signature, completeness, and the numbers from the samples."""
    try:
        key = None if public_key is None else base64.b64decode(public_key, validate=True)
    except ValueError as error:
        raise click.UsageError("--public-key is base64.") from error
    with opened(file) as lines:
        found = verify_bundle(lines.read(), key)
    show_document(found.public(), as_json=as_json)
    raise SystemExit(not found.ok)


@click.command("redact")
@_file
@with_json
def redaction(file: Path, *, as_json: bool) -> None:
    """Replace typed personal data and secrets in a text, and say what was found where."""
    with opened(file) as content:
        text = content.read().decode("utf-8", "replace")
    shown, found = redact(text)
    listed = [{"kind": each.kind, "start": each.start, "end": each.end} for each in found]
    show_document({"text": shown, "found": listed}, as_json=as_json)


def show_document(found: Any, *, as_json: bool) -> None:
    """Print one JSON document: on one line for programs, indented for people."""
    if as_json:
        show_json(found)
    else:
        click.echo(json.dumps(found, ensure_ascii=False, indent=2))


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a file of lines, or take standard input for `-`."""
    if str(path) == "-":
        yield sys.stdin.buffer
        return
    try:
        file = path.open("rb")
    except OSError as error:
        raise click.UsageError(f"{path}: {error.strerror}") from error
    with file:
        yield file


COMMANDS: Final = (canary, compare, power, redaction, verify)
