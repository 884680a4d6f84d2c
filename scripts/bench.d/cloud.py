"""What a cloud costs its controllers and its etcd: `scripts/bench controller`. A real etcd, three controllers, a registry and
a proxy in front, as processes; nodes that speak the agents' protocol and run nothing, all of them in this process."""

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import re
import statistics
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

from machine import LOOPBACK, Machine, Process, ServeError, beside, wait_until_serving
from report import plain, table

HEARTBEAT = 5.0  # As our agents do.
CONTROLLERS = 3
PER_START = 1000  # Most that one call may ask for.
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
FACTS = {
    "host_arch": "arm64", "runs": ["arm64"], "driver": "process", "agent_version": "bench", "cpu_count": 8,
    "hypervisor": {"product": "process", "version": "1", "build": ""}, "memory": 16 << 30, "disk_size": 500 << 30,
    "disk_free": 400 << 30, "disk_used": 0, "templates": [], "cpu_util": 0.1, "ram_util": 0.1,
}


class Wire:
    """One connection to the front, one call at a time; opened again after an end."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def call(self, method: str, path: str, body: object = None, kind: str = "application/json") -> tuple[int, bytes]:
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: {kind}\r\nContent-Length: {len(data)}\r\n\r\n"
        try:
            if self.streams is None:
                self.streams = await asyncio.open_connection(LOOPBACK, self.port, limit=2**20)
            reader, writer = self.streams
            writer.write(head.encode() + data)
            return await self.answer(reader)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            self.close()
            return 0, b""
        except asyncio.CancelledError:
            self.close()
            raise

    async def answer(self, reader: asyncio.StreamReader) -> tuple[int, bytes]:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        status = int(head[9:12])
        length = re.search(rb"\r\ncontent-length: *(\d+)", head)
        if length:
            body = await reader.readexactly(int(length.group(1)))
        else:
            pieces = []
            while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
                pieces.append(await reader.readexactly(size))
                await reader.readexactly(2)
            await reader.readuntil(b"\r\n")
            body = b"".join(pieces)
        if b"\r\nconnection: close" in head:
            self.close()
        return status, body

    def close(self) -> None:
        if self.streams is not None:
            self.streams[1].close()
        self.streams = None


@dataclass
class Seen:
    """What the nodes have seen together."""

    arrived: dict[str, float] = field(default_factory=dict)
    running: set[str] = field(default_factory=set)
    faults: dict[str, int] = field(default_factory=dict)

    def fault(self, what: str) -> None:
        self.faults[what] = self.faults.get(what, 0) + 1


class Node:
    """Joins, reports every five seconds, polls without a pause, and says of every start at once that it runs."""

    def __init__(self, port: int, number: int, seen: Seen) -> None:
        self.id, self.seen, self.vms = f"bench-{number:05}", seen, {}
        self.beats, self.polls = Wire(port), Wire(port)

    async def join(self) -> None:
        wish = {"name": self.id, "host": LOOPBACK, "capacity": 100_000}
        while not await self.ask(self.beats, "join", {"wish": wish, "facts": FACTS}):
            await asyncio.sleep(0.5)
        while not await self.beat():
            await asyncio.sleep(0.5)

    async def ask(self, wire: Wire, what: str, more: dict[str, object]) -> dict[str, object] | None:
        status, body = await wire.call("POST", f"/switchyard/v1/{what}", {"node_id": self.id, **more})
        if status != 200:
            self.seen.fault(f"{what}: {status}")
            return None
        return json.loads(body)

    async def beat(self) -> bool:
        vms = [{"instance": id, "attempt": attempt, "phase": "running"} for id, attempt in self.vms.items()]
        heard = await self.ask(self.beats, "heartbeat", {"session": "s", "facts": FACTS, "vms": vms})
        return heard is not None

    async def heartbeats(self) -> None:
        await asyncio.sleep(HEARTBEAT * (hash(self.id) % 1000) / 1000)
        while True:
            began = time.monotonic()
            await self.beat()
            await asyncio.sleep(max(0.0, HEARTBEAT - (time.monotonic() - began)))

    async def tasks(self) -> None:
        while True:
            path = f"/switchyard/v1/tasks?node={self.id}&session=s&free=1000&wait=10"
            status, body = await self.polls.call("GET", path)
            if status != 200:
                self.seen.fault(f"tasks: {status}")
                await asyncio.sleep(0.2)
                continue
            if start := json.loads(body).get("start"):
                self.seen.arrived.setdefault(start["instance"], time.perf_counter())
                await self.start(start)

    async def start(self, start: dict[str, object]) -> None:
        claim = {"instance": start["instance"], "attempt": start["attempt"]}
        for step in ("claim", "starting"):
            granted = await self.ask(self.polls, step, claim)
            if not granted or not granted["granted"]:
                self.seen.fault(f"{step} was not granted")
                return
        self.vms[str(start["instance"])] = start["attempt"]
        await self.ask(self.polls, "report", {"session": "s", "vm": {**claim, "phase": "running"}})
        self.seen.running.add(str(start["instance"]))


class Cloud:
    """The processes, fresh, on fresh data."""

    def __init__(self, machine: Machine, ours: Path, etcd: Path) -> None:
        self.machine, scratch = machine, machine.scratch
        client, peer = machine.free_port(), machine.free_port()
        self.etcd_port = client
        at, to = f"http://{LOOPBACK}:{client}", f"http://{LOOPBACK}:{peer}"
        self.etcd = machine.start("etcd", [
            etcd, "--name=m", f"--data-dir={scratch / 'etcd'}", f"--listen-client-urls={at}", f"--advertise-client-urls={at}",
            f"--listen-peer-urls={to}", f"--initial-advertise-peer-urls={to}", f"--initial-cluster=m={to}", "--log-level=error",
            "--quota-backend-bytes=8589934592"], machine.all_cpus)
        wait_until_serving(self.etcd, client, "/health")
        self.registry_port, self.port, admin = (machine.free_port() for _ in range(3))
        self.registry = self.role("registry", f'[server]\nlisten = "{LOOPBACK}:{self.registry_port}"\n'
                                  f'[storage]\ndisk = "{scratch / "registry"}"\n[limits]\nreserve = "16MiB"\n')
        ports = [machine.free_port() for _ in range(CONTROLLERS)]
        self.controllers = [self.role("controller", f'[server]\nlisten = "{LOOPBACK}:{port}"\nname = "c{port}"\n[log]\nfilter = "warn"\n'
                                      f'[store]\netcd = ["{at}"]\n[registries]\naddress = "http://{LOOPBACK}:{self.registry_port}"\n',
                                      f"c{port}") for port in ports]
        upstreams = ", ".join(f'{{ name = "c{port}", address = "{LOOPBACK}:{port}" }}' for port in ports)
        self.proxy = self.role("proxy", f'[log]\naccess = "off"\n[proxy]\nrun_dir = "{scratch / "run"}"\n[admin]\nlisten = "{LOOPBACK}:{admin}"\n'
                               f'[[listener]]\nname = "c"\nbind = ["{LOOPBACK}:{self.port}"]\nservice = "controllers"\n'
                               f'[service.controllers]\nkind = "controller"\nupstreams = [{upstreams}]\n')
        for port, process in zip(ports, self.controllers):
            wait_until_serving(process, port, "/readyz")
        wait_until_serving(self.registry, self.registry_port, "/v2/")
        wait_until_serving(self.proxy, self.port, "/readyz")

    def role(self, role: str, config: str, name: str = "") -> Process:
        file = self.machine.scratch / f"{name or role}.toml"
        file.write_text(config)
        command = [self.machine.ours, role, "-c", file]
        return self.machine.start(name or role, command, self.machine.all_cpus)

    def etcd_numbers(self) -> dict[str, float]:
        with urllib.request.urlopen(f"http://{LOOPBACK}:{self.etcd_port}/metrics", timeout=5) as answer:
            text = answer.read().decode()
        wanted = ("etcd_debugging_mvcc_current_revision", "etcd_server_proposals_committed_total",
                  "etcd_debugging_lease_renewed_total", "etcd_mvcc_db_total_size_in_use_in_bytes")
        return {name: float(re.search(rf"^{name} (\S+)$", text, re.MULTILINE).group(1)) for name in wanted}

    async def template(self) -> str:
        """One small template; its id."""
        wire = Wire(self.registry_port)
        config = b'{"architecture":"arm64","os":"darwin"}'
        digest = f"sha256:{hashlib.sha256(config).hexdigest()}"
        await must(wire.call("POST", f"/v2/bench/blobs/uploads/?digest={digest}", config, "application/octet-stream"), 201)
        kind = "application/vnd.oci.image.config.v1+json"
        described = {"mediaType": kind, "digest": digest, "size": len(config)}
        manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": described, "layers": [described]}
        await must(wire.call("PUT", "/v2/bench/manifests/v1", json.dumps(manifest).encode(), MANIFEST), 201)
        wire.close()
        front, until = Wire(self.port), time.monotonic() + 20
        while time.monotonic() < until:
            _, body = await front.call("GET", "/api/v1/registry/vm")
            with contextlib.suppress(ValueError, KeyError, IndexError, TypeError):
                listed = json.loads(body)["body"][0]
                return str(listed.get("id") or listed["uuid"])
            await asyncio.sleep(0.2)
        raise ServeError(f"the controllers do not show the template: {body[:300]!r}")


async def must(asked: "asyncio.Future[tuple[int, bytes]]", status: int = 200) -> dict[str, object]:
    got, body = await asked
    if got != status:
        raise ServeError(f"answered {got}, not {status}: {body[:300]!r}")
    return json.loads(body) if body.startswith(b"{") else {}


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))] if values else float("nan")


async def timed(count: int, call) -> list[float]:
    took = []
    for _ in range(count):
        began = time.perf_counter()
        await must(call())
        took.append(1000 * (time.perf_counter() - began))
    return took


class Measuring:
    def __init__(self, cloud: Cloud, template: str, args: argparse.Namespace) -> None:
        self.cloud, self.template, self.args, self.seen = cloud, template, args, Seen()
        self.tasks: list[asyncio.Task[None]] = []
        self.filled = 0
        self.wire = Wire(cloud.port)

    async def nodes(self, count: int) -> None:
        nodes = [Node(self.cloud.port, number, self.seen) for number in range(len(self.tasks) // 2, count)]
        for some in range(0, len(nodes), 50):
            await asyncio.gather(*(node.join() for node in nodes[some:some + 50]))
        for node in nodes:
            self.tasks += [asyncio.create_task(node.heartbeats()), asyncio.create_task(node.tasks())]

    async def fill(self, count: int) -> None:
        """So many instances that wait for ever: for a group that no node is in."""
        if self.filled == 0:
            made = await must(self.wire.call("POST", "/api/v1/group", {"name": "nobody"}))
            self.nobody = made["body"]["id"]
        while self.filled < count:
            some = min(PER_START, count - self.filled)
            await must(self.wire.call("POST", "/api/v1/vm", {"vmid": self.template, "count": some, "group_id": self.nobody}))
            self.filled += some
        until = time.monotonic() + 120
        while time.monotonic() < until:
            if (await must(self.wire.call("GET", "/api/v1/stats")))["body"].get("queued", self.filled) >= self.filled:
                break
            await asyncio.sleep(0.2)
        await asyncio.sleep(1)

    async def placements(self) -> tuple[list[float], list[float]]:
        """Starts at a fixed rate, each at its time whatever became of those before: ms until the answer, until the task."""
        sent: dict[str, float] = {}
        answers: list[float] = []

        async def one(wire: Wire) -> None:
            began = time.perf_counter()
            ids = (await must(wire.call("POST", "/api/v1/vm", {"vmid": self.template})))["body"]
            answers.append(1000 * (time.perf_counter() - began))
            sent[ids[0]] = began
            free.append(wire)

        free, running, began = [], [], time.perf_counter()
        for number in range(int(self.args.rate * self.args.seconds)):
            await asyncio.sleep(max(0.0, began + number / self.args.rate - time.perf_counter()))
            running.append(asyncio.create_task(one(free.pop() if free else Wire(self.cloud.port))))
        await asyncio.gather(*running)
        until = time.monotonic() + 30
        while time.monotonic() < until and not sent.keys() <= self.seen.running:
            await asyncio.sleep(0.05)
        lost = sent.keys() - self.seen.arrived.keys()
        if lost:
            raise ServeError(f"{len(lost)} of {len(sent)} starts have not come to a node")
        return answers, [1000 * (self.seen.arrived[id] - at) for id, at in sent.items()]

    async def idle(self, nodes: int) -> dict[str, float]:
        """What it costs that nothing happens."""
        processes = {"controllers": self.cloud.controllers, "etcd": [self.cloud.etcd], "proxy": [self.cloud.proxy]}
        cpu = lambda: {name: sum(process.cpu() for process in those) for name, those in processes.items()}
        await asyncio.sleep(2)
        before, numbers, began = cpu(), self.cloud.etcd_numbers(), time.monotonic()
        await asyncio.sleep(self.args.idle)
        after, later, took = cpu(), self.cloud.etcd_numbers(), time.monotonic() - began
        rate = {name: (later[name] - numbers[name]) / took for name in numbers}
        return {
            **{f"{name}, % of a core": 100 * (after[name] - before[name]) / took for name in processes},
            "etcd: revisions/s": rate["etcd_debugging_mvcc_current_revision"],
            "etcd: commits/s": rate["etcd_server_proposals_committed_total"],
            "etcd: renewals/s for each node": rate["etcd_debugging_lease_renewed_total"] / nodes,
        }

    async def row(self, nodes: int, instances: int) -> dict[str, float]:
        await self.nodes(nodes)
        await self.fill(instances)
        row = dict(await self.idle(nodes))
        answers, placed = await self.placements()
        pages = await timed(self.args.calls, lambda: self.wire.call("GET", "/switchyard/v1/instances?limit=100"))
        whole = await timed(2, lambda: self.wire.call("GET", "/api/v1/vm"))
        some = next(iter(self.seen.arrived))
        shown = await timed(self.args.calls, lambda: self.wire.call("GET", f"/api/v1/vm?id={some}"))
        for name, took in (("start, answered, ms", answers), ("start, at its node, ms", placed), ("page of 100, ms", pages),
                           ("one shown, ms", shown)):
            row[f"{name} p50"], row[f"{name} p99"] = statistics.median(took), quantile(took, 0.99)
        row["whole list, ms"] = statistics.median(whole)
        row["controllers, MiB"] = sum(process.memory() for process in self.cloud.controllers) / 1024
        row["etcd, MiB of its file"] = self.cloud.etcd_numbers()["etcd_mvcc_db_total_size_in_use_in_bytes"] / 2**20
        return row


async def measure(cloud: Cloud, args: argparse.Namespace) -> None:
    measuring = Measuring(cloud, await cloud.template(), args)
    columns, rows = [], {}
    for nodes, instances in args.at:
        began = time.monotonic()
        if args.pause:
            await measuring.nodes(nodes)
            await measuring.fill(instances)
            print(f"{nodes} nodes, {instances} instances are there; a line goes on", file=sys.stderr, flush=True)
            await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
            # The proxy has closed the one that was idle meanwhile.
            measuring.wire.close()
            measuring.wire = Wire(cloud.port)
        row = await measuring.row(nodes, instances)
        columns.append(f"{nodes} nodes, {instances:,} instances")
        for name, value in row.items():
            rows.setdefault(name, []).append(plain(value))
        print(f"{columns[-1]}: {time.monotonic() - began:.0f} s; faults: {measuring.seen.faults or 'none'}", file=sys.stderr, flush=True)
        print("  " + "; ".join(f"{name} {plain(value)}" for name, value in row.items()), file=sys.stderr, flush=True)
    for task in measuring.tasks:
        task.cancel()
    print(table(["", *columns], [[name, *values] for name, values in rows.items()]))


def pair(text: str) -> tuple[int, int]:
    nodes, instances = text.split(":")
    return int(nodes), int(instances)


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench controller", description="What a cloud costs its controllers and its etcd, "
                                     "on this machine. docs/performance.md has the method.")
    parser.add_argument("--ours", type=Path, default=os.environ.get("SWITCHYARD_BIN"), metavar="PATH", help="our binary")
    parser.add_argument("--at", type=pair, nargs="+", default=None, metavar="NODES:INSTANCES",
                        help="one after the other in one cloud, so both only grow; default 10:1000 100:1000 1000:1000 1000:10000 1000:100000")
    parser.add_argument("--rate", type=float, default=20, metavar="N", help="starts a second; default %(default)s")
    parser.add_argument("--seconds", type=float, default=15, metavar="S", help="of starts; default %(default)s")
    parser.add_argument("--idle", type=float, default=15, metavar="S", help="of doing nothing; default %(default)s")
    parser.add_argument("--calls", type=int, default=200, metavar="N", help="of each kind of read; default %(default)s")
    parser.add_argument("--pause", action="store_true", help="wait for a line before each measurement")
    parser.add_argument("--quick", action="store_true", help="20 nodes, 200 instances, seconds: does all of it work?")
    args = parser.parse_args()
    if args.quick:
        args.at, args.rate, args.seconds, args.idle, args.calls = [(20, 200)], 10, 2, 2, 20
    args.at = args.at or [(10, 1000), (100, 1000), (1000, 1000), (1000, 10_000), (1000, 100_000)]

    def work(machine: Machine, ours: Path, etcd: Path) -> None:
        machine.ours = ours
        asyncio.run(measure(Cloud(machine, ours, etcd), args))

    return beside(args.ours, "etcd", work)


if __name__ == "__main__":
    sys.exit(main())
