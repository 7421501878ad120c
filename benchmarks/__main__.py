"""Measure every area: ``python -m benchmarks``, or some: ``ONLY=context,redis`` before it.

An area is a module of this folder whose name does not begin with an underscore.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
from pathlib import Path

from benchmarks._harness import Report, run_area


async def main() -> int:
    """Return 1 when a bar was missed, 2 when there is nothing to measure."""
    areas = sorted(file.stem for file in Path(__file__).parent.glob("[!_]*.py"))
    wanted = [name for name in os.environ.get("ONLY", "").replace(",", " ").split() if name]
    unknown = set(wanted) - set(areas)
    if unknown or not areas:
        print(f"no such area: {', '.join(sorted(unknown))}; there are: {', '.join(areas)}")
        return 2
    report = Report()
    for area in wanted or areas:
        print(f"measuring {area} …", file=sys.stderr, flush=True)
        module = importlib.import_module(f"benchmarks.{area}")
        await run_area(area, module.groups, report)
    report.write()
    print(f"{report.missed} of the bars missed" if report.missed else "all bars met")
    return 1 if report.missed else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
