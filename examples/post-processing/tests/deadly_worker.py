"""The worker, with a handler that dies of the calls of one number."""

import os
import signal
import sys
from typing import Annotated

from post_processing import main, worker

from common.events.core import Constant, Inject, Retry

transcribe = worker.transcribe


async def die(
    event: worker.CallCompleted,
    ctx: worker.EventContext,
    outbox: Annotated[worker.Outbox, Inject],
) -> worker.Reject | None:
    if event.phone_number == sys.argv[1]:
        os.kill(os.getpid(), signal.SIGKILL)
    return await transcribe(event, ctx, outbox)


if __name__ == "__main__":
    worker.transcribe = die
    worker.RETRY = Retry(attempts=int(sys.argv[2]), backoff=Constant(0))
    worker.ACK_WAIT_SECONDS = float(sys.argv[3])
    main.main()
