"""Whether the broker still knows whom it gave which message."""


class Epoch:
    """Rises whenever the broker may have forgotten to whom it gave the messages in hand.

    A server writes down what it has delivered a little later, and its followers learn of it a
    little later: one that was started anew, or leads now, may give the same messages to another
    process as if for the first time.

    Args:
        server: Id of the server at the other end of the connection; new with each of its starts.
    """

    def __init__(self, server: str) -> None:
        self.number = 0
        self._server = server
        self._term: str | None = None

    def served_by(self, server: str) -> bool:
        """Note the server at the other end; return whether this is another epoch."""
        before, self._server = self._server, server
        return self._compare(before, server)

    def led_by(self, leader: str | None, since: str | None = None) -> bool:
        """Note who leads the consumer, if anybody does; return whether this is another epoch.

        Args:
            leader: Name of the server.
            since: When it was elected: it may be the same again after a crash. Servers say so
                since nats-server 2.12.
        """
        before = self._term
        if leader:
            self._term = f"{leader} {since}"
        return self._compare(before or self._term, self._term)

    def _compare(self, before: str | None, now: str | None) -> bool:
        self.number += before != now
        return before != now
