"""Measure contenders side by side, on a machine that may be noisy.

An area is a module of this folder with ``groups()``, which returns or yields `Group`s; it may
be asynchronous, to start servers and to stop them after its last group was measured. In each
round every contender of a group runs once, in an order that changes: what disturbs a round
disturbs all of them. Ratios are formed within rounds, and medians over rounds are reported.
"""

from __future__ import annotations

import inspect
import json
import math
import platform
import random
import resource
import statistics
import time
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results" / "latest.json"

Run = Callable[[int], Awaitable[object] | object]
"""Does the given number of operations, synchronously or not."""


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A promise about one contender.

    Exactly one limit is given: ``ratio`` of its time to that of ``against``; ``extra`` seconds
    per operation above ``against``; or ``rate`` of operations a second, at least.
    ``of="cpu"`` takes the processor's time in place of the clock's; ``best`` compares the
    least time of each contender, in place of the median over rounds.
    """

    contender: str
    against: str = ""
    ratio: float | None = None
    extra: float | None = None
    rate: float | None = None
    of: str = "wall"
    best: bool = False


@dataclass(frozen=True, kw_only=True)
class Group:
    """Contenders that do the same ``number`` of operations per round."""

    name: str
    contenders: Mapping[str, Run]
    number: int
    bars: Iterable[Bar] = ()
    rounds: int = 15
    warmup: int = 1


@dataclass
class Result:
    """Seconds per operation of one contender, round by round."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


async def measure(group: Group) -> dict[str, Result]:
    """Run all rounds of a group."""
    results = {name: Result() for name in group.contenders}
    order = list(group.contenders)
    shuffle = random.Random(group.name).shuffle
    for round_number in range(-group.warmup, group.rounds):
        shuffle(order)
        for name in order:
            wall, cpu = time.perf_counter(), _cpu()
            done = group.contenders[name](group.number)
            if inspect.isawaitable(done):
                await done
            wall, cpu = time.perf_counter() - wall, _cpu() - cpu
            if round_number >= 0:
                results[name].wall.append(wall / group.number)
                results[name].cpu.append(cpu / group.number)
    return results


def _cpu() -> float:
    """Seconds of this process and of the children it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def judge(bar: Bar, results: Mapping[str, Result]) -> tuple[bool, str]:
    """Tell whether a bar is met, and how."""
    ours = _judged(bar, results[bar.contender])
    if bar.rate is not None:
        reached = 1 / statistics.median(ours)
        return reached >= bar.rate, f"{reached:,.0f}/s, at least {bar.rate:,.0f}/s"
    theirs = _judged(bar, results[bar.against])
    if bar.ratio is not None:
        ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
        return ratio <= bar.ratio, f"{ratio:.2f} of {bar.against}, at most {bar.ratio:g}"
    if bar.extra is not None:
        extra = statistics.median(a - b for a, b in zip(ours, theirs, strict=True))
        return (
            extra <= bar.extra,
            f"{duration(extra)} above {bar.against}, at most {duration(bar.extra)}",
        )
    raise ValueError(f"the bar for {bar.contender} has no limit: give ratio, extra or rate")


def _judged(bar: Bar, result: Result) -> list[float]:
    times: list[float] = getattr(result, bar.of)
    return [min(times)] if bar.best else times


def duration(seconds: float) -> str:
    """Return three digits and a unit."""
    for factor, unit in ((1e9, "ns"), (1e6, "µs"), (1e3, "ms")):
        if abs(seconds) * factor < 1000:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds:.3g} s"


def spread(values: list[float]) -> float:
    """Return half the distance between the quartiles, relative to the median."""
    low, middle, high = statistics.quantiles(values, n=4)
    return (high - low) / 2 / middle if middle else math.nan


class Report:
    """Collects what was measured, prints it and keeps it as JSON."""

    def __init__(self) -> None:
        self.table = Table(
            "area", "contender", "wall", "±", "CPU", "first = 1", "bar", "", title="per operation"
        )
        self.kept: list[dict[str, object]] = []
        self.missed = 0

    def add(self, area: str, group: Group, results: Mapping[str, Result]) -> None:
        """Add a group; its first contender is the one that others are compared with."""
        base = next(iter(results.values())).wall
        bars = list(group.bars)
        for name, result in results.items():
            verdicts = [(bar, *judge(bar, results)) for bar in bars if bar.contender == name]
            self.missed += sum(not met for _, met, _ in verdicts)
            ratio = statistics.median(a / b for a, b in zip(result.wall, base, strict=True))
            wall, cpu = statistics.median(result.wall), statistics.median(result.cpu)
            self.table.add_row(
                f"{area}: {group.name}",
                name,
                duration(wall),
                f"{spread(result.wall):.0%}",
                duration(cpu),
                f"{ratio:.2f}",
                "\n".join(
                    f"{'best ' if bar.best else ''}{bar.of}: {text}" for bar, _, text in verdicts
                ),
                "\n".join("[green]met" if met else "[red]missed" for _, met, _ in verdicts),
            )
            self.kept.append(
                {
                    "area": area,
                    "group": group.name,
                    "contender": name,
                    "number": group.number,
                    "wall": {"median": wall, "spread": spread(result.wall), "rounds": result.wall},
                    "cpu": {"median": cpu, "spread": spread(result.cpu), "rounds": result.cpu},
                    "bars": [
                        {**asdict(bar), "met": met, "text": text} for bar, met, text in verdicts
                    ],
                }
            )
        self.table.add_section()

    def write(self) -> None:
        """Print the table and write the JSON file."""
        RESULTS.parent.mkdir(exist_ok=True)
        machine = {"python": platform.python_version(), "platform": platform.platform()}
        when = datetime.now(UTC).isoformat(timespec="seconds")
        document = {"time": when, "machine": machine, "results": self.kept}
        RESULTS.write_text(json.dumps(document, indent=1) + "\n")
        console = Console()
        # Wide enough for every column where the output is no terminal.
        Console(width=None if console.is_terminal else 160).print(self.table)


async def run_area(area: str, groups: Callable[[], object], report: Report) -> None:
    """Measure all groups of an area, keeping its servers up until the last is done."""
    found = groups()
    if isinstance(found, AsyncIterable):
        async for group in found:
            report.add(area, group, await measure(group))
        return
    for group in (await found) if inspect.isawaitable(found) else found:  # type: ignore[attr-defined]
        report.add(area, group, await measure(group))
