"""What is wrong with a configuration, without any of its values."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import LiteralString

from pydantic_core import PydanticCustomError

from common.errors import AppError, JsonValue, field

Path = tuple[str | int, ...]

_LONGEST_NAME = 120
RULE = "common_config_rule"  # pydantic's error type of the rules below


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a configuration.

    Attributes:
        message: What is wrong and what to do; never a configured value.
        path: The field, such as ``db.host``; empty where no field is meant.
        source: File and line, variable or secret file; empty where the value is missing.
    """

    message: str
    path: str = ""
    source: str = ""

    def __str__(self) -> str:
        where = f"{self.path} ({self.source})" if self.path and self.source else ""
        where = where or self.path or self.source
        return f"{where}: {self.message}" if where else self.message

    def to_dict(self) -> dict[str, JsonValue]:
        """Return the three attributes."""
        return {"path": self.path, "source": self.source, "message": self.message}


class ConfigError(AppError):
    """A configuration cannot be used. Lists everything that is wrong with it, without values.

    Args:
        message: All problems, a line for each.
        problems: The same as data; ``details`` has them too.
    """

    code = "CONFIG_ERROR"
    status = 500

    problems: tuple[Problem, ...] = field(default=(), public=False)


def config_error(subject: str, problems: Sequence[Problem]) -> ConfigError:
    """Make the error that lists ``problems``, each once, of the configuration of ``subject``."""
    unique = tuple(dict.fromkeys(problems))
    count = "1 problem" if len(unique) == 1 else f"{len(unique)} problems"
    lines = [f"{count} in the configuration of {subject}", *(f"  {each}" for each in unique)]
    return ConfigError(
        "\n".join(lines),
        problems=unique,
        details={"problems": [each.to_dict() for each in unique]},
    )


def broken_rule(message: LiteralString) -> PydanticCustomError:
    """Return what a validator of ours raises; ``message`` must not hold values."""
    return PydanticCustomError(RULE, message)


def dotted(path: Path) -> str:
    """Return ``("db", "replicas", 0)`` as ``db.replicas.0``, safe to print."""
    return ".".join(printable(str(part)) for part in path)


def printable(name: str) -> str:
    """Return ``name`` without control characters, and not longer than a line."""
    safe = "".join(char if char.isprintable() else "?" for char in name)
    return safe if len(safe) <= _LONGEST_NAME else f"{safe[: _LONGEST_NAME - 1]}…"


def did_you_mean(name: str, candidates: Sequence[str]) -> str:
    """Return ``; did you mean "host"?``, or an empty text if nothing comes near."""
    plain = {_plain(candidate): candidate for candidate in candidates}
    close = get_close_matches(_plain(name)[:_LONGEST_NAME], plain, n=1, cutoff=0.7)
    return f'; did you mean "{plain[close[0]]}"?' if close else ""


def _plain(name: str) -> str:
    return name.casefold().replace("-", "_")
