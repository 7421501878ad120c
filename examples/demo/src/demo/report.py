"""What the demo prints at the end."""

import statistics

from rich.console import Console
from rich.table import Table

from demo.run import Books
from demo.workload import BadLine

SHOWN = 100


def show_bad_lines(bad: list[BadLine], console: Console) -> None:
    """Name each line that was no call, with its reason."""
    for line in bad[:SHOWN]:
        console.print(f"line {line.number}: {line.reason}", style="yellow", markup=False)
    if len(bad) > SHOWN:
        console.print(f"and {len(bad) - SHOWN} more bad lines", style="yellow")


def show_books(books: Books, console: Console) -> None:
    """Print the table of the books, and what is wrong if they do not balance."""
    table = Table("", "", show_header=False)
    table.columns[1].justify = "right"
    for name, value in (
        ("calls created", books.created),
        ("calls ended", books.ended),
        ("events published", books.published),
        ("events left in the outbox", books.waiting),
        ("calls processed", books.processed),
        ("results published", books.announced),
        ("results reported to calls-api", books.reported),
        ("lost", books.lost),
        ("duplicated effects", books.duplicate_effects),
        ("bad messages sent on purpose", books.spoiled.total()),
        ("dead letters", books.dead_letters.total()),
        *((f"  {reason}", count) for reason, count in sorted(books.dead_letters.items())),
        ("services killed, replaced", "yes" if books.killed else "no: too few calls"),
        ("calls per second", f"{books.processed / books.seconds:.0f}"),
        ("ended to processed, p50", _milliseconds(books.latencies, 50)),
        ("ended to processed, p99", _milliseconds(books.latencies, 99)),
    ):
        table.add_row(name, str(value))
    console.print(table)
    for refusal in books.tally.refused[:SHOWN]:
        console.print(f"refused: {refusal}", style="yellow", markup=False)
    for call_id in books.unprocessed:
        console.print(f"not reported as processed: {call_id}", style="red", highlight=False)
    if books.spoiled != books.dead_letters:
        expected = ", ".join(f"{count} {reason}" for reason, count in books.spoiled.items())
        console.print(f"dead letters should be {expected}", style="red", highlight=False)
    if books.balance:
        console.print(
            "the books balance: every call that was made was processed, once, its result was "
            "published and reported, and the dead letters are what was bad on purpose"
        )
    else:
        console.print("the books do not balance", style="red")


def _milliseconds(seconds: list[float], percent: int) -> str:
    if len(seconds) < 2:
        return f"{seconds[0] * 1000:.0f} ms" if seconds else "-"
    return f"{statistics.quantiles(seconds, n=100)[percent - 1] * 1000:.0f} ms"
