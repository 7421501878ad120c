"""Which source each value of loaded settings came from."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import cast

from pydantic import BaseModel

from common.config._mask import is_below_secret, show
from common.config._node import ARGUMENT, DEFAULT, Branch, Node, Source, child
from common.config._problem import Path, Problem, config_error, did_you_mean, dotted
from common.config._settings import BaseAppSettings, origins_of
from common.config._shape import names_of


@dataclass(frozen=True, slots=True)
class Explanation:
    """A value and where it comes from.

    Attributes:
        path: The field, such as ``db.host``.
        value: The value as JSON text, secrets masked.
        source: Where it comes from.
        overridden: The sources of lower layers that had a value too, the highest first.
    """

    path: str
    value: str
    source: Source
    overridden: tuple[Source, ...] = ()

    @property
    def origin(self) -> str:
        """The source, and what it overrides, in words."""
        over = f" (over {', '.join(map(str, self.overridden))})" if self.overridden else ""
        return f"{self.source}{over}"

    def __str__(self) -> str:
        return f"{self.path} = {self.value} from {self.origin}"


def explain(settings: BaseAppSettings, path: str) -> Explanation:
    """Return where the value at ``path`` comes from.

    Args:
        settings: As `load` returned them. Those made by calling the class have no sources but
            "argument" and "default".
        path: A field (``db.host``), a section (``db``), a key or an index (``hosts.0``).

    Raises:
        ConfigError: If there is no such field.

    Example:
        >>> from common.config import BaseAppSettings, load
        >>> class OrdersSettings(BaseAppSettings, prefix="ORDERS_"):
        ...     page_size: int = 50
        >>> settings = load(OrdersSettings, environ={"ORDERS_PAGE_SIZE": "20"})
        >>> print(explain(settings, "page_size"))
        page_size = 20 from ORDERS_PAGE_SIZE
    """
    value: object = settings
    place = _Place.top(settings)
    parts: Path = ()
    for part in path.split("."):
        below = _below(value)
        key = int(part) if isinstance(value, list | tuple) and part.isdecimal() else part
        if key not in below:
            close = did_you_mean(part, [str(each) for each in below])
            problem = Problem(f"there is no such value{close}", dotted((*parts, part)))
            raise config_error(type(settings).__qualname__, [problem])
        place = place.below(value, key)
        value, parts = below[key], (*parts, key)
    return _explanation(parts, value, place)


def explain_all(settings: BaseAppSettings) -> list[Explanation]:
    """Return where every single value of ``settings`` comes from, in the order of the fields."""
    return list(_walk((), settings, _Place.top(settings)))


@dataclass(frozen=True, slots=True)
class _Place:
    """A node of the tree of sources, or the source that holds for everything below."""

    node: Node | None
    source: Source
    is_loaded: bool

    @staticmethod
    def top(settings: BaseAppSettings) -> "_Place":
        root = origins_of(settings)
        return _Place(root, DEFAULT, root is not None)

    def below(self, value: object, key: str | int) -> "_Place":
        if not self.is_loaded:
            is_set = not isinstance(value, BaseModel) or _name(value, key) in value.model_fields_set
            is_given = is_set and (self.source == ARGUMENT or isinstance(value, BaseAppSettings))
            return _Place(None, ARGUMENT if is_given else DEFAULT, is_loaded=False)
        found = child(self.node, key) if self.node is not None else None
        if found is not None:
            return _Place(found, found.source, is_loaded=True)
        is_default = isinstance(self.node, Branch) and isinstance(value, BaseModel)
        return _Place(None, DEFAULT if is_default else self.source, is_loaded=True)


def _walk(path: Path, value: object, place: _Place) -> Iterator[Explanation]:
    below = _below(value) if isinstance(value, BaseModel | Mapping) else {}
    if path and not below:
        yield _explanation(path, value, place)
    for key, each in below.items():
        yield from _walk((*path, key), each, place.below(value, key))


def _below(value: object) -> Mapping[str | int, object]:
    if isinstance(value, BaseModel):
        return {key: getattr(value, name) for key, name in names_of(type(value)).items()}
    if isinstance(value, Mapping):
        return cast("Mapping[str | int, object]", value)
    if isinstance(value, list | tuple):
        return dict(enumerate(cast("list[object]", value)))
    return {}


def _name(model: BaseModel, key: str | int) -> str:
    return names_of(type(model))[str(key)]


def _explanation(path: Path, value: object, place: _Place) -> Explanation:
    overridden = tuple(dict.fromkeys(place.node.overridden)) if place.node else ()
    source = place.source
    return Explanation(
        dotted(path),
        show(value, is_secret=is_below_secret(path)),
        source,
        tuple(each for each in overridden if each not in (source, DEFAULT)),
    )
