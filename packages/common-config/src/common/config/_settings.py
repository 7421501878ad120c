"""The base classes of settings and of their sections."""

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Self, Unpack

from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from common.config._mask import MASK, mask_value
from common.config._node import ARGUMENT, Branch, Leaf, Node, Source
from common.config._variables import Names, check_prefix

_ARGUMENTS_OF_LOAD = frozenset({"files", "env_file", "secrets_dir", "environ"})


class _Masked(BaseModel):
    """Shows no secret in its repr, whatever the type of the field."""

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            yield name, mask_value(value, name=name or "")

    if not TYPE_CHECKING:  # type checkers would take any attribute for one that can be set

        def __setattr__(self, name: str, value: object) -> None:
            if self.model_config.get("frozen") and not name.startswith("_"):
                del value
                self._refuse_change(name)
            super().__setattr__(name, value)

        def __delattr__(self, name: str) -> None:
            if self.model_config.get("frozen") and not name.startswith("_"):
                self._refuse_change(name)
            super().__delattr__(name)

    def _refuse_change(self, name: str) -> NoReturn:
        # Pydantic's own error, without the value, which that prints whatever the configuration.
        raise ValidationError.from_exception_data(
            type(self).__name__,
            [{"type": "frozen_instance", "loc": (name,), "input": MASK}],
            hide_input=True,
        )


class Section(_Masked):
    """Base of a group of settings: frozen, unknown keys are errors, defaults are checked.

    Docstrings below fields become their descriptions, which ``python -m common.config env``
    and ``schema`` show.

    Example:
        >>> class Smtp(Section):
        ...     host: str
        ...     port: int = 25
        >>> Smtp(host="mail").port
        25
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=True,
        hide_input_in_errors=True,
        defer_build=True,
    )


class Origins:
    """Where the values of one settings object come from; of no weight in comparisons."""

    __slots__ = ("root",)

    def __init__(self, root: Branch | None = None) -> None:
        self.root = root

    def without(self, keys: Collection[str], source: Source) -> "Origins":
        """Return the same, with ``source`` for some of the keys."""
        if self.root is None:
            return self
        children: dict[str, Node] = dict(self.root.children)
        children.update({key: Leaf(None, source) for key in keys})
        return Origins(Branch(children, self.root.source))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Origins)

    def __hash__(self) -> int:
        return 0


class BaseAppSettings(_Masked, BaseSettings):
    """Base of the settings of an application; made by `load`.

    Frozen; unknown keys are errors. Calling the class itself takes plain values, as any
    pydantic model does, and reads nothing: neither the environment nor files (which
    pydantic-settings' own ``BaseSettings`` would). That is for tests.

    Args:
        prefix: Class argument: what the variables begin with, such as ``"ORDERS_"``. The
            field ``db.host`` is then ``ORDERS_DB__HOST``.
        ignore_prefixes: Class argument: variables that begin with one of these belong to
            somebody else, though they begin with ``prefix`` too: ``("ORDERS_ADMIN_",)``.

    Raises:
        TypeError: On declaring a field that has the name of an argument of `load`.
        ValueError: On declaring a prefix that is none.

    Example:
        >>> class OrdersSettings(BaseAppSettings, prefix="ORDERS_"):
        ...     page_size: int = 50
        >>> OrdersSettings(page_size=10)
        OrdersSettings(page_size=10)
    """

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=True,
        hide_input_in_errors=True,
    )

    _ignored_prefixes: ClassVar[tuple[str, ...]] = ()
    _origins: Origins = PrivateAttr(default_factory=Origins)

    def __init__(self, /, **values: Any) -> None:
        # Not BaseSettings.__init__, which would read the environment.
        BaseModel.__init__(self, **values)

    def __init_subclass__(
        cls,
        *,
        prefix: str | None = None,
        ignore_prefixes: Collection[str] = (),
        **options: Unpack[ConfigDict],
    ) -> None:
        super().__init_subclass__(**options)
        if prefix is not None:
            check_prefix(prefix)
            cls.model_config = {**cls.model_config, "env_prefix": prefix}
        if ignore_prefixes:
            for each in ignore_prefixes:
                check_prefix(each)
            cls._ignored_prefixes = (*cls._ignored_prefixes, *ignore_prefixes)

    @classmethod
    def __pydantic_init_subclass__(
        cls,
        *,
        prefix: str | None = None,
        ignore_prefixes: Collection[str] = (),
        **options: Any,
    ) -> None:
        super().__pydantic_init_subclass__(**options)
        for name in _ARGUMENTS_OF_LOAD & cls.model_fields.keys():
            raise TypeError(
                f"{cls.__qualname__}.{name} has the name of an argument of load(); rename it"
            )

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy; see pydantic. What ``update`` changes has the source "argument"."""
        copy = super().model_copy(update=update, deep=deep)
        copy._origins = self._origins.without(list(update or ()), ARGUMENT)  # noqa: SLF001
        return copy


def names_for(settings: type[BaseAppSettings]) -> Names:
    """Return the variables that a settings class understands."""
    return Names(settings, settings._ignored_prefixes)  # noqa: SLF001


def origins_of(settings: BaseAppSettings) -> Branch | None:
    """Return the sources of loaded settings; `None` if they were not loaded."""
    return settings._origins.root  # noqa: SLF001


def set_origins(settings: BaseAppSettings, root: Branch) -> None:
    """Note the sources of loaded settings."""
    settings._origins = Origins(root)  # noqa: SLF001
