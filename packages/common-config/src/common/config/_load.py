"""Loading settings from their layers."""

import os
from collections.abc import Iterable, Mapping
from os import PathLike
from typing import TypeVar

from pydantic import PydanticUserError, ValidationError

from common.config._bind import Entry, bind
from common.config._check import Translator, prune, secrets_of
from common.config._node import (
    ARGUMENT,
    DEFAULT,
    Branch,
    from_python,
    merge_branches,
    plain,
    without_values,
)
from common.config._problem import Problem, config_error
from common.config._readers import Reader, read_env_file, read_environment, read_secrets
from common.config._settings import BaseAppSettings, names_for, set_origins
from common.config._shape import Shape
from common.config._text import AnyPath, OptionalPath, split
from common.config._variables import Names
from common.config._yaml import read_yaml

S = TypeVar("S", bound=BaseAppSettings)


def load(
    settings: type[S],
    /,
    *,
    files: AnyPath | Iterable[AnyPath] = (),
    env_file: AnyPath | None = None,
    secrets_dir: AnyPath | None = None,
    environ: Mapping[str, str] | None = None,
    **explicit: object,
) -> S:
    """Return settings made from all layers, each of which wins over those before it.

    The layers, lowest first: the defaults of the class, ``files`` in their order, ``env_file``,
    the environment, ``secrets_dir``, ``explicit``. Mappings are merged key by key, everything
    else replaces. Reads files, so call it before the event loop starts.

    Args:
        settings: The class; its ``prefix`` names the variables.
        files: YAML files, such as the shared one, the service's, the environment's. Each
            must exist, unless it is marked with `optional`; at most 1 MiB each.
        env_file: A file of ``NAME=value`` lines. Other programs' variables are passed over.
        secrets_dir: A folder with a file for each secret, named like the variable in any
            case (``orders_db__password``) or like a field of a section (``db.password``).
        environ: Instead of the environment of the process.
        **explicit: Values for fields, as in ``load(Settings, db={"host": "localhost"})``.

    Raises:
        ConfigError: Lists everything that is wrong, by field and source, without values.
        TypeError: If the class itself cannot be used: no prefix, two fields for one variable,
            a section that is not frozen.

    Example:
        >>> from common.config import BaseAppSettings, ConfigError, load
        >>> class OrdersSettings(BaseAppSettings, prefix="ORDERS_"):
        ...     page_size: int = 50
        >>> load(OrdersSettings, environ={"ORDERS_PAGE_SIZE": "20"})
        OrdersSettings(page_size=20)
        >>> try:
        ...     load(OrdersSettings, environ={"ORDERS_PAGESIZE": "20"})
        ... except ConfigError as error:
        ...     print(error)
        1 problem in the configuration of OrdersSettings
          unknown variable ORDERS_PAGESIZE; did you mean "ORDERS_PAGE_SIZE"?
    """
    layers = _Layers(names_for(settings))
    for file in _listed(files):
        layers.add_file(file)
    if env_file is not None:
        layers.add_variables(read_env_file, env_file)
    layers.add_environment(os.environ if environ is None else environ)
    if secrets_dir is not None:
        layers.add_variables(read_secrets, secrets_dir)
    layers.add_arguments(explicit)
    loaded = layers.validate(settings)
    if isinstance(loaded, BaseAppSettings):
        return loaded
    # Tools that report errors with the local variables of each frame must find none here.
    del explicit, environ, layers
    raise config_error(settings.__qualname__, loaded)


class _Layers:
    """The layers so far, merged, and what was wrong with them."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._root = Branch({}, DEFAULT)
        self._unread: list[Problem] = []
        self._problems: list[Problem] = []

    def add_file(self, file: AnyPath) -> None:
        path, may_be_missing = split(file)
        layer, problems = read_yaml(path, may_be_missing=may_be_missing)
        self._unread += problems
        if layer is not None:
            self._root = merge_branches(self._root, layer)

    def add_variables(self, read: Reader, where: AnyPath) -> None:
        path, may_be_missing = split(where)
        entries, problems = read(path, self._names, may_be_missing=may_be_missing)
        self._unread += problems
        self._bind(entries)

    def add_environment(self, environ: Mapping[str, str]) -> None:
        self._bind(read_environment(environ))

    def add_arguments(self, values: Mapping[str, object]) -> None:
        for key, value in values.items():
            try:
                layer = Branch({key: from_python(value, ARGUMENT)}, ARGUMENT)
            except TypeError as error:
                self._problems.append(Problem(str(error), key, str(ARGUMENT)))
            else:
                self._root = merge_branches(self._root, layer)

    def validate(self, settings: type[S]) -> S | list[Problem]:
        shape = Shape(models=(settings,))
        problems = list(self._problems)
        root = prune(self._root, shape, problems)
        translator = Translator(root, shape, self._names, secrets_of(root, shape))
        try:
            result = settings.model_validate(plain(root))
        except ValidationError as error:
            told = {each.path for each in problems}
            problems += [
                problem
                for problem, is_missing in translator.problems(error)
                # What is missing may stand in what could not be read.
                if not (is_missing and (self._unread or problem.path in told))
            ]
            return [*self._unread, *problems]
        except PydanticUserError:
            raise  # the class itself is wrong
        except Exception as error:  # noqa: BLE001 - validators may raise anything
            return [*self._unread, *problems, translator.crash(error)]
        if self._unread or problems:
            return [*self._unread, *problems]
        set_origins(result, without_values(root))
        return result

    def _bind(self, entries: list[Entry]) -> None:
        layer, problems = bind(entries, self._names)
        self._problems += problems
        if layer is not None:
            self._root = merge_branches(self._root, layer)


def _listed(files: AnyPath | Iterable[AnyPath]) -> list[AnyPath]:
    if isinstance(files, str | PathLike | OptionalPath):
        return [files]
    return list(files)
