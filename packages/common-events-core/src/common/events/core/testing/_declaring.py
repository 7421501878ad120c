"""Contract: declarations."""

# ruff: noqa: S101 - tests, which say by their name what they check

from dataclasses import replace
from datetime import timedelta

import pytest

from common.events.core._declarations import StreamSpec
from common.events.core._errors import DeclarationConflict, MissingStream
from common.events.core._transport import Transport
from common.events.core.testing._base import SPEC, STREAM, ContractBase, message, messages, numbers

_NEW = StreamSpec(name="SECOND", subjects=("evt.second.>",), storage="memory")


class DeclaringContract(ContractBase):
    """`Transport.declare` and `Transport.plan`."""

    async def test_off_asks_and_changes_nothing(self, transport: Transport) -> None:
        assert not await transport.declare([_NEW], mode="off")
        assert await self._is_missing(transport)

    @pytest.mark.parametrize("mode", ["create", "reconcile"])
    async def test_what_is_missing_is_made_once(self, transport: Transport, mode: str) -> None:
        plan = await transport.declare([SPEC, _NEW], mode=mode)  # type: ignore[arg-type]
        assert plan.applied
        assert [(change.kind, change.resource) for change in plan.changes] == [
            ("create", "stream SECOND")
        ]
        assert str(plan) == "+ stream SECOND"
        again = await transport.declare([SPEC, _NEW], mode=mode)  # type: ignore[arg-type]
        assert not again
        assert not await transport.plan([SPEC, _NEW])
        assert not await transport.declare([SPEC, _NEW], mode="verify")

    async def test_a_plan_changes_nothing(self, transport: Transport) -> None:
        plan = await transport.plan([replace(SPEC, max_messages=500), _NEW])
        assert not plan.applied
        assert {(change.kind, change.resource, change.field) for change in plan.changes} == {
            ("create", "stream SECOND", None),
            ("update", f"stream {STREAM}", "max_messages"),
        }
        assert await self._is_missing(transport)
        assert await transport.plan([replace(SPEC, max_messages=500)])

    async def test_verify_raises_for_what_is_missing(self, transport: Transport) -> None:
        with pytest.raises(DeclarationConflict) as caught:
            await transport.declare([SPEC, _NEW], mode="verify")
        assert caught.value.differences
        assert "SECOND" in " ".join(caught.value.differences)
        assert await self._is_missing(transport)

    @pytest.mark.parametrize("mode", ["verify", "create"])
    async def test_a_difference_raises_and_nothing_is_changed(
        self, transport: Transport, mode: str
    ) -> None:
        wanted = replace(SPEC, max_age=timedelta(hours=1))
        with pytest.raises(DeclarationConflict) as caught:
            await transport.declare([_NEW, wanted], mode=mode)  # type: ignore[arg-type]
        assert [line for line in caught.value.differences or [] if "max_age" in line]
        assert not await transport.plan([SPEC])
        assert await self._is_missing(transport)

    async def test_reconcile_changes_what_is_owned_and_nothing_else(
        self, transport: Transport
    ) -> None:
        await transport.publish(message("kept"))
        limited = replace(SPEC, max_messages=500, max_age=timedelta(hours=1))
        plan = await transport.declare([limited], mode="reconcile")
        assert plan.applied
        changed = {
            change.field: (change.kind, change.resource, change.wanted) for change in plan.changes
        }
        assert changed == {
            "max_messages": ("update", f"stream {STREAM}", 500),
            "max_age": ("update", f"stream {STREAM}", timedelta(hours=1)),
        }
        wider = ("evt.contract.>", "cmd.contract.>")
        unowned = StreamSpec(
            name=STREAM,
            subjects=wider,
            storage="memory",
            max_age=None,
            max_messages_per_subject=None,
            duplicate_window=None,
            allow_rollup=None,
        )
        await transport.declare([unowned], mode="reconcile")
        assert not await transport.plan([replace(limited, subjects=wider)]), "limits are kept"
        await transport.publish(replace(message("command"), subject="cmd.contract.one"))
        async with self.reading(transport, self.spec(subjects=(">",))) as consumer:
            assert numbers(await self.receive(consumer, 2)) == ["kept", "command"]

    async def test_the_duplicate_window_can_be_changed(self, transport: Transport) -> None:
        wanted = replace(SPEC, duplicate_window=timedelta(seconds=77))
        plan = await transport.declare([wanted], mode="reconcile")
        assert [change.field for change in plan.changes] == ["duplicate_window"]
        assert not await transport.plan([wanted])

    @pytest.mark.parametrize("changes", [{"storage": "file"}, {"retention": "workqueue"}])
    @pytest.mark.parametrize("mode", ["create", "reconcile", "verify"])
    async def test_what_cannot_be_changed_is_a_conflict(
        self, transport: Transport, changes: dict[str, str], mode: str
    ) -> None:
        (field,) = changes
        wanted = replace(SPEC, **changes)  # type: ignore[arg-type]
        plan = await transport.plan([wanted])
        assert [(change.kind, change.field) for change in plan.changes] == [("conflict", field)]
        with pytest.raises(DeclarationConflict) as caught:
            await transport.declare([wanted, _NEW], mode=mode)  # type: ignore[arg-type]
        assert [line for line in caught.value.differences or [] if field in line]
        assert not caught.value.retryable
        assert not await transport.plan([SPEC])
        assert await self._is_missing(transport)

    @pytest.mark.parametrize("subjects", ["evt.contract.a", "evt.*.one", "evt.>", "*.contract.>"])
    async def test_overlapping_subjects_are_a_conflict(
        self, transport: Transport, subjects: str
    ) -> None:
        overlapping = replace(_NEW, subjects=("evt.second.>", subjects))
        assert "conflict" in {
            change.kind for change in (await transport.plan([overlapping])).changes
        }
        for together in ([overlapping], [SPEC, overlapping]):
            with pytest.raises(DeclarationConflict):
                await transport.declare(together, mode="reconcile")
        assert await self._is_missing(transport)

    async def test_overlaps_among_the_declared_are_found(self, transport: Transport) -> None:
        third = replace(_NEW, name="THIRD", subjects=("evt.*.one",))
        with pytest.raises(DeclarationConflict):
            await transport.declare([_NEW, third], mode="create")
        assert await self._is_missing(transport)

    async def test_max_messages_are_kept(self, transport: Transport) -> None:
        await transport.declare([replace(SPEC, max_messages=5)], mode="reconcile")
        await transport.publish_many(messages(20))
        async with self.reading(transport, self.spec()) as consumer:
            assert numbers(await self.receive(consumer, 5)) == ["16", "17", "18", "19", "20"]
            await self.nothing_comes(consumer)

    async def _is_missing(self, transport: Transport) -> bool:
        try:
            await transport.publish(
                replace(message(), subject="evt.second.one", stream="SECOND"),
                timeout=self.patience,
            )
        except MissingStream:
            return True
        return False
