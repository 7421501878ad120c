"""``common-events check``: is the code compatible with the lock, and can the bus start?"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from common.domain import Message, check_compatibility, schema_lock
from common.errors import ValidationError
from common.events.core._command._app import Vocabulary
from common.events.core._command._say import counted, say

Direction = Literal["full", "backward", "forward"]


def check(words: Vocabulary, path: Path, direction: Direction, *, given: bool) -> int:
    """Compare schemas with the lock and look at the applications' subscriptions.

    Args:
        words: The messages and applications.
        path: The lock.
        direction: Which services have to keep working; see `common.domain.check_compatibility`.
        given: Whether modules were named: then their classes are compared, otherwise those that
            are not the shared vocabulary's, which has a lock of its own.

    Returns:
        1 if anything is wrong.
    """
    code = 0
    for app in words.apps:
        problems = app.problems()
        for problem in problems:
            say(f"{app.name}: {problem}")
        if problems:
            code = 1
        else:
            say(f"{app.name}: {counted(len(app.bus.subscriptions), 'subscription')} can start")
    classes = list(words.classes) if given else words.own()
    return _schemas(classes, path, direction) or code


def _schemas(classes: Sequence[type[Message]], path: Path, direction: Direction) -> int:
    how = "python -m common.domain lock"
    try:
        lock = path.read_text("utf-8")
    except FileNotFoundError:
        raise ValidationError(f"{path}: there is no lock: write and commit one: {how}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValidationError(f"{path} cannot be read: {error}") from error
    problems = check_compatibility(lock, classes, direction=direction)
    for problem in problems:
        say(str(problem))
        say(f"  fix: {problem.fix}")
    if problems:
        say(f"incompatible with {path}: {counted(len(problems), 'change')}")
        return 1
    say(f"compatible with {path}: {counted(len(classes), 'schema')}")
    if schema_lock(classes, previous=lock) != lock:
        say(f"the lock is behind the code: bring it up to date and commit it: {how}")
        return 1
    return 0
