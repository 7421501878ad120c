"""Contract: bad and hostile input ends in a clear error, and nothing is stored."""

# ruff: noqa: S101 - tests, which say by their name what they check

import dataclasses
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, cast
from uuid import UUID

import pytest

from common.db.core import ANY, DatabaseManager, F, Field, Query, Repository, UnknownFieldError
from common.db.core.testing._base import ContractBase
from common.db.core.testing._entities import Item, Pair, Sample
from common.errors import ValidationError

WRONG: dict[str, tuple[Any, ...]] = {
    "id": ("1", 1.0, True, 2**63, -(2**63) - 1, None, b"1"),
    "flag": (1, "true"),
    "number": ("1", 1.5, True, 2**63, Decimal(1)),
    "ratio": (float("nan"), float("inf"), -float("inf"), "1", Decimal(1), 2**60 + 1, False),
    "amount": (
        Decimal("nan"),
        Decimal("inf"),
        Decimal("sNaN"),
        0.1,
        "1",
        Decimal("1e39"),
        Decimal("1e-39"),
        Decimal("1e999999"),
        10**40,
    ),
    "text": ("a\0b", "\ud800", b"a", 1, "x" * (1 << 20) + "x", "ä" * (1 << 19) + "x"),
    "data": ("a", [1], b"x" * ((1 << 20) + 1)),
    "ref": ("00000000-0000-0000-0000-000000000000", 1, b"0" * 16),
    "at": (datetime(2026, 1, 1), date(2026, 1, 1), "2026-01-01T00:00:00Z", 1.0),  # noqa: DTZ001
    "day": (datetime(2026, 1, 1, tzinfo=UTC), "2026-01-01", 1),
    "status": ("opne", 1, "OPEN"),
}
"""Values that do not fit the fields of `Sample`."""

_HOSTILE_NAMES = ("", "nubmer", "id; DROP TABLE x", 'id"', "__class__", "a" * 10_000, "id\0", "ä")


class HostileContract(ContractBase):
    """Bad input."""

    @pytest.mark.parametrize("name", sorted(WRONG))
    async def test_values_that_do_not_fit_never_arrive(
        self, samples: Repository[Sample], name: str
    ) -> None:
        await samples.add(Sample(id=1))
        good = Sample(id=2)
        for value in WRONG[name]:
            bad = dataclasses.replace(good, **{name: value})
            for write in (
                lambda bad=bad: samples.add(bad),
                lambda bad=bad: samples.add_many([good, bad]),
                lambda bad=bad: samples.upsert(bad),
                lambda bad=bad: samples.upsert_many([good, bad]),
                lambda value=value: samples.update(1, {name: value}, expected=ANY),
            ):
                with pytest.raises(ValidationError) as caught:
                    await cast("Any", write)()
                assert caught.value.field == name
        assert list(await samples.find()) == [Sample(id=1)]

    @pytest.mark.parametrize("name", sorted(WRONG))
    async def test_conditions_with_such_values_are_refused(
        self, samples: Repository[Sample], name: str
    ) -> None:
        field = Field(name)
        for value in WRONG[name]:
            if value is None:
                continue
            for condition in (
                field == value,
                field != value,
                ~(field <= value),
                field.in_([value]),
                (F.id == 1) | (field > value),
            ):
                for call in (
                    samples.find,
                    samples.find_one,
                    samples.count,
                    samples.exists,
                    samples.stream,
                ):
                    with pytest.raises(ValidationError) as caught:
                        await cast("Any", call)(condition)
                    assert caught.value.field == name

    @pytest.mark.parametrize("name", _HOSTILE_NAMES, ids=lambda name: repr(name)[:20])
    async def test_unknown_fields_are_refused_with_a_suggestion(
        self, samples: Repository[Sample], name: str
    ) -> None:
        await samples.add(Sample(id=1))
        field = Field(name)
        for call in (
            lambda: samples.find(field == 1),
            lambda: samples.find(~field.is_null()),
            lambda: samples.find(field.in_([])),
            lambda: samples.find(field.contains("a")),
            lambda: samples.find(Query(order_by=field.desc())),
            lambda: samples.count((F.id == 1) & (field == 1)),
            lambda: samples.list({name: 1}),
            lambda: samples.update(1, {name: 1}, expected=ANY),
        ):
            with pytest.raises(UnknownFieldError) as caught:
                await cast("Any", call)()
            assert len(str(caught.value)) < 500
            assert ("did you mean 'number'?" in str(caught.value)) == (name == "nubmer")

    async def test_nothing_compares_with_null_or_json(self, samples: Repository[Sample]) -> None:
        for condition in (
            F.number < None,
            F.number.in_([1, None]),
            F.meta == {"a": 1},
            F.meta.in_([{}]),
            F.number.contains("1"),
            F.text.contains(cast("str", None)),
            F.text.starts_with(cast("str", b"a")),
            F.status.contains("o"),
            F.text.contains("\0"),
        ):
            with pytest.raises(ValidationError):
                await samples.find(condition)
        with pytest.raises(ValidationError):
            await samples.find(Query(order_by=F.meta))
        with pytest.raises(ValidationError):
            await samples.find(Query(order_by=(F.id, F.id.desc())))
        assert await samples.count(F.meta.is_null()) == 0

    async def test_numbers_out_of_bounds_are_refused(
        self, database: DatabaseManager, samples: Repository[Sample]
    ) -> None:
        most = database.config.max_limit
        for limit in (0, -1, most + 1, 10**30, True, 1.0, "1", None):
            for call in (samples.find, samples.list, samples.find_page):
                with pytest.raises(ValidationError) as caught:
                    await cast("Any", call)(limit=limit)
                assert caught.value.field == "limit"
        for offset in (-1, database.config.max_offset + 1, "0"):
            with pytest.raises(ValidationError):
                await samples.list(offset=cast("int", offset))
        for page in (0, -1, 10**30, "1"):
            with pytest.raises(ValidationError):
                await samples.find_page(page=cast("int", page))
        for batch in (0, -1, 10**9, "1"):
            with pytest.raises(ValidationError):
                samples.stream(batch=cast("int", batch))
        assert list(await samples.find(limit=most)) == []

    async def test_keys_that_do_not_fit_are_refused(
        self, items: Repository[Item], samples: Repository[Sample], pairs: Repository[Pair]
    ) -> None:
        cases: list[tuple[Any, tuple[Any, ...]]] = [
            (samples, ("1", None, 2**63, True, (1,), [1], {})),
            (items, ("not-a-uuid", 1, None, str(UUID(int=1)))),
            (
                pairs,
                (
                    "a",
                    ("a",),
                    ("a", 1, 2),
                    ("a", "1"),
                    (None, 1),
                    ("a\0", 1),
                    ("x" * 1_024, 1),
                    ["a", 1],
                ),
            ),
        ]
        for repository, keys in cases:
            for key in keys:
                for call in (
                    lambda r=repository, k=key: r.get(k),
                    lambda r=repository, k=key: r.update(k, {}, expected=ANY),
                    lambda r=repository, k=key: r.delete(k),
                ):
                    with pytest.raises(ValidationError):
                        await cast("Any", call)()

    async def test_versions_that_do_not_fit_are_refused(
        self, items: Repository[Item], samples: Repository[Sample]
    ) -> None:
        item = await items.add(Item(slug="a"))
        await samples.add(Sample(id=1))
        for expected in (None, "1", 1.0, True, 2**63):
            with pytest.raises(ValidationError):
                await items.update(item.id, {"rank": 1}, expected=cast("int", expected))
            with pytest.raises(ValidationError):
                await items.delete(item.id, expected=cast("int", expected))
        with pytest.raises(ValidationError):  # it has no version
            await samples.update(1, {"text": "a"}, expected=1)
        assert await items.get(item.id) == item

    async def test_what_is_no_entity_is_refused(self, samples: Repository[Sample]) -> None:
        for wrong in (None, 1, {"id": 1}, Pair("a", 1), Sample):
            for write in (samples.add, samples.upsert):
                with pytest.raises(ValidationError):
                    await cast("Any", write)(wrong)
            with pytest.raises(ValidationError):
                await samples.add_many(cast("Any", [Sample(id=1), wrong]))
        for changes in (None, [("text", "a")], "text", 1):
            with pytest.raises(ValidationError):
                await samples.update(1, cast("Any", changes), expected=ANY)
        assert await samples.count() == 0

    async def test_lengths_are_counted_in_characters(self, items: Repository[Item]) -> None:
        longest = "😀" * 100
        item = await items.add(Item(slug="a", note=longest))
        assert (await items.get(item.id)).note == longest
        with pytest.raises(ValidationError) as caught:
            await items.update(item.id, {"note": longest + "x"}, expected=ANY)
        assert caught.value.field == "note"
        assert await items.count(F.note == longest + "x") == 0  # longer than can be stored

    async def test_hostile_text_is_only_text(self, samples: Repository[Sample]) -> None:
        texts = [
            "'; DROP TABLE contract_samples; --",
            '"',
            "\\'",
            "%s",
            "$1",
            ":x",
            "{}",
            "\x1b[0m",
            "\u202e",
            "a\r\nb",
            "\x7f",
            "x" * (1 << 20),
        ]
        await samples.add_many([Sample(id=n, text=text) for n, text in enumerate(texts)])
        for number, text in enumerate(texts):
            assert [s.id for s in await samples.find(F.text == text)] == [number]
            assert (await samples.get(number)).text == text

    async def test_json_that_cannot_be_stored_is_refused(self, samples: Repository[Sample]) -> None:
        deep: dict[str, Any] = {}
        for _ in range(100):
            deep = {"a": deep}
        for meta in (
            {"a": "\0"},
            {"\0": 1},
            {"a": float("nan")},
            {"a": 2**70},
            {"a": "\ud800"},
            {"a": "x" * (1 << 20)},
            deep,
            {"a": object()},
        ):
            with pytest.raises(ValidationError) as caught:
                await samples.add(Sample(id=1, meta=meta))
            assert caught.value.field == "meta"
        assert await samples.count() == 0
