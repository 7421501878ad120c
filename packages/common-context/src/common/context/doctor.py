"""Find what hides the ``common.*`` packages, and say which of them are installed.

``common`` is a namespace that many distributions share, and it has no ``__init__.py``. A
folder ``common/`` that has one, or a file ``common.py``, anywhere on the import path hides all
of them. The folder in which Python is started is on that path as well; there,
``python -m common.context.doctor`` itself is hidden, but these work:

* ``common-doctor``, the command that comes with common-context
* ``python -P -m common.context.doctor``
* ``python …/site-packages/common/context/doctor.py``, even when something in site-packages
  is in the way

It exits with status 1 when something is wrong. For that reason this file imports nothing but
the standard library.
"""

from __future__ import annotations

import importlib
import sys
from importlib.machinery import PathFinder
from importlib.metadata import Distribution, distributions
from pathlib import Path

NAMESPACE = "common"


def main() -> int:
    """Print a report; return 0 when all is well and 1 otherwise, as exit status."""
    installed = _installed()
    hiding = _hiding([str(Path.cwd()), *sys.path], installed)
    for file in hiding:
        _say(
            f"PROBLEM  {file} hides every {NAMESPACE}.* package when its folder is on the import "
            "path: rename it, or delete it if it is an empty __init__.py"
        )
    broken = 0
    for name, version in installed.items():
        module = name.replace("-", ".")
        try:
            importlib.import_module(module)
        except Exception as error:  # noqa: BLE001 - whatever an import may raise is the finding
            broken += 1
            _say(
                f"PROBLEM  {name} {version}: import {module} fails with "
                f"{type(error).__name__}: {error}"
            )
        else:
            _say(f"ok       {name} {version}")
    if not installed:
        _say(f"PROBLEM  no {NAMESPACE}-* distribution is installed for {sys.executable}")
    if hiding or broken or not installed:
        return 1
    _say(f"Nothing hides {NAMESPACE}.* here.")
    return 0


def _installed() -> dict[str, str]:
    """Return the installed distributions of the namespace and their versions."""
    found = {
        _name(each): each.version
        for each in distributions()
        if _name(each).startswith(f"{NAMESPACE}-") and _is_ours(each)
    }
    return dict(sorted(found.items()))


def _name(distribution: Distribution) -> str:
    return (distribution.metadata["Name"] or "").lower().replace("_", "-").replace(".", "-")


def _is_ours(distribution: Distribution) -> bool:
    """Tell our distributions from others whose names begin alike."""
    leaf = _name(distribution).replace("-", "/")
    files = [str(file) for file in distribution.files or ()]
    # An editable installation lists no modules, only the file that points to them.
    return any(file.startswith(f"{leaf}/") or file.endswith(".pth") for file in files)


def _hiding(path: list[str], installed: dict[str, str]) -> list[str]:
    """Return the files that turn a namespace into an ordinary package or module."""
    # common-db-postgres lives in the namespaces common and common.db
    namespaces = {NAMESPACE}
    for name in installed:
        parts = name.split("-")
        namespaces.update(".".join(parts[:end]) for end in range(1, len(parts)))
    found: dict[str, None] = {}
    for namespace in sorted(namespaces):
        *parents, name = namespace.split(".")
        for entry in path:
            # By its last name alone: a dotted one would look up the parent, which is hidden.
            spec = PathFinder.find_spec(name, [str(Path(entry or ".", *parents))])
            if spec is not None and spec.origin is not None:
                found[str(Path(spec.origin).resolve())] = None
    return list(found)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main())
