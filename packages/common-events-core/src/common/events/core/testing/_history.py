"""What was promised and what came of it, over processes that are killed."""

import itertools
import json
import os
import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

Kind = Literal[
    "attempted", "acknowledged", "abandoned", "stored", "handled", "effect", "dead_lettered"
]

_MOST_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that happened to a message.

    Attributes:
        kind: What.
        id: Id of the message.
        key: Its partition key.
        consumer: Which durable consumer it happened at; none for what publishers do.
        at: When: nanoseconds of the machine's monotonic clock, which its processes share.
    """

    kind: Kind
    id: str
    key: str | None = None
    consumer: str | None = None
    at: int = 0


class HistoryError(AssertionError):
    """A promise was broken; the text names each, the messages, and the seed."""


class History:
    """Records what publishers and consumers did, and checks it against the promises.

    Every process has a `History` of its own with the same journal. A fact is in the journal
    before the method returns, and outlives a SIGKILL of the process.

    Record ``attempted`` *before* publishing and everything else *after* it came true; an effect
    that commits in a database is best read from there at the end.

    Args:
        seed: For `random`, from which the test draws all that it does at random; a violation
            names it. By default drawn, too.
        journal: File that several processes append to; by default facts stay in memory.

    Example:
        >>> history = History(seed=7)
        >>> history.attempted("1", key="a")
        >>> history.acknowledged("1")
        >>> history.check(consumers=["billing"])
        Traceback (most recent call last):
        ...
        common.events.core.testing._history.HistoryError: seed 7:
        acknowledged, but not stored: 1
    """

    def __init__(self, *, seed: int | None = None, journal: Path | str | None = None) -> None:
        # Not for secrets.
        self.seed = random.randrange(2**32) if seed is None else seed  # noqa: S311
        self.random = random.Random(self.seed)  # noqa: S311
        self._journal = None if journal is None else Path(journal)
        self._facts: list[Fact] = []

    def attempted(self, id: str, *, key: str | None = None) -> None:  # noqa: A002
        """A publisher is about to publish a message, or to commit it to an outbox."""
        self._record(Fact("attempted", id, key))

    def acknowledged(self, id: str) -> None:  # noqa: A002
        """The publisher was told that it is stored, or its transaction committed."""
        self._record(Fact("acknowledged", id))

    def abandoned(self, id: str) -> None:  # noqa: A002
        """Its transaction was rolled back: it must never be seen again."""
        self._record(Fact("abandoned", id))

    def stored(self, id: str, *, key: str | None = None) -> None:  # noqa: A002
        """It was found in the stream; record these in the stream's order."""
        self._record(Fact("stored", id, key))

    def handled(self, id: str, *, consumer: str, key: str | None = None) -> None:  # noqa: A002
        """A handler ran to its end."""
        self._record(Fact("handled", id, key, consumer))

    def effect(self, id: str, *, consumer: str, key: str | None = None) -> None:  # noqa: A002
        """A handler's effect was committed; record these in the order of the commits."""
        self._record(Fact("effect", id, key, consumer))

    def dead_lettered(self, id: str, *, consumer: str) -> None:  # noqa: A002
        """It was found among the dead letters."""
        self._record(Fact("dead_lettered", id, None, consumer))

    def facts(self) -> list[Fact]:
        """Return what all processes recorded so far, in the order of time."""
        facts = list(self._facts) if self._journal is None else list(_read(self._journal))
        return sorted(facts, key=lambda fact: fact.at)

    def ids(self, *kinds: Kind, consumer: str | None = None) -> set[str]:
        """Return the ids of messages to which something happened.

        Args:
            kinds: What; any of these.
            consumer: Only at this consumer.
        """
        return {
            fact.id
            for fact in self.facts()
            if fact.kind in kinds and consumer in {None, fact.consumer}
        }

    def unfinished(self, consumer: str) -> set[str]:
        """Return the ids of stored messages that a consumer has neither handled nor given up."""
        done = self.ids("handled", "effect", "dead_lettered", consumer=consumer)
        return self.ids("stored") - done

    def check(
        self,
        *,
        consumers: Iterable[str],
        exactly_once: bool = False,
        ordered: bool = False,
    ) -> None:
        """Check the promises, at the end, when nothing is under way any more.

        Always: acknowledged messages are stored; stored ones were handled or dead-lettered by
        every consumer; what is seen was attempted, and not abandoned; nothing is stored twice.

        Args:
            consumers: Durable names that had to get every message.
            exactly_once: Whether an effect may happen but once, and each stored message that is
                no dead letter must have had it.
            ordered: Whether the messages of one key must be stored as they were attempted
                (without those whose publishing failed, which may come late or never), and be
                handled first, and have their effects, as they are stored.

        Raises:
            HistoryError: A promise was broken.
        """
        facts = self.facts()
        names = list(consumers)
        broken = list(_publishing(facts))
        for consumer in names:
            broken += _consuming(facts, consumer)
            if exactly_once:
                broken += _effects(facts, consumer)
        if ordered:
            broken += _orders(facts, names)
        if broken:
            raise HistoryError("\n".join([f"seed {self.seed}:", *broken]))

    def _record(self, fact: Fact) -> None:
        fact = Fact(fact.kind, fact.id, fact.key, fact.consumer, time.monotonic_ns())
        if self._journal is None:
            self._facts.append(fact)
            return
        line = json.dumps(asdict(fact)).encode() + b"\n"
        # One write to the end of the file: whole, whatever other processes append meanwhile.
        descriptor = os.open(self._journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, line)
        finally:
            os.close(descriptor)


def _read(journal: Path) -> Iterator[Fact]:
    if journal.exists():
        for line in journal.read_text(encoding="utf-8").splitlines():
            yield Fact(**json.loads(line))


def _of(facts: list[Fact], *kinds: Kind, consumer: str | None = None) -> list[Fact]:
    return [fact for fact in facts if fact.kind in kinds and consumer in {None, fact.consumer}]


def _ids(facts: list[Fact]) -> list[str]:
    return [fact.id for fact in facts]


def _publishing(facts: list[Fact]) -> Iterator[str]:
    stored = _ids(_of(facts, "stored"))
    attempted = {*_ids(_of(facts, "attempted"))}
    abandoned = {*_ids(_of(facts, "abandoned"))}
    seen = {*_ids(_of(facts, "stored", "handled", "effect", "dead_lettered"))}
    acknowledged = _ids(_of(facts, "acknowledged"))
    yield from _say("acknowledged, but not stored", {*acknowledged} - {*stored})
    yield from _say("stored more than once", _repeated(stored))
    yield from _say("never attempted, but seen", seen - attempted)
    yield from _say("rolled back, but seen", seen & abandoned)


def _consuming(facts: list[Fact], consumer: str) -> Iterator[str]:
    done = {*_ids(_of(facts, "handled", "effect", "dead_lettered", consumer=consumer))}
    lost = {*_ids(_of(facts, "stored"))} - done
    yield from _say(f"stored, but neither handled nor dead-lettered by {consumer}", lost)


def _effects(facts: list[Fact], consumer: str) -> Iterator[str]:
    effects = _ids(_of(facts, "effect", consumer=consumer))
    given_up = {*_ids(_of(facts, "dead_lettered", consumer=consumer))}
    stored = {*_ids(_of(facts, "stored"))}
    yield from _say(f"more than one effect at {consumer}", _repeated(effects))
    yield from _say(f"stored, but without effect at {consumer}", stored - {*effects} - given_up)


def _orders(facts: list[Fact], consumers: list[str]) -> Iterator[str]:
    keys = {fact.id: fact.key for fact in facts if fact.key is not None}
    stored = _by_key(_of(facts, "stored"), keys)
    acknowledged = {*_ids(_of(facts, "acknowledged"))}
    attempted = _by_key([fact for fact in _of(facts, "attempted") if fact.id in acknowledged], keys)
    for key, wanted in attempted.items():
        actual = [one for one in stored.get(key, []) if one in acknowledged]
        yield from _compare(f"stored in another order than attempted (key {key})", actual, wanted)
    kinds: tuple[Kind, ...] = ("handled", "effect")
    for consumer in consumers:
        for kind in kinds:
            for key, actual in _by_key(_of(facts, kind, consumer=consumer), keys).items():
                text = f"{kind} by {consumer} in another order than stored (key {key})"
                yield from _compare(text, actual, stored.get(key, []))


def _by_key(facts: list[Fact], keys: Mapping[str, str]) -> dict[str, list[str]]:
    """Ids of each key in their order; of repeated ones the first counts."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for fact in facts:
        key = keys.get(fact.id)
        if key is not None:
            found[key].setdefault(fact.id)
    return {key: list(ids) for key, ids in found.items()}


def _compare(text: str, actual: list[str], wanted: list[str]) -> Iterator[str]:
    """Whether what both have is in one order."""
    place = {one: number for number, one in enumerate(wanted)}
    both = [one for one in actual if one in place]
    for before, after in itertools.pairwise(both):
        if place[before] > place[after]:
            yield f"{text}: {before} before {after}"
            return


def _repeated(ids: list[str]) -> set[str]:
    return {one for one, count in Counter(ids).items() if count > 1}


def _say(text: str, ids: set[str]) -> Iterator[str]:
    if ids:
        shown = ", ".join(sorted(ids)[:_MOST_SHOWN])
        more = len(ids) - _MOST_SHOWN
        yield f"{text}: {shown}" + (f" and {more} more" if more > 0 else "")
