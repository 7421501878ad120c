"""What packages declare of each other: ranges, sources and layers."""

from collections.abc import Iterator

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from ws._workspace import Failure, Member, Workspace

_FOR_TESTS = "common-testing"


def requirements(workspace: Workspace) -> Iterator[Failure]:
    """Every requirement of a sibling: range, source and layer."""
    workspace.in_order()  # raises if there is a circle
    for member in workspace.packages:
        if member.layer is None:
            fix = "add [tool.ws] layer = N, as the table of docs and `ws graph` have it"
            yield Failure(member.name, "declares no layer", fix)
        sources = member.pyproject.get("tool", {}).get("uv", {}).get("sources", {})
        for requirement in member.all_requirements:
            sibling = workspace.members.get(canonicalize_name(requirement.name))
            if sibling is None:
                continue
            yield from _range(member, requirement, sibling)
            if sources.get(sibling.name) != {"workspace": True}:
                fix = f"add {sibling.name} = {{ workspace = true }} to [tool.uv.sources]"
                yield Failure(member.name, f"{sibling.name} has no workspace source", fix)
            if sibling.name == _FOR_TESTS:
                yield from _for_tests(member, requirement)
            else:
                yield from _layer(member, sibling)


def next_breaking(version: Version) -> Version:
    """The next version that may break: the next major; while that is 0, the next minor."""
    return Version(f"{version.major + 1}" if version.major else f"0.{version.minor + 1}")


def _range(member: Member, requirement: Requirement, sibling: Member) -> Iterator[Failure]:
    bounds: dict[str, Version] = {}
    for one in requirement.specifier:
        bounds[one.operator] = Version(one.version.removesuffix(".*"))
    floor, cap = bounds.get(">="), bounds.get("<")
    limit = next_breaking(sibling.version)
    if floor is None or floor > sibling.version or next_breaking(floor) != limit:
        floor = Version(f"{sibling.version.major}.{sibling.version.minor}")
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    fix = f'write "{sibling.name}{extras}>={floor},<{limit}" in pyproject.toml'
    if ">=" not in bounds:
        yield Failure(member.name, f"{requirement} has no floor", fix)
    if cap is None or cap > limit:
        problem = f"{requirement} has no cap before {limit}, which may break"
        yield Failure(member.name, problem, fix)
    elif not requirement.specifier.contains(sibling.version, prereleases=True):
        problem = f"{requirement} leaves out {sibling.name} {sibling.version}, the current version"
        yield Failure(member.name, problem, fix)


def _for_tests(member: Member, requirement: Requirement) -> Iterator[Failure]:
    if requirement not in member.extras.get("testing", []):
        fix = (
            "remove the requirement: the root's test group brings it to every package's tests; "
            "for a test kit that others use, move it to the extra testing"
        )
        yield Failure(member.name, f"requires {requirement.name}, which is for tests only", fix)


def _layer(member: Member, sibling: Member) -> Iterator[Failure]:
    if sibling.kind != "packages":
        fix = "remove the requirement: packages may require packages only"
        yield Failure(member.name, f"requires {sibling.name}, which is never published", fix)
    elif member.layer is not None and sibling.layer is not None:
        peer = sibling.layer == member.layer and sibling.name in member.settings.get("peers", [])
        if sibling.layer >= member.layer and not peer:
            fix = (
                "move the shared part to a lower layer; for an exception that architecture.md "
                f'names, add [tool.ws] peers = ["{sibling.name}"]'
            )
            problem = f"is of layer {member.layer} and requires {sibling.name} of {sibling.layer}"
            yield Failure(member.name, problem, fix)
