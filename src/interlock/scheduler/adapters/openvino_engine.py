"""OpenVINO's continuous batching in this process: one worker thread that owns every step and hosts the core in it.

Answers no HTTP and builds no model; `ir_build.py` makes the folder that is loaded here. The libraries are those of
the extra `openvino` and are imported only when a folder is loaded.
"""

import asyncio
import importlib.util
import queue
import threading
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from interlock.contracts.scheduling import SettleOutcome
from interlock.foundation.clock import Clock
from interlock.foundation.errors import BrokenWorldError
from interlock.scheduler.adapters.model_files import model_invalid
from interlock.scheduler.adapters.xllamacpp_engine import threads_of
from interlock.scheduler.config import EngineConfig
from interlock.scheduler.domain.completion import Completion, CompletionKind
from interlock.scheduler.domain.decisions import RecordedPolicy
from interlock.scheduler.domain.log_lines import Sink
from interlock.scheduler.domain.policy import Policy
from interlock.scheduler.domain.step_host import StepHost, step_engine, step_request, step_rules
from interlock.scheduler.domain.stops import StopWatch
from interlock.scheduler.domain.types import EngineState

SLOTS_MAX: Final = 32
_CHUNK_TOKENS: Final = 256
# The engine's server lets fewer wait than that.
_SEATS_MAX: Final = 1_000_000
_ANY_OBJECT: Final = '{"type":"object"}'
_Event = dict[str, Any] | None


def is_installed() -> bool:
    """Return whether the extra `openvino` is there."""
    return importlib.util.find_spec("openvino_genai") is not None


class OpenvinoEngine:
    """A loaded IR. `load` and `close` block; the rest belongs to the event loop."""

    def __init__(self, steps: "_StepThread", model_name: str, config: EngineConfig) -> None:
        self._steps = steps
        self.model_name = model_name
        self.slots = steps.slots
        self.context_tokens = config.context_tokens

    @classmethod
    def load(
        cls, folder: Path, model_name: str, *, config: EngineConfig, clock: Clock, sink: Sink | None = None
    ) -> "OpenvinoEngine":
        """Load the IR of a folder; takes seconds. What its core decides is written to `sink`.

        Raises `BrokenWorldError` `model_invalid` or `model_missing`.
        """
        if not is_installed():
            what = "the backend openvino is not installed"
            raise BrokenWorldError("model_missing", what, "python -m pip install 'interlock[openvino]'")
        import openvino_genai  # noqa: PLC0415 - an extra
        from tokenizers import Tokenizer  # noqa: PLC0415 - loaded with it alone

        limits = openvino_genai.SchedulerConfig()
        limits.max_num_seqs = SLOTS_MAX
        limits.max_num_batched_tokens = _CHUNK_TOKENS
        limits.cache_size = config.openvino_cache_gib
        limits.enable_prefix_caching = True
        try:
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            properties = {"INFERENCE_NUM_THREADS": threads_of(config)}
            pipeline = openvino_genai.ContinuousBatchingPipeline(str(folder), limits, "CPU", properties)
        except Exception as error:
            raise model_invalid(folder, str(error).splitlines()[-1]) from error
        itself = step_engine(min(SLOTS_MAX, config.slots), config.context_tokens)
        core = RecordedPolicy(step_rules(_SEATS_MAX), {}, sink)
        steps = _StepThread((openvino_genai, pipeline, tokenizer), core, itself, clock)
        return cls(steps, model_name, config)

    async def generate(self, completion: Completion) -> AsyncIterator[dict[str, Any]]:
        """Yield events as steps end. Closing the iterator takes the sequence out before the next step."""
        run = _Run(completion, asyncio.get_running_loop(), StopWatch(completion.parameters.get("stop", ())))
        self._steps.submit(run)
        try:
            while (event := await run.events.get()) is not None:
                yield event
        finally:
            self._steps.cancel(run)
            await _outlast(run.ended)

    def busy_slots(self) -> int:
        """Return the sequences in the pipeline."""
        return self._steps.busy

    def close(self) -> None:
        """End the thread and free the model."""
        self._steps.close()


@dataclass(slots=True, eq=False)
class _Run:
    """One sequence: made by the event loop, worked on by the thread."""

    completion: Completion
    loop: asyncio.AbstractEventLoop
    stops: StopWatch
    events: asyncio.Queue[_Event] = field(default_factory=asyncio.Queue)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    is_canceled: bool = False
    handle: Any = None
    decoder: Any = None
    request_id: str = ""
    prompt: list[int] = field(default_factory=list)
    made: int = 0
    reason: str | None = None

    def deliver(self, event: _Event) -> None:
        with suppress(RuntimeError):  # the loop is gone when the process ends in the middle of a run
            self.loop.call_soon_threadsafe(self.events.put_nowait, event)

    def finish(self) -> None:
        self.deliver(None)
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.ended.set)


class _StepThread:
    """Drain what came, let the core grant, add up to a chunk of prompts, step, fan out; again while anything runs.

    What the core has not granted, and what a step cannot read yet, never gets into the pipeline's own queue.
    """

    def __init__(self, loaded: tuple[Any, Any, Any], core: Policy, itself: EngineState, clock: Clock) -> None:
        self.slots = itself.slots
        self._library, self._pipeline, self._tokenizer = loaded
        self._clock = clock
        self._context_tokens = itself.context_tokens
        self._inbox: queue.SimpleQueue[_Run | None] = queue.SimpleQueue()
        self._host = StepHost(core, chunk_tokens=_CHUNK_TOKENS)
        self._host.engine_is(self._now_us(), itself)
        self._held: dict[str, _Run] = {}
        self._running: list[_Run] = []
        self._ids = 0
        self._is_closed = False
        self._thread = threading.Thread(target=self._work, name="openvino-steps", daemon=True)
        self._thread.start()

    @property
    def busy(self) -> int:
        return len(self._running)

    def submit(self, run: _Run) -> None:
        self._inbox.put(run)

    def cancel(self, run: _Run) -> None:
        run.is_canceled = True
        self._inbox.put(run)

    def close(self) -> None:
        self._is_closed = True
        self._inbox.put(None)
        self._thread.join()
        self._pipeline = None

    def _work(self) -> None:
        while not self._is_closed:
            self._drain(is_idle=not self._held)
            self._host.look(self._now_us())
            for request_id in self._host.given():
                self._add(self._held[request_id])
            self._refuse()
            if self._running:
                self._step()
        for run in self._held.values():
            run.finish()

    def _drain(self, *, is_idle: bool) -> None:
        """Take in what arrived since the last step, and take out who was canceled; wait where there is nothing."""
        with suppress(queue.Empty):
            while True:
                run = self._inbox.get(block=is_idle)
                is_idle = False
                if run is None:
                    continue
                if not run.is_canceled:
                    self._take_in(run)
                elif run.request_id not in self._held:
                    # Its caller left before it was looked at, and waits to hear that it holds nothing.
                    run.finish()
        for run in [each for each in self._held.values() if each.is_canceled]:
            if self._host.leave(self._now_us(), run.request_id):
                run.handle.cancel()
            self._end(run, SettleOutcome.CLIENT_GONE)

    def _take_in(self, run: _Run) -> None:
        """Read a prompt and let it wait for its turn."""
        try:
            run.prompt = self._tokenizer.encode(self._text(run.completion), add_special_tokens=False).ids
        except Exception as error:  # noqa: BLE001 - a template raises whatever it likes at messages that are none
            self._refused(run, {"code": 400, "message": str(error).splitlines()[-1]})
            return
        if len(run.prompt) >= self._context_tokens:
            too_long = {"type": "exceed_context_size_error", "n_prompt_tokens": len(run.prompt)}
            self._refused(run, {**too_long, "n_ctx": self._context_tokens})
            return
        self._ids += 1
        request = step_request(self._ids, len(run.prompt), self._room(run))
        run.request_id = request.request_id
        self._held[run.request_id] = run
        self._host.submit(self._now_us(), request)

    def _refuse(self) -> None:
        """Answer whoever the core did not let wait: more than it has seats for."""
        for request_id, refusal in self._host.refused:
            run = self._held.pop(request_id)
            self._refused(run, {"code": refusal.http_status, "message": refusal.message})
        self._host.refused.clear()

    def _refused(self, run: _Run, error: dict[str, Any]) -> None:
        run.deliver({"error": error})
        run.finish()

    def _add(self, run: _Run) -> None:
        import numpy as np  # noqa: PLC0415 - as above
        from openvino import Tensor  # noqa: PLC0415 - an extra
        from tokenizers.decoders import DecodeStream  # noqa: PLC0415 - loaded with it alone

        run.decoder = DecodeStream(skip_special_tokens=True)
        ids = Tensor(np.asarray([run.prompt], np.int64))
        try:
            run.handle = self._pipeline.add_request(int(run.request_id[4:]), ids, self._settings(run))
        except Exception as error:  # noqa: BLE001 - the library raises bare exceptions for a schema that is none
            run.deliver({"error": {"code": 400, "message": str(error).splitlines()[-1]}})
            self._end(run, SettleOutcome.UPSTREAM_ERROR)
            return
        run.deliver({"prompt_progress": {"total": len(run.prompt), "cache": 0}})
        self._running.append(run)

    def _text(self, completion: Completion) -> str:
        if completion.kind is CompletionKind.TEXT:
            return str(completion.parameters["prompt"])
        messages = completion.parameters["messages"]
        return str(self._pipeline.get_tokenizer().apply_chat_template(messages, add_generation_prompt=True))

    def _room(self, run: _Run) -> int:
        room = self._context_tokens - len(run.prompt)
        return int(min(run.completion.parameters.get("max_tokens", room), room))

    def _settings(self, run: _Run) -> Any:
        given = run.completion.parameters
        settings = self._pipeline.get_config()
        settings.max_new_tokens = self._room(run)
        settings.temperature = given.get("temperature", 1.0)
        settings.do_sample = settings.temperature > 0
        if not settings.do_sample:
            settings.temperature = 1.0
        settings.top_p = max(given.get("top_p", 1.0), 1e-6)
        settings.rng_seed = given.get("seed", int(run.request_id[4:]))
        settings.frequency_penalty = given.get("frequency_penalty", 0.0)
        settings.presence_penalty = given.get("presence_penalty", 0.0)
        form = given.get("response_format", {"type": "text"})
        if form["type"] != "text":
            wanted = form.get("json_schema", {}).get("schema")
            schema = _ANY_OBJECT if wanted is None else msgspec.json.encode(wanted).decode()
            settings.structured_output_config = self._library.StructuredOutputConfig(json_schema=schema)
        return settings

    def _step(self) -> None:
        try:
            self._pipeline.step()
        except Exception as error:  # noqa: BLE001 - what breaks a step breaks all that run in it
            for run in list(self._running):
                run.deliver({"error": {"code": 500, "message": str(error).splitlines()[-1]}})
                run.handle.cancel()
                self._end(run, SettleOutcome.UPSTREAM_ERROR)
            return
        for run in list(self._running):
            self._fan_out(run)

    def _fan_out(self, run: _Run) -> None:
        while run.reason is None and run.handle.can_read():
            for output in run.handle.read().values():
                self._take(run, output)
        if run.made:
            self._host.made(self._now_us(), run.request_id, run.made)
        if run.reason is not None:
            self._close_run(run)
        elif run.handle.get_status() != self._library.GenerationStatus.RUNNING:
            run.deliver({"error": {"code": 500, "message": "the sequence ended without a reason"}})
            self._end(run, SettleOutcome.UPSTREAM_ERROR)

    def _take(self, run: _Run, output: Any) -> None:
        for token in output.generated_ids:
            run.made += 1
            shown = run.stops.feed(run.decoder.step(self._tokenizer, token) or "")
            if shown:
                run.deliver(_piece(run.completion.kind, shown))
            if run.stops.is_found:
                run.reason = "stop"
                run.handle.cancel()
                return
        reasons = self._library.GenerationFinishReason
        if output.finish_reason != reasons.NONE:
            run.reason = "length" if output.finish_reason == reasons.LENGTH else "stop"

    def _close_run(self, run: _Run) -> None:
        rest = run.stops.rest()
        if rest:
            run.deliver(_piece(run.completion.kind, rest))
        run.deliver({"choices": [{"index": 0, "finish_reason": run.reason}]})
        usage = {"prompt_tokens": len(run.prompt), "completion_tokens": run.made}
        run.deliver({"choices": [], "usage": {**usage, "total_tokens": len(run.prompt) + run.made}})
        self._end(run, SettleOutcome.OK)

    def _end(self, run: _Run, outcome: SettleOutcome) -> None:
        self._host.ended(self._now_us(), run.request_id, outcome)
        del self._held[run.request_id]
        if run in self._running:
            self._running.remove(run)
        run.finish()

    def _now_us(self) -> int:
        return round(self._clock.monotonic() * 1_000_000)


def _piece(kind: CompletionKind, text: str) -> dict[str, Any]:
    choice: dict[str, Any] = {"index": 0, "finish_reason": None}
    choice |= {"delta": {"content": text}} if kind is CompletionKind.CHAT else {"text": text}
    return {"choices": [choice]}


async def _outlast(ended: asyncio.Event) -> None:
    """Wait for the thread even when the waiting task is canceled meanwhile: the slot is busy until it let go."""
    while not ended.is_set():
        with suppress(asyncio.CancelledError):
            await ended.wait()
