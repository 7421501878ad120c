"""`__all__`: every public name is in it, and it is in order."""

import ast
import re
from collections.abc import Iterator

from ws._workspace import Failure, Workspace

_HAS_ALL = re.compile(r"^__all__\b", re.MULTILINE)


def facades(workspace: Workspace) -> Iterator[Failure]:
    """Compare `__all__` with what the module defines, without importing it."""
    for member in workspace.packages:
        for path in sorted(member.leaf.rglob("*.py")):
            text = path.read_text("utf-8")
            if path == member.leaf / "__init__.py" or _HAS_ALL.search(text):
                inside = f"{member.module}." if path.name == "__init__.py" else None
                where = path.relative_to(member.path)
                for problem, fix in _problems(text, inside):
                    yield Failure(member.name, f"{where}: {problem}", fix)


def _problems(text: str, inside: str | None) -> Iterator[tuple[str, str]]:
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        yield f"line {error.lineno}: {error.msg}", "make it valid Python"
        return
    listed = _listed(tree)
    if listed is None:
        yield "has no __all__ that is a plain list of strings", "write __all__ = [...]"
        return
    if changed := sorted(_touched(tree))[1:]:
        where = ", ".join(map(str, changed))
        yield f"__all__ is changed on line {where}", "write it once, as one plain list of strings"
    names = [name for _, name in listed]
    offered, bound = _bound(tree, inside)
    if missing := sorted(offered - set(names)):
        fix = "add them, or make them private: _name, or `import … as _name`"
        yield f"{', '.join(missing)} not in __all__", fix
    if unknown := [name for name in names if name not in bound]:
        yield f"__all__ has {', '.join(unknown)}, which it does not define", "import or remove them"
    if twice := sorted({name for name in names if names.count(name) > 1}):
        yield f"__all__ has {', '.join(twice)} more than once", "remove the copies"
    for group in _groups(listed, text.splitlines()):
        if group != sorted(group):
            order = ", ".join(f'"{name}"' for name in sorted(group))
            yield "__all__ is not sorted within its commented groups", f"write {order}"


def _listed(tree: ast.Module) -> list[tuple[int, str]] | None:
    """Line and text of each entry of `__all__`."""
    for node in tree.body:
        match node:
            case (
                ast.Assign(targets=[ast.Name(id="__all__")], value=ast.List(elts=entries))
                | ast.AnnAssign(target=ast.Name(id="__all__"), value=ast.List(elts=entries))
            ):
                found = [(e.lineno, e.value) for e in entries if isinstance(e, ast.Constant)]
                named = [(line, name) for line, name in found if isinstance(name, str)]
                return named if len(named) == len(entries) else None
            case _:
                pass
    return None


def _touched(tree: ast.Module) -> Iterator[int]:
    """Lines that assign `__all__`, add to it or call a method of it."""
    for node in ast.walk(tree):
        match node:
            case (
                ast.Name(id="__all__", ctx=ast.Store())
                | ast.Attribute(value=ast.Name(id="__all__"))
            ):
                yield node.lineno
            case _:
                pass


def _groups(listed: list[tuple[int, str]], lines: list[str]) -> Iterator[list[str]]:
    """Names, split where lines between two of them hold nothing but a comment."""
    group: list[str] = []
    last = 0
    for line, name in listed:
        if group and any(text.lstrip().startswith("#") for text in lines[last : line - 1]):
            yield group
            group = []
        group.append(name)
        last = line
    yield group


def _bound(tree: ast.Module, inside: str | None) -> tuple[set[str], set[str]]:
    """Public names: what is defined, in a façade also what comes from inside; and all names."""
    own: set[str] = set()
    bound: set[str] = set()
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        match node:
            case ast.ImportFrom(module=source, names=aliases):
                names = {alias.asname or alias.name for alias in aliases}
                bound |= names
                if inside and f"{source}.".startswith(inside):
                    own |= names
            case ast.Import(names=aliases):
                bound |= {alias.asname or alias.name.partition(".")[0] for alias in aliases}
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                own.add(node.name)
            case ast.Assign(targets=targets):
                own |= {n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)}
            case ast.AnnAssign(target=ast.Name(id=name)):
                own.add(name)
            case ast.If() | ast.Try() | ast.ExceptHandler() | ast.With():
                waiting += ast.iter_child_nodes(node)
            case _:
                pass
    return {name for name in own if not name.startswith("_")}, own | bound
