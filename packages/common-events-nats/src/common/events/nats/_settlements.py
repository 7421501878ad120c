"""Acknowledgements on their way, kept over the loss of a connection."""

from collections import deque
from collections.abc import Callable

ACK = b"+ACK"
NAK = b"-NAK"
IN_PROGRESS = b"+WPI"

_REMEMBERED = 1_024  # acknowledgements that may have been lost with the connection


class Settlements:
    """Sends how messages were settled, again if that may have been lost.

    Args:
        write: Writes a command; whether that went out.
    """

    def __init__(self, write: Callable[[bytes], bool]) -> None:
        self._write = write
        self._unsent: deque[tuple[bytes, bytes]] = deque()
        self._sent: deque[bytes] = deque(maxlen=_REMEMBERED)

    def send(self, reply: bytes, answer: bytes) -> None:
        """Send an answer, or keep it until there is a connection."""
        if not self._write(pub(reply, answer)):
            self._unsent.append((reply, answer))  # bounded, as no more messages come
        elif answer is ACK:
            self._sent.append(reply)

    def resend(self) -> None:
        """Send what was settled while there was no connection, or may have been lost with it.

        An acknowledgement counts whenever it comes; to send it twice does no harm.
        """
        for reply in self._sent:
            self._write(pub(reply, ACK))
        self._sent.clear()
        unsent, self._unsent = self._unsent, deque()
        for reply, answer in unsent:
            self.send(reply, answer)

    def hand_back(self) -> None:
        """Ask for everything again that may not have been settled."""
        unsure, unsent = self._sent, self._unsent
        self._sent, self._unsent = deque(maxlen=_REMEMBERED), deque()
        for reply in unsure:
            self.send(reply, NAK)
        for reply, answer in unsent:
            self.send(reply, answer if answer.startswith(NAK) else NAK)

    def forget(self) -> None:
        """Send nothing again: the consumer is another one."""
        self._sent.clear()
        self._unsent.clear()


def pub(subject: bytes, body: bytes) -> bytes:
    """Return a PUB without a subject for answers."""
    return b"PUB %b %d\r\n%b\r\n" % (subject, len(body), body)
