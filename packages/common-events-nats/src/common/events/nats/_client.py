"""nats-py's client with what we need of it changed: the one place that knows its inside.

Changed are: direct sinks for messages, without a queue and a task for each subscription and
with headers left unparsed; buffered writes without a future for each; no error of the server
closes the connection for good; and some faults of reconnecting.
"""

import asyncio
import contextlib
import logging
import random
import re
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

from common.events.nats._parser import MessageParser
from nats import errors
from nats.aio.client import Client, Server

Sink = Callable[[bytes, bytes, bytes, bytes | None], None]
"""Takes subject, reply, data and the headers as they came; must not block, and not raise."""

log = logging.getLogger(__name__)

HIGH_WATER = 2 << 20
"""Bytes on their way to the socket from which on the peer counts as slow."""

_JWT = re.compile(rb"-----BEGIN NATS USER JWT-----\s+(\S+)")
_STABLE_SECONDS = 10.0  # a connection that lives shorter does not end the back-off


class Listener(Protocol):
    """Is told how the connection is."""

    def connecting(self) -> None: ...
    def up(self) -> None: ...
    def down(self) -> None: ...
    def trouble(self, error: Exception) -> None: ...


class NoTlsError(errors.Error):
    """TLS is wanted, and the server offers none."""

    def __str__(self) -> str:
        return "nats: the server offers no TLS"


class RawClient(Client):
    """nats-py's client; ``sinks`` are called in place of its own callbacks."""

    def __init__(self, listener: Listener, *, reconnect_max: float) -> None:
        super().__init__()
        self._ps = MessageParser(self, self._hand)
        self.sinks: dict[int, Sink] = {}
        self._listener = listener
        self._reconnect_max = reconnect_max
        self._attempt = 0
        self._out: list[bytes] = []
        self._out_size = 0
        self._flush_asked = False
        self._is_up = False
        self._up_since = 0.0

    # Writing

    @property
    def is_up(self) -> bool:
        """Whether what is written now goes out: connected, and subscriptions are made again."""
        return self._is_up

    @property
    def server_id(self) -> str:
        """What the server calls itself, anew at each start; see ``INFO`` in the protocol."""
        return str(self._server_info.get("server_id", ""))

    @property
    def domain(self) -> str | None:
        """The domain of the JetStream that runs in the server itself; ``None`` if none does."""
        info = self._server_info
        return str(info.get("domain", "")) if info.get("jetstream") else None

    @property
    def congested(self) -> bool:
        """Whether the peer reads so slowly that nothing should be sent again."""
        writer = getattr(self._transport, "_io_writer", None)
        waiting = writer.transport.get_write_buffer_size() if writer is not None else 0
        return self._out_size + waiting > HIGH_WATER

    def write(self, command: bytes) -> bool:
        """Write a command of the protocol, together with others of this turn of the loop.

        Returns:
            Whether it will be written; it is dropped while there is no connection.
        """
        if not self._is_up:
            return False
        self._out.append(command)
        self._out_size += len(command)
        if not self._flush_asked:
            self._flush_asked = True
            asyncio.get_running_loop().call_soon(self._write_out)
        return True

    def _write_out(self) -> None:
        self._flush_asked = False
        out, self._out, self._out_size = self._out, [], 0
        if not self._is_up or self._transport is None:
            return
        # What nats-py holds back goes first: a SUB before what is answered to it.
        if self._pending:
            out[:0] = self._pending
            self._pending = []
            self._pending_data_size = 0
        try:
            if out:
                self._transport.write(b"".join(out))
        except (OSError, RuntimeError) as error:
            self._listener.trouble(error)

    # Reading

    async def listen(self, subject: str, sink: Sink, *, queue: str = "") -> int:
        """Subscribe; return the number of the subscription."""
        sid = self._sid + 1  # known beforehand: a message may come before `subscribe` returns
        self.sinks[sid] = sink
        try:
            await self.subscribe(subject, queue=queue, future=asyncio.Future())
        except BaseException:
            self.forget(sid)
            raise
        return sid

    def forget(self, sid: int) -> None:
        """Take no more messages, and do not subscribe again after reconnecting."""
        self.sinks.pop(sid, None)
        self._remove_sub(sid)

    def _hand(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None
    ) -> Awaitable[None] | None:
        sink = self.sinks.get(sid)
        if sink is None:  # one of nats-py's own subscriptions
            return self._process_msg(sid, subject, reply, data, headers or b"")
        try:
            sink(subject, reply, data, headers)
        except Exception:
            log.exception("A sink of NATS messages has failed; the message is lost to it")
        return None

    async def _process_pong(self) -> None:
        # nats-py would end its read loop over the answer to a ping that nobody waits for.
        if self._pongs and self._pongs[0].done():
            self._pongs[0] = asyncio.get_running_loop().create_future()
        await super()._process_pong()

    async def _process_err(self, err_msg: str) -> None:
        # nats-py closes for good on expired credentials, on too many connections and the like.
        if "permissions violation" in err_msg:
            await super()._process_err(err_msg)
            return
        error = errors.Error(f"nats: {err_msg}")
        self._listener.trouble(error)
        await self._process_op_err(error)

    # Reconnecting

    async def _process_op_err(self, e: Exception) -> None:
        self._go_down()
        await super()._process_op_err(e)

    async def _attempt_reconnect(self) -> None:
        self._go_down()
        self._abort()
        while not self.is_closed:
            try:
                await super()._attempt_reconnect()
            except Exception as error:  # noqa: BLE001 - nats-py gives up on what it does not know
                self._listener.trouble(error)
            self._check_cancelled()
            if self.is_connected:
                self.go_up()
                return
            await asyncio.sleep(self._pause())

    def _read_creds_user_jwt(self, creds: Any) -> bytearray:
        # Read for each connection, because it may be rotated. nats-py would read a file without
        # a JWT for ever, and stop the event loop.
        found = _JWT.search(Path(str(creds)).read_bytes())
        if found is None:
            raise LookupError("no JWT: make the file with nsc")
        return bytearray(found[1])

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:  # noqa: FBT001, FBT002 - nats-py's
        # nats-py would send the credentials without TLS, even to tls:// and with certificates.
        server = self._current_server
        wanted = "tls" in self.options or (server is not None and server.uri.scheme == "tls")
        missing = not (info.get("tls_required") or self.options["tls_handshake_first"])
        if initial_connection and wanted and missing:
            if not info.get("tls_available"):
                raise NoTlsError
            info["tls_required"] = True
        await super()._process_info(info, initial_connection)

    def _setup_nkeys_seed_connect(self) -> None:
        # nats-py up to 2.15 takes the line's end for a part of the seed.
        if self._nkeys_seed:
            self._nkeys_seed_str = Path(self._nkeys_seed).read_text().strip()
        super()._setup_nkeys_seed_connect()

    async def _connect_to_server(self, s: Any) -> None:
        self._check_cancelled()
        self._abort()
        await super()._connect_to_server(s)

    @staticmethod
    def _check_cancelled() -> None:
        # nats-py keeps cancellations to itself, and sometimes goes on.
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise asyncio.CancelledError

    async def _process_connect_init(self) -> None:
        # Pings of a connection that is gone; whoever waits for them has to be told.
        for pong in self._pongs:
            if not pong.done():
                pong.set_exception(errors.StaleConnectionError())
                pong.exception()  # nobody may be waiting
        self._listener.connecting()
        await super()._process_connect_init()

    def choose_server(
        self, servers: list[Server], info: dict[str, Any]
    ) -> tuple[Server | None, float]:
        """Take servers in turn, at once first, then with growing, jittered pauses."""
        del info
        pause = self._pause() if self._attempt else 0.0
        server = servers[self._attempt % len(servers)]
        self._attempt += 1
        return server, pause

    def _pause(self) -> float:
        rounds = self._attempt // max(1, len(self._server_pool))
        longest = min(self._reconnect_max, 0.05 * 2.0 ** min(rounds, 20))
        return random.uniform(longest / 4, longest)  # noqa: S311 - jitter is no secret

    def go_up(self) -> None:
        """Say that the connection is ready."""
        if not self._is_up:
            self._is_up = True
            self._up_since = time.monotonic()
            self._listener.up()

    def _go_down(self) -> None:
        if self._is_up:
            self._is_up = False
            if time.monotonic() - self._up_since > _STABLE_SECONDS:
                self._attempt = 0
            self._out.clear()  # whoever wrote it writes it again: see `write`
            self._out_size = 0
            self._listener.down()

    def _abort(self) -> None:
        """Close the socket without waiting for a peer that reads nothing."""
        writer = getattr(self._transport, "_io_writer", None)
        if writer is not None:
            with contextlib.suppress(AttributeError):  # asyncio's way to say: closed already
                writer.transport.abort()

    async def ping(self) -> None:
        """Wait for the answer to a ping, sent after all that was written before.

        Raises:
            errors.StaleConnectionError: The connection was lost meanwhile.
        """
        self._write_out()
        pong: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        await self._send_ping(pong)
        await pong

    def abandon(self) -> None:
        """Leave an attempt to connect, without a word to the server."""
        self._abort()

    async def close_within(self, seconds: float) -> None:
        """Close when the peer has taken all that was written; cut the connection if it does not.

        Args:
            seconds: Longest time.
        """
        try:
            if self._is_up:
                # A socket closed with something unread resets the connection, and the server then
                # forgets what it has not read yet.
                async with asyncio.timeout(seconds / 2):
                    await self.ping()
        except (OSError, TimeoutError, errors.Error) as error:
            self._listener.trouble(error)
        finally:
            self._go_down()
            try:
                async with asyncio.timeout(seconds / 2):
                    await self.close()
            except (OSError, TimeoutError, errors.Error) as error:
                self._listener.trouble(error)
            finally:
                self._abort()
                self.sinks.clear()
