"""Clients that know each of their requests. A program of its own.

    caller.py PORT SECONDS CONNECTIONS

Each connection alternates GET and POST /api/v1/vm, one after the other, for SECONDS; each POST has an id of its own.
Prints JSON: how many of each were answered, and of each failed one what it was, when it was begun, and why. A
connection that breaks is opened anew; nothing is sent twice from here. Times are those of the system's monotonic clock.
"""

import asyncio
import json
import re
import sys
import time
from dataclasses import dataclass, field

LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
PATIENCE = 15.0  # Above every hold and deadline of a proxy.


@dataclass
class Calls:
    """What became of all requests."""

    gets: int = 0
    answered_posts: list[str] = field(default_factory=list)
    failed: list[dict[str, object]] = field(default_factory=list)


class Caller:
    """One connection's worth of requests."""

    def __init__(self, port: int, number: int, until: float, calls: Calls) -> None:
        self.port, self.number, self.until, self.calls = port, number, until, calls
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None

    async def run(self) -> None:
        turn = self.number  # So that at any time some connections read and others write.
        while time.monotonic() < self.until:
            turn += 1
            if turn % 2:
                await self.one("GET", None)
            else:
                await self.one("POST", f"{self.number}-{turn}")
        self.hang_up()

    async def one(self, method: str, post: str | None) -> None:
        began = time.monotonic()
        try:
            status = await asyncio.wait_for(self.exchange(method, post), PATIENCE)
            why = f"status {status}" if not 200 <= status < 300 else None
        except (OSError, EOFError, asyncio.TimeoutError) as error:
            why = repr(error)
            self.hang_up()
        if why is not None:
            self.calls.failed.append({"method": method, "id": post, "began": began, "why": why})
            await asyncio.sleep(0.01)  # A proxy that refuses everybody is not to be flooded.
        elif post is None:
            self.calls.gets += 1
        else:
            self.calls.answered_posts.append(post)

    async def exchange(self, method: str, post: str | None) -> int:
        if self.writer is None or self.reader is None:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        body = json.dumps({"id": post}) if post is not None else ""
        length = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
        self.writer.write(f"{method} /api/v1/vm HTTP/1.1\r\nHost: bench\r\n{length}\r\n{body}".encode())
        head = await self.reader.readuntil(b"\r\n\r\n")
        found = LENGTH.search(head)
        if found is None:
            raise EOFError("an answer without a length")
        await self.reader.readexactly(int(found.group(1)))
        if b"\r\nconnection: close" in head.lower():
            self.hang_up()
        return int(head.split(b" ", 2)[1])

    def hang_up(self) -> None:
        if self.writer is not None:
            self.writer.close()
        self.reader = self.writer = None


async def call(port: int, seconds: float, connections: int) -> Calls:
    calls, until = Calls(), time.monotonic() + seconds
    await asyncio.gather(*(Caller(port, number, until, calls).run() for number in range(connections)))
    return calls


if __name__ == "__main__":
    done = asyncio.run(call(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])))
    print(json.dumps(vars(done)))
