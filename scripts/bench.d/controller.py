"""An upstream that behaves like a controller of ours, as far as a proxy can tell. A program of its own.

    controller.py PORT RAN [--keys]

Reads are answered, polls (/switchyard/v1/tasks) never are. POST /api/v1/vm runs at once and is answered ANSWER_AFTER
later, so that many have run but are not answered when this process is killed. RAN is a directory that all upstreams
share, as controllers share their store; with --keys, /readyz says that a key makes a repeat harmless, and it does.
"""

import asyncio
import json
import os
import re
import sys
from pathlib import Path

ANSWER_AFTER = 0.005
BODY = json.dumps({"status": "OK", "message": "x" * 164}).encode()
LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
KEY = re.compile(rb"\r\nidempotency-key:\s*(\S+)", re.IGNORECASE)


class Record:
    """What was run, for ever: one symbolic link for each run, its name the key, its target the POST's own id.

    Making a link is one step that only one process can win, and what was made survives the kill of its maker: the
    same as the transaction of a controller that creates the request's record.
    """

    def __init__(self, directory: Path, keys: bool) -> None:
        self.directory, self.keys, self.number = directory, keys, 0

    def run(self, post: str, key: str | None) -> None:
        self.number += 1
        unique = f"{os.getpid()}-{self.number}"
        if not (self.keys and key):
            os.symlink(post, self.directory / f"ran-{unique}")
            return
        try:
            os.symlink(post, self.directory / f"ran-key-{key}")
        except FileExistsError:
            os.symlink(post, self.directory / f"known-{unique}")


class Connection(asyncio.Protocol):
    """One connection. Requests are read one after the other; nobody here sends a second one before the answer."""

    parked: set["Connection"] = set()

    def __init__(self, record: Record) -> None:
        self.record, self.unread, self.last = record, b"", False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, _error: Exception | None) -> None:
        self.parked.discard(self)

    def data_received(self, data: bytes) -> None:
        self.unread += data
        head, found, rest = self.unread.partition(b"\r\n\r\n")
        if not found:
            return
        length = LENGTH.search(head)
        size = int(length.group(1)) if length else 0
        if len(rest) < size:
            return
        self.unread = rest[size:]
        method, path = head.split(b" ", 2)[:2]
        self.request(method, path.partition(b"?")[0], head, rest[:size])

    def request(self, method: bytes, path: bytes, head: bytes, body: bytes) -> None:
        self.last = b"\r\nconnection: close" in head.lower()
        if path == b"/switchyard/v1/tasks":
            self.parked.add(self)
        elif path == b"/bench/parked":
            self.answer(str(len(self.parked)).encode())
        elif path == b"/readyz":
            supports = ["idempotency-key"] if self.record.keys else []
            self.answer(json.dumps({"ready": True, "supports": supports}).encode())
        elif method == b"POST":
            key = KEY.search(head)
            self.record.run(json.loads(body)["id"], key.group(1).decode() if key else None)
            asyncio.get_running_loop().call_later(ANSWER_AFTER, self.answer, BODY)
        else:
            self.answer(BODY)

    def answer(self, body: bytes) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        if not self.transport.is_closing():
            self.transport.write(head.encode() + body)
            if self.last:
                self.transport.close()


async def serve(port: int, record: Record) -> None:
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(record), "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), Record(Path(sys.argv[2]), "--keys" in sys.argv)))
