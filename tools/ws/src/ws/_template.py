"""New packages from the template, and what has drifted from it since."""

import re
import tempfile
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from ws._layout import unusable
from ws._workspace import Failure, Member, Workspace, WorkspaceError

TEMPLATE = Path(__file__).resolve().parents[2] / "template"
RELEASES = "<!-- releases -->\n"
# What a package says for itself; "classifiers" may add to the template's.
_OWNED = {
    "project.version",
    "project.description",
    "project.classifiers",
    "project.dependencies",
    "project.optional-dependencies",
    "project.scripts",
    "project.entry-points",
    "project.keywords",
    "project.urls",
    "tool.ws",
    "tool.uv.sources",
}


def new(workspace: Workspace, name: str, *, layer: int | None, description: str | None) -> Path:
    """Make a package.

    Args:
        workspace: The workspace.
        name: Name of the distribution, such as common-foo or common-db-foo.
        layer: Layer of the architecture; guessed from the name without it.
        description: What it is for, in one line.

    Raises:
        WorkspaceError: If the name or the description cannot be used.
    """
    folder = workspace.root / "packages" / name
    if reason := unusable(name, [member.name for member in workspace.packages]):
        raise WorkspaceError(reason)
    if name in workspace.members or folder.exists():
        raise WorkspaceError(f"{name} exists already: choose another name")
    text = (description or f"What {name.replace('-', '.')} is for, in one line.").strip()
    text += "" if text.endswith(".") else "."
    if len(text) > 90 or re.search(r'["\\{}\n]', text):
        raise WorkspaceError(
            "the description cannot be used: keep it to one line of at most 90 characters, "
            'without ", \\, { and }'
        )
    core = workspace.members.get(name.rpartition("-")[0] + "-core")
    guess = core.layer + 1 if core and core.layer is not None else 2
    _render(folder, name, text, guess if layer is None else layer)
    return folder


def drift(workspace: Workspace) -> Iterator[Failure]:
    """Where packages differ from what the template would give them today."""
    for member in workspace.packages:
        fresh = _rendered(member.name, str(member.layer if member.layer is not None else 2))
        for file, content in fresh.items():
            yield from _file_drift(member, file, content)


def _file_drift(member: Member, file: str, wanted: bytes) -> Iterator[Failure]:
    path = member.path / file
    place = f"{TEMPLATE.parent.name}/{TEMPLATE.name}"
    if not path.is_file():
        if not file.startswith("tests/"):  # the first test makes room for better ones
            yield Failure(member.name, f"{file} is missing", f"add it, as in tools/{place}")
        elif not any(path.parent.rglob("test_*.py")):
            yield Failure(member.name, "has no tests", f"add tests, as in tools/{place}")
    elif file == "pyproject.toml":
        yield from _key_drift(member, tomllib.loads(wanted.decode()), member.pyproject, "")
    elif file == "README.md":
        heading = wanted.splitlines()[0].decode()
        if path.read_text("utf-8").partition("\n")[0].strip() != heading:
            yield Failure(member.name, "README.md has another title", f"begin it with {heading!r}")
    elif file == "CHANGELOG.md":
        if not path.read_bytes().startswith(wanted):
            fix = f"begin it as tools/{place} does, up to the line {RELEASES.strip()}"
            yield Failure(member.name, "CHANGELOG.md has lost its head", fix)
    elif not file.endswith(".py") and path.read_bytes() != wanted:
        fix = f"copy it from tools/{place}, or change the template for all"
        yield Failure(member.name, f"{file} differs from the template", fix)


def _key_drift(
    member: Member, wanted: dict[str, Any], actual: dict[str, Any], prefix: str
) -> Iterator[Failure]:
    for key in sorted(wanted.keys() | actual.keys()):
        name, here, there = prefix + key, actual.get(key), wanted.get(key)
        if name == "project.classifiers" and (
            lost := [c for c in there or [] if c not in (here or [])]
        ):
            yield Failure(member.name, f"lacks classifiers {lost}", "add them to pyproject.toml")
        if name in _OWNED or here == there:
            continue
        if isinstance(here, dict) and (isinstance(there, dict) or _holds_owned(name)):
            yield from _key_drift(member, there or {}, here, name + ".")
        elif there is None:
            fix = "remove it: tools are configured once, in the root pyproject.toml"
            yield Failure(member.name, f"pyproject.toml: {name} is not in the template", fix)
        else:
            yield Failure(
                member.name,
                f"pyproject.toml: {name} is {here!r}",
                f"set it to {there!r}, or change the template for all",
            )


def _holds_owned(name: str) -> bool:
    return any(owned.startswith(name + ".") for owned in _OWNED)


@cache
def _rendered(name: str, layer: str) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory(prefix="ws-template-") as folder:
        _render(Path(folder), name, "Any.", int(layer))
        files = (path for path in Path(folder).rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def _render(folder: Path, name: str, description: str, layer: int) -> None:
    from copier import run_copy  # noqa: PLC0415  # takes a second, which most commands need not wait

    data = {"name": name, "description": description, "layer": layer}
    run_copy(str(TEMPLATE), folder, data=data, defaults=True, quiet=True, overwrite=True)
