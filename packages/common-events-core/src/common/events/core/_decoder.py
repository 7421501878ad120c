"""Bytes to messages: CloudEvents in both modes, and the envelopes of the replaced systems."""

from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal, NoReturn, cast

from pydantic import JsonValue
from pydantic_core import from_json

from common.domain import (
    InvalidMessageError,
    Message,
    MessageInfo,
    Registry,
    UnknownTypeError,
    UnknownVersionError,
)
from common.domain import registry as default_registry
from common.events.core._attributes import AttributesError, one_pass, read_attributes
from common.events.core._binary import decode_headers
from common.events.core._envelope import (
    MAX_BODY,
    SPEC_VERSION,
    Envelope,
    schema_uri,
    schema_version,
)
from common.events.core._errors import HandlerError, UndecodableMessage
from common.events.core._legacy import LegacyError, read_legacy

Headers = Mapping[str, str]
Reason = Literal["malformed", "unknown_type", "unknown_version", "invalid_data"]

_OURS = b'{"specversion"'
"""How every body begins which `Codec` wrote in structured mode."""


class Decoder:
    """Decodes the messages of one subscription.

    The subject chooses the class before the body is parsed. A body of the class's own version
    then takes one pass of one compiled validator, for envelope and data together. All else goes
    a longer way: other versions, which are upcast; binary mode; envelopes of other senders with
    attributes of their own; the envelopes of the replaced systems (see `read_legacy`).

    What a name holds that occurs twice in a JSON object is what its last occurrence holds, as
    with every JSON reader of Python (RFC 8259, section 4, leaves it open), on either way.

    Args:
        types: Classes of the messages; several versions of a type may be among them.
        registry: Where they are declared.

    Raises:
        HandlerError: A class is not the registry's for its type and version.

    Example:
        >>> from common.domain.calls import CallCompleted
        >>> from common.events.core._codec import Codec
        >>> event = CallCompleted(
        ...     call_id="c-1", phone_number="+4930901820", duration_seconds=7, status="completed"
        ... )
        >>> body, headers = Codec(source="/calls").encode(event, id="m-1")
        >>> envelope, again = Decoder([CallCompleted]).decode("evt.call.completed", headers, body)
        >>> envelope.id, envelope.subject, again == event
        ('m-1', 'c-1', True)
    """

    def __init__(
        self, types: Sequence[type[Message]], *, registry: Registry = default_registry
    ) -> None:
        self._registry = registry
        found: dict[str, list[type[Message]]] = {}
        for cls in types:
            info = cls.__message__
            if registry.get(info.type, info.version) is not cls:
                raise HandlerError(
                    f"{cls.__module__}.{cls.__qualname__} is not what the registry has for "
                    f"{info.type} version {info.version}: use the newest class, or pass the "
                    "registry in which it is declared"
                )
            found.setdefault(info.subject, []).append(cls)
        self._plans = {subject: _Plan(classes) for subject, classes in found.items()}

    @property
    def subjects(self) -> Sequence[str]:
        """The subjects that are decoded."""
        return tuple(self._plans)

    def decode(
        self, subject: str, headers: Headers | Callable[[], Headers], data: bytes
    ) -> tuple[Envelope, Message]:
        """Return envelope and message.

        Args:
            subject: Where the message was published.
            headers: Its headers, or what returns them: they are not looked at when the body
                tells everything.
            data: The body.

        Raises:
            UndecodableMessage: With the reason; nothing of the message is quoted.
        """
        plan = self._plans.get(subject)
        if plan is None:
            _fail("unknown_type", "no class of this subscription is published to its subject")
        if len(data) > MAX_BODY:
            _fail("malformed", f"its body has {len(data)} bytes, more than {MAX_BODY}")
        if data.startswith(_OURS):
            envelope = plan.one_pass(data)
            if envelope is not None:
                message = cast("Message", envelope._data)  # noqa: SLF001
                if plan.keyed and envelope.subject is None:
                    envelope = replace(envelope, subject=plan.key_of(message))
                return envelope, message
        return self._long_way(plan, subject, headers() if callable(headers) else headers, data)

    def _long_way(
        self, plan: "_Plan", subject: str, headers: Headers, body: bytes
    ) -> tuple[Envelope, Message]:
        attributes, data = _opened(plan, subject, headers, body)
        try:
            envelope = read_attributes(attributes)
        except AttributesError as error:  # tells no value
            _fail("malformed", str(error))
        if envelope.type != plan.info.type:
            _fail("malformed", "its type is another than the one published to its subject")
        version = 1
        if envelope.dataschema:
            version = schema_version(envelope.dataschema) or 0
        message = self._message(plan, data, version)
        if envelope.subject is None:
            envelope = replace(envelope, subject=plan.key_of(message))
        return envelope, message

    def _message(
        self, plan: "_Plan", data: bytes | Mapping[str, JsonValue], version: int
    ) -> Message:
        if not version:
            _fail("unknown_version", "its dataschema does not end in /<version>")
        name = plan.info.type
        try:
            cls = self._registry.get(name, version)
            if cls not in plan.classes:
                _fail(
                    "unknown_version",
                    f"{name} version {version} is not among what this subscription reads",
                )
            return self._registry.decode(name, data, version=version)
        except (UnknownTypeError, UnknownVersionError) as error:
            raise UndecodableMessage(str(error), reason="unknown_version") from error
        except InvalidMessageError as error:
            raise UndecodableMessage(str(error), reason="invalid_data") from error


def _opened(
    plan: "_Plan", subject: str, headers: Headers, body: bytes
) -> tuple[Mapping[str, object], bytes | dict[str, JsonValue]]:
    """Return the attributes, still unchecked, and the data."""
    try:
        attributes = decode_headers(headers)
    except ValueError:  # quotes the data: nothing is raised while it is being handled
        attributes = None
    if attributes is None:
        _fail("malformed", "a header of its attributes is not percent-encoded UTF-8")
    if attributes:
        return attributes, body
    parsed = _parsed(body)
    if "specversion" in parsed:
        return _structured(parsed)
    try:
        legacy = read_legacy(parsed, subject=subject, type=plan.info.type)
    except LegacyError as error:
        _fail("malformed", str(error))
    if legacy is None:
        _fail("malformed", "it is neither a CloudEvent nor an envelope of a replaced system")
    attributes, data = legacy
    shared = {"specversion": SPEC_VERSION, "type": plan.info.type}
    return {**attributes, **shared}, _object(data)


def _structured(
    parsed: dict[str, JsonValue],
) -> tuple[Mapping[str, object], bytes | dict[str, JsonValue]]:
    data = parsed.pop("data", None)
    encoded = parsed.pop("data_base64", None)
    if encoded is None:
        return parsed, _object(data)
    # CloudEvents' JSON format, section 3.1.1: one or the other.
    if data is not None or not isinstance(encoded, str):
        _fail("malformed", "its data_base64 is no text, or stands beside data")
    try:
        decoded = b64decode(encoded, validate=True)
    except ValueError:
        decoded = None
    if decoded is None:
        _fail("malformed", "its data_base64 is not base64")
    return parsed, decoded


def _parsed(body: bytes) -> dict[str, JsonValue]:
    try:
        parsed: JsonValue = from_json(body, allow_inf_nan=False)
    except ValueError:
        parsed = None
    if not isinstance(parsed, dict):
        _fail("malformed", "its body is not a JSON object")
    return parsed


def _object(data: JsonValue) -> dict[str, JsonValue]:
    if not isinstance(data, dict):
        _fail("invalid_data", "its data is not a JSON object")
    return data


def _fail(reason: Reason, problem: str) -> NoReturn:
    raise UndecodableMessage(f"the message cannot be decoded: {problem}", reason=reason)


class _Plan:
    """What is known about a subject before a message comes."""

    __slots__ = ("classes", "info", "keyed", "one_pass")

    def __init__(self, classes: Sequence[type[Message]]) -> None:
        newest = max(classes, key=lambda cls: cls.__message__.version)
        self.classes = frozenset(classes)
        self.info: MessageInfo = newest.__message__
        self.keyed = bool(self.info.key)
        self.one_pass = one_pass(newest, schema_uri(self.info))

    def key_of(self, message: Message) -> str | None:
        """Return the key of a message whose sender left it out; an empty one is none."""
        return self.info.key_of(message) or None
