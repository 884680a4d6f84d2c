"""The scenarios: what is measured, in which order, and which figures are to be reached."""

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from contenders import PEERS, Contender
from load import Crowd, Sample, h2load, h2load_all, quantile, wrk
from machine import Machine, Process, ServeError, kill, wait_until_quiet, wait_until_serving

HERE = Path(__file__).parent
T = TypeVar("T")
TOO_BUSY = 25  # Percent of one core that work of others may take in a turn.

# Answers from memory, so that it costs little beside the proxy.
NGINX_UPSTREAM = """
daemon off; master_process off; worker_rlimit_nofile 20000; pid {home}/pid; error_log {home}/error.log crit;
events {{ worker_connections 15000; multi_accept on; }}
http {{
  access_log off; tcp_nodelay on; keepalive_timeout 600s; keepalive_requests 1000000000;
  client_body_temp_path {home}/t; proxy_temp_path {home}/t; fastcgi_temp_path {home}/t; uwsgi_temp_path {home}/t;
  scgi_temp_path {home}/t;
  server {{
    listen 127.0.0.1:{up[0]} backlog=4096; listen 127.0.0.1:{up[1]} backlog=4096; default_type application/json;
    location / {{ return 200 '{body}'; }}
  }}
}}
"""


@dataclass(frozen=True)
class Figure:
    """One figure to be reached: `target` times the better peer's, or, if `absolute`, no more than `target`."""

    key: str
    target: float
    more: bool = False
    absolute: bool = False
    of: tuple[str, ...] = ()


@dataclass
class Group:
    """What one scenario measured, by contender and turn; the turns of all contenders are pairs."""

    name: str
    title: str
    figures: tuple[Figure, ...]
    results: dict[str, list[Sample]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    def add(self, contender: str, sample: Sample) -> None:
        self.results.setdefault(contender, []).append(sample)


@dataclass
class Settings:
    """Who takes part, and how long."""

    builds: list[Contender]
    peers: list[Contender]
    rounds: int | None
    quick: bool

    @property
    def ours(self) -> str:
        return self.builds[0].name

    @property
    def all(self) -> list[Contender]:
        return [*self.builds, *self.peers]

    def turns(self, full: int, quick: int = 1) -> int:
        return self.rounds or (quick if self.quick else full)


def rotated(contenders: list[T], turn: int) -> list[T]:
    """Each turn begins with another one, so that none is always the first."""
    start = turn % len(contenders)
    return contenders[start:] + contenders[:start]


def nginx_upstream(machine: Machine) -> tuple[Process, tuple[int, int]]:
    up = (machine.free_port(), machine.free_port())
    home = machine.scratch / f"upstream-{up[0]}"
    home.mkdir()
    body = json.dumps({"status": "OK", "message": "x" * 164})
    (home / "config").write_text(NGINX_UPSTREAM.format(home=home, up=up, body=body))
    command = ["nginx", "-p", home, "-e", home / "error.log", "-c", home / "config"]
    process = machine.start(f"upstream-{up[0]}", command, machine.load_cpus)
    for port in up:
        wait_until_serving(process, port, "/healthz")
    return process, up


def controllers(machine: Machine, *, keys: bool) -> tuple[list[Process], tuple[int, int], Path]:
    """Two upstreams in Python, and the directory where they record what they run."""
    up = (machine.free_port(), machine.free_port())
    ran = machine.scratch / f"ran-{up[0]}"
    ran.mkdir()
    extra = ["--keys"] if keys else []
    processes = [machine.start(f"controller-{port}", [sys.executable, HERE / "controller.py", port, ran, *extra],
                               machine.load_cpus) for port in up]
    for process, port in zip(processes, up):
        wait_until_serving(process, port, "/healthz")
    return processes, up, ran


@dataclass
class Field:
    """All contenders alive at once, before the same upstreams."""

    upstream: Process
    up: tuple[int, int]
    running: dict[str, tuple[Process, int]]


@contextmanager
def live(machine: Machine, settings: Settings, threads: int, *, tls: bool = False,
         h2: bool = False) -> Iterator[Field]:
    """Starts everybody, and waits until their checks have seen the upstreams twice."""
    machine.place(threads)
    upstream, up = nginx_upstream(machine)
    running = {contender.name: contender.launch(machine, up, threads, tls=tls, h2=h2) for contender in settings.all}
    time.sleep(0.5 if settings.quick else 3)
    try:
        yield Field(upstream, up, running)
    finally:
        machine.stop(*(process for process, _ in running.values()), upstream)


class Turns:
    """The turns that count. One in which other work took too much of the machine is taken again, within a bound."""

    def __init__(self, wanted: int, settings: Settings) -> None:
        self.wanted, self.again = wanted, 0
        self.most_again = 0 if settings.quick else 2 * wanted

    def each(self, names: list[str], measure: Callable[[str], Sample]) -> Iterator[dict[str, Sample]]:
        """Measures everybody once a turn, in an order of its own each time; yields the turns that count."""
        for turn in range(self.wanted):
            while (samples := self.one(rotated(names, turn), measure)) is None:
                self.again += 1
                print("other work on the machine spoilt a turn; waiting until it is quiet", file=sys.stderr)
                wait_until_quiet(TOO_BUSY, 30)
            yield samples

    def one(self, names: list[str], measure: Callable[[str], Sample]) -> dict[str, Sample] | None:
        """One turn; nothing as soon as it is spoilt, unless too many were: then they have to count."""
        samples: dict[str, Sample] = {}
        for name in names:
            samples[name] = measure(name)
            if samples[name]["others busy %"] > TOO_BUSY and self.again < self.most_again:
                return None
        return samples

    def note(self) -> list[str]:
        if not self.again:
            return []
        return [f"{self.again} turns were taken again, for other work took more than {TOO_BUSY} % of a core."]


def failures(group: Group) -> None:
    for name, samples in group.results.items():
        if bad := sum(int(sample["failed"]) for sample in samples):
            group.broken.append(f"{name}: {bad} requests failed")


def saturated(machine: Machine, settings: Settings, group: Group, threads: int, wanted: int, *, close: bool = False,
              tls: bool = False, h2: bool = False) -> Group:
    """Turns of one second each, at full load; one before them warms up and does not count."""
    turns = Turns(wanted, settings)
    with live(machine, settings, threads, tls=tls, h2=h2) as here:
        def measure(name: str) -> Sample:
            process, port = here.running[name]
            if h2:
                return h2load_all(machine, process, [here.upstream], port, 1)
            return wrk(machine, process, [here.upstream], port, 1, close=close, tls=tls)

        for name in here.running:
            measure(name)
        for samples in turns.each(list(here.running), measure):
            for name in here.running:
                group.add(name, samples[name])
    group.notes += turns.note()
    failures(group)
    return group


def small(machine: Machine, settings: Settings) -> Iterator[Group]:
    for threads in (1, 2):
        turns = settings.turns(12, 2 if threads == 1 else 1)
        title = f"Small GET, keep-alive, {threads} thread{'s' if threads > 1 else ''}"
        figures = (Figure("CPU us/req", 0.90), Figure("req/s", 1.05, more=True))
        yield saturated(machine, settings, Group(f"small-{threads}", title, figures), threads, turns, close=False)


def h2(machine: Machine, settings: Settings) -> Iterator[Group]:
    group = Group("h2", "Small GET over HTTP/2, 8 connections with 8 streams, 1 thread", (Figure("CPU us/req", 1.0),))
    yield saturated(machine, settings, group, 1, settings.turns(12), h2=True)


def connect(machine: Machine, settings: Settings) -> Iterator[Group]:
    group = Group("connect", "A new connection for each GET, 1 thread", (Figure("CPU us/req", 0.95),))
    yield saturated(machine, settings, group, 1, settings.turns(12), close=True)


def tls(machine: Machine, settings: Settings) -> Iterator[Group]:
    """The same two over TLS; wrk resumes no session, so that each new connection is a full handshake."""
    group = Group("tls", "HTTPS, small GET, keep-alive, 1 thread", (Figure("CPU us/req", 0.95),))
    yield saturated(machine, settings, group, 1, settings.turns(12), close=False, tls=True)
    group = Group("handshake", "HTTPS, a full handshake (ECDSA P-256) for each GET, 1 thread", (Figure("CPU us/req", 1.0),))
    yield saturated(machine, settings, group, 1, settings.turns(12), close=True, tls=True)


def latency(machine: Machine, settings: Settings) -> Iterator[Group]:
    """Everybody at the same rate; `direct` is the upstream itself, measured in the same turn."""
    rates, seconds = (1000, 4000), 1 if settings.quick else 4
    figures = (Figure("added p50 us", 0.90), Figure("p99 us", 1.0), Figure("p99.9 us", 1.0))
    groups = {rate: Group(f"latency-{rate}", f"Latency at {rate:,}/s, 1 thread", figures) for rate in rates}
    with live(machine, settings, 1) as here:
        for rate, group in groups.items():
            yield one_rate(machine, settings, here, group, rate, seconds)


def one_rate(machine: Machine, settings: Settings, here: Field, group: Group, rate: int, seconds: int) -> Group:
    latest: dict[str, list[int]] = {}
    pools: dict[str, list[int]] = {}

    def measure(name: str) -> Sample:
        process, port = here.running.get(name, (None, here.up[0]))
        sample, latest[name] = h2load(machine, process, [here.upstream], port, rate, seconds)
        return sample

    names, turns = ["direct", *here.running], Turns(settings.turns(10), settings)
    for samples in turns.each(names, measure):
        for name in names:
            # What a proxy adds is counted from what the upstream itself took in the same turn.
            added = {"added p50 us": samples[name]["p50 us"] - samples["direct"]["p50 us"]} if name != "direct" else {}
            group.add(name, {**added, **samples[name]})
            pools.setdefault(name, []).extend(latest[name])
    pooled = {name: sorted(pool) for name, pool in pools.items()}
    tails = (f"{name} {quantile(pool, .99):,.0f} and {quantile(pool, .999):,.0f}" for name, pool in pooled.items())
    group.notes += [*turns.note(), f"p99 and p99.9 of all turns together, us: {', '.join(tails)}."]
    failures(group)
    return group


def waiting(machine: Machine, settings: Settings, group: Group, *, polls: bool) -> Group:
    """A fresh process for each turn of each contender; memory at `few` and at `many` connections."""
    few, many = (100, 500) if settings.quick else (1000, 9500)
    machine.place(1)
    for turn in range(settings.turns(3)):
        for contender in rotated(settings.all, turn):
            upstreams, up, _ran = controllers(machine, keys=False)
            proxy, port = contender.launch(machine, up, 1)
            crowd = Crowd(port, polls=polls)
            try:
                group.add(contender.name, slope(crowd, proxy, up, few, many, 0.5 if settings.quick else 1.5))
            finally:
                crowd.leave()
                machine.stop(proxy, *upstreams)
    for name, samples in group.results.items():
        if bad := sum(int(sample["dead"]) for sample in samples):
            group.broken.append(f"{name}: {bad} waiting connections were closed")
    return group


def slope(crowd: Crowd, proxy: Process, up: tuple[int, int], few: int, many: int, settle: float) -> Sample:
    memory: list[float] = []
    missing = 0
    for size in (few, many):
        crowd.grow_to(size)
        if crowd.polls:
            missing = size - crowd.wait_until_parked(up)
        time.sleep(settle)
        memory.append(proxy.memory())
    before = proxy.cpu()
    time.sleep(settle)
    spent = proxy.cpu() - before
    return {"KiB/connection": (memory[1] - memory[0]) / (many - few), f"MiB at {many:,}": memory[1] / 1024,
            "CPU while waiting %": 100 * spent / settle, "dead": max(crowd.dead(), missing)}


def idle(machine: Machine, settings: Settings) -> Iterator[Group]:
    size = "500" if settings.quick else "9,500"
    for name, title, target, polls in (("idle", f"{size} idle keep-alive connections", 4, False),
                                       ("poll", f"{size} parked long-polls", 6, True)):
        group = Group(name, f"{title}, 1 thread", (Figure("KiB/connection", target, absolute=True),))
        yield waiting(machine, settings, group, polls=polls)


def killed(machine: Machine, settings: Settings) -> Iterator[Group]:
    """One of two upstreams is killed under 64 connections that read and write; it does not come back."""
    group = Group("killed", "An upstream killed under load, 1 thread", (
        Figure("GET failed", 0, absolute=True), Figure("POST run twice", 0, absolute=True),
        Figure("POST failed", 0, absolute=True, of=("keys",)),
        Figure("POST failed, begun after", 0, absolute=True)))
    group.notes += [
        "keys: the upstreams say on /readyz that an Idempotency-Key makes a repeat harmless, as our controllers do. "
        "The others do not, and then a POST that was already sent may fail.",
        "`begun after`: begun when the upstream was already gone, so it cannot have been sent to it.",
        "`repeats known`: POSTs that came again under a key that had run, and were not run again."]
    machine.place(1)
    field_of = [(f"{build.name}, keys", build, True) for build in settings.builds]
    others = settings.builds if settings.quick else [*settings.all, PEERS["haproxy-retry"]]
    field_of += [(contender.name, contender, False) for contender in dict.fromkeys(others)]
    for turn in range(settings.turns(10)):
        for name, contender, keys in rotated(field_of, turn):
            group.add(name, one_kill(machine, contender, keys=keys))
    promised = {build.name for build in settings.builds} | {f"{build.name}, keys" for build in settings.builds}
    for name in promised:
        group.broken += promises_broken(name, group.results[name])
    yield group


def promises_broken(name: str, samples: list[Sample]) -> list[str]:
    """What ours promises of a kill, whatever the figures are."""
    never = ["GET failed", "POST run twice", "POST failed, begun after", "POST answered, not run"]
    never += ["POST failed"] if name.endswith(", keys") else []
    totals = {key: sum(int(sample[key]) for sample in samples) for key in never}
    return [f"{name}: {key}: {count}" for key, count in totals.items() if count]


def one_kill(machine: Machine, contender: Contender, *, keys: bool) -> Sample:
    upstreams, up, ran = controllers(machine, keys=keys)
    proxy, port = contender.launch(machine, up, 1, "/readyz" if keys else "/healthz")
    time.sleep(2.5)  # Until every contender's checks have seen both upstreams.
    command = [sys.executable, HERE / "caller.py", str(port), "3", "64"]
    caller = machine.start(f"caller-{port}", command, machine.load_cpus)
    try:
        time.sleep(1.5 + random.random() / 10)
        kill(upstreams[1].pid)
        upstreams[1].popen.wait()
        gone = time.monotonic()
        caller.popen.wait(60)
    except subprocess.TimeoutExpired as error:
        raise ServeError(f"{contender.name}: the clients do not come to an end") from error
    finally:
        machine.stop(caller, proxy, *upstreams)
    return judge_kill(json.loads(caller.log.read_text()), gone, ran)


def judge_kill(calls: dict[str, object], gone: float, ran: Path) -> Sample:
    runs: Counter[str] = Counter()
    known = 0
    with os.scandir(ran) as links:
        for link in links:
            if link.name.startswith("known-"):
                known += 1
            else:
                runs[os.readlink(link.path)] += 1
    failed = calls["failed"]
    answered = calls["answered_posts"]
    gets = calls["gets"]
    assert isinstance(failed, list) and isinstance(answered, list) and isinstance(gets, int)
    posts = [call for call in failed if call["method"] == "POST"]
    return {"GET failed": len(failed) - len(posts), "POST failed": len(posts),
            "POST failed, begun after": sum(call["began"] > gone for call in posts),
            "POST run twice": sum(count > 1 for count in runs.values()),
            "POST answered, not run": sum(post not in runs for post in answered),
            "repeats known": known, "GETs": gets, "POSTs": len(answered)}


SCENARIOS: dict[str, Callable[[Machine, Settings], Iterator[Group]]] = {
    "small": small, "h2": h2, "connect": connect, "tls": tls, "latency": latency, "idle": idle, "killed": killed}
