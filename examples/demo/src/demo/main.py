"""The `demo` command, which `make demo` runs."""

import asyncio
import os
import signal
from pathlib import Path

import httpx
from rich.console import Console

from common.errors import DatabaseError, MessageBusError
from common.testing import ServerError
from demo.report import show_bad_lines, show_books
from demo.run import drive
from demo.system import System, running_system
from demo.workload import Workload, from_file, generated


class UsageError(Exception):
    """The command was given something it cannot use; the message says what instead."""


def main() -> None:
    """Run the demo; exit status 0 only when the books balance.

    Reads CALLS (how many calls to generate, 500), INPUT (a JSON-lines file of calls to use
    instead) and SERVE (1: keep running afterwards) from the environment.
    """
    console = Console(soft_wrap=True)
    for name in [name for name in os.environ if name.startswith("PG")]:
        del os.environ[name]  # meant for the user's own PostgreSQL; drivers would obey them here
    try:
        status = asyncio.run(_until_sigterm(console))
    except KeyboardInterrupt:
        console.print("\ninterrupted; everything is stopped and removed")
        status = 130
    except (UsageError, ServerError) as error:
        console.print(f"demo: {error}", style="red", markup=False, highlight=False)
        status = 2
    except httpx.HTTPError as error:
        console.print(f"demo: calls-api does not answer: {error!r}", style="red", markup=False)
        status = 1
    except MessageBusError as error:
        console.print(f"demo: NATS does not answer: {error}", style="red", markup=False)
        status = 1
    except DatabaseError as error:
        console.print(f"demo: PostgreSQL does not answer: {error}", style="red", markup=False)
        status = 1
    raise SystemExit(status)


async def _until_sigterm(console: Console) -> int:
    """Treat SIGTERM like Ctrl-C, so that nothing is left behind then either."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, signal.raise_signal, signal.SIGINT)
    return await _run(console)


async def _run(console: Console) -> int:
    workload = _workload()
    if workload.empty():
        show_bad_lines(workload.bad, console)
        raise UsageError("not one line of INPUT is a call: the reasons stand above")
    console.print(
        "starting PostgreSQL, NATS, Valkey, calls-api and post-processing, each with a relay ..."
    )
    async with running_system() as system:
        console.print(f"driving {workload.title} through {system.api_url}", highlight=False)
        books = await drive(system, workload, console=console)
        show_bad_lines(workload.bad, console)
        show_books(books, console)
        if not books.balance:
            for service in system.services:
                console.print(f"{service.name} wrote:\n{service.output()[-2000:]}", markup=False)
        if os.environ.get("SERVE") == "1":
            await _serve(system, console)
    return 0 if books.balance else 1


def _workload() -> Workload:
    if path := os.environ.get("INPUT"):
        if Path(path).exists() and not Path(path).is_file():
            raise UsageError(f"INPUT={path} is no file: give one with a JSON object per line")
        try:
            workload = from_file(Path(path))
        except OSError as error:
            raise UsageError(f"INPUT={path} cannot be read: {error.strerror}") from None
        if not workload.total:
            raise UsageError(f"INPUT={path} has no lines: put one JSON object per line")
        return workload
    text = os.environ.get("CALLS") or "500"
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 1_000_000:
        raise UsageError(f"CALLS={text} is not a number of calls: use 1 to 1000000")
    return generated(int(text))


async def _serve(system: System, console: Console) -> None:
    console.print(
        f"API {system.api_url}/docs\nPostgreSQL {system.postgres_url}\n"
        f"NATS {system.nats_url}\nValkey {system.redis_url}\n"
        f"outbox common-outbox --url {system.postgres_url} --schema calls_api status\n"
        "Ctrl-C stops everything",
        highlight=False,
    )
    await asyncio.Event().wait()


if __name__ == "__main__":
    main()
