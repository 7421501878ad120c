"""Which members a change touches."""

from packaging.utils import canonicalize_name

from ws._tools import run
from ws._workspace import Member, Workspace

# What is under these has no part in any package. Every other folder that holds no
# members (tools/, .github/, one that nobody thought of) stands for all of them.
_WITHOUT_EFFECT = {"docs", "benchmarks"}
_MEMBERS = {"packages", "examples"}


def affected(workspace: Workspace, base: str | None = None) -> tuple[list[Member], str]:
    """Packages and examples to test again, in topological order, and why.

    Args:
        workspace: The workspace.
        base: Revision to compare the working tree with, untracked files included; what that
            revision gained since the branch left it does not count. Without it: where this
            branch left `origin/main`, or the last commit when it is not a branch.
    """
    everything = [m for m in workspace.in_order() if m.kind in _MEMBERS]
    files, since = _changed(workspace, base)
    if files is None:
        return everything, since
    changed: set[str] = set()
    for file in files:
        top, _, rest = file.partition("/")
        if top in _MEMBERS:
            changed.add(_owner(workspace, top, rest.partition("/")[0]))
        elif top not in _WITHOUT_EFFECT:
            return everything, f"{file} changed since {since}, and belongs to all"
    # Every package's tests use the test group, which may hold a package itself.
    tools = workspace.closure(canonicalize_name(one.name) for one in workspace.group("test"))
    if shared := sorted(changed & tools):
        return everything, f"{shared[0]} changed since {since}, and every test uses it"
    chosen = workspace.dependents(changed)
    why = f"{len(files)} changed files since {since}"
    return [member for member in everything if member.name in chosen], why


def _owner(workspace: Workspace, kind: str, folder: str) -> str:
    path = workspace.root / kind / folder
    names = (member.name for member in workspace.members.values() if member.path == path)
    return next(names, canonicalize_name(folder))  # a deleted member is known by its folder


def _changed(workspace: Workspace, base: str | None) -> tuple[list[str] | None, str]:
    """Files that differ from the base; None when git cannot tell."""
    head = _git(workspace, "rev-parse", "--verify", "--quiet", "HEAD^{commit}")
    if base is None:
        fork = _git(workspace, "merge-base", "HEAD", "origin/main")
        base = fork if fork and fork != head else "HEAD~1"
    commit = _git(workspace, "rev-parse", "--verify", "--quiet", f"{base}^{{commit}}")
    if head is None or commit is None:
        return None, f"git knows no revision {base} here, so everything counts as changed"
    start = _git(workspace, "merge-base", commit, "HEAD") or commit
    # Without renames, a moved file counts at its old and at its new place.
    tracked = _git(workspace, "diff", "--name-only", "--no-renames", "-z", start, "--") or ""
    untracked = _git(workspace, "ls-files", "--others", "--exclude-standard", "-z") or ""
    return sorted(filter(None, (tracked + "\0" + untracked).split("\0"))), start[:12]


def _git(workspace: Workspace, *arguments: str) -> str | None:
    done = run("git", *arguments, folder=workspace.root)
    return done.stdout.strip() if done.returncode == 0 else None
