"""Decides evaluations whose runs have ended, and signs what it decides. Runs where the signing key may be opened.

Starts no run. What is missing, late or unsigned never admits.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final
from uuid import UUID

from interlock.evals.config import EvalsConfig
from interlock.evals.domain.canonical import canonical, digest
from interlock.evals.domain.policy import ATTEMPTS, Check
from interlock.evals.domain.results import Result, numbers_of, pairs_of
from interlock.evals.domain.rollout_gate import Blocked, LiveVerdict
from interlock.evals.domain.rules import Finding, Rule, Ruling, Verdict, finding, incomplete, needs_more, rule_on, worst
from interlock.evals.domain.verdict import Claims, mint
from interlock.evals.metrics import EvalMetrics
from interlock.evals.service.gate_rows import Gate, find_gate
from interlock.evals.service.gates import Gates, is_final
from interlock.evals.service.running import result_of
from interlock.evals.service.signing import SigningKeys
from interlock.evals.service.suites import tenant_of, version_of
from interlock.evals.store import SQL, rows
from interlock.foundation.audit import AuditEntry, AuditLog
from interlock.foundation.clock import Clock, rfc3339
from interlock.foundation.ids import IdFactory, OrganizationId, format_id, parse_id
from interlock.foundation.leases import Lease, LeaseLostError, LeaseSpec
from interlock.foundation.scope import Scope
from interlock.foundation.store import Store, Transaction

EVALUATION_LEASES: Final = LeaseSpec(
    table="evals_evaluations",
    shares_table="evals_evaluation_shares",
    due_sql="w.state = 'pending'",
    dead_sql="state = 'refused', code = 'internal_error'",
    attempts_max=20,
)
_HOUR_US: Final = 3_600_000_000
_SAMPLES: Final = 200_000


@dataclass(frozen=True, slots=True)
class _Ruled:
    """A check with its evidence."""

    check: Check
    ruling: Ruling
    run: Any
    suite: str
    is_complete: bool


@dataclass(frozen=True, slots=True)
class _Asked:
    """What an evaluation compares with, and the share of alpha that is left for it."""

    baseline_digest: str | None
    alpha_share: float


class Decider:
    """One evaluation at a time; `work` is what the lease worker calls."""

    def __init__(  # noqa: PLR0913 - the parts of the composition root
        self,
        store: Store,
        *,
        gates: Gates,
        signing: SigningKeys,
        audit: AuditLog,
        clock: Clock,
        ids: IdFactory,
        config: EvalsConfig,
        metrics: EvalMetrics,
    ) -> None:
        self._store = store
        self._gates = gates
        self._signing = signing
        self._audit = audit
        self._clock = clock
        self._ids = ids
        self._config = config
        self._metrics = metrics

    async def work(self, lease: Lease) -> float | None:
        """Decide, or come back while runs go on."""
        async with self._store.transaction(EVALUATION_LEASES.scope_of(lease)) as tx:
            row = await tx.fetchrow(SQL.get_evaluation, lease.organization_id, lease.key)
            if row is None or row["state"] != "pending":
                return None
            gate = await find_gate(tx, format_id("gate", row["gate_id"]))
            await tx.fetchrow(SQL.lock_gate, lease.organization_id, gate.id)
            runs = await self._runs(tx, rows.decode(row["runs"]))
            if not all(is_final(each["state"]) for each in runs.values()):
                return self._config.evaluation_poll_s
            further = await self._further(tx, gate, row, runs, lease.token)
            if not all(is_final(each["state"]) for each in further.values()):
                return self._config.evaluation_poll_s
            verdict_id = await self._decide(tx, gate, row, {"first": runs, "further": further})
            state, code = ("refused", "attempts_exhausted") if verdict_id is None else ("decided", None)
            ended = await tx.execute(
                SQL.end_evaluation, lease.organization_id, lease.key, lease.token, state, verdict_id, code
            )
            if not ended:
                raise LeaseLostError
        return None

    async def _runs(self, tx: Transaction, named: dict[str, str]) -> dict[str, Any]:
        return {
            check: await tx.fetchrow(SQL.get_run, tx.scope.organization_id, parse_id("run", each))
            for check, each in named.items()
        }

    async def _further(self, tx: Transaction, gate: Gate, row: Any, runs: dict[str, Any], token: int) -> dict[str, Any]:
        """Return the runs of further repeats by check; begin those that are needed and were not."""
        named: dict[str, str] = dict(rows.decode(row["further"]))
        if self._standing(row, await self._gates.spent(tx, gate, row["artifact_digest"])) is not None:
            return {}
        for check in gate.policy.checks:
            run, repeats = runs.get(check.name), check.limits.repeats
            if check.limits.rule is not Rule.MUST_PASS or check.name in named or run is None:
                continue
            if run["state"] != "complete" or rows.decode(run["candidate"])["kind"] == "recorded":
                continue
            keys = needs_more(pairs_of(await self._results(tx, run)), repeats)
            if keys:
                named[check.name] = await self._gates.further(tx, run, keys, repeats)
        if named != rows.decode(row["further"]):
            await tx.execute(SQL.note_further, tx.scope.organization_id, row["id"], token, rows.encode(named))
        return await self._runs(tx, named)

    def _standing(self, row: Any, spent: list[Any]) -> UUID | None:
        """Return the live verdict that was made of the same runs."""
        named, now_us = rows.decode(row["runs"]), self._clock.now_us()
        same = (each for each in spent if rows.decode(each["body"])["runs"] == named and each["expires_us"] > now_us)
        return next((UUID(str(each["id"])) for each in same), None)

    async def _results(self, tx: Transaction, run: Any) -> list[Result]:
        found = await tx.fetch(SQL.samples_of, tx.scope.organization_id, run["id"], 0, None, None, _SAMPLES)
        return [result_of(each) for each in found]

    async def _decide(self, tx: Transaction, gate: Gate, row: Any, runs: dict[str, dict[str, Any]]) -> UUID | None:
        """Return the verdict, one that stands already, or None where others used up the attempts meanwhile."""
        spent = await self._gates.spent(tx, gate, row["artifact_digest"])
        standing = self._standing(row, spent)
        if standing is not None:
            return standing
        if len(spent) >= len(ATTEMPTS):
            return None
        attempt = len(spent)
        asked = _Asked(row["baseline_digest"], ATTEMPTS[attempt])
        ruled = [
            await self._rule(tx, gate, each, (runs["first"][each.name], runs["further"].get(each.name)), asked)
            for each in gate.policy.checks
        ]
        verdict = worst([each.ruling.verdict for each in ruled])
        reasons = [{"check": each.check.name, **found.public()} for each in ruled for found in each.ruling.findings]
        disarmed = await self._gates.disarmed(tx, gate)
        if disarmed:
            text = f"The gate is not armed: {disarmed[0]}."
            reasons.insert(0, {"check": None, **finding("gate_not_armed", text, None, len(disarmed), 0).public()})
            verdict = worst([verdict, Verdict.INCONCLUSIVE])
        is_spent = not disarmed and all(each.is_complete for each in ruled)
        return await self._issue(tx, gate, row, _Decision(verdict, reasons, ruled, attempt + 1, is_spent=is_spent))

    async def _rule(self, tx: Transaction, gate: Gate, check: Check, runs: tuple[Any, Any], asked: _Asked) -> _Ruled:
        run, further = runs
        results, expected = await self._results(tx, run), run["expected"]
        if further is not None:
            more = await self._results(tx, further)
            results += [replace(each, epoch=run["epochs"] + each.epoch) for each in more]
            expected += further["expected"]
        scored = sum(each.is_scored for each in results)
        suite: Any = await tx.fetchrow(SQL.suite_version, tx.scope.organization_id, check.suite, None)
        objection = self._objection(gate, check, run, suite, asked.baseline_digest)
        if objection is not None:
            return _Ruled(check, objection, run, suite["suite_digest"], is_complete=False)
        if run["state"] != "complete" or scored < expected:
            return _Ruled(check, incomplete(expected, scored), run, suite["suite_digest"], is_complete=False)
        limits = check.limits.__class__(**{
            **{name: getattr(check.limits, name) for name in check.limits.__dataclass_fields__},
            "alpha": check.limits.alpha * asked.alpha_share,
        })  # fmt: skip
        ruling = rule_on(pairs_of(results), limits)
        numbers = {**ruling.numbers, "completeness": numbers_of(results)["completeness"]}
        if further is not None:
            numbers["further_run_id"] = format_id("run", further["id"])
        kept = Ruling(ruling.verdict, ruling.findings, numbers)
        return _Ruled(check, kept, run, suite["suite_digest"], is_complete=True)

    def _objection(self, gate: Gate, check: Check, run: Any, suite: Any, asked: str | None) -> Ruling | None:
        """Return why evidence does not count, whatever it says."""
        age_h = (self._clock.now_us() - run["created_us"]) / _HOUR_US
        arms = [rows.decode(run[name]) for name in _arms_of(check) if run[name] is not None]
        found = None
        if any(each and each["kind"] == "recorded" for each in arms) and not check.accept_recorded:
            found = finding("recorded_not_accepted", "This check wants live outputs, not a recording.", None, 0, None)
        elif run["purpose"] != "run":
            found = finding("not_evidence", f"A run of the kind {run['purpose']} decides nothing.", None, 0, None)
        elif age_h > gate.policy.freshness_h:
            text = f"The evidence is {age_h:.0f} h old."
            found = finding("stale", text, round(age_h, 1), 0, gate.policy.freshness_h)
        elif run["suite_digest"] != suite["suite_digest"]:
            found = finding("stale", "The suite has a newer version than the evidence.", None, 0, None)
        elif check.limits.rule is Rule.NON_INFERIOR:
            found = _baseline_objection(gate, run, asked)
        return None if found is None else Ruling(Verdict.INCONCLUSIVE, (found,))

    async def _issue(self, tx: Transaction, gate: Gate, row: Any, decision: "_Decision") -> UUID:
        organization_id, workspace_id = tenant_of(tx.scope)
        verdict_id, now_us = self._ids.new(), self._clock.now_us()
        expires_us = now_us + round(gate.policy.verdict_ttl_h * _HOUR_US)
        admits = decision.verdict is Verdict.PASS
        signer = await self._signing.signer(tx)
        shown = {
            "gate": gate.name, "gate_id": gate.named, "gate_version": gate.version, "route": gate.policy.route,
            "policy_digest": gate.policy_digest, "artifact_digest": row["artifact_digest"],
            "baseline_digest": row["baseline_digest"], "verdict": str(decision.verdict), "admits": admits,
            "reasons": decision.reasons, "checks": [_check_json(each) for each in decision.ruled],
            "attempt": decision.attempt, "waiver": None, "key_id": signer.key_id,
        }  # fmt: skip
        shown |= {"id": shown_id(verdict_id), "issued_at": rfc3339(now_us), "expires_at": rfc3339(expires_us)}
        # Over all that is shown but the signature and the token, so that anybody can check it.
        shown["signature"] = base64.b64encode(signer.sign(canonical(shown))).decode()
        claims = Claims(
            signer.key_id, OrganizationId(organization_id), gate.policy.route, gate.named, format_id("vdt", verdict_id),
            row["artifact_digest"], gate.policy.max_weight, now_us, expires_us,
        )  # fmt: skip
        is_its_gate = await self._stands_alone(gate, organization_id)
        shown["token"] = mint(claims, signer.sign) if admits and is_its_gate else None
        runs = rows.decode(row["runs"])
        body = {"shown": shown, "runs": runs, "is_spent": decision.is_spent, "tier": gate.policy.risk_tier}
        await tx.execute(
            SQL.add_verdict, organization_id, workspace_id, verdict_id, gate.id, gate.version, gate.policy.route,
            gate.policy_digest, row["artifact_digest"], row["baseline_digest"], decision.attempt, digest(runs),
            str(decision.verdict), admits, rows.encode(body), now_us, expires_us,
        )  # fmt: skip
        detail = {"verdict": str(decision.verdict), "artifact": row["artifact_digest"], "gate": gate.name}
        await self._audit.append(tx, AuditEntry("gate.verdict", "verdict", shown_id(verdict_id), detail=detail))
        self._metrics.verdict(str(decision.verdict))
        return verdict_id

    async def _stands_alone(self, gate: Gate, organization_id: UUID) -> bool:
        """Tell whether no other gate is required on the route: an easier one beside it would be a way around it.

        A route belongs to the organization, and the gate that guards it may be another workspace's.
        """
        async with self._store.ops("the gate that a route requires, whatever its workspace") as tx:
            required = await tx.fetchval(SQL.required_gate_id, organization_id, gate.policy.route)
        return required is None or required == gate.id


@dataclass(frozen=True, slots=True)
class _Decision:
    verdict: Verdict
    reasons: list[dict[str, Any]]
    ruled: list[_Ruled]
    attempt: int
    is_spent: bool


class RequiredGate:
    """`RolloutGate`: the required gate of a route, as a rollout asks it."""

    def __init__(self, store: Store, gates: Gates, signing: SigningKeys, clock: Clock) -> None:
        self._store = store
        self._gates = gates
        self._signing = signing
        self._clock = clock

    async def live(self, scope: Scope, route: str, artifact_digest: str) -> LiveVerdict | Blocked:
        """Return the newest live verdict that admits the artifact under the current policy of an armed gate."""
        async with self._store.transaction(scope) as tx:
            row = await tx.fetchrow(SQL.required_gate, scope.organization_id, route)
            if row is None:
                return _blocked("no_gate", f"No required gate guards the route {route}.")
            gate = Gate.of(row)
            disarmed = await self._gates.disarmed(tx, gate)
            if disarmed:
                return _blocked("gate_not_armed", f"The gate {gate.name} is not armed: {disarmed[0]}.")
            found = await tx.fetch(SQL.verdicts_of, scope.organization_id, gate.id, artifact_digest, None, 20)
            suites = {each.suite: await version_of(tx, each.suite, None) for each in gate.policy.checks}
        digests = {name: suite["suite_digest"] for name, suite in suites.items()}
        for each in found:
            if each["policy_digest"] != gate.policy_digest:
                continue
            return self._judge(gate, each, digests)
        return _blocked("no_verdict", f"The gate {gate.name} has not decided about this version.")

    def _judge(self, gate: Gate, row: Any, suites: Mapping[str, str]) -> LiveVerdict | Blocked:
        """The newest verdict counts: an older PASS does not outlive a FAIL, nor a case that the suite got since."""
        shown = rows.decode(row["body"])["shown"]
        changed = [each["suite"] for each in shown["checks"] if suites.get(each["suite"]) != each["suite_digest"]]
        if row["admits"] and changed:
            return _blocked("stale", f"The suite {changed[0]} has a newer version than the verdict's evidence.")
        if not row["admits"]:
            return Blocked(tuple({**each, "verdict": row["verdict"]} for each in shown["reasons"]))
        if row["expires_us"] <= self._clock.now_us():
            return _blocked("verdict_expired", f"The verdict of the gate {gate.name} has expired.")
        tier = gate.policy.risk_tier
        return LiveVerdict(gate.id, row["id"], row["verdict"], row["expires_us"], gate.policy.max_weight, tier)

    async def token(self, scope: Scope, route: str, verdict: LiveVerdict, max_weight: float) -> str | Blocked:
        """Return a token of that verdict for up to `max_weight` percent; beyond the first stage it is signed anew."""
        async with self._store.transaction(scope) as tx:
            row = await tx.fetchrow(SQL.get_verdict, scope.organization_id, verdict.verdict_id)
            if row is None or not row["admits"]:
                return _blocked("no_verdict", "There is no such verdict.")
            first: str | None = rows.decode(row["body"])["shown"]["token"]
            # One that was decided while another gate was the route's required one came without a token.
            if first is not None and max_weight <= verdict.max_weight:
                return first
            signer = await self._signing.signer(tx)
        claims = Claims(
            signer.key_id, scope.organization_id, route, format_id("gate", verdict.gate_id),
            format_id("vdt", verdict.verdict_id), row["artifact_digest"], max_weight, self._clock.now_us(),
            row["expires_us"],
        )  # fmt: skip
        return mint(claims, signer.sign)


def shown_id(verdict_id: UUID) -> str:
    """Return the id of a verdict."""
    return format_id("vdt", verdict_id)


def _arms_of(check: Check) -> tuple[str, ...]:
    return ("candidate", "baseline") if check.limits.rule is Rule.NON_INFERIOR else ("candidate",)


def _baseline_objection(gate: Gate, run: Any, asked: str | None) -> Finding | None:
    """Return why the other arm is no baseline: against itself, or against some weakling, whatever is served passes."""
    digest_, baseline = run["baseline_digest"], rows.decode(run["baseline"])
    if digest_ is None:
        return finding("baseline_missing", "Without a baseline nothing can be compared.", None, 0, 1)
    if digest_ == run["candidate_digest"]:
        return finding("same_artifact", "The run compares the artifact with itself.", None, 0, None)
    if asked is not None and digest_ != asked:
        return finding("baseline_mismatch", "The run has another baseline than was asked for.", None, 0, None)
    if baseline["kind"] == "route" and baseline["route"] != gate.policy.route:
        text = f"The baseline is of the route {baseline['route']}, the gate of {gate.policy.route}."
        return finding("baseline_mismatch", text, None, 0, None)
    return None


def _check_json(ruled: _Ruled) -> dict[str, Any]:
    return {
        "name": ruled.check.name, "verdict": str(ruled.ruling.verdict), "suite": ruled.check.suite,
        "suite_version": ruled.run["suite_version"], "suite_digest": ruled.suite,
        "run_id": format_id("run", ruled.run["id"]), "baseline_digest": ruled.run["baseline_digest"],
        "evidence_digest": ruled.run["evidence_digest"],
        "numbers": dict(ruled.ruling.numbers),
    }  # fmt: skip


def _blocked(code: str, text: str) -> Blocked:
    return Blocked(({"code": code, "text": text},))
