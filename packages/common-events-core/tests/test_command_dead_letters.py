"""common-events dlq: nothing is lost, and nothing that is secret is shown."""

import asyncio
import runpy
import signal
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from common.errors import MessageBusError, ValidationError
from common.events.core import (
    BrokerUnavailable,
    Codec,
    InMemoryTransport,
    Outgoing,
    PublishRejected,
)
from common.events.core._command._letters import ALL, parse_ranges, parse_since
from common.events.core._command._progress import Progress

if TYPE_CHECKING:
    from command_support import Project
else:  # pytest's import mode knows no modules beside a test
    globals().update(runpy.run_path(str(Path(__file__).with_name("command_support.py")))["shared"])

ALICE = "Alice Keyholder"


def broken(project: "Project", count: int = 3) -> "Project":
    """Let `count` messages become dead letters of ``repair``; ``count`` handles them all."""
    apps = project.module
    owner = apps.Owner(name=ALICE)
    project.work(*(apps.Lit(lamp=f"l-{each}", owners=[owner]) for each in range(count)))
    assert len(project.browse()) == count
    assert len(apps.HANDLED) == count
    return project


def sequences(project: "Project") -> list[int]:
    return [each.sequence for each in project.browse()]


# list


def test_list_counts_by_subject_consumer_and_reason(project: "Project"):
    broken(project)
    project.work(project.module.Opened(door="d"), make="doors_again")
    code, out, err = project.run("dlq", "list", "--app", "@lamps")
    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    assert lines[0] == ["count", "subject", "consumer", "reason", "oldest", "newest"]
    assert [line[:4] for line in lines[1:]] == [
        ["1", "evt.door.opened", "bell", "rejected"],
        ["3", "evt.lamp.lit", "repair", "attempts"],
    ]
    code, out, _ = project.run("dlq", "list", "--app", "@lamps", "--each", "--reason", "rejected")
    assert out.split() == [
        "4", *out.split()[1:3], "evt.door.opened", "bell", "rejected", "after", "1:", "no", "bell",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ([], [1, 2, 3, 4]),
        (["--subject", "evt.lamp.*"], [1, 2, 3]),
        (["--subject", "evt.>"], [1, 2, 3, 4]),
        (["--subject", "evt.lamp"], []),
        (["--consumer", "bell"], [4]),
        (["--reason", "attempts"], [1, 2, 3]),
        (["--since", "1h"], [1, 2, 3, 4]),
        (["--since", "2099-01-01"], []),
        (["2"], [2]),
        (["3-4", "1"], [1, 3, 4]),
        (["3-900"], [3, 4]),
        (["900"], []),
        (["1-3", "--consumer", "bell"], []),
    ],
)
def test_filters_choose(project: "Project", arguments: list[str], found: list[int]):
    broken(project)
    project.work(project.module.Opened(door="d"), make="doors_again")
    code, out, _ = project.run(
        "dlq", "list", "--transport", "memory", "--config", f"{project.name}:broker", "--each",
        *arguments,
    )  # fmt: skip
    assert code == 0
    assert [int(line.split()[0]) for line in out.splitlines()] == found


def test_more_than_a_page_is_listed_and_replayed(project: "Project"):
    broken(project, 200)
    assert "200  evt.lamp.lit" in project.run("dlq", "list", "--app", "@lamps")[1]
    project.module.BROKEN.clear()
    code, out, err = project.run("dlq", "replay", "--app", "@lamps", "--all")
    assert (code, out) == (0, "200 dead letters replayed, 0 failed\n")
    assert sequences(project) == []
    lines = err.splitlines()
    assert lines[-1] == "200 of 200 replayed"
    assert len(lines) <= 10
    assert "\r" not in err
    assert "\x1b" not in err


def test_what_is_wrong_is_told(project: "Project"):
    broken(project, 1)
    for arguments, told in (
        (["list", "seven"], "'seven': give a sequence number"),
        (["list", "9-7"], "'9-7': give a sequence number"),
        (["list", "--since", "yesterday"], "--since 'yesterday': give an age"),
        (["show", "7"], "there is no dead letter 7"),
        (["replay"], "say which"),
        (["discard"], "say which"),
        (["replay", "--all", "--reason", "attempts"], "say which"),
    ):
        code, _, err = project.run("dlq", *arguments, "--app", "@lamps")
        assert code == 2, arguments
        assert told in err
    assert sequences(project) == [1]


def test_a_broker_without_the_stream_is_told(project: "Project"):
    code, _, err = project.run("dlq", "list", "--app", "@lamps")
    assert code == 2
    assert "the broker has no stream DEAD_LETTERS yet, and so no dead letters" in err


def test_that_there_are_none_is_told(project: "Project"):
    broken(project, 0)
    listing = ["dlq", "list", "--app", "@lamps"]
    assert project.run(*listing) == (0, "no dead letters\n", "")
    assert project.run(*listing, "--consumer", "bell") == (0, "no such dead letters\n", "")
    assert project.run(*listing, "--each") == (0, "", "common-events: no dead letters\n")
    code, out, _ = project.run("dlq", "discard", "7", "--app", "@lamps")
    assert (code, out) == (0, "no such dead letters\nnothing discarded\n")


# show


def test_show_masks_what_is_sensitive(project: "Project"):
    broken(project, 1)
    code, out, _ = project.run("dlq", "show", "1", "--app", "@lamps")
    assert code == 0
    for text in (
        "dead letter 1 of DEAD_LETTERS", "attempts after attempt 2", "RuntimeError: no ladder",
        "LAMP/1", "lamp.lit version 2", '"name": "**********"', '"town": "Ulm"', "key", "l-0",
    ):  # fmt: skip
        assert text in out
    assert ALICE not in out


def test_show_raw_shows_everything(project: "Project"):
    broken(project, 1)
    code, out, _ = project.run("dlq", "show", "1", "--raw", "--app", "@lamps")
    assert code == 0
    headers, _, body = out.partition("\n\n")
    assert "Dead-Letter-Reason: attempts" in headers
    assert body == project.browse()[0].data.decode() + "\n"
    assert ALICE in body


def store(project: "Project", data: bytes, headers: dict[str, str], subject: str) -> None:
    async def store() -> None:
        bus = project.module.make_lamps()
        await bus.start()
        await bus.transport.publish(
            Outgoing(f"dead.{subject}", data, id="x", stream="DEAD_LETTERS", headers=headers)
        )
        await bus.stop()

    asyncio.run(store())


@pytest.mark.parametrize(
    ("subject", "data", "told"),
    [
        ("evt.lamp.lit", b'{"name": "%s"' % ALICE.encode(), "cannot be decoded"),
        ("evt.fire.lit", b'{"name": "%s"}' % ALICE.encode(), "no class is declared"),
    ],
)
def test_show_keeps_to_itself_what_it_cannot_read(
    project: "Project", subject: str, data: bytes, told: str
):
    store(project, data, {"Dead-Letter-Reason": "malformed", "Who": ALICE}, subject)
    code, out, _ = project.run("dlq", "show", "1", "--app", "@lamps")
    assert code == 0
    assert told in out
    assert "--raw shows it" in out
    assert ALICE not in out


def test_show_masks_a_sensitive_key_and_attributes_nobody_knows(project: "Project"):
    apps = project.module
    codec = Codec(source="/lamps", registry=apps.REGISTRY, mode="binary")
    body, headers = codec.encode(apps.Light(owner={"name": ALICE}), id="1")
    headers = {**headers, "ce-customer": ALICE}
    store(project, body, headers, "cmd.lamp.light")
    _, out, _ = project.run("dlq", "show", "1", "--app", "@lamps")
    assert "lamp.light version 1" in out
    assert "Alice" not in out
    assert "ce-source" in out
    assert "/lamps" in out


def test_show_lets_nothing_steer_the_terminal(project: "Project"):
    headers = {"Dead-Letter-Error": "\x1b]0;owned\x07", "Dead-Letter-Consumer": "\u202eevil"}
    store(project, b"\x1b[2J", headers, "evt.lamp.lit")
    for arguments in (["show", "1"], ["list"], ["list", "--each"]):
        _, out, _ = project.run("dlq", *arguments, "--app", "@lamps")
        assert "\x1b" not in out
        assert "\u202e" not in out


# replay


def test_replay_delivers_to_the_mended_handler_and_loses_none(project: "Project"):
    broken(project, 20)
    apps = project.module
    before = {each.sequence: each for each in project.browse("LAMP")}
    apps.BROKEN.clear()
    apps.HANDLED.clear()
    code, out, _ = project.run("dlq", "replay", "--app", "@lamps", "--all")
    assert (code, out) == (0, "20 dead letters replayed, 0 failed\n")
    assert sequences(project) == []
    again = [each for each in project.browse("LAMP") if each.sequence not in before]
    # As they were, in their order, although the broker still remembers the ids they had.
    assert [each.data for each in again] == [each.data for each in before.values()]
    assert {each.subject for each in again} == {"evt.lamp.lit"}
    for each in again:
        assert dict(each.headers) == {"Replay-Consumer": "repair"}
    project.work()
    # The other subscription has an inbox, knows the ids of the envelopes, and does nothing twice.
    assert [("repair", f"l-{each}") for each in range(20)] == apps.HANDLED
    assert sequences(project) == []


def test_what_fails_again_is_a_new_dead_letter_and_not_replayed_forever(project: "Project"):
    broken(project, 70)  # more than a page
    apps = project.module

    class Instant(InMemoryTransport):
        """A broker whose consumers fail before the command goes on."""

        async def publish_many(self, messages, *, timeout=None):  # noqa: ASYNC109
            results = await super().publish_many(messages, timeout=timeout)
            for each in messages:
                headers = {"Dead-Letter-Stream": "LAMP", "Dead-Letter-Subject": each.subject}
                subject = f"dead.{each.subject}"
                letter = Outgoing(subject, each.data, each.id, "DEAD_LETTERS", headers=headers)
                await self.publish(letter)
            return results

    apps.instant = Instant(apps.BROKER)
    code, out, _ = project.run("dlq", "replay", "--all", "--config", f"{project.name}:instant")
    assert (code, out) == (0, "70 dead letters replayed, 0 failed\n")
    assert sequences(project) == list(range(71, 141))


def test_a_message_that_fails_again_can_be_replayed_again(project: "Project"):
    broken(project, 1)
    for sequence in (2, 3):
        assert project.run("dlq", "replay", "--app", "@lamps", "--all")[0] == 0
        project.work()
        assert sequences(project) == [sequence]
    project.module.BROKEN.clear()
    project.module.HANDLED.clear()
    assert project.run("dlq", "replay", "--app", "@lamps", "--all")[0] == 0
    project.work()
    assert project.module.HANDLED == [("repair", "l-0")]


class Crashing(InMemoryTransport):
    """Loses the connection before a given remove."""

    removes = 0
    crash_at = 0

    async def remove(self, stream: str, sequence: int) -> bool:
        self.removes += 1
        if self.removes >= self.crash_at:
            raise BrokerUnavailable("the connection is gone")
        return await super().remove(stream, sequence)


def test_a_crash_before_the_removal_replays_again_without_storing_twice(project: "Project"):
    broken(project, 3)
    apps = project.module
    apps.crashing = Crashing(apps.BROKER)
    apps.crashing.crash_at = 2
    replay = ["dlq", "replay", "--all"]
    code, out, err = project.run(*replay, "--config", f"{project.name}:crashing")
    assert code == 1
    assert "1 dead letter replayed, 2 failed" in out
    assert "2: it was replayed, and is still a dead letter" in err
    assert "run it again" in err
    assert sequences(project) == [2, 3]
    stored = len(project.browse("LAMP"))
    assert stored == 6
    code, out, _ = project.run(*replay, "--app", "@lamps")
    assert (code, out) == (0, "2 dead letters replayed, 0 failed\n")
    assert sequences(project) == []
    assert len(project.browse("LAMP")) == stored  # within the duplicate window: once


class Killed(BaseException):
    """No code runs after it, but for what a process's end does, too."""


class Dying(InMemoryTransport):
    """Dies at one of its calls, before it or after it has had its effect."""

    calls_left = 0
    after = False

    async def publish(self, message, *, timeout=None):  # noqa: ASYNC109
        return await self.maybe_dying(super().publish(message, timeout=timeout))

    async def remove(self, stream, sequence):
        return await self.maybe_dying(super().remove(stream, sequence))

    async def maybe_dying(self, call):
        self.calls_left -= 1
        if self.calls_left == 0:
            if self.after:
                await call
            else:
                call.close()
            raise Killed
        return await call


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("call", range(1, 13))
def test_wherever_it_dies_nothing_is_lost(project: "Project", call: int, after: bool):
    broken(project, 6)
    apps = project.module
    apps.dying = Dying(apps.BROKER)
    apps.dying.calls_left, apps.dying.after = call, after
    with pytest.raises(Killed):
        project.run("dlq", "replay", "--all", "--config", f"{project.name}:dying")
    published = project.browse("LAMP")[6:]
    removed = {1, 2, 3, 4, 5, 6} - set(sequences(project))
    assert len(published) >= len(removed)
    assert project.run("dlq", "replay", "--app", "@lamps", "--all")[0] == 0
    assert sequences(project) == []
    published = project.browse("LAMP")[6:]
    assert [each.data for each in published] == [each.data for each in project.browse("LAMP")[:6]]


def test_what_the_broker_does_not_take_stays_a_dead_letter(project: "Project"):
    broken(project, 70)
    for error, failed, told in (
        (PublishRejected("no room"), 70, "no room"),
        (BrokerUnavailable("no leader"), 64, "stopped, because the broker does not take more"),
    ):
        transport = project.module.lamps.transport
        with transport.failing(error, subject="evt.lamp.>"):
            code, out, err = project.run("dlq", "replay", "--app", "@lamps", "--all")
        assert (code, out) == (1, f"0 dead letters replayed, {failed} failed\n")
        assert told in err
        assert len(err.splitlines()) < 15
        assert len(sequences(project)) == 70


def test_a_dead_letter_that_does_not_say_where_it_is_from_is_left(project: "Project"):
    store(project, b"{}", {}, "evt.lamp.lit")
    code, out, err = project.run("dlq", "replay", "--app", "@lamps", "1")
    assert (code, out) == (1, "0 dead letters replayed, 1 failed\n")
    assert "it has no header Dead-Letter-Stream" in err
    assert sequences(project) == [1]


def test_a_dry_run_changes_nothing(project: "Project"):
    broken(project, 3)
    for action, done in (("replay", "replayed"), ("discard", "discarded")):
        code, out, _ = project.run("dlq", action, "--app", "@lamps", "--all", "--dry-run")
        assert code == 0
        assert f"3 dead letters would be {done}" in out
        assert "evt.lamp.lit" in out
    assert sequences(project) == [1, 2, 3]
    assert len(project.browse("LAMP")) == 3


def test_only_what_was_chosen_is_replayed(project: "Project"):
    broken(project, 5)
    assert project.run("dlq", "replay", "--app", "@lamps", "2-3", "5")[0] == 0
    assert sequences(project) == [1, 4]
    lamps = [each.data.count(b'"l-') for each in project.browse("LAMP")[5:]]
    assert len(lamps) == 3
    code, out, _ = project.run("dlq", "replay", "--app", "@lamps", "--consumer", "nobody")
    assert (code, out.splitlines()[-1]) == (0, "nothing replayed")


class Signalling(InMemoryTransport):
    """Gets signals while a batch is on its way."""

    signals = 1
    batches = 0

    async def publish_many(self, messages, *, timeout=None):  # noqa: ASYNC109
        self.batches += 1
        for _ in range(self.signals):
            signal.raise_signal(signal.SIGINT)
            await asyncio.sleep(0.05)  # the loop hears of a signal in its next round
        return await super().publish_many(messages, timeout=timeout)


@pytest.mark.parametrize(("signals", "left"), [(1, 136), (2, 200)])
def test_ctrl_c_finishes_the_batch_in_hand_and_twice_stops_at_once(
    project: "Project", signals: int, left: int
):
    broken(project, 200)
    apps = project.module
    apps.signalling = Signalling(apps.BROKER)
    apps.signalling.signals = signals
    handler = signal.getsignal(signal.SIGINT)
    code, out, err = project.run("dlq", "replay", "--all", "--config", f"{project.name}:signalling")
    assert code == 130
    assert f"{200 - left} dead letters replayed" in out
    assert f"interrupted: {left} are left" in err
    assert apps.signalling.batches == 1
    assert len(sequences(project)) == left
    assert len(project.browse("LAMP")) == 200 + 200 - left
    assert signal.getsignal(signal.SIGINT) is handler


# discard


def test_discard_deletes_what_was_chosen(project: "Project"):
    broken(project, 4)
    code, out, _ = project.run("dlq", "discard", "--app", "@lamps", "2-3")
    assert (code, out) == (0, "2 dead letters discarded, 0 failed\n")
    assert sequences(project) == [1, 4]
    assert project.run("dlq", "discard", "--app", "@lamps", "--subject", "evt.lamp.>")[0] == 0
    assert sequences(project) == []
    assert len(project.browse("LAMP")) == 4


# parts


class Terminal:
    encoding = "utf-8"

    def __init__(self) -> None:
        self.text = ""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None: ...


@pytest.mark.parametrize(("encoding", "bar"), [("utf-8", "█" * 15 + "░" * 15), ("ascii", "#")])
def test_on_a_terminal_progress_is_a_bar(monkeypatch: pytest.MonkeyPatch, encoding: str, bar: str):
    terminal = Terminal()
    terminal.encoding = encoding
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress(10, "replayed") as progress:
        progress.show(4, 1)
        progress.show(9, 1)
    assert bar in terminal.text
    assert " 50%  4 of 10 replayed, 1 failed" in terminal.text
    assert terminal.text.count("\r") == 3
    assert terminal.text.endswith("\x1b[K\n")
    terminal.text.encode(encoding)


def test_ranges():
    assert parse_ranges([]) == ALL
    assert parse_ranges(["5", "3-4", "1"]) == [(1, 1), (3, 5)]
    for text in ("0", "-1", "1-", "2-1", "1.5", "٣", "9" * 30):
        with pytest.raises(ValidationError):
            parse_ranges([text])


def test_since():
    now = datetime(2026, 5, 4, 12, tzinfo=UTC)
    assert parse_since("90m", now) == now - timedelta(minutes=90)
    assert parse_since("2w", now) == now - timedelta(weeks=2)
    assert parse_since("2026-05-04T10:00+02:00") == datetime(2026, 5, 4, 8, tzinfo=UTC)
    assert parse_since("2026-05-04") == datetime(2026, 5, 4, tzinfo=UTC)
    for text in ("", "5", "5y", "-5m", "999999999w"):
        with pytest.raises(ValidationError):
            parse_since(text)


def test_a_transport_that_cannot_browse_is_told(project: "Project"):
    class Blind(InMemoryTransport):
        capabilities = frozenset()

    project.module.blind = Blind(project.module.BROKER)
    code, _, err = project.run("dlq", "list", "--config", f"{project.name}:blind")
    assert code == 2
    assert "cannot show stored messages" in err


def test_an_unreachable_broker_is_told(project: "Project"):
    class Away(InMemoryTransport):
        async def open(self) -> None:
            raise MessageBusError("nobody answers at host:4222")

    project.module.away = Away(project.module.BROKER)
    code, _, err = project.run("dlq", "list", "--config", f"{project.name}:away")
    assert (code, err) == (2, "common-events: nobody answers at host:4222\n")
