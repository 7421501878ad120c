"""``python -m common.testing up``: servers for local development."""

import argparse
import asyncio
import json
import signal
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack

from common.testing._errors import ServerError
from common.testing._nats import NatsCluster, NatsServer
from common.testing._ports import check_port
from common.testing._postgres import PostgresServer
from common.testing._valkey import ValkeyServer

VARIABLES = {
    "postgres": "COMMON_TESTING_POSTGRES_URL",
    "valkey": "COMMON_TESTING_REDIS_URL",
    "nats": "COMMON_TESTING_NATS_URL",
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m common.testing", description=__doc__)
    up = parser.add_subparsers(required=True, metavar="up").add_parser(
        "up", help="start the servers, print their URLs, stop them at Ctrl-C"
    )
    up.add_argument(
        "--only", type=_names, default=list(VARIABLES), help="such as postgres,nats (default: all)"
    )
    for name in VARIABLES:
        up.add_argument(f"--{name}-port", type=_port, metavar="PORT", help="default: a free one")
    up.add_argument(
        "--nats-nodes", type=_nodes, default=1, metavar="N", help="3 starts a cluster (default: 1)"
    )
    up.add_argument("--password", help="of all servers (default: a random one)")
    form = up.add_mutually_exclusive_group()
    form.add_argument(
        "--json", dest="form", action="store_const", const="json", help="print one JSON object"
    )
    form.add_argument(
        "--env", dest="form", action="store_const", const="env", help="print NAME=URL lines"
    )
    return parser


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise argparse.ArgumentTypeError(f"name at least one of {', '.join(VARIABLES)}")
    if unknown := sorted(set(names) - set(VARIABLES)):
        raise argparse.ArgumentTypeError(
            f"unknown: {', '.join(unknown)} (there are {', '.join(VARIABLES)})"
        )
    return names


def _port(text: str) -> int:
    try:
        check_port(int(text))
    except (ValueError, ServerError):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port (1 to 65535)") from None
    return int(text)


def _nodes(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of servers (1 or more)")
    return int(text)


async def _up(options: argparse.Namespace) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with AsyncExitStack() as stack:
        starting = asyncio.ensure_future(_start(options, stack))
        waiting = asyncio.ensure_future(stopped.wait())
        try:
            await asyncio.wait((starting, waiting), return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                _show(starting.result(), options.form)
                await waiting
        finally:
            for task in (starting, waiting):
                task.cancel()
            await asyncio.wait((starting, waiting))


async def _start(options: argparse.Namespace, stack: AsyncExitStack) -> dict[str, str]:
    urls: dict[str, str] = {}
    password = options.password
    if "postgres" in options.only:
        postgres = PostgresServer(port=options.postgres_port, password=password)
        urls["postgres"] = (await stack.enter_async_context(postgres)).url
    if "valkey" in options.only:
        valkey = ValkeyServer(port=options.valkey_port, password=password, append_only=True)
        urls["valkey"] = (await stack.enter_async_context(valkey)).url
    if "nats" in options.only and options.nats_nodes > 1:
        cluster = NatsCluster(options.nats_nodes, password=password, port=options.nats_port)
        urls["nats"] = ",".join((await stack.enter_async_context(cluster)).urls)
    elif "nats" in options.only:
        nats = NatsServer(port=options.nats_port, password=password)
        urls["nats"] = (await stack.enter_async_context(nats)).url
    return urls


def _show(urls: dict[str, str], form: str | None) -> None:
    if form == "json":
        text = json.dumps(urls)
    elif form == "env":
        text = "\n".join(f"{VARIABLES[name]}={url}" for name, url in urls.items())
    else:
        text = "\n".join(f"{name:9} {url}" for name, url in urls.items()) + "\nCtrl-C stops them."
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        asyncio.run(_up(options))
    except ServerError as error:
        sys.stderr.write(f"common.testing: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
