"""Processes, their CPU time and memory, free ports: what the scenarios take from the machine (Linux only)."""

import contextlib
import ctypes
import os
import platform
import random
import re
import resource
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

LOOPBACK = "127.0.0.1"
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)


class ServeError(Exception):
    """A contender or an upstream does not start, or does not answer."""


@dataclass
class Process:
    """A process that was started here, with all that it starts itself."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        return self.popen.pid

    def tree(self) -> list[int]:
        """Its process id and those of all its descendants."""
        children: dict[int, list[int]] = {}
        for entry in filter(str.isdigit, os.listdir("/proc")):
            try:
                parent = int(stat_fields(int(entry))[1])
            except OSError:
                continue  # It ended meanwhile.
            children.setdefault(parent, []).append(int(entry))
        found = [self.pid]
        for pid in found:
            found += children.get(pid, [])
        return found

    def cpu(self) -> float:
        """Seconds of CPU, user and system, of the whole tree."""
        return sum(cpu_of(pid) for pid in self.tree())

    def memory(self) -> float:
        """KiB of memory of the tree, each shared page divided among those who share it."""
        total = 0
        for pid in self.tree():
            found = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
            total += int(found.group(1)) if found else 0
        return total

    def last_words(self) -> str:
        return "".join(self.log.read_text(errors="replace").splitlines(keepends=True)[-5:])


def stat_fields(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name, which may itself contain spaces and brackets."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()


def cpu_of(pid: int) -> float:
    """Seconds of CPU of one process, those of threads that have ended included.

    The clock of another process, as clock_getcpuclockid(3) makes its number: nanoseconds, while /proc/PID/stat counts
    ticks of 10 ms, a percent of a turn of one second. The two agree over longer times (`ticks_of`).
    """
    try:
        return time.clock_gettime(((~pid) << 3) | 2)
    except OSError:
        return ticks_of(pid)


def ticks_of(pid: int) -> float:
    """The same from /proc/PID/stat."""
    try:
        fields = stat_fields(pid)
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def busy_of_machine() -> float:
    """Seconds of CPU that the machine has spent on anything, what a hypervisor took away included."""
    user, nice, system, _idle, _wait, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def wait_until_quiet(percent: float, seconds: float) -> None:
    """Waits until all work on the machine, in one second, takes less than this of one core."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        before = busy_of_machine()
        time.sleep(1)
        if 100 * (busy_of_machine() - before) < percent:
            return


@dataclass
class Machine:
    """Everything that was started, and where it may run."""

    scratch: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="switchyard-bench-")))
    started: list[Process] = field(default_factory=list)
    proxy_cpus: set[int] = field(default_factory=lambda: os.sched_getaffinity(0))
    load_cpus: set[int] = field(default_factory=lambda: os.sched_getaffinity(0))
    all_cpus: set[int] = field(default_factory=lambda: os.sched_getaffinity(0))
    given_ports: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        # Each proxied poll takes two descriptors of its proxy; what is started inherits the limit.
        _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    def place(self, threads: int) -> None:
        """One proxy thread gets a core of its own and all else the others; more threads are not pinned."""
        cpus = sorted(self.all_cpus)
        alone = threads == 1 and len(cpus) > 1
        self.proxy_cpus = {cpus[0]} if alone else set(cpus)
        self.load_cpus = set(cpus[1:]) if alone else set(cpus)
        os.sched_setaffinity(0, self.load_cpus)

    def start(self, name: str, command: Sequence[str | Path | int], cpus: set[int]) -> Process:
        def in_child() -> None:
            os.sched_setaffinity(0, cpus)
            LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)  # Nothing outlives this program, however it ends.

        log = self.scratch / f"{name}.log"
        with log.open("ab") as out:
            popen = subprocess.Popen([str(part) for part in command], stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                     preexec_fn=in_child)
        process = Process(name, popen, log)
        self.started.append(process)
        return process

    def stop(self, *processes: Process) -> None:
        """Ends them by process id: asked first, then killed with all they started."""
        for process in processes:
            if process.popen.poll() is None:
                process.popen.terminate()
        for process in processes:
            try:
                process.popen.wait(4)
            except subprocess.TimeoutExpired:
                for pid in reversed(process.tree()):
                    kill(pid)
                process.popen.wait()
            if process in self.started:
                self.started.remove(process)

    def close(self) -> None:
        self.stop(*self.started)
        shutil.rmtree(self.scratch, ignore_errors=True)

    def free_port(self) -> int:
        """A port that nobody listens on, below those that the system gives to outgoing connections."""
        first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
        for _ in range(1000):
            port = random.randrange(min(20000, first - 5000), first)
            if port in self.given_ports:
                continue
            with socket.socket() as probe:
                try:
                    probe.bind((LOOPBACK, port))
                except OSError:
                    continue
            self.given_ports.add(port)
            return port
        raise ServeError("no free port found")


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def get(port: int, path: str, timeout: float = 5, *, tls: bool = False) -> tuple[int, bytes]:
    """One GET on a connection of its own, inside TLS with any certificate if `tls`: status and body."""
    with contextlib.ExitStack() as held:
        connection = held.enter_context(socket.create_connection((LOOPBACK, port), timeout))
        connection.settimeout(timeout)
        if tls:
            believing = ssl.create_default_context()
            believing.check_hostname, believing.verify_mode = False, ssl.CERT_NONE
            connection = held.enter_context(believing.wrap_socket(connection))
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    status = re.match(rb"HTTP/1\.[01] (\d+)", head)
    return (int(status.group(1)) if status else 0), body


def wait_until_serving(process: Process, port: int, path: str, seconds: float = 15, *, tls: bool = False) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and process.popen.poll() is None:
        try:
            if get(port, path, tls=tls)[0] == 200:
                return
        except OSError:
            pass
        time.sleep(0.05)
    raise ServeError(f"{process.name} does not answer {path} with 200:\n{process.last_words()}")


def first_line(*command: str | Path) -> str:
    """The first line that a command prints, for versions; what went wrong if it cannot run."""
    try:
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=10, check=False)
    except OSError as error:
        return str(error)
    lines = (done.stdout + done.stderr).strip().splitlines()
    return lines[0] if lines else ""


def describe() -> dict[str, str]:
    """What the figures were taken on."""
    models = re.findall(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = re.search(r"^MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return {
        "date": time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime()),
        "cpus": f"{os.cpu_count()} x {models[0] if models else platform.machine()}",
        "memory": f"{int(memory.group(1)) / 2**20:.0f} GiB" if memory else "unknown",
        "system": f"{platform.system()} {platform.release()}",
        "congestion control": Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip(),
        "descriptors": str(resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
        "nginx": first_line("nginx", "-v"),
        "haproxy": first_line("haproxy", "-v"),
        "wrk": first_line("wrk", "-v"),
        "h2load": first_line("h2load", "--version"),
    }


def beside(ours: Path | None, peer: str, work: Callable[[Machine, Path, Path], None]) -> int:
    """Measures our binary and a program of the system together: says on what, works, clears away. The exit code."""
    ours, found = Path(ours or "target/release/switchyard").resolve(), shutil.which(peer)
    if found is None:
        sys.exit(f"error: {peer} is not installed")
    if not ours.is_file():
        sys.exit(f"error: no binary at {ours}; build it first")
    about = {**describe(), "ours": first_line(ours, "--version"), peer: first_line(found, "--version")}
    wanted = ("date", "cpus", "memory", "system", "ours", peer)
    print("\n".join(f"* {key}: {about[key]}" for key in wanted), end="\n\n", flush=True)
    machine = Machine()
    try:
        work(machine, ours, Path(found))
    except ServeError as error:
        print(f"FAULT: {error}")
        return 1
    finally:
        machine.close()
    return 0
