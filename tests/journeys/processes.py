"""What the kernel says about a platform's processes and sockets."""

import http.client
import json
import os
import signal
import stat
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

LISTENING = "0A"
PATIENCE_S = 240.0


def lives(pid):
    """Whether the process runs; one that ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def tree(root):
    """Return the pids of a process and all that it started, directly or not."""
    parents = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
    found = {root}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def pids(directory):
    """Return name -> pid of every pid file of a data directory."""
    found = {}
    for file in (directory / "run").glob("*.pid"):
        with suppress(FileNotFoundError):
            text = file.read_text().split()
            if text:
                found[file.stem] = int(text[0])
    return found


def files(root):
    """Yield every regular file below a folder; one that goes away while it is listed is passed over."""
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder) / name
            with suppress(FileNotFoundError):
                if stat.S_ISREG(path.lstat().st_mode):
                    yield path


def files_with(root, needles):
    """Return the files that hold one of the needles."""
    found = []
    for path in files(root):
        with suppress(FileNotFoundError):
            content = path.read_bytes()
            found += [str(path)] if any(needle in content for needle in needles) else []
    return found


def rows_of_tcp():
    """Return `(local port, remote port, state, inode)` of every TCP socket of this machine."""
    found = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            ports = [int(fields[column].rpartition(":")[2], 16) for column in (1, 2)]
            found.append((*ports, fields[3], fields[9]))
    return found


def socket_inodes(pid):
    """Return the inodes of the sockets that a process holds; a file that it closes meanwhile is passed over."""
    found = set()
    with suppress(FileNotFoundError, ProcessLookupError):
        for entry in list(Path(f"/proc/{pid}/fd").iterdir()):
            with suppress(FileNotFoundError):
                found.add(str(entry.readlink()))
    return {target[8:-1] for target in found if target.startswith("socket:[")}


def listening_sockets(pid):
    """Return `inode -> port` of the TCP sockets on which a process listens."""
    held = socket_inodes(pid)
    return {inode: port for port, _, state, inode in rows_of_tcp() if state == LISTENING and inode in held}


def edge_behind(connection, edges):
    """Return which of the edges (name -> pid) holds the other end of a client's connection that was answered."""
    mine = connection.sock.getsockname()[1]
    port = connection.sock.getpeername()[1]
    deadline = time.monotonic() + PATIENCE_S
    while True:
        # The kernel's table is read in pieces; a row may be missing while others come and go.
        inodes = {inode for local, remote, _, inode in rows_of_tcp() if (local, remote) == (port, mine)}
        for name, pid in edges.items():
            if inodes & socket_inodes(pid):
                return name
        assert time.monotonic() < deadline, "no edge holds the connection"
        time.sleep(0.02)


@contextmanager
def connections_to_each_edge(running, count=1):
    """Yield edge name -> kept-open connections that this edge accepted; the others are held still meanwhile."""
    edges = {name: pid for name, pid in pids(running.directory).items() if name.startswith("edge-")}
    found = {name: [] for name in edges}
    try:
        for name, opened in found.items():
            others = [pid for other, pid in edges.items() if other != name]
            for pid in others:
                os.kill(pid, signal.SIGSTOP)
            try:
                while len(opened) < count:
                    connection = http.client.HTTPConnection(urlsplit(running.url).netloc, timeout=PATIENCE_S)
                    connection.request("GET", "/healthz")
                    connection.getresponse().read()
                    # One that was about to be held still may have taken it.
                    if edge_behind(connection, edges) == name:
                        opened.append(connection)
                    else:
                        connection.close()
            finally:
                for pid in others:
                    os.kill(pid, signal.SIGCONT)
        yield found
    finally:
        for connection in [each for opened in found.values() for each in opened]:
            connection.close()


def await_each_edge(running, key, body):
    """Wait until every edge answers such a call: each hears by itself of what was just made."""

    def is_answered(connection):
        headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status == 200

    with connections_to_each_edge(running) as each_edge:
        for (connection,) in each_edge.values():
            until(lambda each=connection: is_answered(each), what="an answer of every edge")


def until(fact, within_s=PATIENCE_S, what="it"):
    """Wait until `fact()` is true; return the seconds that took."""
    began = time.monotonic()
    while not fact():
        assert time.monotonic() - began < within_s, f"{what} did not happen in {within_s} s"
        time.sleep(0.02)
    return time.monotonic() - began
