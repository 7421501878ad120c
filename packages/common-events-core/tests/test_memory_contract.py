"""The in-memory transport keeps the contract, and the suite finds each promise that is broken."""

# ruff: noqa: ASYNC109 - the port's signature

import asyncio
import inspect
from contextlib import AsyncExitStack
from dataclasses import fields, replace

import pytest

from common.events.core import _memory, _memory_declare, _memory_durable
from common.events.core._errors import ConsumerLost, TransportClosed
from common.events.core._memory import InMemoryTransport
from common.events.core._memory_broker import InMemoryBroker
from common.events.core._memory_consumer import MemoryConsumer, MemoryDelivery
from common.events.core._memory_durable import Durable
from common.events.core._memory_stream import MemoryStream
from common.events.core._transport import Outgoing, Receipt, TransportHealth
from common.events.core.testing import TransportContract
from common.events.core.testing._base import SPEC


class TestMemory(TransportContract):
    capabilities = InMemoryTransport.capabilities
    ack_wait = 60.0  # of skipped time: no real pause comes near it
    patience = 1_800.0

    @pytest.fixture
    def new_transport(self):
        self.broker = InMemoryBroker()
        return lambda: InMemoryTransport(self.broker)

    async def crash(self, transport):
        assert isinstance(transport, InMemoryTransport)
        transport.crash()

    async def delete_stream(self, transport, stream):
        self.broker.delete_stream(stream)

    async def delete_consumer(self, transport, stream, durable):
        self.broker.delete_consumer(stream, durable)

    def now(self):
        return self.broker.now()

    async def sleep(self, seconds):
        await _others_run()
        self.broker.advance(seconds)
        await _others_run()

    async def arrival(self, consumer, within):
        waiting = asyncio.ensure_future(consumer.receive())
        try:
            for _ in range(50):
                await _others_run()
                if waiting.done():
                    return await waiting
                self.broker.advance(within / 50)
        finally:
            waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        return None


async def _others_run():
    for _ in range(10):
        await asyncio.sleep(0)


async def run(name, seconds, **parameters):
    """Run one test of the suite, by its name, with the fixtures it asks for."""
    suite = TestMemory()
    suite.broker = InMemoryBroker()
    async with AsyncExitStack() as stack:

        def new_transport():
            return InMemoryTransport(suite.broker)

        async def open_transport():
            return await stack.enter_async_context(new_transport())

        transport = await open_transport()
        await transport.declare([SPEC], mode="create")
        fixtures = {
            "transport": transport,
            "other": await open_transport(),
            "new_transport": new_transport,
            "open_transport": open_transport,
            **parameters,
        }
        test = getattr(suite, name)
        wanted = inspect.signature(test).parameters
        async with asyncio.timeout(seconds):
            await test(**{key: fixtures[key] for key in wanted})


def _nothing(*args, **options):
    return None


def _no_ids(self, now):
    self._ids.clear()


def _never_put_off(self, item, due):
    item.due = float("inf")


def _nak_without_delay(self, item, reader, due):
    if item.holder is reader:
        self._take_from_holder(item)
        self._put_off(item, 0.0)


def _nak_in_silence(self, item, reader, due):
    pass


def _for_ever(self, item, reader, now):
    item.attempt += 1
    item.holder = reader
    reader.held += 1
    self._put_off(item, now + self.spec.ack_wait)


def _gives_up(self, item, reader, now, real=Durable._hand):
    real(self, item, reader, now)
    if item.exhausted:
        self.forget(item.message.sequence)


def _does_not_count(self, item, reader, now, real=Durable._hand):
    real(self, item, reader, now)
    item.attempt = 1


def _loose(pattern, subject):
    return subject.startswith(pattern.rstrip(">*").split("*")[0])


def _starts_at_the_beginning(self, spec, real=MemoryStream.durable):
    return real(self, replace(spec, deliver="all"))


def _as_many_as_there_are(self, reader, now, real=Durable.take):
    reader.limit = 1_000
    return real(self, reader, now)


def _without_barrier(self, reader):
    self._barrier = None
    return _next(self, reader)


_next = Durable._next


async def _receive_late(self, real=MemoryConsumer.receive):
    batch = await real(self)
    await asyncio.sleep(0)  # a cancellation here loses the batch
    return batch


async def _publish_shielded(self, message, *, timeout=None, real=InMemoryTransport.publish):
    """Retries a cancelled publish under another id."""
    try:
        return await real(self, message, timeout=timeout)
    except asyncio.CancelledError:
        self.broker.store(replace(message, id=message.id + "x"))
        raise


async def _publish_in_window(self, message, *, timeout=None, real=InMemoryTransport.publish):
    """Keeps its place in the window when it is cancelled."""
    window = self.__dict__.setdefault("window", asyncio.Semaphore(1_000))
    await window.acquire()
    receipt = await real(self, message, timeout=timeout)
    window.release()
    return receipt


async def _does_not_wake(self):
    self.reader.reading = False


async def _publish_hanging(self, message, *, timeout=None, real=InMemoryTransport.publish):
    """Forgets what is in flight when it closes."""
    try:
        return await real(self, message, timeout=timeout)
    except TransportClosed:
        await asyncio.get_running_loop().create_future()


async def _publish_early(self, message, *, timeout=None):
    """Acknowledges before anything is stored."""
    self._check_open()
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_later(0.01, lambda: self._open and self.broker.store(message))
    return Receipt(message.id, message.stream, 1)


async def _publish_many_raising(self, messages, *, timeout=None):
    return [await self.publish(message, timeout=timeout) for message in messages]


async def _publish_many_at_once(self, messages, *, timeout=None):
    return await asyncio.gather(
        *(self.publish(message) for message in reversed(messages)), return_exceptions=True
    )


def _everything_is_owned(spec):
    return [(entry.name, getattr(spec, entry.name)) for entry in fields(spec)]


def _settles_twice(self):
    self._settled = True
    return self._consumer.open


def _leaves_without_a_word(self, reader, now):
    reader.reading = False
    self.readers.remove(reader)
    self._active = None


def _takes_everything(self, message):
    return self.streams["CONTRACT"].store(message, now=self.now(), timestamp=self.timestamp())


async def _browse_from_the_start(self, stream, *, real=InMemoryTransport.browse, **options):
    return await real(self, stream, **(options | {"after": 0}))


async def _always_removed(self, stream, sequence, real=InMemoryTransport.remove):
    await real(self, stream, sequence)
    return True


async def _stays_ill(self):
    return TransportHealth(self._open, self.name, error="always")


async def _waits_for_ever(self, real=MemoryConsumer.receive):
    try:
        return await real(self)
    except ConsumerLost:
        await asyncio.get_running_loop().create_future()


def _gives_the_next_a_free_way(self, reader, now):
    if self._active is not reader and (self._active is None or not self._active.reading):
        self._active = reader
    return self._active is reader


async def _declares_nothing_twice(self, streams, *, mode, real=InMemoryTransport.declare):
    return await real(self, [], mode=mode)


def _applies_before_it_looks(broker, wanted, mode, real=_memory_declare.apply):
    for spec in wanted:
        if mode != "off" and spec.name not in broker.streams:
            broker.streams[spec.name] = MemoryStream(spec, bound=100)
    return real(broker, wanted, mode)


BROKEN = {
    "no stream is missing": (
        InMemoryBroker,
        "store",
        _takes_everything,
        "publishing_where_no_stream_is_fails",
    ),
    "nothing is too large": (
        InMemoryBroker,
        "store",
        _takes_everything,
        "too_large_a_message_is_refused_and_nothing_else_is_disturbed",
    ),
    "deadlines are ignored": (
        InMemoryTransport,
        "publish",
        lambda self, message, *, timeout=None, real=InMemoryTransport.publish: real(self, message),
        "nothing_is_published_without_time",
    ),
    "pages begin anew": (
        InMemoryTransport,
        "browse",
        _browse_from_the_start,
        "pages_follow_each_other",
    ),
    "removed again and again": (
        InMemoryTransport,
        "remove",
        _always_removed,
        "what_is_removed_is_gone",
    ),
    "always ill": (InMemoryTransport, "health", _stays_ill, "health_answers"),
    "stop closes": (
        MemoryConsumer,
        "stop",
        MemoryConsumer.close,
        "stop_hands_back_at_once_what_was_not_received",
    ),
    "a lost stream is waited for": (
        MemoryConsumer,
        "receive",
        _waits_for_ever,
        "a_deleted_stream_ends_the_consumer_loudly",
    ),
    "overtaking after stop": (
        Durable,
        "_may_read",
        _gives_the_next_a_free_way,
        "a_process_that_finishes_after_stop_is_not_overtaken",
    ),
    "a crash counts for nothing": (
        Durable,
        "_hand",
        _for_ever,
        "a_message_that_ends_every_process_is_exhausted_in_the_end",
    ),
    "everything can be changed": (
        _memory_declare,
        "_FIXED",
        frozenset(),
        "what_cannot_be_changed_is_a_conflict",
    ),
    "half of it is made": (
        _memory,
        "apply",
        _applies_before_it_looks,
        "a_difference_raises_and_nothing_is_changed",
    ),
    "missing is no difference": (
        InMemoryTransport,
        "declare",
        _declares_nothing_twice,
        "verify_raises_for_what_is_missing",
    ),
    "no ids": (MemoryStream, "_forget_ids", _no_ids, "a_known_id_is_not_stored_again"),
    "ids for ever": (
        MemoryStream,
        "_forget_ids",
        _nothing,
        "ids_are_forgotten_after_the_window",
    ),
    "acks are lost": (Durable, "settle", _nothing, "what_is_acknowledged_does_not_come_again"),
    "terms are lost": (Durable, "settle", _nothing, "what_is_terminated_never_comes_again"),
    "no redelivery": (
        Durable,
        "_put_off",
        _never_put_off,
        "what_is_not_settled_comes_again_after_ack_wait",
    ),
    "no delay": (Durable, "hand_back", _nak_without_delay, "a_nak_keeps_to_its_delay"),
    "nak is silence": (Durable, "hand_back", _nak_in_silence, "a_nak_brings_it_again_at_once"),
    "no extension": (Durable, "extend", _nothing, "in_progress_keeps_it_in_hand"),
    "no limit": (
        Durable,
        "_hand",
        _for_ever,
        "a_message_that_reached_max_deliver_comes_once_more_as_exhausted",
    ),
    "exhausted is dropped": (
        Durable,
        "_hand",
        _gives_up,
        "an_exhausted_message_that_could_not_be_stored_comes_again",
    ),
    "attempts are forgotten": (
        Durable,
        "_hand",
        _does_not_count,
        "the_broker_counts_attempts_over_processes",
    ),
    "settling twice": (MemoryDelivery, "_settle", _settles_twice, "only_the_first_settling_counts"),
    "no handing back": (
        Durable,
        "leave",
        _leaves_without_a_word,
        "close_hands_back_at_once_what_is_not_settled",
    ),
    "stop is not noticed": (MemoryConsumer, "stop", _does_not_wake, "stop_ends_a_waiting_receive"),
    "subjects are taken away": (
        _memory,
        "merged",
        lambda present, further: further,
        "subjects_are_only_added",
    ),
    "loose filters": (_memory_durable, "matches", _loose, "filters_pass_what_they_say"),
    "all are new": (
        MemoryStream,
        "durable",
        _starts_at_the_beginning,
        "a_new_consumer_starts_where_it_says",
    ),
    "no bound": (
        Durable,
        "take",
        _as_many_as_there_are,
        "no_more_are_outstanding_than_asked_for",
    ),
    "no sharing": (
        Durable,
        "take",
        _as_many_as_there_are,
        "one_durable_in_two_processes_shares_its_messages",
    ),
    "all read": (Durable, "_may_read", lambda *_: True, "one_process_reads_at_a_time"),
    "overtaking": (
        Durable,
        "_next",
        _without_barrier,
        "nothing_overtakes_what_a_crashed_process_had_in_hand",
    ),
    "received and lost": (
        MemoryConsumer,
        "receive",
        _receive_late,
        "cancelled_receiving_loses_nothing",
    ),
    "stored twice": (
        InMemoryTransport,
        "publish",
        _publish_shielded,
        "a_cancelled_publish_is_stored_once_or_not_at_all",
    ),
    "window leaks": (
        InMemoryTransport,
        "publish",
        _publish_in_window,
        "cancelled_publishing_frees_its_place",
    ),
    "publish hangs": (
        InMemoryTransport,
        "publish",
        _publish_hanging,
        "every_publish_has_a_result_when_the_transport_closes",
    ),
    "acknowledged too early": (
        InMemoryTransport,
        "publish",
        _publish_early,
        "closing_in_the_midst_leaves_what_was_acknowledged",
    ),
    "a batch fails as a whole": (
        InMemoryTransport,
        "publish_many",
        _publish_many_raising,
        "what_fails_in_a_batch_is_a_result",
    ),
    "a batch is mixed up": (
        InMemoryTransport,
        "publish_many",
        _publish_many_at_once,
        "a_batch_keeps_its_order_and_has_a_result_for_each",
    ),
    "limits are reset": (
        _memory_declare,
        "_owned",
        _everything_is_owned,
        "reconcile_changes_what_is_owned_and_nothing_else",
    ),
    "overlaps are not seen": (
        _memory_declare,
        "overlap",
        lambda *_: False,
        "overlapping_subjects_are_a_conflict",
    ),
    "closed is open": (InMemoryTransport, "_check_open", _nothing, "what_is_not_open_refuses"),
}

PARAMETERS = {
    "publishing_where_no_stream_is_fails": {
        "sent": Outgoing("evt.nobody.takes.this", b"", id="1", stream="MISSING")
    },
    "what_cannot_be_changed_is_a_conflict": {"changes": {"storage": "file"}, "mode": "reconcile"},
    "a_difference_raises_and_nothing_is_changed": {"mode": "create"},
    "a_nak_keeps_to_its_delay": {"ack_wait": "longer"},
    "a_message_that_reached_max_deliver_comes_once_more_as_exhausted": {"how": "nak"},
    "filters_pass_what_they_say": {
        "filters": ("evt.contract.*.done",),
        "passing": "a.done b.done",
    },
    "nothing_overtakes_what_a_crashed_process_had_in_hand": {"kept": True},
    "cancelled_receiving_loses_nothing": {"seed": 1},
    "overlapping_subjects_are_a_conflict": {"subjects": "evt.*.one"},
}


@pytest.mark.parametrize("fault", BROKEN)
async def test_each_broken_promise_is_found(monkeypatch, fault):
    owner, name, broken, test = BROKEN[fault]
    await run_named(test)
    monkeypatch.setattr(owner, name, broken)
    with pytest.raises((AssertionError, pytest.fail.Exception, Exception)) as caught:
        await run_named(test, seconds=2)
    assert not isinstance(caught.value, TypeError | NameError), "the fault itself is broken"


async def run_named(test, *, seconds=30):
    await run(f"test_{test}", seconds, **PARAMETERS.get(test, {}))


def test_no_test_of_the_suite_hides_another():
    names = [
        name
        for part in TransportContract.__mro__
        for name in vars(part)
        if name.startswith("test_")
    ]
    assert len(names) > 80
    assert len(names) == len(set(names))
