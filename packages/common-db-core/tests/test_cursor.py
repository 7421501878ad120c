import base64
import itertools
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from common.db.core import (
    CursorCodec,
    DatabaseConfig,
    F,
    InvalidCursorError,
    MemoryDatabase,
    Order,
    Query,
    Scope,
    Seek,
    check_query,
    entity,
    entity_info,
)
from common.db.core._evaluate import judge, sort
from common.db.core._select import reverse
from common.db.core.testing import Sample, sample_rows
from common.errors import ValidationError


@entity(table="t")
@dataclass
class Thing:
    id: int
    a: int | None = None
    b: str | None = None


INFO = entity_info(Thing)
QUERY = check_query(INFO, Query(F.a > 1, order_by=F.b.desc()), max_bytes=1 << 20)
OLD, NEW = b"o" * 32, b"n" * 32


def read(codec, cursor, scope=Scope()):  # noqa: B008
    return codec.read(INFO, QUERY, scope, cursor, name="after")


def test_cursors_survive_the_rotation_of_keys():
    cursor = CursorCodec([OLD]).write(INFO, QUERY, Scope(), (1, 2, "x"))
    assert read(CursorCodec([NEW, OLD]), cursor).keys == ("x", 1)
    with pytest.raises(InvalidCursorError) as caught:
        read(CursorCodec([NEW]), cursor)
    assert caught.value.reason == "signature"
    fresh = CursorCodec([NEW, OLD]).write(INFO, QUERY, Scope(), (1, 2, "x"))
    assert read(CursorCodec([NEW]), fresh).keys == ("x", 1)


def test_without_keys_cursors_are_this_managers_own():
    cursor = CursorCodec().write(INFO, QUERY, Scope(), (1, 2, "x"))
    with pytest.raises(InvalidCursorError):
        read(CursorCodec(), cursor)


async def test_configured_keys_make_cursors_work_in_every_replica():
    config = DatabaseConfig(cursor_keys=(SecretStr("k" * 32),))
    async with MemoryDatabase(config) as one, MemoryDatabase(config) as other:
        for database in (one, other):
            await database.repository(Thing).add_many([Thing(n) for n in range(3)])
        page = await one.repository(Thing).find(limit=1)
        rest = await other.repository(Thing).find(after=page.next)
        assert [thing.id for thing in rest] == [1, 2]


def test_a_cursor_shows_no_more_than_its_sort_keys():
    codec = CursorCodec([OLD])
    scope = Scope((("a", 1),))
    cursor = codec.write(INFO, QUERY, scope, (7, 123456789, "x"))
    raw = base64.urlsafe_b64decode(cursor + "==")
    assert b"123456789" not in raw
    assert OLD not in raw


def test_the_order_of_alternatives_does_not_matter():
    """That of a set differs from process to process."""

    def query(where):
        return check_query(INFO, where, max_bytes=1 << 20)

    codec = CursorCodec([OLD])
    for one, same, other in (
        (F.b.in_(["x", "y"]), F.b.in_(["y", "x"]), F.b.in_(["y", "z"])),
        ((F.a == 1) | (F.a == 2), (F.a == 2) | (F.a == 1), (F.a == 2) & (F.a == 1)),
    ):
        cursor = codec.write(INFO, query(one), Scope(), (1, 2, "x"))
        assert codec.read(INFO, query(same), Scope(), cursor, name="after").keys == (1,)
        with pytest.raises(InvalidCursorError):
            codec.read(INFO, query(other), Scope(), cursor, name="after")


def test_a_cursor_of_another_scope_is_refused():
    codec = CursorCodec([OLD])
    cursor = codec.write(INFO, QUERY, Scope((("a", 1),)), (1, 2, "x"))
    for scope in (Scope(), Scope((("a", 2),)), Scope((("b", "1"),))):
        with pytest.raises(InvalidCursorError) as caught:
            read(codec, cursor, scope)
        assert caught.value.reason == "query"


def test_even_a_signed_cursor_is_read_with_care():
    codec = CursorCodec([OLD])
    real = base64.urlsafe_b64decode(codec.write(INFO, QUERY, Scope(), (1, 2, "x")) + "==")[32:]
    for payload in (
        b"",
        b"{}",
        b"[1]",
        b"null",
        b"\xff",
        b"[" * 2_000,
        real.replace(b"[1,", b"[2,"),
        real.replace(b'["x","1"]', b'["x"]'),
        real.replace(b'["x","1"]', b'["x","1","2"]'),
        real.replace(b'["x","1"]', b'["x","y"]'),
        real.replace(b'["x","1"]', b'["x",1]'),
        real.replace(b'["x","1"]', b'"x1"'),
        real.replace(b'"1"]', b'"99999999999999999999"]'),
    ):
        assert payload != real
        raw = codec._sign(payload, OLD) + payload
        with pytest.raises(InvalidCursorError):
            read(codec, base64.urlsafe_b64encode(raw).rstrip(b"=").decode())


def test_keys_that_are_too_large_are_refused_and_not_cut_off():
    with pytest.raises(ValidationError, match="too large for a cursor") as caught:
        CursorCodec([OLD]).write(INFO, QUERY, Scope(), (1, 2, "x" * 10_000))
    assert caught.value.field == "order_by"


@given(
    st.text(max_size=200)
    | st.binary(max_size=100).map(lambda b: base64.urlsafe_b64encode(b).decode())
)
def test_any_other_text_is_refused(text):
    with pytest.raises(InvalidCursorError):
        read(CursorCodec([OLD]), text)


def test_short_keys_are_refused_without_being_shown():
    with pytest.raises(ValueError, match="32 bytes") as caught:
        DatabaseConfig(cursor_keys=(SecretStr("short-secret"),))
    assert "short-secret" not in str(caught.value)
    assert "k" * 32 not in repr(DatabaseConfig(cursor_keys=(SecretStr("k" * 32),)))


SAMPLES = entity_info(Sample)
ROWS = SAMPLES.to_rows(sample_rows(40))


@pytest.mark.parametrize(
    ("first", "second"),
    list(itertools.product(itertools.product((False, True), ("first", "last")), repeat=2)),
)
def test_seeking_splits_every_order_at_every_row(first, second):
    order = (Order("number", *first), Order("flag", *second), Order("id"))
    for direction in (order, reverse(order)):
        ordered = sort(SAMPLES, ROWS, direction)
        for at, row in enumerate(ordered):
            keys = tuple(row[SAMPLES.index(key.field)] for key in direction)
            wants = judge(SAMPLES, Seek(direction, keys, (True, True, False)).predicate)
            assert sort(SAMPLES, filter(wants, ROWS), direction) == ordered[at + 1 :]


def test_after_the_last_null_there_is_nothing():
    seek = Seek((Order("a"),), (None,), (True,))
    assert not any(map(judge(INFO, seek.predicate), [(1, None, None), (2, 5, None)]))
