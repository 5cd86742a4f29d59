"""The extraction pool: a few processes that turn pages into documents, one page at a time each.

Does not parse: a crash, a loop or a swollen page costs its process, and the page is kept as plain text.
"""

import asyncio
import contextlib
import os
import sys
from pathlib import Path
from typing import Final

import msgspec

from interlock.crawler.adapters.extract_child import LENGTH, Answer, Done
from interlock.crawler.adapters.markdown import PLAIN_CHARS_MAX, plain_document
from interlock.crawler.domain.types import Extracted, ExtractRequest

PROCESSES: Final = 2
PAGE_S_MAX: Final = 5.0
ANSWER_BYTES_MAX: Final = 64 * 1024 * 1024
_CHILD: Final = "interlock.crawler.adapters.extract_child"
_ENVIRONMENT: Final = ("PATH", "PYTHONPATH", "LANG", "LC_ALL")


class PoolExtractor:
    """The `Extractor` over a bounded pool. Processes start with the first page and are replaced when they end."""

    def __init__(self, processes: int = PROCESSES, page_s_max: float = PAGE_S_MAX) -> None:
        self._page_s_max = page_s_max
        self._free: asyncio.Queue[_Child] = asyncio.Queue()
        self._children = [_Child() for _ in range(processes)]
        for child in self._children:
            self._free.put_nowait(child)
        self.pages = self.failed = 0

    async def extract(self, request: ExtractRequest) -> Extracted:
        """Return the document; always one, plain where the page would not yield."""
        child = await self._free.get()
        try:
            answer = await self._asked(child, request)
        finally:
            self._free.put_nowait(child)
        self.pages += 1
        if isinstance(answer, Done):
            return answer.extracted
        self.failed += 1
        return await asyncio.to_thread(_plain, request)

    def statistics(self) -> dict[str, int]:
        """Return how many pages were made, how many of them as plain text, and how many processes are free."""
        return {
            "processes": len(self._children), "free": self._free.qsize(), "pages": self.pages, "failed": self.failed,
        }  # fmt: skip

    async def close(self) -> None:
        """End the pool's processes."""
        for child in self._children:
            await child.end()

    async def _asked(self, child: "_Child", request: ExtractRequest) -> Answer | None:
        """Return the child's answer, None where it died, was too late or spoke nonsense; such a child is ended."""
        is_answered = False
        try:
            async with asyncio.timeout(self._page_s_max + child.start_s):
                answer = await child.ask(request)
            is_answered = True
        except (OSError, EOFError, TimeoutError, msgspec.MsgspecError):
            return None
        else:
            return answer
        finally:
            if not is_answered:
                await child.end()


class _Child:
    """One process, started when it is asked and there is none."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None

    @property
    def start_s(self) -> float:
        """How long the next page may wait for the process itself: its libraries take a while to load."""
        return 0.0 if self._is_alive() else 20.0

    async def ask(self, request: ExtractRequest) -> Answer:
        """Send one page. Raises OSError or EOFError when the process is gone."""
        process = self._process if self._is_alive() else None
        if process is None:
            process = self._process = await self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        asked = msgspec.msgpack.encode(request)
        process.stdin.write(LENGTH.pack(len(asked)) + asked)
        await process.stdin.drain()
        size = LENGTH.unpack(await process.stdout.readexactly(LENGTH.size))[0]
        if size > ANSWER_BYTES_MAX:
            raise EOFError
        answer: Answer = msgspec.msgpack.decode(await process.stdout.readexactly(size), type=Answer)
        return answer

    async def end(self) -> None:
        """Kill the process and wait for it."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()

    def _is_alive(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @staticmethod
    async def _started() -> asyncio.subprocess.Process:
        # A page's process inherits no secret of ours, and no session whose signals it would share.
        kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", _CHILD, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL, env=kept, start_new_session=True, limit=ANSWER_BYTES_MAX,
        )  # fmt: skip


def _plain(request: ExtractRequest) -> Extracted:
    with Path(request.path).open("rb") as file:
        return plain_document(request.url, request.headers, file.read(PLAIN_CHARS_MAX))
