"""The registry beside Debian's docker-registry: `scripts/bench registry`. Both over loopback on one disk, started empty for
each turn, so that neither is measured on what the other has warmed."""

import argparse
import hashlib
import http.client
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from machine import LOOPBACK, Machine, Process, ServeError, beside, wait_until_serving
from report import plain, spread, table

CONTENDERS = ("ours", "docker-registry")
MANIFEST = "application/vnd.oci.image.manifest.v1+json"

Sample = dict[str, float]


class Registry:
    """One that was started, with an empty directory."""

    def __init__(self, machine: Machine, name: str, binary: Path, data: Path) -> None:
        self.machine, self.name, self.binary, self.data = machine, name, binary, data
        self.port = machine.free_port()
        self.process = self.start()

    def start(self) -> Process:
        config = self.machine.scratch / f"{self.name}.conf"
        if self.name == "docker-registry":
            config.write_text(f"version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n"
                              f"storage: {{filesystem: {{rootdirectory: {self.data}}}, delete: {{enabled: true}}}}\n"
                              f"http: {{addr: '{LOOPBACK}:{self.port}'}}\n")
            command = [self.binary, "serve", config]
        else:
            config.write_text(f'[server]\nlisten = "{LOOPBACK}:{self.port}"\n[storage]\ndisk = "{self.data}"\n')
            command = [self.binary, "registry", "-c", config]
        process = self.machine.start(self.name, command, self.machine.all_cpus)
        wait_until_serving(process, self.port, "/v2/")
        return process

    def again(self) -> None:
        self.machine.stop(self.process)
        self.process = self.start()

    def close(self) -> None:
        self.machine.stop(self.process)
        shutil.rmtree(self.data, ignore_errors=True)

    def url(self, path: str) -> str:
        return f"http://{LOOPBACK}:{self.port}{path}"

    def costs(self, work: Callable[[], object]) -> tuple[float, float]:
        """Seconds it took, and seconds of CPU that the registry took for it."""
        cpu, began = self.process.cpu(), time.monotonic()
        work()
        return time.monotonic() - began, self.process.cpu() - cpu

    def memory_peak(self) -> float:
        """MiB, the most it has had since it was started."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"^VmHWM:\s+(\d+)", status, re.MULTILINE)
        return int(found.group(1)) / 1024 if found else 0.0

    def session(self, repository: str) -> str:
        connection = http.client.HTTPConnection(LOOPBACK, self.port, timeout=60)
        connection.request("POST", f"/v2/{repository}/blobs/uploads/")
        answer = connection.getresponse()
        answer.read()
        location = answer.headers.get("location") or ""
        if answer.status != 202 or not location:
            raise ServeError(f"{self.name}: an upload is answered {answer.status}")
        return location if location.startswith("http") else self.url(location)

    def push(self, repository: str, file: Path, digest: str) -> None:
        session = self.session(repository)
        joint = "&" if "?" in session else "?"
        curl("-T", file, "-X", "PUT", "-H", "Content-Type: application/octet-stream", "-H", "Expect:",
             f"{session}{joint}digest={digest}")

    def pull(self, repository: str, digest: str) -> None:
        curl(self.url(f"/v2/{repository}/blobs/{digest}"))


def curl(*arguments: str | Path) -> None:
    done = subprocess.run(["curl", "-sS", "--fail", "-o", "/dev/null", *map(str, arguments)], capture_output=True, check=False)
    if done.returncode:
        raise ServeError(done.stderr.decode(errors="replace").strip() or f"curl: {done.returncode}")


def together(work: Callable[[int], object], count: int) -> None:
    """All at once; the first failure is the caller's."""
    failed: list[BaseException] = []

    def one(number: int) -> None:
        try:
            work(number)
        except BaseException as error:  # noqa: BLE001, it is raised again below
            failed.append(error)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


def sample_files(scratch: Path, count: int, size: int) -> list[tuple[Path, str]]:
    """Files that nothing can compress, with their digests; in memory once they are written."""
    made = []
    for number in range(count):
        file, hashed = scratch / f"blob-{number}", hashlib.sha256()
        with file.open("wb") as out:
            for _ in range(size // 2**20):
                piece = os.urandom(2**20)
                hashed.update(piece)
                out.write(piece)
        made.append((file, f"sha256:{hashed.hexdigest()}"))
    return made


def stalled(registry: Registry, digest: str, count: int) -> list[socket.socket]:
    """Pulls of which nobody reads anything but the first bytes."""
    held = []
    for _ in range(count):
        connection = socket.create_connection((LOOPBACK, registry.port), 10)
        connection.sendall(f"GET /v2/big/blobs/{digest} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())
        if not connection.recv(12).startswith(b"HTTP/1.1 200"):
            raise ServeError(f"{registry.name}: a pull beside {len(held)} others is refused")
        held.append(connection)
    time.sleep(1)  # Until each has filled what it fills.
    return held


def bodies(registry: Registry, files: list[tuple[Path, str]], size: int) -> Iterator[tuple[str, Sample]]:
    gb = size / 1e9
    (first, first_digest), others = files[0], files[1:]

    def per_gb(seconds: float, cpu: float, moved: float) -> Sample:
        return {"CPU s/GB": cpu / moved, "GB/s": moved / seconds}

    yield "push of 2 GiB", per_gb(*registry.costs(lambda: registry.push("big", first, first_digest)), gb)
    part = sum(file.stat().st_size for file, _ in others) / 1e9
    push_all = lambda: together(lambda n: registry.push(f"part{n}", *others[n]), len(others))
    yield "four pushes of 512 MiB at once", per_gb(*registry.costs(push_all), part)
    yield "pull of 2 GiB", per_gb(*registry.costs(lambda: registry.pull("big", first_digest)), gb)
    pull_all = lambda: together(lambda n: registry.pull(f"part{n}", others[n][1]), len(others))
    yield "four pulls of 512 MiB at once", per_gb(*registry.costs(pull_all), part)
    before, held = registry.process.memory(), stalled(registry, first_digest, 100)
    each = (registry.process.memory() - before) / len(held) / 1024
    for connection in held:
        connection.close()
    peak = registry.memory_peak()
    registry.again()
    yield "first pull of 2 GiB after a start", per_gb(*registry.costs(lambda: registry.pull("big", first_digest)), gb)
    yield "memory", {"peak MiB": peak, "MiB for each of 100 stalled pulls": each}


def manifests(registry: Registry, count: int, seconds: int) -> Iterator[tuple[str, Sample]]:
    config = b'{"architecture":"arm64"}'
    digest = f"sha256:{hashlib.sha256(config).hexdigest()}"
    file = registry.machine.scratch / "config"
    file.write_bytes(config)
    registry.push("small", file, digest)

    def put(lane: int, lanes: int) -> None:
        connection = http.client.HTTPConnection(LOOPBACK, registry.port, timeout=60)
        for number in range(lane, count, lanes):
            body = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "annotations": {"number": str(number)},
                               "config": {"mediaType": "application/json", "digest": digest, "size": len(config)},
                               "layers": []})
            connection.request("PUT", f"/v2/small/manifests/t{number}", body, {"Content-Type": MANIFEST})
            answer = connection.getresponse()
            answer.read()
            if answer.status != 201:
                raise ServeError(f"{registry.name}: a manifest is answered {answer.status}")

    took, cpu = registry.costs(lambda: together(lambda lane: put(lane, 4), 4))
    yield f"{count} small manifests pushed, four at a time", {"CPU ms each": 1000 * cpu / count, "req/s": count / took}
    for name, path in [("a manifest read", "/v2/small/manifests/t7"),
                       (f"{count} tags listed", "/v2/small/tags/list")]:
        asked = 0

        def read() -> None:
            nonlocal asked
            done = subprocess.run(["wrk", "-t1", "-c8", f"-d{seconds}s", "-H", f"Accept: {MANIFEST}", registry.url(path)],
                                  capture_output=True, text=True, check=True)
            if "Non-2xx" in done.stdout:
                raise ServeError(f"{registry.name}: {path} is refused under load")
            found = re.search(r"(\d+) requests in", done.stdout)
            asked = int(found.group(1)) if found else 0

        took, cpu = registry.costs(read)
        yield name, {"CPU ms each": 1000 * cpu / max(asked, 1), "req/s": asked / took}


def compare(machine: Machine, binaries: dict[str, Path], data: Path, turns: int, *, quick: bool) -> None:
    size = (8 if quick else 2048) * 2**20
    files = sample_files(machine.scratch, 1, size) + sample_files(machine.scratch / "parts", 4, size // 4)
    results: dict[str, dict[str, list[Sample]]] = {}
    for turn in range(turns):
        # Who comes first changes from turn to turn.
        for name in CONTENDERS if turn % 2 == 0 else CONTENDERS[::-1]:
            registry = Registry(machine, name, binaries[name], data / name)
            try:
                for rows in (bodies(registry, files, size), manifests(registry, 20 if quick else 1000, 1 if quick else 3)):
                    for row, sample in rows:
                        results.setdefault(row, {}).setdefault(name, []).append(sample)
            finally:
                registry.close()
    lines = []
    for row, of_each in results.items():
        for key in next(iter(of_each.values()))[0]:
            ours, theirs = ([sample[key] for sample in of_each[name]] for name in CONTENDERS)
            ratio = statistics.median(mine / other for mine, other in zip(ours, theirs) if other > 0) if all(theirs) else 0
            lines.append([row, key, spread(ours), spread(theirs), plain(ratio)])
    print(table(["", "", *CONTENDERS, "ratio"], lines))


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench registry", description="Compares the registry with Debian's "
                                     "docker-registry on this machine. docs/performance.md has the method.")
    parser.add_argument("--ours", type=Path, default=os.environ.get("SWITCHYARD_BIN"), metavar="PATH", help="our binary")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="turns; default %(default)s")
    parser.add_argument("--data", type=Path, metavar="DIR", help="on which disk; default: the temporary directory's")
    parser.add_argument("--quick", action="store_true", help="small blobs, one turn: does everything serve?")
    args = parser.parse_args()

    def work(machine: Machine, ours: Path, theirs: Path) -> None:
        (machine.scratch / "parts").mkdir()
        data = args.data or machine.scratch / "data"
        data.mkdir(parents=True, exist_ok=True)
        binaries = {"ours": ours, "docker-registry": theirs}
        compare(machine, binaries, data, 1 if args.quick else args.rounds, quick=args.quick)

    return beside(args.ours, "docker-registry", work)


if __name__ == "__main__":
    sys.exit(main())
