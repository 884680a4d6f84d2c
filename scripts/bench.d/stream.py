"""Both ends of large bodies, nearly free of cost: bytes are dropped in the kernel, or sent from a file. A program.

    stream.py sink PORT PORT         an upstream that takes uploads, drops them, and answers 202
    stream.py get PORT STREAMS SIZE  that many downloads at once, once each; prints JSON: seconds, errors
    stream.py put PORT STREAMS SIZE FILE          the same with uploads
    stream.py get-tls, put-tls …     both inside TLS, with any certificate; what is downloaded is dropped undecrypted
    stream.py mixed PORT STREAMS SIZE FILE SECONDS  half of them download and half upload, again and again
    stream.py stalled PORT STREAMS SIZE SECONDS   downloads of which nobody reads anything before SECONDS have gone by
"""

import json
import os
import re
import selectors
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable

LOOPBACK = "127.0.0.1"
PIECE = 4 * 2**20
# Encrypted and sent at once.
SEALED = 2**18
LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)


class Upload:
    """A connection of the sink: what is left of the body that is being dropped, or the head so far."""

    def __init__(self) -> None:
        self.head, self.left = b"", 0


def sink(ports: list[int]) -> None:
    selector, room = selectors.EpollSelector(), bytearray(PIECE)
    for port in ports:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((LOOPBACK, port))
        listener.listen(4096)
        selector.register(listener, selectors.EVENT_READ, None)
    while True:
        for key, _ in selector.select():
            connection = key.fileobj
            assert isinstance(connection, socket.socket)
            if key.data is None:
                accepted, _peer = connection.accept()
                accepted.setblocking(False)
                selector.register(accepted, selectors.EVENT_READ, Upload())
                continue
            try:
                goes_on = swallow(connection, key.data, room)
            except BlockingIOError:
                continue
            except OSError:
                goes_on = False
            if not goes_on:
                selector.unregister(connection)
                connection.close()


def swallow(connection: socket.socket, upload: Upload, room: bytearray) -> bool:
    if upload.left:
        read = connection.recv_into(room, min(upload.left, len(room)), socket.MSG_TRUNC)
        upload.left -= read
    else:
        piece = connection.recv(16384)
        read, upload.head = len(piece), upload.head + piece
        head, found, behind = upload.head.partition(b"\r\n\r\n")
        if not found:
            return read > 0
        length = LENGTH.search(head)
        upload.head, upload.left = b"", (int(length.group(1)) if length else 0) - len(behind)
    if read and upload.left <= 0:
        connection.sendall(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")
    return read > 0


class Secure:
    """A client's end inside TLS whose socket can be read past it."""

    def __init__(self, connection: socket.socket) -> None:
        believing = ssl.create_default_context()
        believing.check_hostname, believing.verify_mode = False, ssl.CERT_NONE
        self.connection, self.came, self.goes = connection, ssl.MemoryBIO(), ssl.MemoryBIO()
        self.session = believing.wrap_bio(self.came, self.goes)
        while not self.tried(self.session.do_handshake):
            self.more()
        self.flush()

    def tried(self, act: Callable[[], object]) -> bool:
        try:
            act()
        except ssl.SSLWantReadError:
            return False
        finally:
            self.flush()
        return True

    def flush(self) -> None:
        if self.goes.pending:
            self.connection.sendall(self.goes.read())

    def more(self) -> None:
        piece = self.connection.recv(16384)
        if not piece:
            raise EOFError("closed within a handshake or a head")
        self.came.write(piece)

    def sendall(self, data: bytes | memoryview) -> None:
        self.session.write(data)
        self.flush()

    def recv(self, most: int) -> bytes:
        while True:
            try:
                return self.session.read(most)
            except ssl.SSLWantReadError:
                self.more()


class Streams:
    """Transfers, one after the other on a connection of their own."""

    def __init__(self, port: int, size: int, file: str | None, stalls: float = 0, *, tls: bool = False) -> None:
        self.port, self.size, self.file, self.stalls, self.tls = port, size, file, stalls, tls
        self.errors: list[str] = []
        self.bytes = 0

    def get(self) -> None:
        with socket.create_connection((LOOPBACK, self.port)) as connection:
            end = Secure(connection) if self.tls else connection
            end.sendall(f"GET /v2/pull/blobs/sha256:{self.size} HTTP/1.1\r\nHost: bench\r\n"
                               "Connection: close\r\n\r\n".encode())
            head = b""
            while b"\r\n\r\n" not in head:
                piece = end.recv(4096)
                if not piece:
                    raise EOFError("no answer")
                head += piece
            if self.stalls:
                time.sleep(self.stalls)
            head, _, behind = head.partition(b"\r\n\r\n")
            length = LENGTH.search(head)
            if length is None or int(length.group(1)) != self.size:
                raise EOFError(f"wrong answer: {head[:80]!r}")
            if self.tls:
                return self.drop(connection)
            left, room = self.size - len(behind), bytearray(PIECE)
            while left > 0:
                read = connection.recv_into(room, min(left, PIECE), socket.MSG_TRUNC)
                if not read:
                    raise EOFError(f"{left} bytes are missing")
                left -= read

    def drop(self, connection: socket.socket) -> None:
        """All of a body inside TLS, by its length: what records add to it is less than a hundredth."""
        total, room = 0, bytearray(PIECE)
        while read := connection.recv_into(room, PIECE, socket.MSG_TRUNC):
            total += read
        # A part of it came with the head.
        if not self.size - 2**18 < total < self.size * 1.01:
            raise EOFError(f"{total} bytes came of {self.size}")

    def put(self) -> None:
        assert self.file is not None
        with socket.create_connection((LOOPBACK, self.port)) as connection, open(self.file, "rb") as file:
            end = Secure(connection) if self.tls else connection
            end.sendall(f"PATCH /v2/push/blobs/uploads/1 HTTP/1.1\r\nHost: bench\r\n"
                        f"Content-Length: {self.size}\r\nConnection: close\r\n\r\n".encode())
            at = 0
            if self.tls:
                # Few pieces again and again stay in the cache: the client is to cost little.
                piece = memoryview(file.read(SEALED))
                while at < self.size:
                    end.sendall(piece[: self.size - at])
                    at += min(len(piece), self.size - at)
            while at < self.size:
                at += os.sendfile(connection.fileno(), file.fileno(), at, min(self.size - at, 16 * PIECE))
            answer = end.recv(4096)
            if b" 202 " not in answer:
                raise EOFError(f"not taken: {answer[:80]!r}")

    def run(self, kind: str, until: float) -> None:
        try:
            while True:
                (self.get if kind == "get" else self.put)()
                self.bytes += self.size
                if time.monotonic() >= until:
                    return
        except (OSError, EOFError) as error:
            self.errors.append(repr(error))


def main() -> None:
    kind, *rest = sys.argv[1:]
    if kind == "sink":
        return sink([int(port) for port in rest])
    kind, tls, _ = kind.partition("-tls")
    port, count, size = (int(word) for word in rest[:3])
    file = rest[3] if kind in ("put", "mixed") else None
    until = time.monotonic() + float(rest[4]) if kind == "mixed" else 0.0
    streams = Streams(port, size, file, float(rest[3]) if kind == "stalled" else 0, tls=bool(tls))
    kinds = ["get", "put"] if kind == "mixed" else ["put" if kind == "put" else "get"]
    began = time.monotonic()
    threads = [threading.Thread(target=streams.run, args=(kinds[number % len(kinds)], until)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps({"seconds": time.monotonic() - began, "bytes": streams.bytes, "errors": streams.errors}))


if __name__ == "__main__":
    main()
