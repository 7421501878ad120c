"""Each package from its own wheel, in environments that know nothing of the workspace."""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ws._tools import run, uv
from ws._workspace import Member, Workspace, WorkspaceError

# Imports a package or, with a second argument, every module of it; prints how many.
_IMPORT = """
import importlib, pkgutil, sys
names = [sys.argv[1]]
if sys.argv[2:]:
    found = pkgutil.walk_packages(importlib.import_module(names[0]).__path__, names[0] + ".")
    names += [module.name for module in found if not module.name.endswith("__main__")]
for name in names:
    importlib.import_module(name)
print(len(names))
"""


class _StepError(Exception):
    """A step failed; the message is what it printed."""


def isolate(
    workspace: Workspace, names: Sequence[str], *, python: str, say: Callable[[str], None]
) -> list[str]:
    """Build, install, import and test packages outside the workspace.

    Args:
        workspace: The workspace.
        names: Packages; all of them when empty.
        python: Interpreter of the environments, as uv takes it.
        say: Is told about progress, a line at a time.

    Returns:
        One text per environment in which something failed, with what was printed there.

    Raises:
        WorkspaceError: If a name is no package, or a package cannot be built.
    """
    known = {member.name for member in workspace.packages}
    if unknown := sorted(set(names) - known):
        raise WorkspaceError(f"{unknown[0]} is no package: choose from {', '.join(sorted(known))}")
    chosen = workspace.in_order(names or known)
    failures: list[str] = []
    with tempfile.TemporaryDirectory(prefix="ws-isolate-") as folder:
        wheels = Path(folder, "wheels")
        used = {*(m.name for m in chosen), *_names(workspace.group("test"))}
        for member in workspace.in_order(workspace.closure(used) & known):
            say(f"{member.name}: building its sdist, and its wheel from that")
            options = ("--package", member.name, "--out-dir", str(wheels))
            try:
                _call(
                    uv(), "build", "--quiet", *options, *_newest(workspace), folder=workspace.root
                )
            except _StepError as error:
                raise WorkspaceError(f"{member.name} cannot be built: {error}") from error

        def job(member: Member, resolution: str) -> None:
            title = f"{member.name} ({resolution} dependencies)"
            place = Path(folder, f"{member.name}-{resolution}")
            place.mkdir()
            environment = _Environment(workspace, member, resolution, wheels, place)
            try:
                environment.run(python, lambda text: say(f"{title}: {text}"))
            except _StepError as error:
                failures.append(f"{title}: {error}")
                say(f"{title}: FAILED")
            shutil.rmtree(place, ignore_errors=True)

        with ThreadPoolExecutor(2) as pool:
            jobs = [pool.submit(job, m, r) for m in chosen for r in ("lowest", "highest")]
        for one in jobs:
            one.result()
    return failures


@dataclass(frozen=True)
class _Environment:
    """One clean environment for one package."""

    workspace: Workspace
    member: Member
    resolution: str
    wheels: Path
    place: Path

    @property
    def python(self) -> str:
        return str(self.place / ".venv" / "bin" / "python")

    def run(self, python: str, say: Callable[[str], None]) -> None:
        member = self.member
        self._uv("venv", "--quiet", "--python", python, str(self.place / ".venv"))
        # Without its extras first: the façade has to do without them.
        self._install(self._package(member.requirements, []))
        every = [] if member.extras else ["all"]
        count = self._python("-c", _IMPORT, member.module, *every)
        if member.extras:
            self._install(self._package(member.all_requirements, sorted(member.extras)))
            count = self._python("-c", _IMPORT, member.module, "all")
        self._uv("pip", "check", "--quiet", "--python", self.python)
        installed = self._installed()
        chosen = [f"{name} {installed.get(name, '-')}" for name in self._direct()]
        say(f"{count.strip()} modules import; with {', '.join(chosen) or 'nothing else'}")
        self._install_tests(installed, say)
        say(self._test().strip().splitlines()[-1].strip("= "))

    def _direct(self) -> list[str]:
        return sorted(_names(self.member.all_requirements))

    def _package(self, direct: list[Requirement], extras: list[str]) -> list[str]:
        """The package, its siblings, and for the lowest resolution what it requires itself.

        uv's `lowest-direct` goes by the lines it is given, not by what a wheel asks for.
        `lowest` would also take the oldest release ever of everything below.
        """
        siblings = self.workspace.closure(_names(direct) & self.workspace.members.keys())
        lines = [self._wheel(self.member.name, extras), *map(self._wheel, sorted(siblings))]
        if self.resolution == "lowest":
            lines += [str(one) for one in direct if canonicalize_name(one.name) not in siblings]
        return lines

    def _wheel(self, name: str, extras: Sequence[str] = ()) -> str:
        # Siblings come from the workspace at both ends of their range, never from an index,
        # where their names may be somebody else's. Once they are released, the lowest comes
        # from there: give the requirement instead of this URL, and name the index.
        stem = f"{name.replace('-', '_')}-{self.workspace.members[name].version}"
        wheel = next(self.wheels.glob(f"{stem}-*.whl"))
        return f"{name}[{','.join(extras)}] @ {wheel.as_uri()}"

    def _install_tests(self, installed: dict[str, str], say: Callable[[str], None]) -> None:
        """Add the test group without moving what the package asked for."""
        group = self.workspace.group("test")
        kept: list[str] = []
        for name in self._direct():
            wanted = [one for one in group if canonicalize_name(one.name) == name]
            if name not in installed:
                continue  # its marker is false here
            if all(one.specifier.contains(installed[name]) for one in wanted):
                kept.append(f"{name}=={installed[name]}")
            else:
                say(f"{name} {installed[name]} is only imported: the tests need {wanted[0]}")
        constraints = self.place / "constraints.txt"
        constraints.write_text("\n".join(kept), "utf-8")
        members = self.workspace.closure(_names(group) & self.workspace.members.keys())
        lines = [*map(self._wheel, sorted(members))]
        lines += [str(one) for one in group if canonicalize_name(one.name) not in members]
        self._install(lines, "--resolution", "highest", "--constraints", str(constraints))

    def _install(self, lines: list[str], *options: str) -> None:
        file = self.place / "requirements.txt"
        file.write_text("\n".join(lines), "utf-8")
        if not options and self.resolution == "lowest":
            options = ("--resolution", "lowest-direct")
        where = ("--python", self.python, "--requirements", str(file))
        self._uv("pip", "install", "--quiet", *_newest(self.workspace), *where, *options)

    def _installed(self) -> dict[str, str]:
        text = self._uv("pip", "list", "--format", "json", "--python", self.python)
        return {canonicalize_name(one["name"]): one["version"] for one in json.loads(text)}

    def _test(self) -> str:
        """Run a copy of the tests, where nothing of the repository can be found."""
        copy = self.place / "run"
        # All but the source: tests may read files that lie beside them, such as a lock.
        left_out = shutil.ignore_patterns("__pycache__", "src", "dist")
        shutil.copytree(self.member.path, copy, ignore=left_out)
        shutil.copy(self.workspace.root / "pyproject.toml", copy)
        options = ("-q", "-m", "not chaos", "-p", "no:cacheprovider")
        return self._python("-m", "pytest", *options, "tests", folder=copy)

    def _uv(self, *arguments: str) -> str:
        return _call(uv(), *arguments, folder=self.place)

    def _python(self, *arguments: str, folder: Path | None = None) -> str:
        return _call(self.python, *arguments, folder=folder or self.place)


def _names(requirements: Iterable[Requirement]) -> set[str]:
    return {canonicalize_name(one.name) for one in requirements}


def _newest(workspace: Workspace) -> list[str]:
    date = workspace.pyproject["tool"]["uv"].get("exclude-newer")
    return ["--exclude-newer", str(date)] if date else []


def _call(*command: str, folder: Path) -> str:
    # Empty counts as unset for each of these.
    hidden = dict.fromkeys(("PYTHONPATH", "VIRTUAL_ENV", "PYTEST_ADDOPTS"), "")
    done = run(*command, folder=folder, **hidden)
    if done.returncode:
        what = f"import of {command[3]}" if command[1] == "-c" else " ".join(command[1:4])
        raise _StepError(f"{what} ended with {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout
