"""Runs checks side by side and says how each went."""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from rich.console import Console
from rich.markup import escape

from ws._facade import facades
from ws._imports import external_imports, sibling_imports
from ws._layout import layout, wheels
from ws._requirements import requirements
from ws._startup import startup
from ws._template import drift
from ws._tools import Passed, import_path, run, tool
from ws._workflows import workflows
from ws._workspace import Failure, Workspace, WorkspaceError

Check = Callable[[Workspace], Iterable[object]]


def ruff(workspace: Workspace) -> Iterator[str]:
    """Lint."""
    return _output(workspace, "ruff", "check", "--quiet")


def formatting(workspace: Workspace) -> Iterator[str]:
    """What ruff would format differently."""
    return _output(workspace, "ruff", "format", "--check", "--quiet")


def mypy(workspace: Workspace) -> Iterator[str]:
    """The members' own code, strictly."""
    path = import_path(workspace)
    sources = path.split(os.pathsep)
    return _output(workspace, "mypy", "--no-error-summary", *sources, MYPYPATH=path)


def basedpyright(workspace: Workspace) -> Iterator[str]:
    """Everything, tests included. It has no cache, so what passed once is not checked again."""
    files = [workspace.root / "pyproject.toml"]
    for folder in workspace.pyproject["tool"]["basedpyright"]["include"]:
        found = (workspace.root / folder).rglob("*")
        files += [p for p in found if p.suffix in {".py", ".pyi", ".typed"} and p.is_file()]
    passed = Passed(workspace, "basedpyright", files)
    if not passed:
        complaints = list(_output(workspace, "basedpyright"))
        yield from complaints
        if not complaints:
            passed.remember()


LINT: dict[str, Check] = {"ruff": ruff, "format": formatting}
TYPES: dict[str, Check] = {"basedpyright": basedpyright, "mypy": mypy}
# The longest come first, so that none of them runs alone at the end.
CONFORMANCE: dict[str, Check] = {
    "template": drift,
    "start-up": startup,
    "wheels": wheels,
    "workflows": workflows,
    "sibling imports": sibling_imports,
    "third-party imports": external_imports,
    "layout": layout,
    "__all__": facades,
    "requirements": requirements,
}
ALL: dict[str, Check] = {**TYPES, **CONFORMANCE, **LINT}


def repair(workspace: Workspace) -> None:
    """Let ruff mend what it can."""
    run(tool("ruff"), "check", "--fix", "--quiet", folder=workspace.root)
    run(tool("ruff"), "format", "--quiet", folder=workspace.root)


def run_checks(workspace: Workspace, checks: dict[str, Check], console: Console) -> bool:
    """Run every check, as many at a time as there are processors.

    Returns:
        Whether all of them passed.
    """
    workspace.cache.mkdir(exist_ok=True)
    with ThreadPoolExecutor(max(2, os.cpu_count() or 1)) as pool:
        running = [
            pool.submit(_timed, workspace, title, check, console) for title, check in checks.items()
        ]
    return all(one.result() for one in running)


def _timed(workspace: Workspace, title: str, check: Check, console: Console) -> bool:
    start = time.monotonic()
    try:
        complaints = [str(complaint) for complaint in check(workspace)]
    except WorkspaceError as error:
        complaints = [str(error)]
    except Exception as error:  # noqa: BLE001  # the other checks go on
        complaints = [str(Failure(title, f"the check broke: {error!r}", "mend it, or tools/ws"))]
    mark = "[red]✗[/]" if complaints else "[green]✓[/]"
    lines = [f"{mark} {title:<20}{time.monotonic() - start:6.1f} s", *map(escape, complaints)]
    console.print("\n".join(lines), highlight=False, soft_wrap=True)
    return not complaints


def _output(workspace: Workspace, name: str, *arguments: str, **variables: str) -> Iterator[str]:
    done = run(tool(name), *arguments, folder=workspace.root, **variables)
    if done.returncode:
        yield (done.stdout + done.stderr).strip() or f"{name} ended with {done.returncode}"
