"""The commands as they are typed, over a whole throw-away workspace."""

import subprocess
import sys
from pathlib import Path

import pytest

WS = Path(sys.executable).with_name("ws")


@pytest.fixture
def ws(scratch):
    def run(*arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [WS, *arguments],
            cwd=folder or scratch.root,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_check_passes_over_new_packages_with_a_line_for_every_part(ws):
    done = ws("check")
    assert done.returncode == 0, done.stdout
    parts = [line.split()[0] for line in done.stdout.splitlines()]
    assert parts == ["✓"] * 9


def test_check_reports_everything_at_once_and_fails(scratch, ws):
    zoo = "packages/common-zoo/src/common/zoo/"
    (scratch.root / zoo / "py.typed").unlink()
    scratch.write(zoo + "_x.py", "import yaml\nimport common.other")
    scratch.write(zoo + "__init__.py", '__all__ = ["b", "a"]\na = b = 1')
    scratch.write(".github/workflows/ci.yml", "on: push\n")
    scratch.change("packages/common-pets-cat/pyproject.toml", "<0.2", "<2")
    done = ws("check")
    assert done.returncode == 1
    for text in (
        "common-zoo: src/common/zoo/py.typed is missing",
        "common-zoo: imports yaml, which it does not require (src/common/zoo/_x.py:1)",
        "common-zoo: common.zoo._x imports common.other (l.2), which it does not require",
        "common-zoo: src/common/zoo/__init__.py: __all__ is not sorted",
        ".github/workflows/ci.yml: ",
        "common-pets-cat: common-pets-core<2,>=0.1 has no cap before 0.2",
    ):
        assert text in done.stdout
    assert done.stdout.count("\n    fix: ") == 6
    assert "✓ wheels" in done.stdout


def test_check_all_goes_on_after_what_breaks(scratch, ws):
    scratch.change("packages/common-zoo/pyproject.toml", "common-zoo", "common-farm")
    scratch.write("packages/common-other/src/common/other/_x.py", "import os\nx:int = 'a'\n")
    done = ws("check", "--all")
    assert done.returncode == 1
    assert "✗ ruff" in done.stdout
    assert "✗ format" in done.stdout
    assert "✗ mypy" in done.stdout
    assert "Incompatible types in assignment" in done.stdout
    assert "✗ basedpyright" in done.stdout  # here because it has no configuration
    assert "common-farm: lies in packages/common-zoo" in done.stdout


def test_lint_repairs_when_asked(scratch, ws):
    file = scratch.write("packages/common-zoo/src/common/zoo/_x.py", "import os\nx:int = 1\n")
    assert ws("lint").returncode == 1
    done = ws("lint", "--fix")
    assert done.returncode == 0, done.stdout
    assert file.read_text("utf-8") == "x: int = 1\n"


def test_graph_shows_layers_edges_and_users(ws):
    rows = [line.split() for line in ws("graph").stdout.splitlines()]
    assert ["2", "common-pets-core", "0.1.0", "common-zoo", "common-pets-cat"] in rows
    names = [row[1] for row in rows]
    assert names.index("common-zoo") < names.index("common-pets-core")


def test_graph_draws_mermaid(ws):
    lines = ws("graph", "--mermaid").stdout.splitlines()
    assert lines[0] == "flowchart TD"
    assert '        common-zoo["common-zoo<br/>0.1.0"]' in lines
    assert "    common-pets-cat --> common-pets-core" in lines
    assert not any("shop" in line for line in lines)


def test_new_packages_appear_everywhere(scratch, ws):
    made = ws("new", "common-pets-dog", "--description", "Dogs")
    assert made.returncode == 0
    assert "packages/common-pets-dog" in made.stdout
    facade = scratch.root / "packages/common-pets-dog/src/common/pets/dog/__init__.py"
    assert facade.read_text("utf-8").startswith('"""Dogs."""')
    assert "3      common-pets-dog" in ws("graph").stdout
    assert "common-pets-dog" in ws("affected", "--base", "HEAD").stdout
    assert ws("lint").returncode == 0
    done = ws("check")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("new", ""), "ws: '' is no name for a package"),
        (("new", "common-zoo"), "ws: common-zoo exists already"),
        (("isolate", "common-zo"), "ws: common-zo is no package: choose from common-other"),
    ],
)
def test_a_mistake_is_one_line(ws, arguments, message):
    done = ws(*arguments)
    assert done.returncode == 1
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_outside_a_workspace_and_in_a_broken_one_it_says_so(scratch, ws, tmp_path):
    done = ws("graph", folder=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "is not in a uv workspace" in done.stderr
    scratch.write("packages/common-zoo/pyproject.toml", "[project\n")
    done = ws("graph")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "packages/common-zoo/pyproject.toml cannot be read" in done.stderr
    scratch.write("packages/common-zoo/pyproject.toml", "[project]\nname = 'common-zoo'\n")
    done = ws("graph")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "packages/common-zoo/pyproject.toml has no version" in done.stderr


def test_without_uv_isolate_says_what_to_do(scratch, ws, monkeypatch):
    monkeypatch.delenv("UV", raising=False)
    monkeypatch.setenv("PATH", str(scratch.root))
    done = ws("isolate", "common-zoo")
    assert done.returncode == 1
    assert done.stderr == "ws: uv is not on PATH: run this through make, which brings it\n"
