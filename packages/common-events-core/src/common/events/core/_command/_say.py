"""What the command writes; text from outside cannot steer the terminal."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from common.errors import ValidationError


def printable(text: str) -> str:
    r"""Return a text in which control characters show as escapes.

    Example:
        >>> printable("red\x1b[31m\nnext ü")
        'red\\x1b[31m\\nnext ü'
    """
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def say(line: str = "") -> None:
    """Write a line to stdout."""
    sys.stdout.write(f"{printable(line)}\n")


def warn(text: str) -> None:
    """Write a message to stderr; its further lines, should it have any, are indented."""
    first, *more = text.split("\n")
    lines = [f"common-events: {printable(first)}", *(f"  {printable(each)}" for each in more)]
    sys.stderr.write("\n".join(lines) + "\n")


def counted(count: int, noun: str) -> str:
    """Return such as ``"1 type"`` or ``"1,200 types"``."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: int = 0) -> None:
    """Write aligned columns.

    Args:
        head: Names of the columns.
        rows: Their texts.
        numbers: How many columns, from the left, are numbers and stand to the right.
    """
    lines = [[printable(text) for text in line] for line in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = [
            text.rjust(width) if index < numbers else text.ljust(width)
            for index, (text, width) in enumerate(zip(line, widths, strict=True))
        ]
        sys.stdout.write("  ".join(cells).rstrip() + "\n")


def write(text: str, output: str) -> None:
    """Write a document to a file, or to stdout for ``-``.

    Raises:
        ValidationError: The file cannot be written.
    """
    if output == "-":
        sys.stdout.write(text)
        return
    try:
        Path(output).write_text(text, "utf-8")
    except OSError as error:
        raise ValidationError(f"{output} cannot be written: {error.strerror}") from error
    warn(f"wrote {output}")
