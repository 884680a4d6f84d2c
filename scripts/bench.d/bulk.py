"""The scenarios of large bodies: downloads, uploads, what they leave to small requests, and what they hold in memory."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from contenders import OURS_ALWAYS, Contender, secured
from load import Meter, Sample, h2load, run
from machine import Machine, Process, ServeError, wait_until_serving
from scenarios import HERE, Field, Figure, Group, Settings, Turns, failures, nginx_upstream

GIB = 2**30
# In memory, so that no disk is measured.
MEMORY = Path("/dev/shm")

NGINX_FILES = """
daemon off; master_process off; worker_rlimit_nofile 20000; pid {home}/pid; error_log {home}/error.log crit;
events {{ worker_connections 15000; multi_accept on; }}
http {{
  access_log off; sendfile on; sendfile_max_chunk 2m; tcp_nodelay on; keepalive_timeout 600s;
  keepalive_requests 1000000000;
  client_body_temp_path {home}/t; proxy_temp_path {home}/t; fastcgi_temp_path {home}/t; uwsgi_temp_path {home}/t;
  scgi_temp_path {home}/t;
  server {{
    listen 127.0.0.1:{up[0]} backlog=4096; listen 127.0.0.1:{up[1]} backlog=4096;
    location /v2/pull/blobs/ {{ alias {files}/; }}
    location / {{ return 200 'ok'; }}
  }}
}}
"""

# Tuned for large bodies: as much as it can hold of an answer, nothing of a request, nothing on a disk.
NGINX = """
daemon off; worker_processes {threads}; worker_rlimit_nofile 20000; pid {home}/pid; error_log {home}/error.log crit;
events {{ worker_connections 10000; multi_accept on; }}
http {{
  access_log off; tcp_nodelay on; keepalive_timeout 3600s; keepalive_requests 1000000000; client_max_body_size 0;
  client_body_temp_path {home}/t; proxy_temp_path {home}/t; fastcgi_temp_path {home}/t; uwsgi_temp_path {home}/t;
  scgi_temp_path {home}/t;
  proxy_http_version 1.1; proxy_set_header Connection ""; proxy_request_buffering off; proxy_max_temp_file_size 0;
  proxy_buffers 16 64k; proxy_buffer_size 64k; proxy_busy_buffers_size 128k;
  proxy_connect_timeout 1s; proxy_read_timeout 3600s;
  upstream control {{ server 127.0.0.1:{control[0]}; server 127.0.0.1:{control[1]}; keepalive 256; }}
  upstream pull {{ server 127.0.0.1:{pull[0]}; server 127.0.0.1:{pull[1]}; keepalive 256; }}
  upstream push {{ server 127.0.0.1:{push[0]}; server 127.0.0.1:{push[1]}; keepalive 256; }}
  server {{
    listen 127.0.0.1:{port} {tls} reuseport backlog=4096; {certificate}
    location / {{ proxy_pass http://control; }}
    location /v2/pull/ {{ proxy_pass http://pull; }}
    location /v2/push/ {{ proxy_pass http://push; }}
  }}
}}
"""

# Bodies through pipes of a MiB, always: `splice-auto` alone costs it half as much again.
HAPROXY = """
global
  nbthread {threads}
  maxconn 9000
  no strict-limits
  tune.pipesize 1048576
  {buffers}
defaults
  mode http
  timeout connect 1s
  timeout client 3600s
  timeout server 3600s
  timeout http-keep-alive 3600s
  http-reuse always
  option splice-request
  option splice-response
  balance roundrobin
frontend f
  bind 127.0.0.1:{port} backlog 4096 {tls}
  use_backend pull if {{ path_beg /v2/pull/ }}
  use_backend push if {{ path_beg /v2/push/ }}
  default_backend control
backend control
  server s1 127.0.0.1:{control[0]}
  server s2 127.0.0.1:{control[1]}
backend pull
  server s1 127.0.0.1:{pull[0]}
  server s2 127.0.0.1:{pull[1]}
backend push
  server s1 127.0.0.1:{push[0]}
  server s2 127.0.0.1:{push[1]}
"""

OURS = OURS_ALWAYS + """\
[[listener]]
name = "all"
bind = ["127.0.0.1:{port}"]
{tls}
rules = [
  {{ path = "/v2/pull", service = "pull" }}, {{ path = "/v2/push", service = "push" }}, {{ service = "control" }},
]
"""
OURS_SERVICE = """
[service.{name}]
kind = "{kind}"
{storage}
balance = "round-robin"
upstreams = [
  {{ name = "u1", address = "127.0.0.1:{up[0]}" }}, {{ name = "u2", address = "127.0.0.1:{up[1]}" }},
]
health = {{ kind = "tcp" }}
"""

# Bodies inside TLS are copied, and then what is read at once counts.
HAPROXY_TLS_BUFFERS = "tune.bufsize 65536"

Up = tuple[int, int]


@dataclass
class Behind:
    """The upstreams: small answers, blobs, and a sink."""

    processes: list[Process]
    control: Up
    pull: Up
    push: Up
    files: Path

    def file(self, size: int) -> Path:
        """A blob of so many bytes."""
        path = self.files / f"sha256:{size}"
        if not path.exists():
            piece = os.urandom(2**24)
            with path.open("wb") as out:
                for at in range(0, size, len(piece)):
                    out.write(piece[: size - at])
        return path


@contextmanager
def behind(machine: Machine) -> Iterator[Behind]:
    home = machine.scratch / f"files-{machine.free_port()}"
    home.mkdir()
    files = MEMORY / f"switchyard-bench-{os.getpid()}"
    files.mkdir()
    small, control = nginx_upstream(machine)
    pull, push = ((machine.free_port(), machine.free_port()) for _ in range(2))
    (home / "config").write_text(NGINX_FILES.format(home=home, up=pull, files=files))
    command = ["nginx", "-p", home, "-e", home / "error.log", "-c", home / "config"]
    blobs = machine.start(f"files-{pull[0]}", command, machine.load_cpus)
    sink = machine.start(f"sink-{push[0]}", [sys.executable, HERE / "stream.py", "sink", *push], machine.load_cpus)
    try:
        wait_until_serving(blobs, pull[0], "/")
        yield Behind([small, blobs, sink], control, pull, push, files)
    finally:
        machine.stop(small, blobs, sink)
        shutil.rmtree(files, ignore_errors=True)


def launch(machine: Machine, contender: Contender, up: Behind, threads: int, *, tls: bool = False) -> tuple[Process, int]:
    port, home = contender.place(machine)
    values = {"threads": threads, "port": port, "home": home, "control": up.control, "pull": up.pull, "push": up.push,
              "tls": "", "certificate": "", "buffers": ""}
    if tls:
        values |= secured(contender.kind, machine) | {"buffers": HAPROXY_TLS_BUFFERS}
    text = {"nginx": NGINX, "haproxy": HAPROXY}.get(contender.kind, OURS).format(**values)
    if contender.kind == "ours":
        services = (("control", "controller", up.control), ("pull", "registry", up.pull), ("push", "registry", up.push))
        text += "".join(
            OURS_SERVICE.format(name=name, kind=kind, up=ports,
                                storage='storage = "shared"' if kind == "registry" else "")
            for name, kind, ports in services)
    return contender.run(machine, port, home, text, tls=tls), port


@contextmanager
def live(machine: Machine, settings: Settings, threads: int, *, tls: bool = False) -> Iterator[tuple[Behind, Field]]:
    machine.place(threads)
    with behind(machine) as up:
        running = {contender.name: launch(machine, contender, up, threads, tls=tls) for contender in settings.all}
        time.sleep(0.5 if settings.quick else 2)
        try:
            yield up, Field(up.processes[0], up.control, running)
        finally:
            machine.stop(*(process for process, _ in running.values()))


def stream(machine: Machine, *words: str | int | float | Path) -> dict[str, object]:
    out: dict[str, object] = json.loads(run([sys.executable, HERE / "stream.py", *words], machine.load_cpus, 120))
    return out


def peak(process: Process) -> float:
    """MiB that the largest process of it has had at most, what it shares included."""
    peaks = []
    for pid in process.tree():
        words = Path(f"/proc/{pid}/status").read_text().split()
        peaks.append(int(words[words.index("VmHWM:") + 1]) / 1024)
    return max(peaks)


def moved(machine: Machine, settings: Settings, up: Behind, here: Field, kind: str, count: int,
          figures: tuple[Figure, ...], *, tls: bool = False) -> Group:
    total = GIB // 4 if settings.quick else 2 * GIB
    size = total // count
    name, inside = ("download", "upload")[kind == "put"], " inside TLS" if tls else ""
    group = Group(f"{name}{'-tls' if tls else ''}-{count}",
                  f"{name.capitalize()} of {total / GIB:g} GiB{inside}, {count} at once, 1 thread", figures)
    file, turns = up.file(size), Turns(settings.turns(6), settings)

    def measure(name: str) -> Sample:
        process, port = here.running[name]
        meter = Meter(process, up.processes)
        meter.start()
        done = stream(machine, kind + ("-tls" if tls else ""), port, count, size, *([file] if kind == "put" else []))
        meter.stop()
        errors, seconds = done["errors"], done["seconds"]
        assert isinstance(errors, list) and isinstance(seconds, float)
        if errors:
            print(f"{name}: {errors[0]}", file=sys.stderr)
        sample = meter.sample(1)
        del sample["CPU us/req"]
        return {"CPU s/GB": meter.cpu * 1e9 / total, "GB/s": total / 1e9 / seconds, "peak MiB": peak(process), **sample,
                "failed": len(errors)}

    names = list(here.running)
    for name in names:
        measure(name)
    for samples in turns.each(names, measure):
        for name in names:
            group.add(name, samples[name])
    group.notes += turns.note()
    failures(group)
    return group


def download(machine: Machine, settings: Settings) -> Iterator[Group]:
    with live(machine, settings, 1) as (up, here):
        one, four = (Figure("CPU s/GB", target) for target in (0.95, 0.90))
        memory = Figure("peak MiB", 1.0)
        yield moved(machine, settings, up, here, "get", 1, (one, memory))
        yield moved(machine, settings, up, here, "get", 4, (four, Figure("GB/s", 1.2, more=True), memory))


def upload(machine: Machine, settings: Settings) -> Iterator[Group]:
    with live(machine, settings, 1) as (up, here):
        cpu = Figure("CPU s/GB", 0.95)
        yield moved(machine, settings, up, here, "put", 1, (cpu,))
        yield moved(machine, settings, up, here, "put", 4, (cpu, Figure("GB/s", 1.1, more=True)))


def secured_bodies(machine: Machine, settings: Settings) -> Iterator[Group]:
    """The client's side of both inside TLS; the upstream's is plain."""
    with live(machine, settings, 1, tls=True) as (up, here):
        for kind in ("get", "put"):
            for count in (1, 4):
                yield moved(machine, settings, up, here, kind, count, (Figure("CPU s/GB", 1.0),), tls=True)


def lanes(machine: Machine, settings: Settings) -> Iterator[Group]:
    """Small requests at a steady rate, while half of 50 transfers download and the others upload."""
    group = Group("lanes", "A small GET while 50 transfers fill both cores, 2 threads", (Figure("p99 us", 0.5),))
    seconds, size = (1, GIB // 16) if settings.quick else (4, GIB // 4)
    with live(machine, settings, 2) as (up, here):
        file, turns = up.file(size), Turns(settings.turns(6), settings)

        def measure(name: str) -> Sample:
            process, port = here.running[name]
            command = [sys.executable, HERE / "stream.py", "mixed", port, 50, size, file, seconds + 1]
            transfers = machine.start(f"transfers-{name}-{time.monotonic_ns()}", command, machine.load_cpus)
            try:
                time.sleep(0.5)
                sample, _ = h2load(machine, process, up.processes, port, 300, seconds)
                transfers.popen.wait(120)
            except subprocess.TimeoutExpired as error:
                raise ServeError(f"{name}: the transfers do not come to an end") from error
            finally:
                machine.stop(transfers)
            done = json.loads(transfers.log.read_text())
            for error in done["errors"][:1]:
                print(f"{name}: {error}", file=sys.stderr)
            # The transfers are no work of others, and they cost CPU too.
            for key in ("CPU us/req", "others busy %", "load busy %"):
                del sample[key]
            sample["failed"] += len(done["errors"])
            return {**sample, "GB/s": done["bytes"] / 1e9 / done["seconds"], "others busy %": 0}

        names = list(here.running)
        for samples in turns.each(names, measure):
            for name in names:
                group.add(name, samples[name])
    failures(group)
    yield group


def transfers(machine: Machine, settings: Settings) -> Iterator[Group]:
    """100 downloads whose clients read nothing for a while: everything that a proxy takes in of them it holds."""
    for tls in (False, True):
        group = Group("transfers-tls" if tls else "transfers",
                      f"100 downloads{' inside TLS' if tls else ''} at once that nobody reads for a while, 1 thread",
                      (Figure("KiB/transfer", 1024, absolute=True),))
        machine.place(1)
        for _ in range(settings.turns(3)):
            with behind(machine) as up:
                for contender in settings.all:
                    group.add(contender.name, stalled(machine, contender, up, tls=tls))
        failures(group)
        yield group


def stalled(machine: Machine, contender: Contender, up: Behind, *, tls: bool) -> Sample:
    count, size, stall = 100, GIB // 32, 1.0
    up.file(size)
    process, port = launch(machine, contender, up, 1, tls=tls)
    before = process.memory()
    command = [sys.executable, HERE / "stream.py", "stalled-tls" if tls else "stalled", port, count, size, stall]
    load = machine.start(f"stalled-{contender.name}-{time.monotonic_ns()}", command, machine.load_cpus)
    most = before
    while load.popen.poll() is None:
        most = max(most, process.memory())
        time.sleep(0.05)
    done = json.loads(load.log.read_text())
    machine.stop(process)
    return {"KiB/transfer": (most - before) / count, "MiB before": before / 1024, "failed": len(done["errors"])}


SCENARIOS: dict[str, Callable[[Machine, Settings], Iterator[Group]]] = {
    "download": download, "upload": upload, "tls-bodies": secured_bodies, "lanes": lanes, "transfers": transfers}
