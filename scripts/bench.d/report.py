"""Tables, ratios and the judgement."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from contenders import JUDGES
from load import Sample
from scenarios import Figure, Group, Settings

HIDDEN = ("others busy %",)


def plain(value: float) -> str:
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


def spread(values: list[float]) -> str:
    if not values:
        return "-"
    middle, low, high = plain(statistics.median(values)), plain(min(values)), plain(max(values))
    return middle if low == high else f"{middle} [{low}-{high}]"


def row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def table(head: list[str], rows: Iterable[list[str]]) -> str:
    return "\n".join([row(head), "|" + "---|" * len(head), *map(row, rows)])


def column(samples: list[Sample], key: str) -> list[float]:
    return [sample[key] for sample in samples if key in sample]


def ratios(ours: list[Sample], peer: list[Sample], key: str) -> list[float]:
    """Turn by turn. A turn whose peer has nothing to divide by is left out."""
    pairs = [(mine.get(key), theirs.get(key)) for mine, theirs in zip(ours, peer)]
    return [mine / theirs for mine, theirs in pairs if mine is not None and theirs is not None and theirs > 0]


def measured(group: Group, settings: Settings) -> str:
    """All that was measured, and ours to each peer."""
    fullest = sorted(group.results.values(), key=lambda samples: -len(samples[0]))  # `direct` has fewer columns.
    keys = [key for key in dict.fromkeys(key for samples in fullest for key in samples[0]) if key not in HIDDEN]
    rows = [[name, *(spread(column(samples, key)) for key in keys)] for name, samples in group.results.items()]
    if any(not figure.absolute for figure in group.figures):
        for build in settings.builds:
            for other in [one.name for one in [*settings.builds, *settings.peers] if one.name != build.name]:
                of_each = (ratios(group.results[build.name], group.results[other], key) for key in keys)
                compared = [spread([statistics.median(values)]) if values else "-" for values in of_each]
                compared = ["" if "busy" in key or key == "failed" else text for key, text in zip(keys, compared)]
                rows.append([f"*{build.name} / {other}*", *compared])
    turns = max(len(samples) for samples in group.results.values())
    others = [value for samples in group.results.values() for value in column(samples, "others busy %")]
    notes = list(group.notes)
    if others:
        notes.append(f"Other work on the machine, in % of one core: {spread(others)}.")
    head = f"### {group.title}: {turns} turns, median [min-max]; ratios are medians of the ratios of each turn"
    return "\n\n".join([head, table(["", *keys], rows), *notes])


@dataclass
class Judgement:
    """One line of the table of figures."""

    build: str
    title: str
    figure: str
    ours: str
    better: str
    target: str
    reached: bool

    def cells(self) -> list[str]:
        reached = "yes" if self.reached else "**no**"
        return [self.build, self.title, self.figure, self.ours, self.better, self.target, reached]


def judges(group: Group, settings: Settings) -> list[str]:
    taking_part = [peer.name for peer in settings.peers if peer.name in group.results]
    return [name for name in taking_part if name in JUDGES] or taking_part


def judge_absolute(group: Group, settings: Settings, build: str, figure: Figure) -> list[Judgement]:
    judged = []
    for name in (build, f"{build}, keys"):
        if name not in group.results or (figure.of and not any(name.endswith(f", {part}") for part in figure.of)):
            continue
        values = column(group.results[name], figure.key)
        counted = figure.target == 0  # A promise is kept in every turn or it is not; a size is a median.
        ours = max(values) if counted else statistics.median(values)
        peers = judges(group, settings)
        others = ", ".join(f"{peer} {spread(column(group.results[peer], figure.key))}" for peer in peers)
        judged.append(Judgement(name, group.title, figure.key, plain(ours), others, f"<= {plain(figure.target)}",
                                ours <= figure.target))
    return judged


def judge_ratio(group: Group, settings: Settings, build: str, figure: Figure) -> list[Judgement]:
    of_each = {name: ratios(group.results[build], group.results[name], figure.key) for name in judges(group, settings)}
    medians = {name: statistics.median(values) for name, values in of_each.items() if values}
    if not medians:
        return [Judgement(build, group.title, figure.key, "-", "no peer was measured", f"{figure.target:.2f}", False)]
    hardest = (min if figure.more else max)(medians, key=lambda name: medians[name])
    ratio = medians[hardest]
    mine, theirs = (statistics.median(column(group.results[name], figure.key)) for name in (build, hardest))
    reached = ratio >= figure.target if figure.more else ratio <= figure.target
    against = f"{ratio:.2f} of {hardest} ({plain(theirs)})"
    if figure.key == "req/s":
        against += "".join(limited(group, name) for name in (build, hardest))
    target = f"{'>=' if figure.more else '<='} {figure.target:.2f}"
    return [Judgement(build, group.title, figure.key, plain(mine), against, target, reached)]


def limited(group: Group, name: str) -> str:
    """Says so if the load filled its core before the proxy did its own: then the rate is that of the load."""
    samples = group.results[name]
    proxy, load = (statistics.median(column(samples, key)) for key in ("proxy busy %", "load busy %"))
    if group.name != "small-1" or load <= proxy:
        return ""
    full = 1e6 / statistics.median(column(samples, "CPU us/req"))
    return (f"; {name} is limited by the load's core ({load:.0f} % busy, its own {proxy:.0f} %): "
            f"a full core makes {plain(full)}")


def judge(group: Group, settings: Settings) -> list[Judgement]:
    judged = []
    for build in settings.builds:
        for figure in group.figures:
            judged += (judge_absolute if figure.absolute else judge_ratio)(group, settings, build.name, figure)
    return judged


def judgement(judged: list[Judgement]) -> str:
    head = ["", "scenario", "figure", "ours", "to the better peer", "target", "reached"]
    return "## Figures to be reached\n\n" + table(head, (one.cells() for one in judged))
