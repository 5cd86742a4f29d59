"""Controls: the proof that a gate can fail, from what a good artifact answered.

Decides about no artifact. A control that does not come out as it must leaves its gate disarmed.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from interlock.evals.domain.cases import Case
from interlock.evals.domain.oracles import Output
from interlock.evals.domain.policy import Check, control_pairs
from interlock.evals.domain.rules import Verdict, rule_on
from interlock.evals.service.gate_rows import Gate
from interlock.evals.service.suites import cases_of, tenant_of, version_of
from interlock.evals.service.targets import Target
from interlock.evals.store import SQL, rows
from interlock.foundation.clock import Clock
from interlock.foundation.redaction import Redactor
from interlock.foundation.store import Transaction

_SAMPLES: Final = 100_000
Outputs = Mapping[str, Sequence[Output]]


class Controls:
    """Runs the controls of a gate inside its transaction."""

    def __init__(self, redactor: Redactor, clock: Clock) -> None:
        self._redactor = redactor
        self._clock = clock

    async def prove(self, tx: Transaction, gate: Gate, given: Target | None) -> None:
        """Prove of each check that a sabotaged recording FAILs and the recording itself does not."""
        organization_id, workspace_id = tenant_of(tx.scope)
        for check in gate.policy.checks:
            suite = await version_of(tx, check.suite, None)
            cases = [case for _, case in await cases_of(tx, suite["name"], suite["version"])]
            outputs = await self._outputs(tx, check, suite["version"], cases, given)
            proved = []
            for kind in ("positive", "negative"):
                observed, words = _observe(check, cases, outputs, is_sabotaged=kind == "positive")
                is_ok = (observed == Verdict.FAIL) is (kind == "positive") and observed != "NO_BASELINE"
                expected = "FAIL" if kind == "positive" else "not FAIL"
                proved.append(is_ok)
                await tx.execute(
                    SQL.put_control, organization_id, workspace_id, gate.id, gate.policy_digest, check.name, kind,
                    suite["suite_digest"], words, expected, str(observed), is_ok, self._clock.now_us(),
                )  # fmt: skip
            if all(proved):
                await self.keep(tx, check.suite, {each.key: outputs[each.key] for each in cases})

    async def keep(self, tx: Transaction, suite: str, outputs: Outputs) -> None:
        """Keep what a good artifact answered, for the next controls over the suite."""
        organization_id, workspace_id = tenant_of(tx.scope)
        now_us = self._clock.now_us()
        lines = [
            (organization_id, workspace_id, suite, key, self._kept(answered), now_us)
            for key, answered in sorted(outputs.items())
        ]
        await tx.executemany(SQL.put_baseline, lines)

    def _kept(self, answered: Sequence[Output]) -> str:
        return rows.encode([self._redactor.value(each.public()) for each in answered])

    async def _outputs(
        self, tx: Transaction, check: Check, version: int, cases: Sequence[Case], given: Target | None
    ) -> Outputs:
        """Return the recording that was given, else what was kept, else what the newest complete run answered."""
        if given is not None and given.outputs:
            return given.outputs
        found: dict[str, list[Output]] = {}
        for row in await tx.fetch(SQL.baseline_of, tx.scope.organization_id, check.suite):
            found[row["key"]] = [Output.read(each) for each in rows.decode(row["outputs"])]
        if all(each.key in found for each in cases):
            return found
        return {**await self._newest(tx, check.suite, version), **found}

    async def _newest(self, tx: Transaction, suite: str, version: int) -> dict[str, list[Output]]:
        runs = await tx.fetch(SQL.newest_runs, tx.scope.organization_id, suite, version)
        if not runs:
            return {}
        arm = "baseline" if runs[0]["baseline_digest"] else "candidate"
        found: dict[str, list[Output]] = {}
        page = await tx.fetch(SQL.samples_of, tx.scope.organization_id, runs[0]["id"], 0, arm, None, _SAMPLES)
        for row in page:
            if row["output"] is not None:
                found.setdefault(row["key"], []).append(Output.read(rows.decode(row["output"])))
        return found


def _observe(check: Check, cases: Sequence[Case], outputs: Outputs, *, is_sabotaged: bool) -> tuple[str, str]:
    missing = sum(not outputs.get(each.key) for each in cases)
    if missing:
        # A control over a part would arm the gate for the whole.
        return "NO_BASELINE", f"the recording lacks {missing} of {len(cases)} cases"
    pairs, words = control_pairs(check, cases, outputs, is_sabotaged=is_sabotaged)
    return str(rule_on(pairs, check.limits).verdict), words
