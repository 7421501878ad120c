"""The command line."""

import json
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from rich.console import Console

from ws import _check, _graph, _template
from ws._affected import affected as find_affected
from ws._check import ALL, CONFORMANCE, LINT, TYPES
from ws._isolate import isolate as isolate_packages
from ws._workspace import Workspace, WorkspaceError

app = App(name="ws", help="Everything about many packages that their tools do not do for one.")
_console = Console()
_errors = Console(stderr=True)


def main() -> None:
    """Run the command line; a foreseen error is one line and exit status 1."""
    try:
        app()
    except WorkspaceError as error:
        _errors.print(f"ws: {error}", markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


@app.command
def graph(*, mermaid: Annotated[bool, Parameter(negative="")] = False) -> None:
    """Show packages, versions, edges and layers.

    Args:
        mermaid: As a Mermaid flow chart.
    """
    workspace = _workspace()
    if mermaid:
        sys.stdout.write(_graph.mermaid(workspace) + "\n")
    else:
        _console.print(_graph.table(workspace), soft_wrap=True)


@app.command
def affected(
    *,
    base: str | None = None,
    json_: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """List packages and examples that a change touches, and all that need them.

    Args:
        base: Revision to compare with; without it, where this branch left origin/main, or the
            last commit.
        json_: As a list for a GitHub Actions matrix (`fromJSON`), which may be empty: published
            packages only, each as {"package": …, "path": …}.
    """
    workspace = _workspace()
    members, why = find_affected(workspace, base)
    _errors.print(f"ws: {why}", markup=False, highlight=False, soft_wrap=True)
    if json_:
        packages = [member for member in members if member.kind == "packages"]
        matrix = [{"package": m.name, "path": f"packages/{m.path.name}"} for m in packages]
        sys.stdout.write(json.dumps(matrix) + "\n")
    else:
        sys.stdout.writelines(f"{m.name}\n" for m in members)


@app.command
def check(*, everything: Annotated[bool, Parameter(name="--all", negative="")] = False) -> None:
    """Check that every package keeps the conventions; each failure says how to mend it.

    Args:
        everything: Lint, format and types too.
    """
    _run(ALL if everything else CONFORMANCE)


@app.command
def lint(*, fix: Annotated[bool, Parameter(negative="")] = False) -> None:
    """Check style and format with ruff.

    Args:
        fix: Repair what can be repaired.
    """
    if fix:
        _check.repair(_workspace())
    _run(LINT)


@app.command
def types() -> None:
    """Check types with mypy and basedpyright, strictly."""
    _run(TYPES)


@app.command
def new(name: str, *, layer: int | None = None, description: str | None = None) -> None:
    """Make a package from the template.

    Args:
        name: Name of the distribution; with "-" for "." it is the import path.
        layer: Layer of the architecture. Guessed: above <parent>-core where there is one, else 2.
        description: What it is for, in one line.
    """
    workspace = _workspace()
    folder = _template.new(workspace, name, layer=layer, description=description)
    module = "/".join(name.split("-"))
    steps = f"""made {folder.relative_to(workspace.root)}; everything finds it from now on. Next:
  1. write src/{module}/__init__.py, and say in README.md what it is for
  2. name what it needs in pyproject.toml, siblings with range and source:
     "common-errors>=0.1,<0.2" and [tool.uv.sources] common-errors = {{ workspace = true }}
  3. say what is new in changes/+<slug>.feature.md
  4. make check test"""
    _console.print(steps, markup=False, highlight=False, soft_wrap=True)


@app.command
def isolate(*packages: str, python: str = sys.executable) -> None:
    """Test packages from their wheels, alone, with lowest and with highest dependencies.

    Args:
        packages: Names; all packages without any.
        python: Interpreter of the environments, a path or a version.
    """

    def say(text: str) -> None:
        _console.print(text, markup=False, highlight=False, soft_wrap=True)

    failures = isolate_packages(_workspace(), packages, python=python, say=say)
    for failure in failures:
        say(f"\n{failure}")
    if failures:
        sys.exit(1)


def _workspace() -> Workspace:
    return Workspace.find(Path.cwd())


def _run(checks: dict[str, _check.Check]) -> None:
    if not _check.run_checks(_workspace(), checks, _console):
        sys.exit(1)
