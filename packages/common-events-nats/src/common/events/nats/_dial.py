"""Connecting for the first time: within a time limit, and not again where that is of no use."""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

from common.errors import MessageBusError
from common.events.core._errors import BrokerUnavailable
from common.events.nats._client import Listener, NoTlsError, RawClient
from common.events.nats._config import NatsConfig, tls_context
from common.events.nats._errors import NatsAuthenticationError
from nats import errors
from nats.protocol.parser import AUTHORIZATION_VIOLATION

_PAUSE = 0.05  # before the second attempt; then twice as long each time
_ATTEMPT = 2.0  # longest time for one server


async def dial(
    config: NatsConfig, listener: Listener, error_cb: Callable[[Exception], Awaitable[None]]
) -> RawClient:
    """Return a connected client that from now on connects again for ever.

    Args:
        config: Where to, and how long to try.
        listener: Is told when the connection is lost and made anew.
        error_cb: Is told about errors.

    Raises:
        NatsAuthenticationError: The server refuses the credentials, or they cannot be read.
        BrokerUnavailable: Not reached in time, or its certificate is not trusted.
    """
    clock = asyncio.get_running_loop().time
    end, pause = clock() + config.connect_timeout_seconds, _PAUSE
    why: str | None = None
    context = _tls(config)
    while True:
        client = RawClient(listener, reconnect_max=config.reconnect_max_seconds)
        try:
            async with asyncio.timeout_at(end):
                await client.connect(error_cb=error_cb, **_options(config, client, context))
        except (TimeoutError, OSError, errors.Error) as error:
            client.abandon()
            _judge(error, config)
            if why is None or not isinstance(error, TimeoutError):
                why = describe(error)
            if clock() + pause >= end:
                # The time may have run out while servers were tried whose errors were only told.
                reason = client.last_error
                raise unavailable(config, describe(reason) if reason else why) from error
            await asyncio.sleep(pause)
            pause *= 2
        except Exception as error:
            client.abandon()
            if path := config.credentials_file or config.nkey_seed_file:
                # Errors of decoding are many, and may quote what they decode.
                raise NatsAuthenticationError(
                    f"{path}: holds no credentials that can be used: {type(error).__name__}"
                ) from None
            raise
        except BaseException:
            client.abandon()
            raise
        else:
            client.options["allow_reconnect"] = True
            client.go_up()
            return client


def unavailable(config: NatsConfig, why: str | None) -> BrokerUnavailable:
    """Return the error that says that there is no connection, and why."""
    where = ", ".join(config.addresses)
    return BrokerUnavailable(f"no connection to NATS at {where}" + (f": {why}" if why else ""))


def describe(error: BaseException) -> str:
    """Return an error in a few words, without what a URL in it may hold."""
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, socket.gaierror):
        return "the name of the host is not known"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    text = str(error) or type(error).__name__
    if "@" in text or "://" in text:
        return type(error).__name__
    return text.removeprefix("nats: ")[:200]


def _judge(error: Exception, config: NatsConfig) -> None:
    """Raise what no further attempt would mend."""
    where = ", ".join(config.addresses)
    # The protocol has no codes for its errors.
    if AUTHORIZATION_VIOLATION in str(error).lower():
        raise NatsAuthenticationError(
            f"NATS at {where} refuses the credentials: check user and password, token, nkey or "
            "credentials file"
        ) from None
    if isinstance(error, NoTlsError):
        raise BrokerUnavailable(
            f"NATS at {where} offers no TLS, and nothing was sent to it: enable TLS there, or use "
            "nats:// without tls_ca_file, tls_cert_file and tls_hostname",
            retryable=False,
        ) from None
    if isinstance(error, ssl.SSLCertVerificationError):
        raise BrokerUnavailable(
            f"the certificate of NATS at {where} is not trusted ({error.verify_message}): set "
            "tls_ca_file or tls_hostname"
        ) from error


def _tls(config: NatsConfig) -> ssl.SSLContext | None:
    if not (config.tls_ca_file or config.tls_cert_file or config.tls_hostname):
        return None
    try:
        return tls_context(config.tls_ca_file, config.tls_cert_file, config.tls_key_file)
    except ValueError as error:  # a file has changed since the configuration was made
        raise MessageBusError(str(error), retryable=False) from None


def _options(
    config: NatsConfig, client: RawClient, context: ssl.SSLContext | None
) -> dict[str, Any]:
    options: dict[str, Any] = {
        "servers": [server.get_secret_value() for server in config.servers],
        "name": config.name,
        # Only until the first success: then errors end `connect`, not the connection.
        "allow_reconnect": False,
        "max_reconnect_attempts": -1,
        "reconnect_time_wait": 0.1,
        "reconnect_to_server_handler": client.choose_server,
        "connect_timeout": max(0.1, min(_ATTEMPT, config.connect_timeout_seconds / 2)),
        "ping_interval": config.ping_interval_seconds,
        "max_outstanding_pings": 1,
        "inbox_prefix": config.inbox_prefix,
        "tls_hostname": config.tls_hostname,
        "tls_handshake_first": config.tls_handshake_first,
        "user": config.user,
        "password": config.password and config.password.get_secret_value(),
        "token": config.token and config.token.get_secret_value(),
    }
    if config.credentials_file is not None:
        options["user_credentials"] = str(config.credentials_file)
    if config.nkey_seed_file is not None:
        options["nkeys_seed"] = str(config.nkey_seed_file)
    if context is not None:
        options["tls"] = context
    return options
