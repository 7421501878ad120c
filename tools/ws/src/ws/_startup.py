"""What `import common.x` costs, and what it must not load."""

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator

from ws._imports import modules_of
from ws._tools import Passed, import_path, run
from ws._workspace import Failure, Member, Workspace

BUDGET_MS = 30
_TRIES = 5

# Loads the package while watching who asks for an extra's module, then names the modules of
# other distributions that were loaded, in the order in which they were.
_WATCH = """
import importlib, json, sys
name, extras = sys.argv[1], set(json.loads(sys.argv[2]))
asked = []
class Watch:
    @staticmethod
    def find_spec(module, path=None, target=None):
        if module.partition(".")[0] in extras:
            frame = sys._getframe(1)
            while frame and frame.f_globals.get("__name__", "").startswith("importlib."):
                frame = frame.f_back
            importer = frame.f_globals.get("__name__", "") if frame else ""
            if f"{importer}.".startswith(name + "."):
                asked.append([importer, module])
sys.meta_path.insert(0, Watch)
import asyncio
before = set(sys.modules)
importlib.import_module(name)
own = lambda module: f"{module}.".startswith(name + ".") or f"{name}.".startswith(module + ".")
foreign = [m for m in sys.modules if m not in before and not own(m)
           and m.partition(".")[0] not in sys.stdlib_module_names]
print(json.dumps({"asked": asked, "foreign": foreign}))
"""
# Loads those first, then counts the processor time of what the package adds. asyncio is
# there in every service. Processor time does not count the waits that a busy machine adds.
_MEASURE = """
import asyncio, importlib, json, sys, time
for module in json.loads(sys.argv[2]):
    try:
        importlib.import_module(module)
    except ImportError:
        pass
start = time.process_time()
importlib.import_module(sys.argv[1])
print((time.process_time() - start) * 1000)
"""


def startup(workspace: Workspace) -> Iterator[Failure]:
    """Import time beyond the required dependencies, and extras that are loaded too early."""
    for member in workspace.packages:
        if not (member.leaf / "__init__.py").is_file():
            continue
        needed = [workspace.members[name] for name in workspace.closure([member.name])]
        files = [file for one in needed for file in (one.path / "src").rglob("*.py")]
        files += [one.path / "pyproject.toml" for one in needed]
        passed = Passed(workspace, f"startup-{member.name}", files)
        if not passed:
            failures = list(_measured(workspace, member))
            yield from failures
            if not failures:
                passed.remember()


def _measured(workspace: Workspace, member: Member) -> Iterator[Failure]:
    extras = {module for some in member.extras.values() for module in modules_of(some)}
    extras -= modules_of(member.requirements)

    def python(script: str, data: Iterable[str]) -> subprocess.CompletedProcess[str]:
        arguments = ["-c", script, member.module, json.dumps(list(data))]
        # Whatever the user's settings, the first run compiles and the others find it compiled.
        variables = {
            "PYTHONPATH": import_path(workspace),
            "PYTHONPYCACHEPREFIX": str(workspace.cache / "compiled"),
            "PYTHONDONTWRITEBYTECODE": "",
        }
        return run(sys.executable, *arguments, folder=workspace.cache, **variables)

    watched = python(_WATCH, sorted(extras))
    if watched.returncode:
        last = (watched.stderr.strip().splitlines() or ["no message"])[-1]
        fix = f'make `python -c "import {member.module}"` pass'
        yield Failure(member.name, f"cannot be imported: {last}", fix)
        return
    seen = json.loads(watched.stdout.splitlines()[-1])
    for importer, module in seen["asked"]:
        fix = f"import {module} in the function that needs it; say which extra when it is missing"
        yield Failure(member.name, f"{importer} loads {module}, of an extra, on import", fix)
    best = float("inf")
    for _ in range(_TRIES):
        best = min(best, float(python(_MEASURE, seen["foreign"]).stdout.split()[-1]))
        if best <= BUDGET_MS:
            return
    name = member.module
    problem = f"import {name} takes {best:.0f} ms beyond its dependencies, over {BUDGET_MS} ms"
    fix = f"see `python -X importtime -c 'import {name}'`; import heavy modules where they are used"
    yield Failure(member.name, problem, fix)
