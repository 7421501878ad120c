"""Values as they may be shown."""

import json
import re
from collections.abc import Collection, Iterable, Mapping
from enum import Enum
from typing import Any, TypeGuard, cast

from pydantic import BaseModel, SecretStr

from common.errors import json_safe

MASK = "**********"

_SECRET_NAME = re.compile(
    r"(^|_)(passw(or)?d|passphrase|pwd|secret|token|credential|connection_string"
    r"|(api|access|account|private|secret|shared|signing|encryption)_?key)s?$",
    re.IGNORECASE,
)
# No @ behind the first ? or #: that would be a password which holds one of them.
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)([^/?#]*@)?([^?#@]*)([?#][^@]*)?", re.DOTALL)
_LISTS = (list, tuple, set, frozenset)
_USER_INFO = re.compile(r"(?<=://)\S*@")  # up to the last @: passwords may hold any character


def looks_secret(name: str) -> bool:
    """Whether a field of this name holds a secret, whatever its type says."""
    return _SECRET_NAME.search(name) is not None


def is_below_secret(path: Iterable[object]) -> bool:
    """Whether a field, or anything above it, has a name that looks secret."""
    return any(looks_secret(str(part)) for part in path)


def mask_url(text: str) -> str:
    """Return ``text`` with the user and password of URLs in it masked."""
    return _USER_INFO.sub(f"{MASK}@", text)


class SecretUrl(SecretStr):
    """A URL of which user, password and query are hidden, while host and path can be seen.

    Example:
        >>> url = SecretUrl("redis://app:s3cr3t@cache:6379/0?token=x")
        >>> url
        SecretUrl('redis://**********@cache:6379/0?**********')
        >>> url.get_secret_value()
        'redis://app:s3cr3t@cache:6379/0?token=x'
    """

    def _display(self) -> str:
        return _display_url(self.get_secret_value())


def _display_url(url: str) -> str:
    found = _URL.fullmatch(url)
    if found is None:
        return MASK
    scheme, user, rest, query = found.groups()
    return f"{scheme}{MASK + '@' if user else ''}{rest}{'?' + MASK if query else ''}"


class _Shown:
    """Stands in a repr for an object whose own repr would show too much."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def mask_value(value: Any, *, name: str = "", is_secret: bool = False) -> Any:
    """Return ``value``, the same where it is no secret, for a repr.

    Args:
        value: What a field holds.
        name: The field's name. What is below a name that looks secret counts as secret.
        is_secret: Whether that is so above already.
    """
    is_secret = is_secret or looks_secret(name)
    shown = value
    if isinstance(value, str | bytes):
        shown = _mask_text(value, is_secret=is_secret)
    elif hasattr(value, "unicode_string"):  # pydantic's URLs
        text = _mask_text(str(value), is_secret=is_secret)
        shown = _Shown(f"{type(value).__name__}({text!r})")
    elif isinstance(value, BaseModel):
        fields = (
            (key, mask_value(each, name=key or "", is_secret=is_secret))
            for key, each in value.__repr_args__()
        )
        text = ", ".join(repr(each) if key is None else f"{key}={each!r}" for key, each in fields)
        shown = _Shown(f"{type(value).__name__}({text})")
    elif isinstance(value, _Shown) and is_secret:
        shown = MASK
    elif isinstance(value, Mapping):
        pairs = cast("Mapping[object, object]", value).items()
        shown = {key: mask_value(each, name=str(key), is_secret=is_secret) for key, each in pairs}
    elif is_list(value):
        kind = cast("type[list[object]]", type(value) if type(value) in _LISTS else list)
        shown = kind(mask_value(each, is_secret=is_secret) for each in value)
    return shown


def to_json(value: Any, *, is_secret: bool = False) -> Any:
    """Return ``value`` as JSON data, secrets masked; all text if ``is_secret``."""
    shown: Any
    if hasattr(value, "get_secret_value"):
        shown = str(value) if isinstance(value, SecretUrl) else MASK
    elif isinstance(value, BaseModel):
        fields = {key: getattr(value, key) for key in type(value).model_fields}
        shown = to_json(fields, is_secret=is_secret)
    elif isinstance(value, Mapping):
        shown = {
            str(key): to_json(each, is_secret=is_secret or looks_secret(str(key)))
            for key, each in cast("Mapping[object, object]", value).items()
        }
    elif is_list(value):
        shown = [to_json(each, is_secret=is_secret) for each in value]
    elif isinstance(value, Enum):
        shown = json_safe(value)
    elif isinstance(value, str | bytes):
        text = _mask_text(value, is_secret=is_secret)
        shown = json_safe(text) if isinstance(text, bytes) else text
    elif hasattr(value, "unicode_string"):  # the only objects that are shown as their text
        shown = _mask_text(str(value), is_secret=is_secret)
    else:
        shown = json_safe(value)
    return shown


def _mask_text(text: str | bytes, *, is_secret: bool) -> str | bytes:
    if is_secret:
        return MASK
    return mask_url(text) if isinstance(text, str) else text


def is_list(value: object) -> TypeGuard[Collection[object]]:
    """Whether it holds items, as lists and sets do."""
    return isinstance(value, Collection) and not isinstance(value, str | bytes | Mapping)


def show(value: Any, *, is_secret: bool = False) -> str:
    """Return ``value`` as JSON text, secrets masked; all text if ``is_secret``."""
    return json.dumps(to_json(value, is_secret=is_secret), ensure_ascii=False)
