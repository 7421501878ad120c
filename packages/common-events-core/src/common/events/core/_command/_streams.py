"""``common-events streams``: declarations against the broker."""

from collections.abc import Sequence
from typing import Literal

from common.events.core._command._say import counted, say, warn
from common.events.core._declarations import DeclareMode, Plan, StreamSpec
from common.events.core._errors import DeclarationConflict
from common.events.core._transport import Transport

Mode = Literal["verify", "create", "reconcile"]


async def plan(transport: Transport, specs: Sequence[StreamSpec]) -> int:
    """Print what would change.

    Returns:
        1 if anything would.
    """
    async with transport:
        found = await transport.plan(specs)
    _show(found, len(specs))
    return 1 if found else 0


async def apply(transport: Transport, specs: Sequence[StreamSpec], mode: DeclareMode) -> int:
    """Bring the broker in line as far as the mode says, and print what was changed.

    Returns:
        1 if there are differences that cannot, or by the mode may not, be changed.
    """
    async with transport:
        try:
            done = await transport.declare(specs, mode=mode)
        except DeclarationConflict as error:
            for difference in error.differences or [error.message]:
                say(difference)
            warn(f"the broker differs from the declarations, beyond what mode {mode} changes")
            return 1
    _show(done, len(specs))
    return 0


def _show(plan: Plan, count: int) -> None:
    for change in plan.changes:
        say(str(change))
    what = counted(len(plan.changes), "change") if plan else "no changes"
    say(f"{counted(count, 'stream')}: {what}{' made' if plan and plan.applied else ''}")
