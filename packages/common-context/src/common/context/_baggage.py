"""The ``baggage`` header of W3C Baggage."""

from __future__ import annotations

TYPE_CHECKING = False  # importing typing costs more than this whole package
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Self

MAX_MEMBERS = 64
MAX_LENGTH = 8_192  # bytes of the whole header

# RFC 7230, section 3.2.6
_TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
_OCTETS = frozenset(map(chr, range(0x21, 0x7F))) - frozenset('",;\\')
_UNQUOTED = "!#$&'()*+-./:<=>?@[]^_`{|}~"  # octets besides letters and digits, without %


class BaggageValue(str):
    """A value of the baggage with its properties; a plain `str` everywhere else.

    Attributes:
        properties: What followed the value, as received: ``"ttl=5;private"``. Its meaning is
            up to those who use it.

    Raises:
        ValueError: If the properties break the format of the header.
    """

    __slots__ = ("properties",)

    properties: str

    def __new__(cls, value: str, properties: str = "") -> Self:
        """Make a value; ``properties`` are sent on as they are."""
        if properties and not _valid_properties(properties):
            raise ValueError(
                f"baggage cannot hold the properties {properties!r}: write key or key=value, "
                "separated by ';', with values percent-encoded"
            )
        self = super().__new__(cls, value)
        self.properties = properties
        return self

    def __reduce__(self) -> tuple[type[Self], tuple[str, str]]:
        return type(self), (str(self), self.properties)


def valid_key(key: object) -> bool:
    """Tell whether ``key`` is a token, as keys of the baggage have to be."""
    return isinstance(key, str) and key != "" and _TOKEN.issuperset(key)


def parse_baggage(headers: str | Iterable[str]) -> dict[str, str]:
    """Return the baggage of one or several headers; nothing is ever raised.

    Members that break the format are left out, of a repeated key the last one counts. Kept
    are the first 64 members of the first 8,192 characters.

    Example:
        >>> parse_baggage("userId=alice, serverNode=DF%2028, broken, isProduction=false")
        {'userId': 'alice', 'serverNode': 'DF 28', 'isProduction': 'false'}
    """
    combined = headers if isinstance(headers, str) else ",".join(headers)
    if len(combined) > MAX_LENGTH:
        # What is cut through must not pass for a shorter member.
        combined = combined[: MAX_LENGTH + 1].rpartition(",")[0]
    baggage: dict[str, str] = {}
    for text in combined.split(","):
        pair, *properties = [part.strip(" \t") for part in text.split(";")]
        key, equals, value = pair.partition("=")
        key, value = key.rstrip(" \t"), value.lstrip(" \t")
        if not equals or not valid_key(key) or not _OCTETS.issuperset(value):
            continue
        if properties and not _valid_properties(";".join(properties)):
            continue
        baggage.pop(key, None)
        baggage[key] = _decoded(value, ";".join(properties))
        if len(baggage) == MAX_MEMBERS:
            break
    return baggage


def format_baggage(baggage: Mapping[str, str]) -> str:
    """Return the header; members beyond 64, or beyond 8,192 bytes in all, are left out whole.

    So are keys that are not tokens, and properties that break the format.

    Example:
        >>> format_baggage({"userId": "alice", "serverNode": "DF 28"})
        'userId=alice,serverNode=DF%2028'
    """
    members: list[str] = []
    room = MAX_LENGTH + 1
    for key, value in baggage.items():
        member = f"{key}={_encoded(value)}"
        properties = getattr(value, "properties", "")
        if properties and _valid_properties(properties):  # they may be assigned to
            member = f"{member};{properties}"
        if len(members) < MAX_MEMBERS and len(member) < room and valid_key(key):
            members.append(member)
            room -= len(member) + 1
    return ",".join(members)


def _valid_properties(text: str) -> bool:
    for each in text.split(";"):
        key, _, value = each.partition("=")
        if not valid_key(key.strip(" \t")) or not _OCTETS.issuperset(value.strip(" \t")):
            return False
    return True


def _decoded(value: str, properties: str) -> str:
    if "%" in value:
        from urllib.parse import unquote  # noqa: PLC0415 - costly, and rarely needed

        value = unquote(value, errors="replace")
    return BaggageValue(value, properties) if properties else value


def _encoded(value: str) -> str:
    if value.isalnum() and value.isascii():
        return value
    from urllib.parse import quote  # noqa: PLC0415 - costly, and rarely needed

    return quote(str(value), safe=_UNQUOTED, errors="replace")
