"""What `import common.x` costs, and what must not happen meanwhile."""

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ws._imports import modules_of
from ws._tools import Passed, import_path, run
from ws._workspace import Failure, Member, Workspace

BUDGET_MS = 30
_TRIES = 5

# All that is printed goes to stderr; stdout is kept for the report.
_REPORT = """
import asyncio, importlib, json, os, sys
report = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
"""
# Loads the package while watching who asks for an extra's module and what its own modules do
# to the world, then names the modules of other distributions that were loaded, in the order
# in which they were. What a dependency does on its own import is not held against the package.
_WATCH = """
name, extras = sys.argv[1], set(json.loads(sys.argv[2]))
events = {"open", "os.mkdir", "socket.bind", "socket.connect", "subprocess.Popen"}
asked, effects = [], {}
def own(skipped):
    frame = sys._getframe(2)
    while frame and skipped(frame):
        frame = frame.f_back
    module = frame.f_globals.get("__name__", "") if frame else ""
    return module if f"{module}.".startswith(name + ".") else ""
class Watch:
    @staticmethod
    def find_spec(module, path=None, target=None):
        if module.partition(".")[0] in extras:
            importer = own(lambda f: f.f_globals.get("__name__", "").startswith("importlib."))
            if importer:
                asked.append([importer, module])
def audit(event, values):
    if event not in events or event == "open" and not values[2] & (os.O_WRONLY | os.O_RDWR):
        return
    what = values[event.startswith("socket.")]
    compiled = event == "open" and isinstance(what, int) or str(what).startswith(sys.pycache_prefix)
    module = own(lambda f: f.f_code.co_name != "<module>")
    if module and not compiled:
        effects[module, event, str(what)] = None
sys.meta_path.insert(0, Watch)
sys.addaudithook(audit)
before = set(sys.modules)
importlib.import_module(name)
related = lambda m: f"{m}.".startswith(name + ".") or f"{name}.".startswith(m + ".")
foreign = [m for m in sys.modules if m not in before and not related(m)
           and m.partition(".")[0] not in sys.stdlib_module_names]
json.dump({"asked": asked, "effects": list(effects), "foreign": foreign}, report)
"""
# Loads those first, then counts the processor time of what the package adds. asyncio is
# there in every service. Processor time does not count the waits that a busy machine adds.
_MEASURE = """
import time
for module in json.loads(sys.argv[2]):
    try:
        importlib.import_module(module)
    except ImportError:
        pass
print("\\0", file=sys.stderr, flush=True)
start = time.process_time()
importlib.import_module(sys.argv[1])
json.dump((time.process_time() - start) * 1000, report)
"""


def startup(workspace: Workspace) -> Iterator[Failure]:
    """Import time beyond the required dependencies, and what must not happen on import."""
    for member in workspace.packages:
        if not (member.leaf / "__init__.py").is_file():
            continue
        needed = [workspace.members[name] for name in workspace.closure([member.name])]
        files = [file for one in needed for file in (one.path / "src").rglob("*.py")]
        files += [Path(__file__), *(one.path / "pyproject.toml" for one in needed)]
        passed = Passed(workspace, f"startup-{member.name}", files)
        if not passed:
            try:
                failures = list(_measured(workspace, member))
            except ImportError as error:
                fix = f'make `python -c "import {member.module}"` pass'
                failures = [Failure(member.name, f"cannot be imported: {error}", fix)]
            yield from failures
            if not failures:
                passed.remember()


def _measured(workspace: Workspace, member: Member) -> Iterator[Failure]:
    name = member.module
    extras = {module for some in member.extras.values() for module in modules_of(some)}
    extras -= modules_of(member.requirements)
    seen, _ = _python(workspace, _WATCH, name, sorted(extras))
    for importer, module in seen["asked"]:
        fix = f"import {module} in the function that needs it; say which extra when it is missing"
        yield Failure(member.name, f"{importer} loads {module}, of an extra, on import", fix)
    for importer, event, what in seen["effects"]:
        act = "open for writing" if event == "open" else event
        fix = "do it where it is needed, in a function or a method: nothing happens on import"
        yield Failure(member.name, f"{importer} does something on import: {act} {what}", fix)
    best, printed = float("inf"), ""
    for _ in range(_TRIES):
        took, printed = _python(workspace, _MEASURE, name, seen["foreign"])
        best = min(best, took)
        if best <= BUDGET_MS:
            break
    else:
        problem = f"import {name} takes {best:.0f} ms beyond its dependencies, over {BUDGET_MS} ms"
        fix = f"see `python -X importtime -c 'import {name}'`; import heavy modules where used"
        yield Failure(member.name, problem, fix)
    if text := printed.rpartition("\0\n")[2].strip():
        fix = "remove the print; what an operator should know is a log line, when it happens"
        yield Failure(member.name, f"import {name} prints {text[:200]!r}", fix)


def _python(workspace: Workspace, script: str, name: str, data: list[str]) -> tuple[Any, str]:
    """What a script of the above reports, and all that was printed meanwhile."""
    # Whatever the user's settings, the first run compiles and the others find it compiled.
    with tempfile.TemporaryDirectory(prefix="ws-startup-") as folder:
        done = run(
            *(sys.executable, "-u", "-W", "ignore", "-c", _REPORT + script, name, json.dumps(data)),
            folder=Path(folder),
            PYTHONPATH=import_path(workspace),
            PYTHONPYCACHEPREFIX=str(workspace.cache / "compiled"),
            PYTHONDONTWRITEBYTECODE="",
        )
    if done.returncode or not done.stdout:
        raise ImportError((done.stderr.strip("\0\n ").splitlines() or ["no message"])[-1])
    return json.loads(done.stdout), done.stderr
