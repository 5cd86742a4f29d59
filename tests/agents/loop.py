"""A task without engine, store and gateway: a strategy, the tools, the rules and the check, in one loop."""

import json
from dataclasses import dataclass, replace

from interlock.agents.domain.policy import decide, violations
from interlock.agents.domain.ports import Commit, Export
from interlock.agents.domain.prompts import REJECTED, Opening, opening_messages
from interlock.agents.domain.tools import TOOLS, parse_call
from interlock.agents.domain.transcripts import read_transcript
from interlock.agents.domain.types import Effect, Finish, Outcome, ToolRefused, TreeRefused
from tests.agents.worlds import CLOCK


@dataclass
class Ended:
    """How a loop ended."""

    state: str
    steps: list
    rejections: int
    tree: str
    messages: list


async def run_loop(machine, case, next_call, *, steps_max=120, secrets=None):
    """Run until `finish` is accepted, given up, or rejected three times."""
    place, base = await machine.repo(case["files"])
    test, verify = case.get("test") or {}, case.get("verify")
    bench = machine.bench(
        place,
        test_command=test.get("command"),
        test_timeout_s=test.get("timeout_s", 60),
        secrets=secrets or {},
    )
    bench = replace(bench, limits=replace(bench.limits, timeout_s=120))
    messages = opening_messages(Opening(case["goal"], case.get("target"), test.get("command")))
    head, steps, rejections = base, [], 0
    for number in range(1, steps_max + 1):
        wanted = next_call(read_transcript(messages))
        arguments = json.dumps(dict(wanted.arguments))
        call = parse_call(f"c{number}", wanted.name, arguments)
        content, error, result = "", None, None
        if isinstance(call, ToolRefused):
            content, error = json.dumps({"error": "tool_error", "message": call.message}), "tool_error"
        else:
            decision = decide(call, bench.world)
            if decision.outcome is not Outcome.ALLOW:
                content, error = json.dumps({"error": "policy_violation", "rule": decision.rule}), "denied"
            else:
                result = await machine.tools.execute(call, bench)
                content, error = result.text, result.error
                if TOOLS[call.name].effect is Effect.WORKTREE:
                    head, error = await settled(machine, place, head, number, bench, error)
        steps.append((wanted.name, error, content))
        if result is not None and isinstance(result.act, Finish):
            if not result.act.is_done:
                return Ended("gave_up", steps, rejections, head.tree, messages), place, base
            if await accepted(machine, place, head, base, verify, bench):
                return Ended("complete", steps, rejections, head.tree, messages), place, base
            rejections += 1
            content = REJECTED
            if rejections >= 3:
                return Ended("verification_failed", steps, rejections, head.tree, messages), place, base
        tool_call = {"id": f"c{number}", "type": "function", "function": {"name": wanted.name, "arguments": arguments}}
        messages.append({"role": "assistant", "content": wanted.text, "tool_calls": [tool_call]})
        messages.append({"role": "tool", "tool_call_id": f"c{number}", "content": content})
    return Ended("steps", steps, rejections, head.tree, messages), place, base


async def settled(machine, place, head, number, bench, error):
    """Snapshot, check the difference, and put back what may not be."""
    made = await machine.trees.snapshot(place, Commit(number, head.commit, CLOCK.now_us(), {"Task": "t"}))
    if isinstance(made, TreeRefused):
        await machine.trees.restore(place, head.tree)
        return head, made.code
    secret = await machine.trees.holds_secret(place, made.diff, made.commit, bench.redactor)
    if violations(made.diff, bench.world) or secret:
        await machine.trees.restore(place, head.tree)
        return head, "policy_violation"
    return made, error


async def accepted(machine, place, head, base, verify, bench):
    """Run the check on an export."""
    if verify is None:
        return True
    wanted = Export(head.tree, base.commit, bench.world.protect, verify["files"])
    folder = await machine.trees.export(place, wanted)
    try:
        ran = await machine.tools.check(verify["command"], folder, bench)
    finally:
        await machine.trees.discard(place, folder)
    return ran.exit_code == 0 and (verify.get("expect") or "").encode() in ran.output
