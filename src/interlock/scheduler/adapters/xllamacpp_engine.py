"""llama.cpp in this process, through xllamacpp: loads a model and generates in worker threads.

Answers no HTTP: `engine_server.py` does. The library opens a listener of its own and cannot be told not to, so it
gets a unix socket with a random key, whose file is removed as soon as the model is loaded.
"""

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from interlock.foundation.clock import Dice
from interlock.foundation.errors import InterlockError
from interlock.scheduler.adapters.model_files import ModelFile, model_invalid
from interlock.scheduler.config import EngineConfig
from interlock.scheduler.domain.completion import Completion, CompletionKind
from interlock.scheduler.domain.parity import PROMPTS, ParityPrompt, Reference

# OpenMP threads spin for their next task by default, which on a small machine takes the core from everybody else.
_WAIT_POLICY: Final = ("OMP_WAIT_POLICY", "PASSIVE")
_CONTEXT_EXCEEDED: Final = "exceed_context_size_error"
_CHAT_GAPS: Final = {"logprobs": True, "top_logprobs": 2}
_TEXT_GAPS: Final = {"n_probs": 2}
_TOO_LONG: Final = "exceeds the available context size"


class XllamacppEngine:
    """A loaded model with `slots` sequences at once. `load` and `close` block; the rest belongs to the event loop."""

    def __init__(self, server: Any, model: ModelFile, config: EngineConfig) -> None:
        self._server = server
        self._threads = ThreadPoolExecutor(max_workers=config.slots, thread_name_prefix="generate")
        self.model_name = model.name
        self.slots = config.slots
        self.context_tokens = config.context_tokens

    @classmethod
    def load(cls, model: ModelFile, *, listener_path: Path, config: EngineConfig, dice: Dice) -> "XllamacppEngine":
        """Load the weights; takes seconds. Raises `BrokenWorldError` `model_invalid`."""
        os.environ.setdefault(*_WAIT_POLICY)
        import xllamacpp  # noqa: PLC0415 - OpenMP reads its policy from the environment when the library is loaded

        listener_path.unlink(missing_ok=True)
        params = _params(xllamacpp.CommonParams(), model, config)
        params.hostnames = [str(listener_path)]
        params.api_keys = [dice.randbytes(32).hex()]
        try:
            server = xllamacpp.Server(params)
        except RuntimeError as error:
            raise model_invalid(model.path, str(error)) from error
        finally:
            listener_path.unlink(missing_ok=True)
        return cls(server, model, config)

    async def generate(self, completion: Completion) -> AsyncIterator[dict[str, Any]]:
        """Yield the events of the model as it makes them. Closing the iterator stops the model within a step.

        The caller holds a slot; the generator ends only when the model has let go of it.
        """
        generation = _Generation(self._server, completion)
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(self._threads, generation.work)
        try:
            while (event := await generation.events.get()) is not None:
                yield event
            await work
        finally:
            generation.is_canceled.set()
            await _outlast(work)

    def references(self) -> dict[str, Reference]:
        """Return the answers to the parity prompts with the gaps of the best two tokens. Blocks for seconds."""
        return {each.name: self._reference(each) for each in PROMPTS}

    def _reference(self, prompt: ParityPrompt) -> Reference:
        completion = prompt.completion()
        is_chat = completion.kind is CompletionKind.CHAT
        body = {**completion.parameters, "stream": False, **(_CHAT_GAPS if is_chat else _TEXT_GAPS)}
        run = self._server.handle_chat_completions if is_chat else self._server.handle_completions
        answers: list[str] = []

        def take(answer: str) -> bool:
            answers.append(answer)
            return False

        run(msgspec.json.encode(body).decode(), take)
        choice = msgspec.json.decode(answers[0])["choices"][0]
        text = choice["message"]["content"] if is_chat else choice["text"]
        ends, gaps, end = [], [], 0
        for token in choice["logprobs"]["content"]:
            end += len(bytes(token["bytes"]))
            ends.append(end)
            best = [each["logprob"] for each in token["top_logprobs"]]
            gaps.append(best[0] - best[1])
        return Reference(text, tuple(ends), tuple(gaps))

    def busy_slots(self) -> int:
        """Return the sequences that llama.cpp itself counts as running. Blocks for up to a step."""
        return _gauge(self._server.handle_metrics(), "llamacpp:requests_processing")

    def close(self) -> None:
        """End the worker threads and free the model."""
        self._threads.shutdown(wait=True)
        self._server = None


class _Generation:
    """One run of the model in a worker thread; the number of its events is bounded by the context."""

    def __init__(self, server: Any, completion: Completion) -> None:
        self._server = server
        self._completion = completion
        self._loop = asyncio.get_running_loop()
        self.events: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self.is_canceled = threading.Event()

    def work(self) -> None:
        """Run to the end. Each step calls back, also while the prompt is read, so a cancel is seen in every phase."""
        body = {**self._completion.parameters, "stream": True, "return_progress": True}
        body["stream_options"] = {"include_usage": True}
        is_chat = self._completion.kind is CompletionKind.CHAT
        run = self._server.handle_chat_completions if is_chat else self._server.handle_completions
        try:
            if not self.is_canceled.is_set():
                run(msgspec.json.encode(body).decode(), self._take)
        except (ValueError, RuntimeError) as error:
            # What llama.cpp refuses before it starts: a schema that is none, a template that does not render.
            self._deliver({"error": {"code": 400, "message": str(error)}})
        finally:
            self._deliver(None)

    def _take(self, event: str) -> bool:
        """Pass an event on; True tells the library to stop."""
        if self.is_canceled.is_set():
            return True
        self._deliver(msgspec.json.decode(event))
        return False

    def _deliver(self, event: dict[str, Any] | None) -> None:
        with suppress(RuntimeError):  # the loop is gone when the process ends in the middle of a run
            self._loop.call_soon_threadsafe(self.events.put_nowait, event)


def refusal_of(event: dict[str, Any]) -> InterlockError | None:
    """Return the error that an event of the model stands for."""
    error = event.get("error")
    if error is None:
        return None
    message = str(error.get("message", ""))
    if error.get("type") == _CONTEXT_EXCEEDED or _TOO_LONG in message:
        figures = {"input_tokens": error.get("n_prompt_tokens"), "context_tokens": error.get("n_ctx")}
        return InterlockError("context_length_exceeded", detail=figures)
    if error.get("code") == 400:
        return InterlockError("invalid_request", message[:500])
    return InterlockError("upstream_error", message[:500])


def _params(params: Any, model: ModelFile, config: EngineConfig) -> Any:
    threads = threads_of(config)
    params.model.path = str(model.path)
    params.n_parallel = config.slots
    params.n_ctx = config.slots * config.context_tokens
    params.n_batch = params.n_ubatch = config.batch_tokens
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.n_gpu_layers = 0
    # Its own guess at what fits into memory would change the context that we promise.
    params.fit_params = False
    params.cache_ram_mib = 0
    params.verbosity = 0
    params.ui = params.endpoint_slots = params.endpoint_props = False
    # Read in-process by `busy_slots`; the route of the same name needs the key that nobody is told.
    params.endpoint_metrics = True
    params.n_threads_http = 1
    return params


def threads_of(config: EngineConfig) -> int:
    """Return the threads that compute: as set, or one less than the cores."""
    return config.threads or max(1, len(os.sched_getaffinity(0)) - 1)


def _gauge(text: str, name: str) -> int:
    return next(int(float(line.split()[1])) for line in text.splitlines() if line.startswith(f"{name} "))


async def _outlast(work: "asyncio.Future[None]") -> None:
    """Wait for a worker thread even when the waiting task is canceled meanwhile: its slot is busy until it ends."""
    while not work.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait([work])
