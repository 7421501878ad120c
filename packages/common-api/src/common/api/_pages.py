"""Pages of lists: by number, by offset, by cursor."""

from typing import Annotated
from urllib.parse import parse_qsl, quote, urlencode

from fastapi import Depends, Query, Request

from common.api._proxies import base_url
from common.api._state import settings_of

DEFAULT_LIMIT = 50
MAX_LIMIT = 1000
MAX_OFFSET = 10**12
MAX_CURSOR = 4096


class _Page:
    def __init__(self, request: Request, limit: int) -> None:
        self.limit = limit
        self._request = request

    def _link(self, **changes: str | int | None) -> str:
        scope = self._request.scope
        query = [
            pair
            for pair in parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
            if pair[0] not in changes
        ]
        query += [(name, str(value)) for name, value in changes.items() if value is not None]
        path = scope["path"]
        # A proxy that cuts its prefix off says so in root_path; a mount adds to both.
        root = scope.get("app_root_path", scope.get("root_path", "")).rstrip("/")
        if root and not (path == root or path.startswith(root + "/")):
            path = root + path
        base = base_url(scope, settings_of(scope).proxies)
        written = quote(path, safe="/:@!$&'()*+,;=~-._")
        if not base and written.startswith("//"):
            written = "/%2F" + written[2:]  # it would be a host
        return f"{base}{written}?{urlencode(query)}"


class Pagination(_Page):
    """The page that was asked for.

    Attributes:
        page: Its number, from 1.
        limit: At most so many on it, 1 to 1000.
        offset: How many come before it.
    """

    def __init__(self, request: Request, *, page: int, limit: int, offset: int) -> None:
        super().__init__(request, limit)
        self.page = page
        self.offset = offset
        self._by_offset = "offset" in request.query_params

    def links(self, *, total: int | None = None, has_next: bool | None = None) -> dict[str, str]:
        """Return ``self``, ``first``, ``prev``, ``next`` and ``last``, as far as there are any.

        They keep the query string, and lead where the client came from: by ``root_path``, and
        by the scheme and host that a trusted proxy reports.

        Args:
            total: How many there are in all, if that is known.
            has_next: Whether more follow; by default told by ``total``.
        """
        offset, limit = self.offset, self.limit
        found = {"self": self._to(offset), "first": self._to(0)}
        before = offset - limit
        if total is not None:
            last = max(-(-total // limit) - 1, 0) * limit
            before = min(before, last)  # from beyond the end back to where something is
            found["last"] = self._to(last)
        if offset > 0:
            found["prev"] = self._to(max(before, 0))
        if has_next if has_next is not None else total is not None and offset + limit < total:
            found["next"] = self._to(offset + limit)
        return found

    def _to(self, offset: int) -> str:
        if self._by_offset:
            return self._link(page=None, offset=offset, limit=self.limit)
        return self._link(offset=None, page=offset // self.limit + 1, limit=self.limit)


class Cursor(_Page):
    """The place in a list that was asked for.

    Attributes:
        value: The cursor as it was sent, for whoever made it to check; ``None`` at the start.
        limit: At most so many, 1 to 1000.
    """

    def __init__(self, request: Request, *, value: str | None, limit: int) -> None:
        super().__init__(request, limit)
        self.value = value

    def links(self, next_cursor: str | None) -> dict[str, str]:
        """Return ``self``, ``first`` and, unless this is the last page, ``next``."""
        found = {
            "self": self._link(cursor=self.value, limit=self.limit),
            "first": self._link(cursor=None, limit=self.limit),
        }
        if next_cursor is not None:
            found["next"] = self._link(cursor=next_cursor, limit=self.limit)
        return found


async def get_pagination(
    request: Request,
    page: Annotated[int, Query(ge=1, le=MAX_OFFSET // MAX_LIMIT)] = 1,
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = DEFAULT_LIMIT,
    offset: Annotated[int | None, Query(ge=0, le=MAX_OFFSET)] = None,
) -> Pagination:
    """Return the page that was asked for: `PaginationDep`. An offset wins over a page."""
    if offset is None:
        return Pagination(request, page=page, limit=limit, offset=(page - 1) * limit)
    return Pagination(request, page=offset // limit + 1, limit=limit, offset=offset)


async def get_cursor(
    request: Request,
    cursor: Annotated[str | None, Query(min_length=1, max_length=MAX_CURSOR)] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = DEFAULT_LIMIT,
) -> Cursor:
    """Return the place that was asked for: `CursorDep`."""
    return Cursor(request, value=cursor, limit=limit)


PaginationDep = Annotated[Pagination, Depends(get_pagination)]
CursorDep = Annotated[Cursor, Depends(get_cursor)]
