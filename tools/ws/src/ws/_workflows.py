"""The workflow files of GitHub Actions."""

import json
from collections.abc import Iterator

from ws._tools import run, tool
from ws._workspace import Failure, Workspace


def workflows(workspace: Workspace) -> Iterator[Failure]:
    """Their schema, and what zizmor finds without asking the network."""
    folder = workspace.root / ".github" / "workflows"
    files = sorted([*folder.glob("*.yml"), *folder.glob("*.yaml")])
    if not files:
        return
    names = [str(file.relative_to(workspace.root)) for file in files]
    schema = ["--builtin-schema", "vendor.github-workflows", "--output-format", "json"]
    done = run(tool("check-jsonschema"), *schema, *names, folder=workspace.root)
    try:
        report = json.loads(done.stdout)
    except ValueError:
        yield Failure("workflows", (done.stdout + done.stderr).strip(), "see check-jsonschema")
        return
    for error in report.get("errors", []):
        best = error.get("best_match") or {}
        place = best.get("path", error.get("path", ""))
        problem = f"{place}: {best.get('message', error.get('message'))}"
        yield Failure(error["filename"], problem, "follow the syntax of GitHub's workflow files")
    for error in report.get("parse_errors", []):
        yield Failure(error["filename"], error["message"].splitlines()[0], "make it valid YAML")
    if done.returncode:
        return
    options = ["--offline", "--no-progress", "--format", "plain"]
    done = run(tool("zizmor"), *options, *names, folder=workspace.root)
    if done.returncode:
        fix = "follow the help under each finding"
        yield Failure("workflows", f"zizmor: {done.stdout.strip() or done.stderr.strip()}", fix)
