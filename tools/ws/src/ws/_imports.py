"""What the code imports against what its package declares."""

import json
import re
from collections.abc import Iterator
from importlib import metadata
from importlib.metadata import packages_distributions

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ws._layout import stray_inits
from ws._tools import import_path, run, tool
from ws._workspace import Failure, Member, Workspace

# In the standard library since Python 3.14, which this Python and tach need not know.
_YOUNG = {"annotationlib", "compression"}

_CHAIN = re.compile(r"^-?\s+(\S+) -> (\S+) \((.*)\)$", re.MULTILINE)
_UNDECLARED = re.compile(r"Dependency '([^']+)' is not declared in package '([^']+)'")


def sibling_imports(workspace: Workspace) -> Iterator[Failure]:
    """Siblings imported without a requirement, found by import-linter.

    With the layers of the requirements checked, this keeps the imports in their layers too.
    """
    packages = [m for m in workspace.packages if (m.leaf / "__init__.py").is_file()]
    if any(stray_inits(member) for member in workspace.packages):
        return  # reported by the layout; nobody can import anything until it is gone
    lines = ["[tool.importlinter]", f"root_packages = {json.dumps([m.module for m in packages])}"]
    for member in packages:
        allowed = {member.name, *workspace.siblings(member)}
        forbidden = [other.module for other in packages if other.name not in allowed]
        if forbidden:
            lines += [
                "[[tool.importlinter.contracts]]",
                f'name = "{member.name}"',
                'type = "forbidden"',
                f'source_modules = ["{member.module}"]',
                f"forbidden_modules = {json.dumps(forbidden)}",
                "allow_indirect_imports = true",
            ]
    if len(lines) == 2:
        return
    config = workspace.cache / "import-linter.toml"
    config.write_text("\n".join(lines), "utf-8")
    options = [
        "--no-logo",
        "--config",
        str(config),
        "--cache-dir",
        str(workspace.cache / "imports"),
    ]
    path = import_path(workspace)
    done = run(tool("lint-imports"), *options, folder=workspace.root, PYTHONPATH=path)
    chains = _CHAIN.findall(done.stdout)
    for importer, imported, where in chains:
        member, sibling = _home(packages, importer), _home(packages, imported)
        fix = f"require {sibling.name} in pyproject.toml (a lower layer only), or do without it"
        problem = f"{importer} imports {imported} ({where}), which it does not require"
        yield Failure(member.name, problem, fix)
    if done.returncode and not chains:
        yield Failure("import-linter", (done.stdout + done.stderr).strip(), "see its message")


def external_imports(workspace: Workspace) -> Iterator[Failure]:
    """Third-party imports without a requirement, found by `tach check-external`.

    Extras count as declared; `ws isolate` and the start-up check see to it that they stay
    optional. tach itself knows `project.dependencies` only.
    """
    from tach.extension import (  # type: ignore[import-untyped]  # noqa: PLC0415
        check_external_dependencies,
        parse_project_config,
    )

    config = workspace.cache / "tach.toml"
    config.write_text('source_roots = ["packages/*/src"]\nignore_type_checking_imports = false\n')
    providers = packages_distributions()
    places: dict[tuple[Member, str], set[str]] = {}
    for found in check_external_dependencies(workspace.root, parse_project_config(config)[0]):
        match = _UNDECLARED.match(found.to_string())
        if match and match[1] not in {"common", *_YOUNG}:
            member = workspace.members[canonicalize_name(match[2])]
            path = (workspace.root / str(found.pyfile_path())).relative_to(member.path)
            place = f"{path}:{found.pyline_number()}"
            places.setdefault((member, match[1]), set()).add(place)
    for (member, module), where in places.items():
        names = {canonicalize_name(name) for name in providers.get(module, [module])}
        if names.isdisjoint(_declared(member)):
            problem = f"imports {module}, which it does not require ({', '.join(sorted(where))})"
            wanted = " or ".join(sorted(names))
            fix = f"add {wanted} to dependencies or to an extra in pyproject.toml, or do without"
            yield Failure(member.name, problem, fix)


def _declared(member: Member) -> set[str]:
    """What a package requires, and what that pins: pydantic-core is a part of pydantic."""
    names: set[str] = {canonicalize_name(one.name) for one in member.all_requirements}
    for name in list(names):
        try:
            below = [Requirement(line) for line in metadata.requires(name) or []]
        except metadata.PackageNotFoundError:
            continue
        pinned = (one for one in below if {s.operator for s in one.specifier} == {"=="})
        names |= {canonicalize_name(one.name) for one in pinned if one.marker is None}
    return names


def modules_of(requirements: list[Requirement]) -> set[str]:
    """Top-level modules that the installed distributions of these requirements provide."""
    wanted = {canonicalize_name(requirement.name) for requirement in requirements}
    return {
        module
        for module, names in packages_distributions().items()
        if module != "common" and any(canonicalize_name(name) in wanted for name in names)
    }


def _home(packages: list[Member], module: str) -> Member:
    return next(m for m in packages if f"{module}.".startswith(m.module + "."))
