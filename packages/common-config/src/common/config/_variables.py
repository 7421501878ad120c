"""The variables that a settings class understands."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings

from common.config._mask import is_below_secret, show
from common.config._problem import Path, did_you_mean, dotted, printable
from common.config._shape import Shape, fields_of, shape_of, shapes_below, verify

# What Kubernetes (and Docker links) put into every container for each service of the
# namespace; a service called "orders" makes ORDERS_PORT=tcp://10.0.0.1:80 and more.
# https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
_LINK = re.compile(
    r"(.+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
_LINK_URL = re.compile(r"(tcp|udp|sctp)://\S+:\d+")


@dataclass(frozen=True, slots=True)
class EnvPrefix:
    """Names the variables of one section, where they do not follow the settings' own prefix.

    For the names of older deployments. With ``Annotated[Postgres, EnvPrefix("CREDIT_DB_")]``
    the section's fields are ``CREDIT_DB_HOST``, ``CREDIT_DB_PORT`` and so on, and these names
    only. Misspelt variables with this prefix are errors too.

    Args:
        prefix: Capitals, digits and ``_``, with a ``_`` at the end.
    """

    prefix: str

    def __post_init__(self) -> None:
        check_prefix(self.prefix)


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable that a settings class understands.

    Attributes:
        name: Such as ``ORDERS_DB__HOST``. The names of mappings end in ``__<KEY>``.
        path: The field, such as ``("db", "host")``.
        shape: What it takes.
        default: The default as it may be shown; ``None`` if there is none.
        is_required: Whether a value must come from somewhere.
        is_secret: Whether the value is masked.
        description: The field's description.
    """

    name: str
    path: Path
    shape: Shape
    default: str | None
    is_required: bool
    is_secret: bool
    description: str


class Names:
    """Finds the field that a variable is meant for.

    Args:
        settings: The class.
        ignored: Prefixes of variables that belong to somebody else.

    Raises:
        TypeError: If the class has no prefix, or two fields share a variable.
    """

    def __init__(self, settings: type[BaseSettings], ignored: tuple[str, ...]) -> None:
        prefix = settings.model_config.get("env_prefix", "")
        if not prefix:
            raise TypeError(
                f"{settings.__qualname__} has no prefix for its variables: declare it as "
                f'class {settings.__name__}(BaseAppSettings, prefix="ORDERS_")'
            )
        verify(Shape(models=(settings,)), set())
        self.prefixes = [prefix]
        self._ignored = ignored
        self._exact: dict[str, Variable] = {}
        self._free: dict[str, Variable] = {}
        for variable in self._walk(settings, prefix, (), ()):
            self._add(variable)

    @property
    def variables(self) -> list[Variable]:
        """All of them, in the order of the fields."""
        return [*self._exact.values(), *self._free.values()]

    def find(self, name: str) -> tuple[Path, Shape] | None:
        """Return the field for a variable, whose name is compared without regard to case."""
        name = name.upper()
        if variable := self._exact.get(name):
            return variable.path, variable.shape
        parts = name.split("__")
        for length in range(len(parts) - 1, 0, -1):
            variable = self._free.get("__".join([*parts[:length], "<KEY>"]))
            if variable and all(parts[length:]):
                return self._below(variable, [part.lower() for part in parts[length:]])
        return None

    def is_watched(self, name: str) -> bool:
        """Whether ``name`` should mean something to these settings."""
        name = name.upper()
        return name.startswith(tuple(self.prefixes)) and not name.startswith(self._ignored)

    def is_link(self, name: str, value: str) -> bool:
        """Whether a variable was made by Kubernetes or Docker for a service, not by people."""
        found = self.find(name)
        if found is not None and found[1].is_text:
            return False
        if name.upper().endswith("PORT") and _LINK_URL.fullmatch(value):
            return True
        return found is None and _LINK.fullmatch(name.upper()) is not None

    def suggest(self, name: str) -> str:
        """Return a did-you-mean for an unknown variable, or an empty text."""
        name = name.upper()
        prefix = max((p for p in self.prefixes if name.startswith(p)), key=len, default="")
        # Without the prefix, which would make everything look alike.
        candidates = [each for each in self._exact if each.startswith(prefix)]
        for free in self._free.values():
            mapping = free.name.removesuffix("<KEY>")
            key, below, _ = name.removeprefix(mapping).partition("__")
            if below and name.startswith(mapping):
                fields = shapes_below(free.shape)
                candidates = [f"{mapping}{printable(key)}__{each.upper()}" for each in fields]
        close = did_you_mean(name[len(prefix) :], [each[len(prefix) :] for each in candidates])
        return close.replace('"', f'"{prefix}', 1) if close else ""

    def name_of(self, path: Path) -> str | None:
        """Return the variable for a field."""
        return next((each.name for each in self._exact.values() if each.path == path), None)

    def _add(self, variable: Variable) -> None:
        table = self._free if variable.name.endswith("__<KEY>") else self._exact
        other = table.setdefault(variable.name, variable)
        if other is variable:
            return
        if other.path == variable.path:  # the same field of several sections in a union
            table[variable.name] = replace(
                other,
                shape=other.shape | variable.shape,
                is_required=other.is_required and variable.is_required,
            )
        else:
            raise TypeError(
                f"{dotted(other.path)} and {dotted(variable.path)} would both be set by "
                f"{variable.name}: rename one, or give its section an EnvPrefix"
            )

    def _below(self, variable: Variable, keys: list[str]) -> tuple[Path, Shape] | None:
        """Follow ``keys`` into a mapping, whose values may be sections or mappings again."""
        path: Path = (*variable.path[:-1], keys[0])
        shape = variable.shape
        for key in keys[1:]:
            fields = {name.lower(): (name, each) for name, each in shapes_below(shape).items()}
            name = key
            if key in fields:
                name, shape = fields[key]
            elif shape.values is not None:
                shape = shape_of(shape.values)
            elif not shape.is_open:
                return None
            path = (*path, name)
        return path, shape

    def _walk(
        self, model: type[BaseModel], prefix: str, path: Path, above: tuple[type[BaseModel], ...]
    ) -> Iterator[Variable]:
        for key, info in fields_of(model).items():
            shape = shape_of(info.annotation, info.metadata)
            here = (*path, key)
            own = next((each for each in shape.metadata if isinstance(each, EnvPrefix)), None)
            name = prefix + key.upper()
            below = f"{name}__"
            if own is not None:
                below = own.prefix
                self.prefixes.append(below)
                if not shape.models:
                    raise TypeError(f"{dotted(here)} has an EnvPrefix, but is not a section")
            else:
                yield _variable(name, here, shape, info)
            for section in shape.models:
                # A section inside itself ends here; deeper levels come as JSON.
                if section not in above:
                    yield from self._walk(section, below, here, (*above, section))
            if shape.values is not None:
                values = shape_of(shape.values)
                yield Variable(
                    name=f"{below}<KEY>",
                    path=(*here, "<key>"),
                    shape=values,
                    default=None,
                    is_required=False,
                    is_secret=values.is_secret or (values.is_text and is_below_secret(here)),
                    description="",
                )


def _variable(name: str, path: Path, shape: Shape, info: FieldInfo) -> Variable:
    default: str | None = None
    is_named_secret = is_below_secret(path)
    if not info.is_required():
        value: Any = info.default
        default = show(value, is_secret=is_named_secret)
        if value is PydanticUndefined:
            default = f"from {getattr(info.default_factory, '__name__', 'a factory')}()"
    return Variable(
        name=name,
        path=path,
        shape=shape,
        default=default,
        is_required=info.is_required(),
        is_secret=shape.is_secret or (shape.is_text and is_named_secret),
        description=info.description or "",
    )


def check_prefix(prefix: str) -> None:
    """Raise `ValueError` unless ``prefix`` is one."""
    if not re.fullmatch(r"[A-Z][A-Z0-9_]*_", prefix):
        raise ValueError(
            f"{prefix!r} is not a prefix of variables: use capitals, digits and _, and end it "
            "with _, such as ORDERS_"
        )
