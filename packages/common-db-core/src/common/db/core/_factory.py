"""Finding backends by their entry points."""

from collections.abc import Mapping
from typing import Any, Final, Protocol

import pydantic

from common.db.core._config import DatabaseConfig
from common.db.core._errors import BackendNotFoundError
from common.db.core._manager import DatabaseManager
from common.db.core._names import shown
from common.errors import ValidationError

GROUP: Final = "common.db.backends"
"""Entry points: the backend's name to its subclass of `DatabaseManager`."""

_BACKEND_OF_SCHEME: Final[Mapping[str, str]] = {
    "abfss": "datalake",
    "az": "datalake",
    "delta": "datalake",
    "file": "datalake",
    "postgresql": "postgres",
}


class _Backend(Protocol):
    """What an entry point names: a subclass of `DatabaseManager`, seen from here."""

    config_type: type[DatabaseConfig]

    def __call__(self, config: Any, /) -> DatabaseManager: ...


def create_database_manager(name: str, config: DatabaseConfig | None = None) -> DatabaseManager:
    """Return the manager of a backend, which is not open yet.

    Args:
        name: ``"memory"``, ``"postgres"``, ``"cosmos"``, ``"datalake"``, or whatever a
            distribution registers in the entry point group ``common.db.backends``.
        config: Configuration; that of the backend, or a plain `DatabaseConfig`.

    Raises:
        BackendNotFoundError: It is not installed; the message names the distribution.
        ValidationError: The configuration does not suit the backend.

    Example:
        >>> create_database_manager("memory").driver.system
        'memory'
    """
    found = _find(name)
    if config is None:
        return found(_configure(found.config_type, {}))
    if not isinstance(config, found.config_type):
        given = {key: getattr(config, key) for key in config.model_fields_set}
        config = _configure(found.config_type, given)
    return found(config)


def open_database(url: str, **options: Any) -> DatabaseManager:
    """Return the manager for a URL, to be opened by ``async with``.

    Args:
        url: Its scheme names the backend, as in ``postgresql://...`` or ``memory://``; what
            follows a ``+`` in the scheme is left to the backend.
        **options: Further fields of the backend's configuration.

    Raises:
        BackendNotFoundError: It is not installed; the message names the distribution.
        ValidationError: The URL or an option is wrong.
    """
    scheme, separator, _ = url.partition("://")
    if not separator or not scheme:
        raise ValidationError("a database URL looks like postgresql://host/name", field="url")
    plain = scheme.partition("+")[0].lower()
    found = _find(_BACKEND_OF_SCHEME.get(plain, plain))
    return found(_configure(found.config_type, {"url": url, **options}))


def _find(name: str) -> "_Backend":
    from importlib.metadata import entry_points  # noqa: PLC0415 - costs as much as this package

    for point in entry_points(group=GROUP, name=name):
        backend: _Backend = point.load()
        return backend
    installed = ", ".join(sorted({point.name for point in entry_points(group=GROUP)}))
    distribution = f"common-db-{name}" if name.isidentifier() and len(name) <= 32 else None
    install = f"pip install {distribution}" if distribution else "check the name"
    raise BackendNotFoundError(
        f"there is no database backend {shown(name)}: {install} (installed: {installed})",
        backend=name[:64],
        distribution=distribution,
    )


def _configure(config_type: type[DatabaseConfig], values: Mapping[str, object]) -> DatabaseConfig:
    try:
        return config_type.model_validate(dict(values))
    except pydantic.ValidationError as error:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
        told = "; ".join(
            f"{'.'.join(str(part) for part in each['loc'])}: {each['msg']}" for each in problems
        )
        raise ValidationError(f"{config_type.__name__}: {told}") from None
