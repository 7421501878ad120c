"""Conditional requests (RFC 9110, section 13): versions as entity tags."""

import re
from typing import Annotated

from fastapi import Depends, Request
from starlette.exceptions import HTTPException

from common.api._documentation import Documentation, document
from common.api._state import header_values
from common.api._views import HTTPError
from common.errors import ConflictError, DomainError

_TAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]{0,256}"')
_ITEM = re.compile(rf"[ \t]*(?:(?P<tag>{_TAG.pattern})[ \t]*)?(?:,|\Z)")
MAX_LENGTH = 16 * 1024  # of the list


class PreconditionFailedError(ConflictError):
    """The resource has changed since the caller read it (RFC 9110, section 15.5.13)."""

    code = "PRECONDITION_FAILED"
    status = 412
    default_message = "The resource has changed: read it again"


class PreconditionRequiredError(DomainError):
    """The change must say which version it is about (RFC 6585, section 3)."""

    code = "PRECONDITION_REQUIRED"
    status = 428
    default_message = "Send If-Match with the ETag that was read"


def etag(version: object, *, weak: bool = False) -> str:
    """Return the entity tag of a version, for the header ``ETag``.

    Args:
        version: A number, or a text of visible ASCII without ``"``, up to 256 characters.
        weak: Whether bodies of the same version may differ in ways that do not matter.

    Raises:
        ValueError: If the version cannot be written as a tag.

    Example:
        >>> etag(7), etag("a1", weak=True)
        ('"7"', 'W/"a1"')
    """
    if version is None:
        raise ValueError("version=None: what has no version has no entity tag; send no ETag")
    tag = f'{"W/" if weak else ""}"{version}"'
    if not _TAG.fullmatch(tag):
        raise ValueError(f"no entity tag can hold {version!r}: use up to 256 visible characters")
    return tag


class Conditional:
    """The conditions of a request: ``ConditionalDep``."""

    def __init__(self, if_match: list[str], if_none_match: list[str]) -> None:
        self._match = _tags(if_match)
        self._none_match = _tags(if_none_match)

    @property
    def expected_version(self) -> int | None:
        """The version in ``If-Match``, for repositories that compare it themselves.

        ``None`` without the header, or with ``*``, which every version fulfils.

        Raises:
            PreconditionFailedError: If there is a tag, but none that is a version's number, or
                more than one (412).
            HTTPError: If the header is malformed (400).
        """
        if self._match is None or "*" in self._match:
            return None
        _well_formed("If-Match", self._match)
        numbers = [tag[1:-1] for tag in self._match if re.fullmatch(r'"[0-9]{1,18}"', tag)]
        if len(self._match) != 1 or not numbers:
            raise PreconditionFailedError
        return int(numbers[0])

    def check(self, version: object | None, *, required: bool = False) -> None:
        """Check ``If-Match`` and ``If-None-Match`` before a change.

        Args:
            version: The resource's version; ``None`` if there is no resource.
            required: Whether a change must carry ``If-Match``, or a creation
                ``If-None-Match: *`` (RFC 9110, section 13.1.2).

        Raises:
            PreconditionFailedError: If the version is another (412). Weak tags never match
                (RFC 9110, section 13.1.1).
            PreconditionRequiredError: If a condition is required and there is none (428).
            HTTPError: If a header is malformed, as with a tag without its quotes (400). Reading
                the resource again would not help there.
        """
        match, none_match = self._match, self._none_match
        _well_formed("If-Match", match)
        _well_formed("If-None-Match", none_match)
        if required and match is None and "*" not in (none_match or ()):
            if version is None:
                raise PreconditionRequiredError("Send If-None-Match: * to create what is not there")
            raise PreconditionRequiredError
        if match is not None and (version is None or not ("*" in match or etag(version) in match)):
            raise PreconditionFailedError
        if none_match is not None and version is not None and self._same(version):
            raise PreconditionFailedError

    def not_modified(self, version: object, *, weak: bool = False) -> None:
        """Answer a read with 304 if the caller has this version already.

        Raises:
            starlette.exceptions.HTTPException: The 304, with the ``ETag``.
        """
        if self._none_match is not None and self._same(version):
            raise HTTPException(304, headers={"ETag": etag(version, weak=weak)})

    def _same(self, version: object) -> bool:
        # Weak comparison (RFC 9110, section 8.8.3.2).
        tags = self._none_match or frozenset()
        return "*" in tags or bool(tags & {etag(version), etag(version, weak=True)})


def _well_formed(name: str, tags: frozenset[str] | None) -> None:
    if tags is not None and not tags:
        raise HTTPError(
            400,
            "PRECONDITION_INVALID",
            f'{name}: send the ETag as it was read, quotes included, such as "7", or *',
        )


def _tags(values: list[str]) -> frozenset[str] | None:
    """Return the tags of a header; none of one that is malformed."""
    if not values:
        return None
    text = ",".join(values)
    if text.strip() == "*":
        return frozenset("*")
    found, place = set[str](), 0
    while place < len(text):
        item = _ITEM.match(text, place)
        if item is None or len(text) > MAX_LENGTH:
            return frozenset()
        if item["tag"]:
            found.add(item["tag"])
        place = item.end()
    return frozenset(found)


async def get_conditional(request: Request) -> Conditional:
    """Return the conditions of this request: `ConditionalDep`."""
    headers = request.scope["headers"]
    return Conditional(
        header_values(headers, b"if-match"), header_values(headers, b"if-none-match")
    )


document(
    get_conditional,
    Documentation(
        statuses=(304,),
        headers={"If-None-Match": "ETags of what the caller has already"},
        methods=frozenset({"get", "head"}),
    ),
    Documentation(
        statuses=(400, 412, 428),
        headers={
            "If-Match": "ETag of what is changed, as it was read",
            "If-None-Match": "* to create what is not there",
        },
        methods=frozenset({"delete", "patch", "post", "put"}),
    ),
)

ConditionalDep = Annotated[Conditional, Depends(get_conditional)]
