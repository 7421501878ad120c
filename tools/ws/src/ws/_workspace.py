"""What the workspace consists of, read from its pyproject files and from nowhere else."""

import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, NamedTuple, Self

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version


class WorkspaceError(Exception):
    """The command cannot go on; the message is one line that says what to do."""


class Failure(NamedTuple):
    """One thing that is wrong, and what puts it right."""

    package: str
    problem: str
    fix: str

    def __str__(self) -> str:
        return f"{self.package}: {self.problem}\n    fix: {self.fix}"


@dataclass(frozen=True, eq=False)
class Member:
    """One project of the workspace: a published package, a tool or an example."""

    path: Path
    pyproject: dict[str, Any] = field(repr=False)

    @property
    def name(self) -> str:
        """Name of the distribution."""
        return canonicalize_name(self.pyproject["project"]["name"])

    @property
    def kind(self) -> str:
        """The folder it lies in: packages, tools or examples."""
        return self.path.parent.name

    @property
    def module(self) -> str:
        """Import path of a package: its name with "-" for "."."""
        return self.name.replace("-", ".")

    @property
    def leaf(self) -> Path:
        """Folder of the package's own modules."""
        return self.path.joinpath("src", *self.name.split("-"))

    @property
    def version(self) -> Version:
        """Version that stands in its pyproject.toml."""
        return Version(self.pyproject["project"]["version"])

    @property
    def settings(self) -> dict[str, Any]:
        """The table [tool.ws]."""
        settings: dict[str, Any] = self.pyproject.get("tool", {}).get("ws", {})
        return settings

    @property
    def layer(self) -> int | None:
        """Layer of the architecture; None when the package does not declare one."""
        return self.settings.get("layer")

    @cached_property
    def requirements(self) -> list[Requirement]:
        """What it always needs."""
        return _parsed(self, self.pyproject["project"].get("dependencies", []))

    @cached_property
    def extras(self) -> dict[str, list[Requirement]]:
        """What it needs for each of its extras."""
        optional = self.pyproject["project"].get("optional-dependencies", {})
        return {extra: _parsed(self, lines) for extra, lines in optional.items()}

    @property
    def all_requirements(self) -> list[Requirement]:
        """What it needs, extras included, but not its own extras by name."""
        everything = [*self.requirements, *(one for some in self.extras.values() for one in some)]
        return [one for one in everything if canonicalize_name(one.name) != self.name]


class Workspace:
    """The root and its members.

    Args:
        root: Folder whose pyproject.toml has a [tool.uv.workspace] table.

    Raises:
        WorkspaceError: If a pyproject.toml cannot be read.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.pyproject = _load(root / "pyproject.toml")
        found = (
            Member(folder, _load(folder / "pyproject.toml", "name", "version"))
            for pattern in self.pyproject["tool"]["uv"]["workspace"]["members"]
            for folder in sorted(root.glob(pattern))
            if (folder / "pyproject.toml").is_file()
        )
        self.members = {member.name: member for member in found}

    @classmethod
    def find(cls, start: Path) -> Self:
        """The workspace that `start` lies in.

        Raises:
            WorkspaceError: If there is none.
        """
        for folder in (start, *start.parents):
            file = folder / "pyproject.toml"
            if file.is_file() and "workspace" in _load(file).get("tool", {}).get("uv", {}):
                return cls(folder)
        raise WorkspaceError(f"{start} is not in a uv workspace: run this inside the checkout")

    @property
    def packages(self) -> list[Member]:
        """The published packages, by name."""
        return sorted((m for m in self.members.values() if m.kind == "packages"), key=_name)

    @property
    def cache(self) -> Path:
        """Git-ignored folder for what need not be done twice."""
        return self.root / ".ws_cache"

    def siblings(self, member: Member) -> list[str]:
        """Names of the members that this one requires directly, extras included."""
        names = {canonicalize_name(one.name) for one in member.all_requirements}
        return sorted(names & self.members.keys())

    def closure(self, names: Iterable[str]) -> set[str]:
        """These members and everything of the workspace that they need."""
        return _reached(names, {m.name: self.siblings(m) for m in self.members.values()})

    def dependents(self, names: Iterable[str]) -> set[str]:
        """These names, members or not any more, and every member that needs one of them."""
        users: dict[str, list[str]] = {}
        for member in self.members.values():
            for requirement in member.all_requirements:
                users.setdefault(canonicalize_name(requirement.name), []).append(member.name)
        return _reached(names, users)

    def in_order(self, names: Iterable[str] | None = None) -> list[Member]:
        """Members, each after those it requires.

        Raises:
            WorkspaceError: If members require each other in a circle.
        """
        edges = {name: self.siblings(member) for name, member in sorted(self.members.items())}
        try:
            order = list(TopologicalSorter(edges).static_order())
        except CycleError as error:
            circle = " -> ".join(error.args[1])
            raise WorkspaceError(
                f"{circle} require each other in a circle: move what they share to a lower layer"
            ) from error
        chosen = set(order if names is None else names)
        return [self.members[name] for name in order if name in chosen]

    def group(self, name: str) -> list[Requirement]:
        """Requirements of a dependency group of the root."""
        return [Requirement(line) for line in self._group_lines(name)]

    def _group_lines(self, name: str) -> Iterator[str]:
        for line in self.pyproject.get("dependency-groups", {}).get(name, []):
            if isinstance(line, str):
                yield line
            else:
                yield from self._group_lines(line["include-group"])


def _name(member: Member) -> str:
    return member.name


def _load(file: Path, *needed: str) -> dict[str, Any]:
    try:
        found = tomllib.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise WorkspaceError(f"{file} cannot be read: {error}") from error
    for key in needed:
        if not isinstance(found.get("project", {}).get(key), str):
            raise WorkspaceError(f"{file} has no {key}: add it to [project], as static text")
    return found


def _parsed(member: Member, lines: list[str]) -> list[Requirement]:
    try:
        return [Requirement(line) for line in lines]
    except InvalidRequirement as error:
        raise WorkspaceError(f"{member.path / 'pyproject.toml'}: {error}") from error


def _reached(start: Iterable[str], edges: dict[str, list[str]]) -> set[str]:
    seen: set[str] = set()
    waiting = list(start)
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += edges.get(name, [])
    return seen
