"""The workflow files of GitHub Actions, and Dependabot's."""

import json
from collections.abc import Iterator

from ws._tools import run, tool
from ws._workspace import Failure, Workspace


def workflows(workspace: Workspace) -> Iterator[Failure]:
    """Their schemas, and what zizmor finds in workflows without asking the network."""
    yield from _schema(workspace, "dependabot", _files(workspace, "dependabot"))
    names = _files(workspace, "workflows/*")
    broken = list(_schema(workspace, "github-workflows", names))
    yield from broken
    if broken or not names:
        return
    options = ["--offline", "--no-progress", "--format", "plain"]
    done = run(tool("zizmor"), *options, *names, folder=workspace.root)
    if done.returncode:
        fix = "follow the help under each finding"
        yield Failure("workflows", f"zizmor: {done.stdout.strip() or done.stderr.strip()}", fix)


def _files(workspace: Workspace, stem: str) -> list[str]:
    found = workspace.root.glob(f".github/{stem}.y*ml")
    return sorted(str(file.relative_to(workspace.root)) for file in found)


def _schema(workspace: Workspace, schema: str, names: list[str]) -> Iterator[Failure]:
    if not names:
        return
    options = ["--builtin-schema", f"vendor.{schema}", "--output-format", "json"]
    done = run(tool("check-jsonschema"), *options, *names, folder=workspace.root)
    try:
        report = json.loads(done.stdout)
    except ValueError:
        yield Failure("workflows", (done.stdout + done.stderr).strip(), "see check-jsonschema")
        return
    for error in report.get("errors", []):
        best = error.get("best_match") or {}
        place = best.get("path", error.get("path", ""))
        problem = f"{place}: {best.get('message', error.get('message'))}"
        yield Failure(error["filename"], problem, "follow the syntax in GitHub's documentation")
    for error in report.get("parse_errors", []):
        yield Failure(error["filename"], error["message"].splitlines()[0], "make it valid YAML")
