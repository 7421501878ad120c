"""``common-events check``: is the code compatible with the lock, and can the bus start?"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from common.domain import Message, check_compatibility, schema_lock
from common.errors import ValidationError
from common.events.core._command._app import SHARED, Vocabulary
from common.events.core._command._say import counted, say

Direction = Literal["full", "backward", "forward"]


LOCK = Path("schema-lock.json")
"""Where the lock is unless somebody says otherwise."""


def check(words: Vocabulary, path: Path | None, direction: Direction, *, given: bool) -> int:
    """Compare schemas with the lock and look at the applications' subscriptions.

    Args:
        words: The messages and applications.
        path: The lock; ``None``: where it usually is.
        direction: Which services have to keep working; see `common.domain.check_compatibility`.
        given: Whether modules were named: then their classes are compared, otherwise those that
            are not the shared vocabulary's, which is compared with its lock where it is declared.
            Of an application without types of its own, nothing is, unless it has a lock.

    Returns:
        1 if anything is wrong.
    """
    code = 0
    for app in words.apps:
        problems = app.bus.check()
        for problem in problems:
            say(f"{app.name}: {problem}")
        if problems:
            code = 1
        else:
            say(f"{app.name}: {counted(len(app.bus.subscriptions), 'subscription')} can start")
    classes = list(words.classes) if given else words.own()
    if not classes:
        if path is None and words.apps and not LOCK.exists():
            say(
                f"no schemas to compare: all message types are those of {SHARED}, which are "
                "compared with their lock where they are declared"
            )
            return code
        classes = list(words.classes)
    return _schemas(classes, path or LOCK, direction) or code


def _schemas(classes: Sequence[type[Message]], path: Path, direction: Direction) -> int:
    how = "python -m common.domain lock"
    try:
        lock = path.read_text("utf-8")
    except FileNotFoundError:
        raise ValidationError(
            f"{path}: there is no lock: write and commit one: {how} MODULE; or, for a service "
            "without message types of its own, name its bus: --app MODULE:BUS"
        ) from None
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
