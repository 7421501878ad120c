"""Writing down what became of a batch, however often the database is away meanwhile."""

import logging
import random
from collections.abc import Mapping
from typing import Final

from common.errors import MessageBusError
from common.events.core import Exponential
from common.events.outbox._batch import Outcome, Row
from common.events.outbox._config import RelayConfig
from common.events.outbox._statements import Statements

log = logging.getLogger(__name__)

_POSTPONE_SECONDS: Final = 2.0


class Settlement:
    """Holds the outcome of one batch until the database has all of it.

    Args:
        statements: Of the relay.
        config: Attempts and their pauses.
    """

    def __init__(self, statements: Statements, config: RelayConfig) -> None:
        self._statements = statements
        self._attempts = config.attempts
        self._retry = Exponential(config.retry_first_seconds, config.retry_max_seconds)
        self._open: tuple[Outcome, Mapping[int, int]] | None = None
        self.fenced = False
        """Whether the last batch was another relay's by the time it was written down."""

    def take(self, outcome: Outcome, fences: Mapping[int, int]) -> None:
        """Be responsible for a batch, whose outcome may still grow.

        Args:
            outcome: What became of it.
            fences: Under which it was read: without them, nothing is written any more.
        """
        self._open = outcome, fences

    async def write(self) -> int:
        """Write down what is not yet; return how many messages left the outbox.

        Doing so twice does no harm, so it may be called again after any failure.
        """
        self.fenced = False
        if self._open is None:
            return 0
        outcome, fences = self._open
        left = 0
        if outcome.published:
            left += await self._statements.done(outcome.published, fences)
            self.fenced = left < len(outcome.published)
            outcome.published = []
        if outcome.refused:
            left += await self._give_up(outcome.refused, fences)
            await self._postpone(outcome.refused, fences)
            outcome.refused = []
        await self._wait(outcome, fences)
        self._open = None
        return left

    async def _give_up(
        self, refused: list[tuple[Row, MessageBusError]], fences: Mapping[int, int]
    ) -> int:
        last = [each for each in refused if each[0].attempts + 1 >= self._attempts]
        if not last:
            return 0
        await self._statements.bury(
            [row for row, _ in last], [_told(error) for _, error in last], fences
        )
        for row, error in last:
            log.error(
                "The broker refuses a message of the outbox for good: it is a dead letter now",
                extra={
                    "message_id": row.outgoing.id,
                    "subject": row.outgoing.subject,
                    "code": error.code,
                    "attempts": row.attempts + 1,
                },
            )
        return len(last)

    async def _postpone(
        self, refused: list[tuple[Row, MessageBusError]], fences: Mapping[int, int]
    ) -> None:
        again = [each for each in refused if each[0].attempts + 1 < self._attempts]
        if not again:
            return
        attempts = [row.attempts + 1 for row, _ in again]
        await self._statements.postpone(
            [row for row, _ in again],
            attempts,
            [_told(error) for _, error in again],
            [self._retry.seconds(each) * random.uniform(0.5, 1) for each in attempts],  # noqa: S311
            fences,
        )

    async def _wait(self, outcome: Outcome, fences: Mapping[int, int]) -> None:
        """Let messages wait that failed by themselves, not with their stream; none is counted."""
        failed = [each for each in outcome.failed if each[0].outgoing.stream not in outcome.stopped]
        if failed:
            await self._statements.postpone(
                [row for row, _ in failed],
                [row.attempts for row, _ in failed],
                [_told(error) for _, error in failed],
                [_POSTPONE_SECONDS * random.uniform(0.5, 1) for _ in failed],  # noqa: S311
                fences,
            )


def _told(error: MessageBusError) -> str:
    # As PostgreSQL can store it, whatever the broker answered.
    text = f"{error.code}: {error.message}".replace("\0", "")[:500]
    return text.encode(errors="replace").decode()
