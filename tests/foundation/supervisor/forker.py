"""A supervisor's end of a warm process, to look at from outside: `forker.py SCENE` prints one line of JSON."""

import asyncio
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

from interlock.foundation.supervisor.children import RoleSpec
from interlock.foundation.supervisor.warm import WarmProcess

COMMAND = (sys.executable, "-c", "print('by command')")


def main(name: str, index: int) -> int:
    link = socket.socket(fileno=int(os.environ["INTERLOCK_LINK_FD"]))
    if name == "crash":
        raise RuntimeError("the sky fell")
    if name == "edge":
        listener = socket.socket(fileno=int(os.environ["INTERLOCK_LISTEN_FD"]))
        link.sendall(b"up")
        peer, _ = listener.accept()
        peer.sendall(f"edge-{index}".encode())
        peer.close()
    if name in {"sleeper", "killed"}:
        link.sendall(b"up")
        time.sleep(600)
    if name == "worker":
        link.sendall(b"ping")
        print(
            json.dumps({
                "pid": os.getpid(), "session": os.getsid(0), "group": os.getpgid(0), "env": os.environ.get("SKY"),
                "title": Path("/proc/self/cmdline").read_text().rstrip("\0"), "link": link.recv(9).decode(),
                "descriptors": len(list(Path("/proc/self/fd").iterdir())),
            })
        )  # fmt: skip
    return index if name == "number" else 5


class Scene:
    def __init__(self, warm: WarmProcess, pid: int) -> None:
        self.warm, self.pid = warm, pid

    async def fork(self, name: str, index: int = 0, listener: int | None = None):
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        child = await self.warm.spawn(RoleSpec(name, index, COMMAND), {"SKY": "moon"}, theirs, listener)
        theirs.close()
        return child, ours

    async def speak(self) -> dict:
        loop = asyncio.get_running_loop()
        child, link = await self.fork("worker", 7)
        assert await loop.sock_recv(link, 9) == b"ping"
        await loop.sock_sendall(link, b"pong")
        said = json.loads(await child.output.read())
        await child.wait()
        return {
            "pid": child.pid, "supervisor": os.getpid(), "warm": self.pid, "child": said, "status": child.returncode
        }  # fmt: skip

    async def killed(self) -> dict:
        child, link = await self.fork("killed")
        await asyncio.get_running_loop().sock_recv(link, 9)
        os.kill(child.pid, signal.SIGKILL)
        await child.wait()
        return {"status": child.returncode}

    async def crash(self) -> dict:
        child, _link = await self.fork("crash")
        output = (await child.output.read()).decode()
        await child.wait()
        return {"status": child.returncode, "output": output}

    async def many(self) -> dict:
        forked = await asyncio.gather(*(self.fork("number", index) for index in range(12)))
        children = [child for child, _link in forked]
        await asyncio.gather(*(child.wait() for child in children))
        return {"statuses": [child.returncode for child in children], "pids": [child.pid for child in children]}

    async def listen(self) -> dict:
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            forked = [await self.fork("edge", index, listener.fileno()) for index in range(2)]
            for _child, link in forked:
                await loop.sock_recv(link, 9)
        answers = []
        for _ in forked:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            answers.append((await reader.read()).decode())
            writer.close()
        for child, _link in forked:
            await child.wait()
        return {"answers": sorted(answers)}

    async def orphan(self) -> dict:
        child, link = await self.fork("sleeper")
        await asyncio.get_running_loop().sock_recv(link, 9)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        following, _link = await self.fork("worker")
        said = (await following.output.read()).decode().strip()
        lived_on = child.returncode is None and os.getpgid(child.pid) == child.pid
        os.kill(child.pid, signal.SIGKILL)
        await child.wait()
        return {"lived_on": lived_on, "death_seen": True, "next": said}

    async def leave(self) -> dict:
        await self.fork("number")
        return {"warm": self.pid}


def begin() -> None:
    warm = WarmProcess.start(main, ("json",))
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    assert warm is not None
    print(json.dumps(asyncio.run(getattr(Scene(warm, int(children[0])), sys.argv[1])())))


begin()
