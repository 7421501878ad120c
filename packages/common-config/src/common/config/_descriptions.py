"""Docstrings below fields, as their descriptions.

Pydantic can do this itself, but when a class is declared: reading the source then costs every
start of every service some milliseconds a class, for what only the command shows.
"""

import ast
import inspect
import textwrap
from itertools import pairwise

from pydantic import BaseModel

from common.config._shape import Shape, verify


def describe(settings: type[BaseModel]) -> None:
    """Give the fields of ``settings`` and of its sections their docstrings as descriptions."""
    models: set[type[BaseModel]] = set()
    verify(Shape(models=(settings,)), models)
    for model in models:
        found: dict[str, str] = {}
        for base in reversed(model.__mro__):
            found |= _docstrings(base)
        for name, info in model.model_fields.items():
            info.description = info.description or found.get(name)
    for model in (*(models - {settings}), settings):
        model.model_rebuild(force=True)


def _docstrings(cls: type) -> dict[str, str]:
    if not issubclass(cls, BaseModel) or cls.__module__.startswith("pydantic"):
        return {}
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    except (OSError, TypeError, SyntaxError):  # declared where there is no source
        return {}
    body = tree.body[0].body if tree.body and isinstance(tree.body[0], ast.ClassDef) else []
    found: dict[str, str] = {}
    for statement, after in pairwise(body):
        match statement, after:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                found[name] = inspect.cleandoc(text)
            case _:
                pass
    return found
