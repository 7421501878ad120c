"""Subjects and subject filters, as NATS defines them: words joined by dots.

In a filter ``*`` stands for one word and a last ``>`` for one word or more; see
https://docs.nats.io/nats-concepts/subjects.
"""

from collections.abc import Iterable


def matches(pattern: str, subject: str) -> bool:
    """Whether a subject passes a filter.

    Example:
        >>> matches("evt.call.>", "evt.call.completed"), matches("evt.*", "evt.call.completed")
        (True, False)
    """
    if pattern == subject:
        return True
    wanted, words = pattern.split("."), subject.split(".")
    if wanted[-1] == ">":
        del wanted[-1]
        if len(words) <= len(wanted):
            return False
    elif len(words) != len(wanted):
        return False
    return all(want in {"*", word} for want, word in zip(wanted, words, strict=False))


def merged(present: Iterable[str], further: Iterable[str]) -> tuple[str, ...]:
    """Return filters that pass what any of these do, without those that others cover.

    Example:
        >>> merged(["evt.call.ended", "evt.user.>"], ["evt.call.*", "evt.user.added"])
        ('evt.user.>', 'evt.call.*')
    """
    every = dict.fromkeys([*present, *further])
    return tuple(one for one in every if not any(_covers(other, one) for other in every))


def _covers(pattern: str, other: str) -> bool:
    return (
        pattern != other
        and matches(pattern, other)
        and (pattern.endswith(">") or not other.endswith(">"))
    )


def overlap(one: str, other: str) -> bool:
    """Whether there is a subject that passes both filters.

    Example:
        >>> overlap("evt.*.completed", "evt.call.>"), overlap("evt.call", "evt.call.>")
        (True, False)
    """
    left, right = one.split("."), other.split(".")
    for a, b in zip(left, right, strict=False):
        if ">" in {a, b}:
            return True
        if a != b and "*" not in {a, b}:
            return False
    return len(left) == len(right)
