"""How far something is, on stderr: a bar on a terminal, a line at each tenth otherwise."""

import sys
from types import TracebackType
from typing import Self

_WIDTH = 30


class Progress:
    """Shows how many of a known number are done; use it in a ``with`` statement.

    Args:
        total: How many there are.
        done: What is done to them, such as ``"replayed"``.
    """

    def __init__(self, total: int, done: str) -> None:
        self._total = total
        self._done = done
        self._bar = sys.stderr.isatty()
        self._tenth = 0

    def __enter__(self) -> Self:
        if self._bar:
            self.show(0, 0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if self._bar:
            self._write("\n")

    def show(self, done: int, failed: int) -> None:
        """Show how many are done, and how many of the rest have failed."""
        part = min((done + failed) / max(self._total, 1), 1.0)
        text = f"{done:,} of {self._total:,} {self._done}"
        text += f", {failed:,} failed" if failed else ""
        if self._bar:
            filled = round(part * _WIDTH)
            bar = "█" * filled + "░" * (_WIDTH - filled)
            self._write(f"\r{bar} {part:4.0%}  {text}\x1b[K")
        elif int(part * 10) > self._tenth:
            self._tenth = int(part * 10)
            self._write(f"{text}\n")

    def _write(self, text: str) -> None:
        encoding = sys.stderr.encoding or "utf-8"
        try:
            text.encode(encoding)
        except UnicodeEncodeError:
            text = text.replace("█", "#").replace("░", ".")
        sys.stderr.write(text)
        sys.stderr.flush()
