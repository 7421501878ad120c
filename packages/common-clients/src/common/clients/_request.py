"""What is sent."""

from __future__ import annotations

from collections.abc import AsyncIterable, Mapping
from typing import TYPE_CHECKING, TypedDict

from common.clients._headers import checked, checked_key
from common.clients._hedge import Hedge
from common.clients._json import dumped, encoded
from common.clients._paths import MAX_TARGET, fill, query
from common.errors import ValidationError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from urllib.parse import SplitResult
    from uuid import UUID

METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
IDEMPOTENT = METHODS - {"PATCH", "POST"}  # RFC 9110, section 9.2.2
SAFE_READS = frozenset({"GET", "HEAD"})
IDEMPOTENCY_KEY = "Idempotency-Key"  # draft-ietf-httpapi-idempotency-key-header


class RequestOptions(TypedDict, total=False):
    """What every call of a `ServiceClient` may say.

    Attributes:
        path: Values for the fields of the path; each becomes one percent-encoded segment.
        params: The query: text, numbers, bools, dates (ISO 8601), enums (their values), and
            lists of them; ``None`` is left out.
        headers: Further headers; they win against those the client adds.
        json: Body: what `json.dumps` takes (no NaN, which is no JSON), with pydantic models
            anywhere in it. ``None`` is no body.
        content: Body: bytes, text, or an async iterable of bytes. The latter is sent once:
            when its iteration began, nothing is repeated.
        idempotency_key: Sent as ``Idempotency-Key``; makes POST and PATCH repeatable. ``None`` is
            no key.
        timeout: Seconds for the whole call, in place of the client's.
        delegated: Whether the call carries the credentials and the input of this service's own
            caller: then 400, 401, 403 and 422 are passed on to it as such.
        hedge: A second try beside a slow first one; for GET and HEAD.
    """

    path: Mapping[str, object]
    params: Mapping[str, object]
    headers: Mapping[str, str]
    json: object
    content: bytes | str | AsyncIterable[bytes]
    idempotency_key: str | UUID | None
    timeout: float
    delegated: bool
    hedge: Hedge


class Body:
    """A request's body, and whether it can be sent again."""

    __slots__ = ("_source", "content_type", "failure", "started")

    def __init__(
        self, source: bytes | AsyncIterable[bytes] | None, content_type: str | None
    ) -> None:
        self._source = source
        self.content_type = content_type
        self.started = False
        self.failure: Exception | None = None

    @property
    def once(self) -> bool:
        """Whether it can be sent only once."""
        return isinstance(self._source, AsyncIterable)

    @property
    def repeatable(self) -> bool:
        """Whether all of it is still there."""
        return not self.started

    @property
    def empty(self) -> bool:
        """Whether there is none."""
        return self._source is None

    def content(self) -> bytes | AsyncIterator[bytes] | None:
        """Return it in the form in which httpx takes it."""
        return self._once(self._source) if isinstance(self._source, AsyncIterable) else self._source

    async def _once(self, source: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
        self.started = True
        try:
            async for chunk in source:
                if not isinstance(chunk, bytes | bytearray | memoryview):
                    raise TypeError(f"content= yielded {type(chunk).__name__}: let it yield bytes")
                yield bytes(chunk)
        except Exception as error:
            self.failure = error
            raise


class Outgoing:
    """One request, checked; sent once or several times.

    Attributes:
        method: Of `METHODS`.
        template: The path with its fields unfilled.
        call: Method and template: what errors and operations show.
        target: Path and query.
        headers: The caller's, and those of the body.
        body: The body.
        idempotent: Whether a repetition changes nothing more (RFC 9110, section 9.2.2).
        unsent: Whether nothing was sent by the last try.
        tries: How often it was tried.
    """

    __slots__ = (
        "body",
        "call",
        "delegated",
        "headers",
        "idempotent",
        "method",
        "target",
        "template",
        "tries",
        "unsent",
    )

    def __init__(
        self, method: str, template: str, base: SplitResult, options: RequestOptions
    ) -> None:
        _check(method, options)
        self.method = method
        self.template = template
        self.call = f"{method} {template}"
        self.target = (
            base.path.rstrip("/")
            + fill(template, options.get("path", {}))
            + query(options.get("params"))
        )
        if len(self.target) > MAX_TARGET:
            raise ValidationError(f"the URL is longer than {MAX_TARGET} characters", field="params")
        self.headers = checked(options.get("headers"))
        self.body = _body(options)
        if "hedge" in options and self.body.once:
            raise ValueError("hedge= needs a body that can be sent twice: give bytes")
        named = {name.lower() for name, _ in self.headers}
        if self.body.content_type and "content-type" not in named:
            self.headers.append(("Content-Type", self.body.content_type))
        key = options.get("idempotency_key")
        if key is not None and IDEMPOTENCY_KEY.lower() in named:
            raise TypeError(f"give either idempotency_key= or the header {IDEMPOTENCY_KEY}")
        if key is not None:
            self.headers.append((IDEMPOTENCY_KEY, checked_key(key)))
        # By header a key comes as it is, perhaps quoted as the draft has it; none is no key.
        keyed = any(name.lower() == IDEMPOTENCY_KEY.lower() and each for name, each in self.headers)
        self.idempotent = keyed or method in IDEMPOTENT
        self.delegated = options.get("delegated", False)
        self.unsent = False
        self.tries = 0

    @property
    def repeatable(self) -> bool:
        """Whether it may be sent again after the last try failed."""
        return self.body.repeatable and (self.idempotent or self.unsent)


def _check(method: str, options: RequestOptions) -> None:
    if method not in METHODS:
        raise ValueError(f"method {method!r}: use one of {', '.join(sorted(METHODS))}")
    unknown = options.keys() - RequestOptions.__annotations__.keys()
    if unknown:
        known = ", ".join(sorted(RequestOptions.__annotations__))
        raise TypeError(f"unknown options {sorted(unknown)}: known are {known}")
    for name in ("path", "params", "headers"):
        if not isinstance(options.get(name, {}), Mapping):
            raise TypeError(f"{name}= is a mapping, such as {{'name': 'value'}}")
    if "hedge" in options and not isinstance(options["hedge"], Hedge):
        raise TypeError("hedge= is a policy, such as Hedge(after=0.05)")
    if "hedge" in options and method not in SAFE_READS:
        raise ValueError(f"hedge= is for GET and HEAD: a second {method} would do it twice")


def _body(options: RequestOptions) -> Body:
    value = options.get("json")
    content = options.get("content")
    if value is not None and content is not None:
        raise TypeError("give either json= or content=")
    if value is not None:
        return Body(dumped(value), "application/json")
    if isinstance(content, str):
        return Body(encoded(content, "content"), "text/plain; charset=utf-8")
    if content is None or isinstance(content, bytes | AsyncIterable):
        return Body(content, None if content is None else "application/octet-stream")
    raise TypeError("content= is bytes, text or an async iterable of bytes")
