"""One process of the extraction pool: reads a page's file, answers with its document, within its own limits.

Run as a module by the pool and by nobody else. Ends with its input, and by itself when it has grown too large.
"""

import os
import resource
import struct
import sys
from dataclasses import replace
from pathlib import Path
from time import process_time
from typing import Final

import msgspec

from interlock.crawler.adapters.markdown import document_of
from interlock.crawler.domain.types import Extracted, ExtractRequest

LENGTH: Final = struct.Struct(">I")
ADDRESS_SPACE_BYTES_MAX: Final = 1024 * 1024 * 1024
RESIDENT_BYTES_MAX: Final = 400 * 1024 * 1024
PAGES_MAX: Final = 500
CPU_S_MAX: Final = 10


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The parser gave up on a page; `error` is the name of what it raised."""

    error: str


class Done(msgspec.Struct, frozen=True, tag=True):
    """The document of a page."""

    extracted: Extracted


Answer = Failed | Done


def main() -> None:
    """Answer requests until the input ends or the process has served its time."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE_BYTES_MAX, ADDRESS_SPACE_BYTES_MAX))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    for _ in range(PAGES_MAX):
        head = sys.stdin.buffer.read(LENGTH.size)
        if len(head) < LENGTH.size:
            return
        request = msgspec.msgpack.decode(sys.stdin.buffer.read(LENGTH.unpack(head)[0]), type=ExtractRequest)
        _grant_cpu()
        answer = msgspec.msgpack.encode(_answer(request))
        sys.stdout.buffer.write(LENGTH.pack(len(answer)) + answer)
        sys.stdout.buffer.flush()
        if _resident_bytes() > RESIDENT_BYTES_MAX:
            return


def _answer(request: ExtractRequest) -> Answer:
    began_s = process_time()
    try:
        document = document_of(request.url, request.headers, Path(request.path).read_bytes())
        return Done(replace(document, cpu_s=process_time() - began_s))
    # A parser of foreign text raises what it likes; the pool makes plain text of the page.
    except Exception as error:  # noqa: BLE001 # the outer loop of a process that exists to fail
        return Failed(type(error).__name__)


def _grant_cpu() -> None:
    """Let the next page have its seconds of CPU and no more: the machine kills the process past them."""
    spent = resource.getrusage(resource.RUSAGE_SELF)
    limit_s = int(spent.ru_utime + spent.ru_stime) + CPU_S_MAX
    resource.setrlimit(resource.RLIMIT_CPU, (limit_s, resource.RLIM_INFINITY))


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
