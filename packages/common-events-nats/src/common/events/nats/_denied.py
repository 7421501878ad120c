"""Subjects that permissions forbid, as the server tells of them.

The protocol has no code for it, and does not say which message it was; see ``-ERR`` in
https://docs.nats.io/reference/reference-protocols/nats-protocol. nats-py lowers the case.
"""

import re
from dataclasses import dataclass
from typing import Literal

from common.events.nats._errors import NatsPermissionError

_DENIED = re.compile(r'permissions violation for (publish|subscription) to "([^"]*)"')


@dataclass(frozen=True, slots=True)
class Denied:
    """What a connection may not do.

    Attributes:
        action: Send to the subject, or listen on it.
        subject: In lower case.
    """

    action: Literal["publish", "subscription"]
    subject: str

    def sending(self, subject: str) -> bool:
        """Whether this forbids to send to a subject."""
        return self.action == "publish" and self.subject == subject.lower()

    def hearing(self, subject: str) -> bool:
        """Whether this forbids to listen on a subject."""
        return self.action == "subscription" and self.subject == subject.lower()

    def settling(self, stream: str, durable: str) -> bool:
        """Whether this forbids to acknowledge messages of a consumer."""
        consumer = f".{stream}.{durable}.".lower()
        return (
            self.action == "publish"
            and self.subject.startswith("$js.ack.")
            and consumer in self.subject
        )


def parse_denied(text: str) -> Denied | None:
    """Return what an error of the server forbids, or ``None`` if it is another one.

    Example:
        >>> parse_denied('nats: permissions violation for publish to "evt.call.completed"')
        Denied(action='publish', subject='evt.call.completed')
        >>> parse_denied("nats: stale connection")
    """
    found = _DENIED.search(text)
    if found is None:
        return None
    return Denied("publish" if found[1] == "publish" else "subscription", found[2])


def forbidden(action: Literal["publish to", "subscribe to"], subject: str) -> NatsPermissionError:
    """Return the error that says what the user must be allowed."""
    return NatsPermissionError(
        f"the server's permissions forbid this connection to {action} {subject}: allow it for "
        "the user"
    )
