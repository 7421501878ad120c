"""Throw-away workspaces: made by the real template, then broken on purpose."""

import os
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from ws._template import new
from ws._workspace import Workspace

CHECKOUT = Path(__file__).resolve().parents[3]
ROOT = """
[tool.uv]
package = false
exclude-newer = "{date}"

[tool.uv.workspace]
members = ["packages/*", "examples/*"]

[dependency-groups]
test = ["pytest>=9,<10"]

[tool.pytest]
minversion = "9.0"
addopts = ["--import-mode=importlib", "--strict-config"]

[[tool.towncrier.type]]
directory = "feature"
[[tool.towncrier.type]]
directory = "fix"
"""
EXAMPLE = """
[project]
name = "shop"
version = "0"
dependencies = ["common-pets-cat"]
[tool.uv.sources]
common-pets-cat = { workspace = true }
"""


class Scratch:
    """A workspace in a git repository: zoo <- pets-core <- pets-cat <- shop, and other."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def load(self) -> Workspace:
        workspace = Workspace(self.root)
        workspace.cache.mkdir(exist_ok=True)
        return workspace

    def new(self, name: str, layer: int | None = None) -> None:
        new(self.load(), name, layer=layer, description=None)

    def write(self, file: str, text: str) -> Path:
        path = self.root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
        return path

    def change(self, file: str, old: str, new: str) -> None:
        text = (self.root / file).read_text("utf-8")
        assert old in text
        self.write(file, text.replace(old, new))

    def require(self, package: str, line: str) -> None:
        file = f"packages/{package}/pyproject.toml"
        if "dependencies = []" in (self.root / file).read_text("utf-8"):
            self.change(file, "dependencies = []", "dependencies = [\n]")
        self.change(file, "dependencies = [\n", f'dependencies = [\n    "{line}",\n')

    def require_sibling(self, package: str, sibling: str, line: str = "") -> None:
        self.require(package, line or f"{sibling}>=0.1,<0.2")
        source = f"[tool.uv.sources]\n{sibling} = {{ workspace = true }}\n\n[tool.ws]"
        self.change(f"packages/{package}/pyproject.toml", "[tool.ws]", source)

    def git(self, *arguments: str) -> str:
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
        command = ["git", *identity, "-c", "commit.gpgsign=false", *arguments]
        environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
        done = subprocess.run(
            command, cwd=self.root, env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def commit(self) -> str:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", "change")
        return self.git("rev-parse", "HEAD")


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    scratch = Scratch(tmp_path_factory.mktemp("pristine") / "checkout")
    with (CHECKOUT / "pyproject.toml").open("rb") as file:
        date = tomllib.load(file)["tool"]["uv"]["exclude-newer"]
    scratch.write("pyproject.toml", ROOT.format(date=date))
    scratch.write(".gitignore", ".ws_cache/\n__pycache__/\n")
    scratch.write("examples/shop/pyproject.toml", EXAMPLE)
    scratch.new("common-zoo", layer=0)
    scratch.new("common-pets-core")
    scratch.new("common-pets-cat")
    scratch.new("common-other")
    scratch.require_sibling("common-pets-core", "common-zoo")
    scratch.require_sibling("common-pets-cat", "common-pets-core")
    scratch.git("init", "--quiet", "--initial-branch", "main")
    scratch.commit()
    scratch.commit()
    return scratch.root


@pytest.fixture
def scratch(pristine: Path, tmp_path: Path) -> Scratch:
    return Scratch(Path(shutil.copytree(pristine, tmp_path / "checkout")))


@pytest.fixture
def complaints(scratch: Scratch) -> Callable[..., list[str]]:
    """Run one check over the workspace; whatever it says has to name a fix."""

    def run(check: Callable[[Workspace], object]) -> list[str]:
        found = [str(one) for one in check(scratch.load())]  # pyright: ignore[reportGeneralTypeIssues]
        assert all("\n    fix: " in one and not one.endswith("fix: ") for one in found)
        return found

    return run
