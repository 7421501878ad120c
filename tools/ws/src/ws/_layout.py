"""Where a package's files lie, and what its wheel would install."""

import re
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from keyword import iskeyword
from pathlib import Path, PurePosixPath

from hatchling.builders.wheel import WheelBuilder

from ws._workspace import Failure, Member, Workspace

_NAME = re.compile(r"common(-[a-z][a-z0-9]*)+")


def unusable(name: str, others: Iterable[str]) -> str | None:
    """Why a package beside these others cannot have this name; None when it can."""
    if not _NAME.fullmatch(name) or any(map(iskeyword, name.split("-"))):
        return (
            f"{name!r} is no name for a package: use common-<words>, lower case, none of them a "
            "keyword of Python, such as common-foo or common-db-foo"
        )
    for other in others:
        if other.startswith(name + "-") or name.startswith(other + "-"):
            outer, inner = sorted((name, other), key=len)
            return (
                f"{name} and {other} cannot both exist: {outer.replace('-', '.')} would have "
                f"to be a package and, for {inner}, a namespace; choose another name"
            )
    return None


def layout(workspace: Workspace) -> Iterator[Failure]:
    """Namespace folders, the leaf package, and the fragments of the changelog."""
    types = [one["directory"] for one in workspace.pyproject["tool"]["towncrier"]["type"]]
    earlier: list[str] = []  # so that of two names which clash, one is reported
    for member in workspace.packages:
        if reason := unusable(member.name, earlier):
            fix = "rename the distribution, its folder and the folders under src"
            yield Failure(member.name, reason, fix)
        earlier.append(member.name)
        if member.path.name != member.name:
            fix = "give the folder the distribution's name"
            yield Failure(member.name, f"lies in packages/{member.path.name}", fix)
        yield from _source(member)
        yield from _fragments(member, types)


def stray_inits(member: Member) -> list[Path]:
    """`__init__.py` files in namespace folders, each of which would hide every sibling."""
    above = [parent for parent in member.leaf.parents if parent.is_relative_to(member.path / "src")]
    return [folder / "__init__.py" for folder in above if (folder / "__init__.py").exists()]


def _source(member: Member) -> Iterator[Failure]:
    source = member.path / "src"
    leaf = member.leaf.relative_to(member.path)
    strays = stray_inits(member)
    for stray in strays:
        place = stray.relative_to(member.path)
        fix = f"delete {place}: {place.parent} is a namespace, and this file hides every sibling"
        yield Failure(member.name, f"{place} exists", fix)
    if not (member.leaf / "__init__.py").is_file():
        fix = "add it, with the package's public names and a sorted __all__"
        yield Failure(member.name, f"{leaf}/__init__.py is missing", fix)
    for path in sorted(source.rglob("*")):
        inside = path.is_relative_to(member.leaf) or path in strays
        if path.is_file() and not inside and not _generated(path.relative_to(source)):
            fix = f"move it under {leaf}: one distribution, one leaf package, nothing else"
            yield Failure(
                member.name, f"{path.relative_to(member.path)} is outside the package", fix
            )


def _generated(path: Path) -> bool:
    return "__pycache__" in path.parts or any(part.endswith(".egg-info") for part in path.parts)


def _fragments(member: Member, types: list[str]) -> Iterator[Failure]:
    name = re.compile(rf"(\+[\w-]+|\d+)\.({'|'.join(types)})(\.\d+)?\.md")
    for path in sorted((member.path / "changes").glob("*")):
        if path.name == ".gitkeep":
            continue
        if not name.fullmatch(path.name):
            fix = f"call it +<slug>.<type>.md, where <type> is one of {', '.join(types)}"
            yield Failure(member.name, f"changes/{path.name} is no changelog fragment", fix)
        elif not path.read_text("utf-8").strip():
            fix = "write one sentence for users"
            yield Failure(member.name, f"changes/{path.name} is empty", fix)


def wheels(workspace: Workspace) -> Iterator[Failure]:
    """Build every wheel and look at what it would put beside other people's packages."""
    for member in workspace.packages:
        leaf = member.leaf.relative_to(member.path / "src").as_posix()
        try:
            names = _wheel_files(member.path)
        except Exception as error:  # noqa: BLE001  # hatchling raises what its build hooks raise
            fix = f"make `uv build --package {member.name}` pass"
            yield Failure(member.name, f"its wheel cannot be built: {error}", fix)
            continue
        own = (f"{leaf}/", f"{member.name.replace('-', '_')}-{member.version}.dist-info/")
        strange = sorted({_top(name, leaf) for name in names if not name.startswith(own)})
        for top in strange:
            fix = 'set [tool.hatch.build.targets.wheel] packages = ["src/common"], nothing else'
            yield Failure(member.name, f"its wheel would install {top}, outside {leaf}/", fix)


def _top(name: str, leaf: str) -> str:
    """The outermost folder of a stray file that is not the package's own namespace."""
    parts, own = PurePosixPath(name).parts, PurePosixPath(leaf).parts
    shared = next((i for i, part in enumerate(parts) if i >= len(own) or part != own[i]), 0)
    return "/".join(parts[: shared + 1]) + ("/" if len(parts) > shared + 1 else "")


def _wheel_files(project: Path) -> list[str]:
    with tempfile.TemporaryDirectory(prefix="ws-wheel-") as folder:
        built = next(WheelBuilder(str(project)).build(directory=folder, versions=["standard"]))
        with zipfile.ZipFile(built) as wheel:
            return wheel.namelist()
