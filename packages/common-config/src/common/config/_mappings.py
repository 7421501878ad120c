"""Plain nested mappings: merged and flattened."""

from collections.abc import Mapping
from typing import cast


def deep_merge(*layers: Mapping[str, object]) -> dict[str, object]:
    """Return one mapping in which later layers win.

    Mappings are merged key by key at every depth; everything else, lists too, replaces what
    lower layers have. The layers stay as they are: no mapping of the result is one of theirs.

    Args:
        *layers: Lowest precedence first.

    Example:
        >>> deep_merge({"db": {"host": "a", "port": 1}, "tags": [1]}, {"db": {"host": "b"}})
        {'db': {'host': 'b', 'port': 1}, 'tags': [1]}
        >>> deep_merge({"tags": [1, 2]}, {"tags": [3]})
        {'tags': [3]}
    """
    merged: dict[str, object] = {}
    for layer in layers:
        for key, value in layer.items():
            if isinstance(value, Mapping):
                below = merged.get(key)
                value = cast("Mapping[str, object]", value)
                if isinstance(below, Mapping):
                    merged[key] = deep_merge(cast("Mapping[str, object]", below), value)
                else:
                    merged[key] = deep_merge(value)
            else:
                merged[key] = value
    return merged


def flatten(mapping: Mapping[str, object], *, separator: str = ".") -> dict[str, object]:
    """Return a mapping of one level, whose keys are the paths to the values of ``mapping``.

    Lists are values. An empty mapping is a value too, so that nothing is lost.

    Args:
        mapping: The nested mapping.
        separator: Stands between the parts of a path.

    Raises:
        ValueError: If a key contains the separator, which would make two paths look alike.

    Example:
        >>> flatten({"db": {"host": "a", "pool": {}}, "tags": [1]})
        {'db.host': 'a', 'db.pool': {}, 'tags': [1]}
    """
    flat: dict[str, object] = {}
    for key, value in mapping.items():
        if separator in key:
            raise ValueError(f"the key {key!r} contains the separator {separator!r}: give another")
        if isinstance(value, Mapping) and value:
            below = flatten(cast("Mapping[str, object]", value), separator=separator)
            flat.update({f"{key}{separator}{path}": each for path, each in below.items()})
        else:
            flat[key] = value
    return flat
