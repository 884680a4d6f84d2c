"""The entry of scripts/bench; see there."""

import argparse
import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import IO, NoReturn

import bulk
import scenarios
from contenders import PEERS, Contender
from machine import Machine, ServeError, describe, first_line
from report import Judgement, judge, judgement, measured
from scenarios import Group, Settings

SCENARIOS = {**scenarios.SCENARIOS, **bulk.SCENARIOS}

# Without these a scenario cannot be measured; it says so and the others go on.
TOOLS = {"small": ("wrk", "nginx"), "h2": ("h2load", "nginx"), "connect": ("wrk", "nginx"),
         "tls": ("wrk", "nginx", "openssl"), "latency": ("h2load", "nginx"), "killed": ("haproxy",),
         **dict.fromkeys(bulk.SCENARIOS, ("nginx",)), "tls-bodies": ("nginx", "openssl"), "lanes": ("nginx", "h2load")}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench", description="Compares the proxy with tuned nginx and haproxy on this machine.",
        epilog="Scenarios: " + ", ".join(SCENARIOS) + "; all of them without any. docs/performance.md has the method.")
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO")
    parser.add_argument("--ours", type=Path, default=os.environ.get("SWITCHYARD_BIN"), metavar="PATH",
                        help="our binary; default: $SWITCHYARD_BIN, else a release build made first")
    parser.add_argument("--also", action="append", default=[], metavar="NAME=PATH",
                        help="another build of ours, in the same run")
    parser.add_argument("--peers", default="nginx,haproxy", metavar="NAMES",
                        help=f"of {', '.join(PEERS)}; default %(default)s, and these judge where they take part")
    parser.add_argument("--rounds", type=int, metavar="N",
                        help="turns of every scenario; default: 12, 12, 12, 12, 10, 3, 10, 6, 6, 6, 6, 3")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all single results there")
    parser.add_argument("--quick", action="store_true", help="some seconds of each: does everything serve?")
    parser.add_argument("--judge", action="store_true", help="exit 1 if a figure is not reached")
    args = parser.parse_args()
    if unknown := [name for name in args.scenarios if name not in SCENARIOS]:
        parser.error(f"no scenario {', '.join(unknown)}; there are {', '.join(SCENARIOS)}")
    return args


def built() -> Path:
    """A release build of what is checked out here."""
    subprocess.run(["cargo", "build", "--release", "--locked", "--bin", "switchyard"], check=True)
    return Path(os.environ.get("CARGO_TARGET_DIR", "target"), "release", "switchyard")


def settings_of(args: argparse.Namespace) -> Settings:
    builds: list[Contender] = []
    for also in args.also:
        name, found, path = also.partition("=")
        if not found or not name or name in PEERS or name in ("ours", "direct"):
            sys.exit(f"error: --also wants NAME=PATH, and a name that nobody has, not {also!r}")
        builds.append(Contender(name, "ours", Path(path).resolve()))
    unknown = [name for name in args.peers.split(",") if name and name not in PEERS]
    if unknown:
        sys.exit(f"error: no peer {', '.join(unknown)}; there are {', '.join(PEERS)}")
    builds.insert(0, Contender("ours", "ours", Path(args.ours or built()).resolve()))
    for build in builds:
        if build.binary is None or not build.binary.is_file():
            sys.exit(f"error: no binary at {build.binary}")
    peers = [PEERS[name] for name in dict.fromkeys(args.peers.split(",")) if name]
    return Settings(builds, peers, args.rounds, args.quick)


def terminated(_signal: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(143)


def missing_tools(name: str, settings: Settings) -> list[str]:
    wanted = {*TOOLS.get(name, ()), *(peer.kind for peer in settings.peers)}
    return sorted(tool for tool in wanted if shutil.which(tool) is None)


def measure(machine: Machine, settings: Settings, name: str) -> tuple[list[Group], list[str]]:
    """The groups of one scenario, printed as they come; and what went wrong."""
    if missing := missing_tools(name, settings):
        return [], [f"{name}: not measured, this machine has no {', '.join(missing)}"]
    groups: list[Group] = []
    try:
        for group in SCENARIOS[name](machine, settings):
            groups.append(group)
            print(measured(group, settings), end="\n\n", flush=True)
    except (ServeError, OSError) as error:
        return groups, [f"{name}: {error}"]
    return groups, [f"{group.name}: {what}" for group in groups for what in group.broken]


def alone() -> IO[str]:
    """Waits for other comparisons of this user to end; closing the file lets the next one begin."""
    lock = Path(tempfile.gettempdir(), f"switchyard-bench-{os.getuid()}.lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("another comparison is running; this one begins when it has ended", file=sys.stderr)
        fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def main() -> int:
    args = arguments()
    settings = settings_of(args)
    with contextlib.nullcontext() if args.quick else alone():
        return compare(args, settings)


def compare(args: argparse.Namespace, settings: Settings) -> int:
    versions = {build.name: first_line(build.binary, "--version") for build in settings.builds if build.binary}
    about = {**describe(), **versions}
    print("\n".join(f"* {key}: {value}" for key, value in about.items()), end="\n\n", flush=True)
    machine = Machine()
    groups: list[Group] = []
    faults: list[str] = []
    try:
        for name in args.scenarios or SCENARIOS:
            found, wrong = measure(machine, settings, name)
            groups += found
            faults += wrong
    finally:
        machine.close()
        if args.json:
            raw = {group.name: group.results for group in groups}
            args.json.write_text(json.dumps({"about": about, "results": raw, "faults": faults}, indent=1) + "\n")
    judged: list[Judgement] = [] if args.quick else [line for group in groups for line in judge(group, settings)]
    if judged:
        print(judgement(judged), end="\n\n")
    for fault in faults:
        print(f"FAULT: {fault}")
    return 1 if faults or (args.judge and not all(line.reached for line in judged)) else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, terminated)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
