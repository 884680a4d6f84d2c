"""The loads: wrk, h2load, a crowd of waiting connections; and what each of them costs whom."""

import os
import re
import resource
import select
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from machine import LOOPBACK, Machine, Process, ServeError, busy_of_machine, get

# A read that every proxy may repeat, and a poll: ours routes by path, so all get the same ones.
READ = "/api/v1/vm"
POLL = "/switchyard/v1/tasks"

Sample = dict[str, float]


class Meter:
    """Who spent how much CPU between `start` and `stop`."""

    def __init__(self, proxy: Process | None, upstreams: Sequence[Process]) -> None:
        self.proxy, self.upstreams = proxy, upstreams

    def _now(self) -> tuple[float, float, float, float]:
        mine, tools = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        load = mine.ru_utime + mine.ru_stime + tools.ru_utime + tools.ru_stime
        load += sum(upstream.cpu() for upstream in self.upstreams)
        return time.monotonic(), self.proxy.cpu() if self.proxy else 0.0, load, busy_of_machine()

    def start(self) -> None:
        self.began = self._now()

    def stop(self) -> None:
        wall, self.cpu, load, machine = (after - before for before, after in zip(self.began, self._now()))
        self.busy = 100 * self.cpu / wall
        self.load = 100 * load / wall
        self.others = max(0.0, 100 * (machine - self.cpu - load) / wall)

    def sample(self, units: int) -> Sample:
        spent = {"CPU us/req": self.cpu * 1e6 / max(units, 1), "proxy busy %": self.busy} if self.proxy else {}
        return {**spent, "load busy %": self.load, "others busy %": self.others}


def run(command: Sequence[str | int | float | Path], cpus: set[int], seconds: float) -> str:
    """Runs a load to its end; it gets some time on top of what it was told to take."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False,
                          timeout=seconds + 30, preexec_fn=lambda: os.sched_setaffinity(0, cpus))
    if done.returncode != 0:
        raise ServeError(f"{command[0]} failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def number(text: str, pattern: str, otherwise: float | None = None) -> float:
    found = re.search(pattern, text, re.MULTILINE)
    if found is None:
        if otherwise is None:
            raise ServeError(f"no {pattern} in what the load printed:\n{text}")
        return otherwise
    return float(found.group(1))


def microseconds(text: str, pattern: str) -> float:
    found = re.search(pattern + r"([\d.]+)(us|ms|s|m)$", text, re.MULTILINE)
    if found is None:
        return float("nan")
    return float(found.group(1)) * {"us": 1, "ms": 1e3, "s": 1e6, "m": 6e7}[found.group(2)]


def wrk(machine: Machine, proxy: Process, upstreams: Sequence[Process], port: int, seconds: int, *,
        close: bool, tls: bool = False) -> Sample:
    """As many GETs as 64 connections get answered; with `close`, a connection for each, and a full handshake if `tls`."""
    extra = ["-H", "Connection: close"] if close else []
    command = ["wrk", "-t1", "-c64", f"-d{seconds}s", "--latency", *extra, f"http{'s' if tls else ''}://{LOOPBACK}:{port}{READ}"]
    meter = Meter(proxy, upstreams)
    meter.start()
    out = run(command, machine.load_cpus, seconds)
    meter.stop()
    failed = sum(map(int, re.findall(r"(?:connect|read|write|timeout) (\d+)", out)))
    failed += int(number(out, r"Non-2xx or 3xx responses: (\d+)", 0))
    requests = int(number(out, r"(\d+) requests in"))
    return {**meter.sample(requests), "req/s": number(out, r"Requests/sec:\s+([\d.]+)"),
            "p50 us": microseconds(out, r"^ +50% +"), "p99 us": microseconds(out, r"^ +99% +"),
            "failed": failed if requests else 1}


def h2load_all(machine: Machine, proxy: Process, upstreams: Sequence[Process], port: int, seconds: int) -> Sample:
    """As many GETs over HTTP/2 as get answered on 8 connections with 8 streams at a time."""
    command = ["h2load", "-t1", "-c8", "-m8", f"-D{seconds}", f"http://{LOOPBACK}:{port}{READ}"]
    meter = Meter(proxy, upstreams)
    meter.start()
    out = run(command, machine.load_cpus, seconds)
    meter.stop()
    requests = int(number(out, r"(\d+) succeeded"))
    failed = int(number(out, r"(\d+) failed")) + int(number(out, r"status codes: .* (\d+) 5xx"))
    return {**meter.sample(requests), "req/s": number(out, r"finished in .*, ([\d.]+) req/s"),
            "failed": failed if requests else 1}


def quantile(ordered: Sequence[int], part: float) -> float:
    return float(ordered[min(len(ordered) - 1, int(len(ordered) * part))])


def h2load(machine: Machine, proxy: Process | None, upstreams: Sequence[Process], port: int, rate: int,
           seconds: int) -> tuple[Sample, list[int]]:
    """GETs at a constant rate on 15 connections; opening them 7 ms apart spreads the requests evenly.

    Returns also every single latency, in microseconds and in order.
    """
    log, connections, requests = machine.scratch / "latencies", 15, rate * seconds
    log.unlink(missing_ok=True)
    command = ["h2load", "--h1", "-t1", "-c", connections, "-r1", "--rate-period=7ms", f"--rps={rate / connections}",
               "-n", requests, f"--log-file={log}", f"http://{LOOPBACK}:{port}{READ}"]
    meter = Meter(proxy, upstreams)
    meter.start()
    run(command, machine.load_cpus, seconds)
    meter.stop()
    rows = [line.split("\t") for line in log.read_text().splitlines()]
    latencies = sorted(int(row[2]) for row in rows if row[1] == "200")
    if not latencies:
        raise ServeError(f"port {port} answered none of {requests} requests with 200")
    quantiles = {"p50 us": .5, "p99 us": .99, "p99.9 us": .999}
    sample = {name: quantile(latencies, part) for name, part in quantiles.items()}
    return {**meter.sample(requests), **sample, "failed": requests - len(latencies)}, latencies


def read_answer(connection: socket.socket) -> None:
    """Reads a whole answer, which may come in pieces: what is left unread would look like a second one."""
    answer = b""
    while b"\r\n\r\n" not in answer or len(answer.partition(b"\r\n\r\n")[2]) < number(
            answer.decode(), r"(?i)^content-length:\s*(\d+)"):
        piece = connection.recv(4096)
        if not piece:
            raise ServeError("a connection that should get an answer was closed")
        answer += piece
    if not answer.startswith(b"HTTP/1.1 200"):
        raise ServeError(f"a connection that should wait got {answer[:80]!r}")


class Crowd:
    """Connections that wait: idle after one answered GET, or parked in a poll."""

    def __init__(self, port: int, *, polls: bool) -> None:
        self.port, self.polls, self.connections = port, polls, list[socket.socket]()

    def grow_to(self, size: int) -> None:
        path = POLL if self.polls else READ
        request = f"GET {path} HTTP/1.1\r\nHost: bench\r\nUser-Agent: agent\r\n\r\n".encode()
        while len(self.connections) < size:
            connection = socket.create_connection((LOOPBACK, self.port), 5)
            self.connections.append(connection)
            connection.sendall(request)
            if not self.polls:
                read_answer(connection)

    def wait_until_parked(self, upstream_ports: Sequence[int], seconds: float = 10) -> int:
        """Waits until all polls have reached the upstreams; returns how many have."""
        until = time.monotonic() + seconds
        while True:
            parked = sum(int(get(port, "/bench/parked")[1]) for port in upstream_ports)
            if parked >= len(self.connections) or time.monotonic() > until:
                return parked
            time.sleep(0.1)

    def dead(self) -> int:
        """How many were closed or answered although they should wait."""
        poll = select.poll()
        for connection in self.connections:
            poll.register(connection, select.POLLIN)
        return len(poll.poll(0))

    def leave(self) -> None:
        for connection in self.connections:
            connection.close()
        self.connections.clear()
