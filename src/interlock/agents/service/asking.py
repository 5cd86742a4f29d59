"""Model steps: reserve, write the intent, ask through the gateway, settle, write what was said.

Judges no answer; what a call may do is decided when it is performed.
"""

import json

from interlock.agents.domain.budget import estimated_tokens, reserve
from interlock.agents.domain.journal import Said, Step, StepKind, StepStatus, conversation
from interlock.agents.domain.policy import usable_tools
from interlock.agents.domain.prompts import Opening
from interlock.agents.domain.states import Reason, TaskState
from interlock.agents.domain.tools import offered
from interlock.agents.service.desk import Desk
from interlock.agents.store.journal import Ending, Event, Outcome
from interlock.contracts.inference import ChatAnswer, ChatCall, Credential, ModelRefused
from interlock.foundation.errors import InterlockError

_BACKOFF_S = 0.5
_RENEW_S = 60.0
_REFUSED_FOR_GOOD = frozenset({"killed"})


async def ask(desk: Desk, again: Step | None = None) -> Ending | None:
    """Take one model step; `again` is one that an earlier attempt began."""
    opening = opening_of(desk)
    messages, tools = conversation(opening, desk.steps), offered(usable_tools(desk.world))
    if again is not None:
        step = await desk.reopen(again)
        output_tokens = int(step.given.get("max_tokens", desk.parts.config.output_tokens))
    else:
        wanted = reserve(desk.left, estimated_tokens(messages, tools), desk.parts.config.output_tokens)
        if wanted is None:
            return _spent(desk)
        output_tokens = wanted.output_tokens
        args = json.dumps({"model": desk.task.row["model"], "max_tokens": output_tokens})
        step = await desk.begin(
            Step(
                desk.next_seq,
                StepKind.MODEL,
                StepStatus.INTENT,
                desk.token,
                args=args,
                tokens_reserved=wanted.tokens,
                started_us=desk.parts.clock.now_us(),
            )
        )
    call = ChatCall(desk.task.row["model"], messages, tools, output_tokens, timeout_s=desk.parts.config.model_timeout_s)
    began_s = desk.parts.clock.monotonic()
    answer = await _answered(desk, call)
    ms = (desk.parts.clock.monotonic() - began_s) * 1_000
    if isinstance(answer, ModelRefused):
        return await _refused(desk, step, answer, ms)
    await desk.end(step, _outcome(desk, answer, ms))
    return None


def opening_of(desk: Desk) -> Opening:
    """Return what the model is told at the beginning."""
    wish = desk.task.wish
    return Opening(wish.goal, wish.target, wish.test.command if wish.test else None, desk.recording)


async def give_back_credential(desk: Desk) -> None:
    """End the lent key of a leg; where the store is away it ends by itself."""
    if desk.credential is None:
        return
    credential, desk.credential = desk.credential, None
    try:
        await desk.parts.models.revoke(desk.task.scope(), credential)
    except InterlockError:
        return


async def _answered(desk: Desk, call: ChatCall) -> ChatAnswer | ModelRefused:
    """Ask, and again after what may pass, as often as the settings allow and the deadline lets."""
    tries = desk.parts.config.model_tries
    for number in range(tries):
        try:
            answer = await desk.parts.models.chat(await _credential(desk), call)
        except InterlockError as error:
            if error.code == "role_denied":
                return ModelRefused(error.code, error.http_status, None, error.message)
            raise
        if isinstance(answer, ChatAnswer) or answer.code in _REFUSED_FOR_GOOD or answer.retry_after_s is None:
            return answer
        if number + 1 < tries:
            wait_s = answer.retry_after_s or _BACKOFF_S * 2**number * desk.parts.dice.random()
            await desk.parts.clock.sleep(min(wait_s, desk.deadline_left_s))
    return answer


async def _credential(desk: Desk) -> Credential:
    """Return a key that lives long enough for one call."""
    parts, scope, ttl_s = desk.parts, desk.task.scope(), desk.parts.config.credential_s
    if desk.credential is None:
        desk.credential = await parts.models.lend(scope, link=desk.task.public_id, ttl_s=ttl_s, bounds=desk.task.bounds)
    elif desk.credential.expires_at_us - parts.clock.now_us() < min(_RENEW_S, ttl_s / 2) * 1e6:
        desk.credential = await parts.models.extend(scope, desk.credential, ttl_s)
    return desk.credential


def _outcome(desk: Desk, answer: ChatAnswer, ms: float) -> Outcome:
    hide = desk.redactor.text
    calls = tuple((each.id, hide(each.name), hide(each.arguments)) for each in answer.tool_calls)
    said = Said(hide(answer.text), calls)
    tokens = answer.input_tokens + answer.output_tokens
    spent: Event = ("budget.updated", {"tokens": tokens, "usd_micros": answer.cost_usd_micros or 0})
    return Outcome(
        StepStatus.DONE if calls else StepStatus.FAILED,
        said.to_json(),
        None if calls else "tool_error",
        request_id=answer.request_id,
        tokens=tokens,
        usd_micros=answer.cost_usd_micros or 0,
        ms=ms,
        events=(spent,),
    )


async def _refused(desk: Desk, step: Step, refused: ModelRefused, ms: float) -> Ending:
    told = {"error": refused.code, "message": desk.redactor.text(refused.message)}
    outcome = Outcome(StepStatus.FAILED, json.dumps(told), refused.code, request_id=refused.request_id, ms=ms)
    await desk.end(step, outcome)
    if refused.code == "killed":
        return Ending(TaskState.BLOCKED, Reason.PAUSED, told)
    return Ending(TaskState.FAILED, Reason.MODEL_UNAVAILABLE, told)


def _spent(desk: Desk) -> Ending:
    what = "usd_micros" if desk.left.usd_micros.left <= 0 else "tokens"
    state = TaskState.FAILED if desk.task.row["on_budget"] == "fail" else TaskState.BLOCKED
    return Ending(state, Reason.BUDGET_EXHAUSTED, {"budget": what})
