"""Names that came from outside, made fit for messages."""

from collections.abc import Iterable

from common.db.core._errors import UnknownFieldError

_MAX_SHOWN = 64


def shown(name: object) -> str:
    """Return ``name`` quoted, printable and short."""
    text = repr(name) if isinstance(name, str) else f"a {type(name).__name__}"
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 3]}..."


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is most like ``name``."""
    import difflib  # noqa: PLC0415 - only for messages

    found = difflib.get_close_matches(name[:_MAX_SHOWN], list(known), n=1)
    return found[0] if found else None


def unknown_field(entity: str, name: object, known: Iterable[str]) -> UnknownFieldError:
    """Return the error for a field that does not exist, with a suggestion."""
    known = tuple(known)
    suggestion = did_you_mean(name, known) if isinstance(name, str) else None
    hint = f"did you mean {suggestion!r}?" if suggestion else f"it has {', '.join(known)}"
    return UnknownFieldError(
        f"{entity} has no field {shown(name)}: {hint}",
        field=name[:_MAX_SHOWN] if isinstance(name, str) else None,
        entity=entity,
        suggestion=suggestion,
    )
