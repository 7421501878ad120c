"""The options of ``common-events``, and what they run."""

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.errors import AppError
from common.events.core._command._app import Vocabulary, declarations, vocabulary
from common.events.core._command._letters import Filter, parse_ranges, parse_since
from common.events.core._command._load import TABLE, settings, transport_of
from common.events.core._command._say import warn, write
from common.events.core._subscription import DURABLE
from common.events.core._transport import Transport


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: By default those of the process.

    Returns:
        The exit status: 0 done, 1 it found something (differences, incompatible schemas, dead
        letters that could not be replayed), 2 it could not do its work, 130 interrupted.
    """
    # What transports log while they retry is told by the error, should that be the end of it.
    logger, quiet = logging.getLogger("common.events"), logging.NullHandler()
    logger.addHandler(quiet)
    try:
        options = _parser(settings(Path("pyproject.toml"))).parse_args(arguments)
        code: int = options.run(options)
    except AppError as error:
        warn(error.message)
        return 2
    except KeyboardInterrupt:
        warn("interrupted")
        return 130
    except BrokenPipeError:
        # Who reads has seen enough. Python would complain about stdout once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    finally:
        logger.removeHandler(quiet)
    return code


# What is only needed for one of them is imported there: `dlq` needs no JSON Schemas.


def _check(options: argparse.Namespace) -> int:
    from common.events.core._command._check import check  # noqa: PLC0415

    words = _words(options)
    return check(words, options.lock, options.direction, given=bool(options.modules))


def _asyncapi(options: argparse.Namespace) -> int:
    from common.events.core._command._asyncapi import document  # noqa: PLC0415

    text = document(_words(options), title=options.title, version=options.document_version)
    write(text, options.output)
    return 0


def _catalog(options: argparse.Namespace) -> int:
    from common.events.core._command._catalog import catalog  # noqa: PLC0415

    write(catalog(_words(options), title=options.title), options.output)
    return 0


def _streams(options: argparse.Namespace) -> int:
    from common.events.core._command._streams import apply, plan  # noqa: PLC0415

    words = _words(options)
    specs = declarations(words)
    transport = _transport(options, words)
    if options.action == "plan":
        return asyncio.run(plan(transport, specs))
    return asyncio.run(apply(transport, specs, options.mode))


def _list(options: argparse.Namespace) -> int:
    from common.events.core._command._dead_letters import show_counts, show_each  # noqa: PLC0415

    wanted, transport = _filter(options), _transport(options)
    return asyncio.run((show_each if options.each else show_counts)(transport, wanted))


def _show(options: argparse.Namespace) -> int:
    from common.events.core._command._show import show  # noqa: PLC0415

    words = _words(options)
    transport = _transport(options, words)
    return asyncio.run(show(transport, options.sequence, words.registries, raw=options.raw))


def _settle(options: argparse.Namespace) -> int:
    from common.events.core._command._dead_letters import (  # noqa: PLC0415
        EVERYONE,
        discard,
        replay,
    )

    wanted = _filter(options)
    if wanted.narrow == options.all:
        options.usage(
            "say which: sequence numbers, --subject, --consumer, --reason, --since, or --all "
            "without any of these"
        )
    if options.action == "discard":
        return asyncio.run(discard(_transport(options), wanted, dry_run=options.dry_run))
    to = options.to
    if to is not None and to != EVERYONE and not DURABLE.fullmatch(to):
        options.usage(f"--to {to}: give the durable name of a subscription, or '*' for all")
    return asyncio.run(replay(_transport(options), wanted, dry_run=options.dry_run, to=to))


def _words(options: argparse.Namespace) -> Vocabulary:
    return vocabulary(options.app, options.modules)


def _transport(options: argparse.Namespace, words: Vocabulary | None = None) -> Transport:
    # A file given beats a configuration from pyproject.toml.
    config = options.config if options.url_file is None else None
    if options.app and options.transport is config is options.url_file is None:
        return (words or _words(options)).apps[0].bus.transport
    return transport_of(options.transport, config, options.url_file)


def _filter(options: argparse.Namespace) -> Filter:
    return Filter(
        subject=options.subject,
        consumer=options.consumer,
        reason=options.reason,
        since=options.since and parse_since(options.since),
        ranges=parse_ranges(options.sequences),
    )


def _parser(found: dict[str, Any]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="common-events",
        description="Schemas, documents, streams and dead letters of events and commands. "
        f"--app, --module, --lock, --transport and --config may stand in [tool.{TABLE}] of "
        "pyproject.toml, as app, modules, lock, transport and config.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    words, broker = _words_parser(found), _broker_parser(found)

    check = commands.add_parser(
        "check", parents=[words], help="fail when schemas break the lock, or a bus cannot start"
    )
    lock = Path(found["lock"]) if "lock" in found else None
    check.add_argument(
        "--lock", type=Path, metavar="FILE", default=lock, help="default: schema-lock.json"
    )
    check.add_argument(
        "--direction",
        choices=["full", "backward", "forward"],
        default="full",
        help="backward: new code reads old messages; forward: old code reads new ones",
    )
    check.set_defaults(run=_check)

    asyncapi = commands.add_parser(
        "asyncapi", parents=[words], help="write an AsyncAPI document, as JSON"
    )
    asyncapi.add_argument("--document-version", metavar="VERSION", default="1.0.0")
    asyncapi.set_defaults(run=_asyncapi)
    catalog = commands.add_parser(
        "catalog", parents=[words], help="write an HTML page of streams, types and subscribers"
    )
    catalog.set_defaults(run=_catalog)
    for each in (asyncapi, catalog):
        each.add_argument("--title", help="of the document")
        each.add_argument("-o", "--output", metavar="FILE", default="-", help="default: stdout")

    streams = commands.add_parser("streams", help="compare declarations with the broker")
    actions = streams.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser(
        "plan", parents=[words, broker], help="print what would change; exit status 1 if anything"
    )
    apply = actions.add_parser("apply", parents=[words, broker], help="change the broker")
    apply.add_argument(
        "--mode",
        choices=["verify", "create", "reconcile"],
        default="reconcile",
        help="verify: nothing; create: what is missing; reconcile: also what differs (default)",
    )
    streams.set_defaults(run=_streams)
    _add_dead_letters(commands, words, broker)
    return parser


def _add_dead_letters(
    commands: Any, words: argparse.ArgumentParser, broker: argparse.ArgumentParser
) -> None:
    dlq = commands.add_parser("dlq", help="look after dead letters")
    actions = dlq.add_subparsers(dest="action", required=True, metavar="ACTION")
    which = argparse.ArgumentParser(add_help=False)
    which.add_argument(
        "sequences", nargs="*", metavar="SEQUENCE", help="number or range (7-12) of dead letters"
    )
    which.add_argument("--subject", help="as published; * and > are allowed")
    which.add_argument("--consumer", help="durable name of the subscription")
    which.add_argument("--reason", help="such as attempts, rejected, malformed")
    which.add_argument("--since", help="an age (90m, 2h, 7d) or a time (2026-05-04T10:00)")
    parents = [words, broker, which]

    each = actions.add_parser("list", parents=parents, help="count dead letters")
    each.add_argument("--each", action="store_true", help="a line for each instead of counts")
    each.set_defaults(run=_list)
    show = actions.add_parser(
        "show", parents=[words, broker], help="show one, sensitive fields masked"
    )
    show.add_argument("sequence", type=int, metavar="SEQUENCE")
    show.add_argument(
        "--raw", action="store_true", help="headers and body as they are, nothing masked"
    )
    show.set_defaults(run=_show)
    for name, text in (
        ("replay", "publish messages again, then remove the dead letters"),
        ("discard", "delete dead letters for good"),
    ):
        action = actions.add_parser(name, parents=parents, help=text)
        action.add_argument("--all", action="store_true", help="every dead letter there is")
        action.add_argument("--dry-run", action="store_true", help="only count them")
        action.set_defaults(run=_settle, usage=action.error)
        if name == "replay":
            action.add_argument(
                "--to",
                metavar="DURABLE",
                help="the subscription that is to handle them, should that not be the one which "
                "gave them up (after a rename, say); '*' for every subscription",
            )


def _words_parser(found: dict[str, Any]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(
        "--app",
        metavar="MODULE:BUS",
        action=_Several,
        default=_several(found.get("app")),
        help="an EventBus, or a function that returns one; may be repeated",
    )
    parser.add_argument(
        "--module",
        dest="modules",
        metavar="MODULE",
        action=_Several,
        default=_several(found.get("modules")),
        help="only messages declared in or below it; may be repeated",
    )
    return parser


def _broker_parser(found: dict[str, Any]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(
        "--transport",
        metavar="NAME",
        default=found.get("transport"),
        help="such as nats; by default the broker is that of --app",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--config",
        metavar="MODULE:NAME",
        default=found.get("config"),
        help="the transport's configuration or a transport, or a function that returns either",
    )
    where.add_argument(
        "--url-file", metavar="FILE", type=Path, help="file with the broker's URL; - for stdin"
    )
    return parser


class _Several(argparse.Action):
    """Collects values; the first one given takes the place of the defaults."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,  # noqa: ARG002
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,  # noqa: ARG002
    ) -> None:
        before = getattr(namespace, self.dest)
        setattr(namespace, self.dest, ([] if before is self.default else before) + [values])


def _several(value: Any) -> list[str]:
    return [] if value is None else [value] if isinstance(value, str) else list(value)
