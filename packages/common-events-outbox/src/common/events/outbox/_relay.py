"""The relay: from the outbox to the broker."""

import asyncio
import logging
import os
import random
import signal
import socket
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

from common.context import Context, bind, current, new_id, operation, shielded
from common.db.postgres import PostgresDatabase
from common.errors import AppError
from common.events.core import Transport
from common.events.outbox._batch import Outcome, Row, publish
from common.events.outbox._config import RelayConfig
from common.events.outbox._errors import explained, passes
from common.events.outbox._health import RelayHealth, told
from common.events.outbox._holds import Holds
from common.events.outbox._lag import Lag, measure
from common.events.outbox._lease import LEASES_CHANGED, Leases
from common.events.outbox._pace import Pace
from common.events.outbox._settle import Settlement
from common.events.outbox._signals import STOP_SIGNALS, on_signals
from common.events.outbox._sql import names_of
from common.events.outbox._statements import Statements
from common.events.outbox._tasks import ended, first
from common.events.outbox._upkeep import Upkeep
from common.events.outbox._wake import Wake

log = logging.getLogger(__name__)

_PROBE: Final = 16
"""Messages by which a stream is tried that the broker did not take before."""
_END_SECONDS: Final = 5.0
_FIRST_PAUSE: Final = 0.1
_MAX_PAUSE: Final = 10.0


class Relay:
    """Publishes what is in the outbox, and deletes what the broker has.

    Start as many as you like: they share the keys among them, and each key is published by one of
    them at a time, in the order of the outbox. A message may be published more than once, always
    under the same id; it leaves the outbox only when the broker has acknowledged it, or as a
    dead letter.

    Run it as a process of its own by `run`, or beside an application with ``async with``. Database
    and transport are not its own: enter both before.

    Args:
        database: Where the outbox is. It needs up to three connections and one to listen on.
        transport: Where messages go.
        config: How it works.

    Raises:
        ValidationError: The database is none of PostgreSQL.
    """

    def __init__(
        self,
        database: PostgresDatabase,
        transport: Transport,
        config: RelayConfig | None = None,
    ) -> None:
        self.config = config or RelayConfig()
        self._database = database
        self._transport = transport
        self._names = names_of(database)
        self._upkeep = Upkeep(database, self._names, self.config)
        self._holds = Holds()
        self._pace = Pace(self.config.poll_interval_seconds)
        self._wake = Wake(database, self._names.channel)
        owner = f"{socket.gethostname()[:100]}:{os.getpid()}:{new_id()}"
        self._leases = Leases(database, self._names, owner=owner, seconds=self.config.lease_seconds)
        self._statements = Statements(
            database,
            self._names,
            owner=owner,
            archive=self.config.archive,
            lease=self.config.lease_seconds,
        )
        self._stopping = False
        self._task: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()
        self._trouble: AppError | None = None
        self._settlement = Settlement(self._statements, self.config)

    # Life

    async def start(self) -> None:
        """Start to publish, in the background. Idempotent; `stop` undoes it.

        Raises:
            OutboxNotMigrated: The database lacks the tables.
            DatabaseError: The database refuses this user, among others. That it is away is no
                error: the relay waits for it.
            AppError: What had ended the relay since its last start; the next call starts it anew.
        """
        if self._task is not None:
            if not self._task.done():
                return
            await self.stop()
        self._stopping = False
        self._ready.clear()
        self._task = asyncio.create_task(self._main())
        try:
            await first(self._task, self._ready)
        except asyncio.CancelledError:
            with suppress(AppError):  # it is in the log
                await self.stop(drain=0)
            raise
        if self._task.done():
            await self.stop()

    async def stop(self, *, drain: float = 25.0) -> None:
        """Finish what is in hand, and hand the rest to other relays. Idempotent.

        Args:
            drain: Seconds to finish; what is then on its way will be published again.

        Raises:
            AppError: What had ended the relay before.
        """
        task, self._task = self._task, None
        if task is None:
            return
        self._stopping = True
        self._wake.now()
        try:
            await asyncio.wait((task,), timeout=max(0.0, drain))
        finally:
            task.cancel()
            await shielded(ended(task))
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error

    async def run(
        self, *, drain: float = 25.0, signals: Sequence[signal.Signals] = STOP_SIGNALS
    ) -> None:
        """Publish until a signal comes.

        Args:
            drain: Seconds to finish what is in hand after the first signal; a second signal ends
                that at once.
            signals: The signals, by default SIGTERM and SIGINT.

        Raises:
            OutboxNotMigrated: The database lacks the tables.
            TransportClosed: The transport is not open.
            AppError: Another failure that time does not mend.
        """
        stop = asyncio.Event()
        hurry = asyncio.Event()

        def received() -> None:
            (hurry if stop.is_set() else stop).set()

        with on_signals(tuple(signals), received):
            await self.start()
            task = self._task
            if task is None:
                return
            try:
                await first(task, stop)
            except asyncio.CancelledError:
                with suppress(AppError):
                    await self.stop(drain=0)
                raise
            stopping = asyncio.create_task(self.stop(drain=drain))
            try:
                await first(stopping, hurry)
            finally:
                task.cancel()
                await shielded(ended(stopping))
            await stopping

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    async def lag(self) -> Lag:
        """Measure what waits in the outbox, for all relays.

        Raises:
            OutboxNotMigrated: The database lacks the tables.
            DatabaseError: The database does not answer.
        """
        try:
            return await measure(self._database, self._names)
        except AppError as error:
            raise explained(error) from error.__cause__

    async def health(self, *, timeout_seconds: float = 2.0) -> RelayHealth:
        """Ask database and broker; raises nothing.

        Args:
            timeout_seconds: Longest wait for the database.
        """
        error: BaseException | None = self._trouble
        lag: Lag | None = None
        try:
            async with asyncio.timeout(timeout_seconds):
                lag = await self.lag()
        except AppError as raised:
            error = raised
        except TimeoutError:
            pass
        transport = await self._transport.health()
        task = self._task
        running = task is not None and not task.done()
        if task is not None and task.done() and not task.cancelled():
            error = task.exception() or error
        text = None if error is None else told(error)
        return RelayHealth(
            ok=running and transport.ok and lag is not None and text is None,
            running=running,
            partitions=len(self._leases.held),
            listening=self._wake.listening,
            lag=lag,
            transport=transport,
            error=text or transport.error,
        )

    # Work

    async def _main(self) -> None:
        # Neither deadline nor trace of whoever starts it belong to what it does later.
        with bind(Context(service=current().service)):
            async with self._wake:
                upkeep = asyncio.create_task(self._upkeep.run(self._ready))
                try:
                    await self._loop()
                except Exception as error:
                    log.error(  # noqa: TRY400 - raised as well, and a traceback may quote values
                        "The relay has ended: messages wait in the outbox until it runs again",
                        extra={"error": told(error)},
                    )
                    raise
                finally:
                    upkeep.cancel()
                    await shielded(self._hand_back(upkeep))

    async def _loop(self) -> None:
        pause = _FIRST_PAUSE
        while not self._stopping:
            try:
                await self._step()
            except AppError as raised:
                error = explained(raised)
                if not passes(error):
                    raise error from raised.__cause__
                self._trouble = error
                self._ready.set()
                self._heed()
                if not self._stopping:
                    await self._wake.sleep(random.uniform(pause / 2, pause))  # noqa: S311
                pause = min(_MAX_PAUSE, pause * 2)
            else:
                pause = _FIRST_PAUSE

    async def _step(self) -> None:
        self._heed()
        await self._settle()
        if self._leases.due <= 0 and await self._leases.keep():
            self._pace.announced = True  # as every relay is at first
        self._ready.set()
        found = False
        for stream in self._holds.due():
            found |= await self._work(streams=[stream], only=True, limit=_PROBE)
        held = self._holds.streams
        if not self._stopping:
            found |= await self._work(streams=held, only=False, limit=self.config.batch_size)
        if not self._holds.streams:
            self._trouble = None
        await self._rest(found=found)

    def _heed(self) -> None:
        """Take note of what woke it."""
        if LEASES_CHANGED in self._wake.payloads:
            self._leases.share_anew()
        self._wake.forget()

    async def _rest(self, *, found: bool) -> None:
        pace = self._pace
        if found:
            if pace.found():
                await self._leases.announce(waiting=False)
            return
        if self._holds.streams:
            # Whatever writers would wake it for, it may well not be able to publish.
            if pace.quiet():
                await self._leases.announce(waiting=False)
        elif pace.nothing():
            await self._leases.announce(waiting=True)
            return
        if not self._stopping:
            await self._wake.sleep(min(pace.pause(), self._leases.due, self._holds.wait()))

    async def _work(self, *, streams: Sequence[str], only: bool, limit: int) -> bool:
        """Publish a batch; return whether there was progress.

        Args:
            streams: Of these, which are tried again, or of all but these.
            only: Which of the two.
            limit: Most messages.
        """
        fences = dict(self._leases.held)
        if not fences:
            self._holds.clear()
            return False
        rows = await self._statements.read(fences, streams=streams, only=only, limit=limit)
        outcome = Outcome()
        if rows:
            await self._publish(rows, fences, outcome)
        progress = bool(outcome.published or outcome.refused)
        for stream in streams if only else ():
            if progress or not rows:
                self._holds.free(stream)
            else:
                self._holds.hold(stream)
        for stream, error in outcome.stopped.items():
            if not only:
                self._holds.hold(stream)
            self._trouble = error
        await self._settle()
        if outcome.closed is not None:
            raise outcome.closed
        return progress

    async def _publish(self, rows: list[Row], fences: dict[int, int], outcome: Outcome) -> None:
        async def between() -> float:
            if self._stopping:
                return 0.0
            if self._leases.fading:
                try:
                    await self._leases.renew()
                except AppError as error:
                    if not passes(error):
                        raise
            if any(self._leases.held.get(each) != fence for each, fence in fences.items()):
                return 0.0
            return self._leases.left

        with operation(
            "messaging.publish",
            "outbox",
            {
                "messaging.system": self._transport.name,
                "messaging.operation.type": "send",
                "messaging.batch.message_count": len(rows),
                "outbox.lag.age": rows[0].age,
            },
        ) as op:
            self._settlement.take(outcome, fences)
            await publish(
                self._transport,
                rows,
                outcome,
                timeout=self.config.publish_timeout_seconds,
                between=between,
            )
            failures = outcome.refused + outcome.failed
            op.set(
                {
                    "outbox.published": len(outcome.published),
                    "messaging.batch.failed_count": len(failures),
                }
            )
            if self._upkeep.lag is not None:
                op.set({"outbox.lag.rows": self._upkeep.lag.rows})
            if failures:
                op.fail(error=failures[0][1])

    async def _settle(self) -> None:
        self._upkeep.deleted(await self._settlement.write())
        if self._settlement.fenced:  # else it would publish the same over and over
            self._leases.share_anew()

    async def _hand_back(self, upkeep: "asyncio.Task[None]") -> None:
        await ended(upkeep)
        try:
            async with asyncio.timeout(_END_SECONDS):
                await self._settle()
                await self._leases.hand_back()
        except (AppError, TimeoutError) as error:
            log.info("The leases could not be handed back, and expire: %s", type(error).__name__)
