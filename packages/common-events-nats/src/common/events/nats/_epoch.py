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
        self._looks = 0
        self._term: str | None = None

    def served_by(self, server: str) -> None:
        """Note the server at the other end of the connection."""
        self.number += server != self._server
        self._server = server

    def led_by(self, leader: str | None, since: str | None = None) -> None:
        """Note who leads the consumer, if anybody does, whenever that was looked up.

        Args:
            leader: Name of the server.
            since: When it was elected: it may be the same again after a crash. Servers say so
                since nats-server 2.12, and only of consumers with replicas. Where they do not,
                each time may be another one.
        """
        self._looks += 1
        if not leader:
            return
        before, self._term = self._term, f"{leader} {since or self._looks}"
        self.number += before is not None and before != self._term
