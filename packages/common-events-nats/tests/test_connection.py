import asyncio
import base64
import contextlib
import json
import logging
import time
import traceback
from pathlib import Path
from typing import Any

import nkeys
import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from nats.errors import Error
from nats_settings import settings
from pydantic import ValidationError as PydanticError

from common.errors import MessageBusError, ValidationError
from common.events.core._errors import BrokerUnavailable, MessageTooLarge, TransportClosed
from common.events.nats._config import NatsConfig
from common.events.nats._connection import Connection
from common.events.nats._errors import (
    NatsAuthenticationError,
    NatsPermissionError,
    NatsTimeout,
    NoResponders,
)
from common.testing import FaultProxy, NatsServer, reserve_port


async def until(condition, *, seconds: float = 60.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


def connection(url: str | tuple[str, ...], **changes: object) -> Connection:
    return Connection(settings(url, **changes))


@pytest.fixture
async def opened(config: NatsConfig):
    connection = Connection(config)
    await connection.open()
    yield connection
    await connection.close()


# Opening


async def test_a_wrong_password_is_said_at_once_and_not_shown(nats_server):
    url = f"nats://app:hunter2@{nats_server.host}:{nats_server.port}"
    started = time.monotonic()
    with pytest.raises(NatsAuthenticationError, match="refuses the credentials") as caught:
        await connection(url, connect_timeout_seconds=30).open()
    assert time.monotonic() - started < 28
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))
    assert not caught.value.retryable


async def test_opening_has_a_time_limit_and_says_where_it_tried(caplog):
    with reserve_port() as port:
        url = f"nats://app:hunter2@127.0.0.1:{port}"
        with pytest.raises(BrokerUnavailable, match=f"127.0.0.1:{port}: connection") as caught:
            await connection(url, connect_timeout_seconds=2).open()
    assert "hunter2" not in "".join(traceback.format_exception(caught.value)) + caplog.text


async def test_opening_a_server_that_says_nothing_has_the_time_limit_too():
    async with NatsServer() as server:
        server.pause()
        started = time.monotonic()
        with pytest.raises(BrokerUnavailable, match="no answer in time"):
            await connection(server.url, connect_timeout_seconds=1).open()
        assert time.monotonic() - started < 60
        server.resume()


async def test_the_next_server_is_tried(nats_url: str):
    with reserve_port() as port:
        opened = connection((f"nats://127.0.0.1:{port}", nats_url))
        for _ in range(3):  # the order is random
            await opened.open()
            assert opened.connected
            await opened.close()
            opened = connection((f"nats://127.0.0.1:{port}", nats_url))


async def test_cancelled_while_opening_leaves_nothing_and_can_be_tried_again():
    async with NatsServer() as server:
        server.pause()
        opened = connection(server.url)
        task = asyncio.create_task(opened.open())
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        server.resume()
        await opened.open()
        await opened.close()


async def test_opening_twice_is_once_and_closing_ends_it(nats_url: str):
    opened = connection(nats_url)
    with pytest.raises(TransportClosed):
        await opened.request("x", timeout=1)
    await asyncio.gather(opened.open(), opened.open())
    await opened.close()
    await opened.close()
    assert opened.closed
    assert not opened.connected
    for call in (opened.flush(), opened.wait_connected(1)):
        with pytest.raises(TransportClosed):
            await call


async def test_what_was_closed_can_be_opened_again(nats_url: str):
    opened = connection(nats_url)

    def echo(_subject: bytes, reply: bytes, data: bytes, _headers: bytes | None) -> None:
        opened.publish(reply.decode(), data)

    for _ in range(3):
        await opened.open()
        await opened.subscribe("up", echo)
        assert (await opened.request("up", b"x", timeout=30)).data == b"x"
        await opened.close()
        assert opened.closed


async def test_what_could_not_be_opened_can_be_tried_again():
    async with NatsServer() as server:
        server.kill()
        opened = connection(server.url, connect_timeout_seconds=1)
        with pytest.raises(BrokerUnavailable):
            await opened.open()
        await server.restart()
        async with asyncio.timeout(60):
            while not opened.connected:
                with contextlib.suppress(BrokerUnavailable):
                    await opened.open()
        await opened.flush()
        await opened.close()


async def test_closing_ends_an_attempt_to_open(nats_url: str):
    before = asyncio.all_tasks()
    for turns in range(0, 24, 2):
        opened = connection(nats_url)
        opening = asyncio.create_task(opened.open())
        for _ in range(turns):
            await asyncio.sleep(0)
        await opened.close()
        try:
            await opening
        except TransportClosed:
            assert not opened.connected
        await opened.close()
    await until(lambda: asyncio.all_tasks() == before)


def test_it_can_be_opened_again_in_another_event_loop(nats_server):
    opened = connection(nats_server.url)

    async def use() -> None:
        async with asyncio.timeout(60):
            await opened.open()
            waiting = [asyncio.create_task(opened.wait_connected(1)) for _ in range(3)]
            await opened.flush()
            await asyncio.gather(*waiting)
            await opened.close()

    for _ in range(2):
        asyncio.run(use())


# Credentials


async def serves(server: NatsServer, **credentials: object) -> bool:
    opened = connection(f"nats://{server.host}:{server.port}", **credentials)
    try:
        await opened.open()
        await opened.flush()
    except NatsAuthenticationError:
        return False
    finally:
        await opened.close()
    return True


async def test_user_and_password():
    server = NatsServer(password="s3cr3t/@:?")
    async with server:
        assert await serves(server, user="common", password="s3cr3t/@:?")
        assert not await serves(server, user="common", password="other")
        assert not await serves(server)


async def test_token():
    async with NatsServer(config='authorization: {token: "t0ken"}') as server:
        assert await serves(server, token="t0ken")
        assert not await serves(server, token="other")


def key_pair(prefix: int, byte: bytes) -> tuple[nkeys.KeyPair, str]:
    seed = nkeys.encode_seed(byte * 32, prefix)
    return nkeys.from_seed(bytearray(seed)), bytes(seed).decode()


def public(pair: Any) -> str:
    return pair.public_key.decode()


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
async def test_nkey(tmp_path: Path, end: str):
    pair, seed = key_pair(nkeys.PREFIX_BYTE_USER, b"1")
    (tmp_path / "seed").write_bytes(f"{seed}{end}".encode())
    (tmp_path / "other").write_text(key_pair(nkeys.PREFIX_BYTE_USER, b"2")[1])
    users = f'authorization: {{users: [{{nkey: "{public(pair)}"}}]}}'
    async with NatsServer(config=users) as server:
        assert await serves(server, nkey_seed_file=tmp_path / "seed")
        assert not await serves(server, nkey_seed_file=tmp_path / "other")


def jwt(issuer: nkeys.KeyPair, subject: nkeys.KeyPair, kind: str) -> str:
    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    claims: dict[str, Any] = {
        "jti": "test",
        "iat": int(time.time()),
        "iss": public(issuer),
        "sub": public(subject),
        "name": kind,
        "nats": {"type": kind, "version": 2},
    }
    if kind == "account":
        claims["nats"] |= {"limits": {"conn": -1, "subs": -1, "data": -1, "payload": -1}}
    if kind == "user":
        claims["nats"] |= {"subs": -1, "data": -1, "payload": -1}
    text = f"{part({'typ': 'JWT', 'alg': 'ed25519-nkey'})}.{part(claims)}"
    signature = base64.urlsafe_b64encode(issuer.sign(text.encode())).decode().rstrip("=")
    return f"{text}.{signature}"


async def test_credentials_file(tmp_path: Path):
    operator, _ = key_pair(nkeys.PREFIX_BYTE_OPERATOR, b"o")
    account, _ = key_pair(nkeys.PREFIX_BYTE_ACCOUNT, b"a")
    user, seed = key_pair(nkeys.PREFIX_BYTE_USER, b"u")
    (tmp_path / "app.creds").write_text(
        f"-----BEGIN NATS USER JWT-----\n{jwt(account, user, 'user')}\n"
        f"------END NATS USER JWT------\n\n-----BEGIN USER NKEY SEED-----\n{seed}\n"
        "------END USER NKEY SEED------\n"
    )
    trust = (
        "authorization: {}\n"
        f'operator: "{jwt(operator, operator, "operator")}"\n'
        "resolver: MEMORY\nresolver_preload: {"
        f'{public(account)}: "{jwt(operator, account, "account")}"}}'
    )
    async with NatsServer(jetstream=False, config=trust) as server:
        assert await serves(server, credentials_file=tmp_path / "app.creds")
        assert not await serves(server)


@pytest.fixture
def ca(tmp_path: Path) -> trustme.CA:
    """An authority whose certificate, and one of a server, any user may read."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    write(authority.issue_cert("127.0.0.1"), tmp_path / "server")
    for each in tmp_path.iterdir():
        each.chmod(0o644)
    tmp_path.chmod(0o755)
    return authority


def write(certificate: trustme.LeafCert, path: Path) -> None:
    certificate.cert_chain_pems[0].write_to_path(path.with_suffix(".pem"))
    certificate.private_key_pem.write_to_path(path.with_suffix(".key"))


async def test_tls(ca: trustme.CA, tmp_path: Path):
    write(ca.issue_cert("client"), tmp_path / "client")
    files = f'cert_file: "{tmp_path}/server.pem", key_file: "{tmp_path}/server.key"'
    tls = f'tls: {{{files}, ca_file: "{tmp_path}/ca.pem", verify: true}}'
    async with NatsServer(config=tls) as server:
        trusted = {
            "tls_ca_file": tmp_path / "ca.pem",
            "tls_cert_file": tmp_path / "client.pem",
            "tls_key_file": tmp_path / "client.key",
        }
        opened = connection(server.url, **trusted)
        await opened.open()
        server.kill()
        await server.restart()
        await opened.wait_connected(60)
        await opened.flush()
        await opened.close()
        with pytest.raises(BrokerUnavailable, match=r"not trusted.*tls_ca_file"):
            await connection(server.url).open()
        with pytest.raises(BrokerUnavailable, match=r"not trusted.*tls_hostname"):
            await connection(server.url, tls_hostname="nats.example", **trusted).open()
        del trusted["tls_cert_file"], trusted["tls_key_file"]
        with pytest.raises(MessageBusError):
            await connection(server.url, connect_timeout_seconds=1, **trusted).open()


@pytest.mark.parametrize("way", ["tls://", "a ca file", "a hostname"])
@pytest.mark.usefixtures("ca")
async def test_where_tls_is_wanted_nothing_is_sent_without_it(tmp_path: Path, way: str):
    """A password least of all: whoever is in between may say that there is no TLS."""
    ways: dict[str, dict[str, object]] = {
        "tls://": {},
        "a ca file": {"tls_ca_file": tmp_path / "ca.pem"},
        "a hostname": {"tls_hostname": "nats.example"},
    }
    async with NatsServer() as server, FaultProxy(server.url) as proxy:
        url = proxy.url(server.url)
        url = url.replace("nats://", "tls://") if way == "tls://" else url
        with pytest.raises(BrokerUnavailable, match="offers no TLS") as caught:
            await connection(url, **ways[way]).open()
        assert not caught.value.retryable
        assert proxy.bytes_sent == 0


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.usefixtures("ca")
async def test_tls_is_used_where_the_server_leaves_the_choice(tmp_path: Path, first: bool):
    files = f'cert_file: "{tmp_path}/server.pem", key_file: "{tmp_path}/server.key"'
    more = ", handshake_first: true" if first else ""
    tls = f"tls: {{{files}{more}}}\n{'' if first else 'allow_non_tls: true'}"
    async with NatsServer(config=tls) as server:
        opened = connection(server.url, tls_ca_file=tmp_path / "ca.pem", tls_handshake_first=first)
        await opened.open()
        await opened.flush()
        (client,) = (await server.monitor("/connz"))["connections"]
        assert client["tls_version"].startswith("1.")
        await opened.close()


def test_a_key_with_a_password_is_refused_and_nobody_is_asked_for_it(
    ca: trustme.CA, tmp_path: Path
):
    client = ca.issue_cert("client")
    write(client, tmp_path / "client")
    key = load_pem_private_key(client.private_key_pem.bytes(), None)
    (tmp_path / "locked").write_bytes(
        key.private_bytes(
            Encoding.PEM, PrivateFormat.TraditionalOpenSSL, BestAvailableEncryption(b"x")
        )
    )
    with pytest.raises(PydanticError, match="PEM without a password"):
        settings(
            "nats://a", tls_cert_file=tmp_path / "client.pem", tls_key_file=tmp_path / "locked"
        )


# Keeping the connection


async def test_it_connects_again_after_a_kill_and_keeps_subscriptions(caplog):
    caplog.set_level(logging.INFO)
    async with NatsServer() as server:
        opened = connection(server.url, reconnect_max_seconds=0.2)
        await opened.open()
        told: list[str] = []
        opened.on_up(lambda: told.append("up"))
        opened.on_down(lambda: told.append("down"))
        got: list[bytes] = []
        await opened.subscribe("a.*", lambda _s, _r, data, _h: got.append(data))
        for number in range(3):
            server.kill()
            await until(lambda: not opened.connected)
            assert not opened.publish("a.b", b"lost")
            with pytest.raises(BrokerUnavailable):
                await opened.wait_connected(0.1)
            await server.restart()
            await opened.wait_connected(60)
            assert opened.publish("a.b", b"%d" % number)
            await opened.flush()
        assert got == [b"0", b"1", b"2"]
        assert told == ["down", "up"] * 3
        assert opened.reconnects == 3
        await opened.close()
    assert "connecting again" in caplog.text
    assert "again" in caplog.text
    assert server.url not in caplog.text


async def test_a_cut_connection_comes_back():
    async with NatsServer() as server, FaultProxy(server.url) as proxy:
        opened = connection(proxy.url(server.url))
        await opened.open()
        for reset in (True, False):
            before = opened.reconnects
            proxy.cut(reset=reset)
            await until(lambda before=before: opened.reconnects > before)
            await opened.flush()
        await opened.close()


async def test_a_silent_connection_is_given_up_and_made_anew():
    async with NatsServer() as server, FaultProxy(server.url) as proxy:
        opened = connection(proxy.url(server.url), ping_interval_seconds=0.2)
        await opened.open()
        opened.publish("x", bytes(900_000))  # what lies in the buffer must not delay it
        proxy.drop()
        for _ in range(20):
            opened.publish("x", bytes(900_000))
        await until(lambda: not opened.connected)
        proxy.heal()
        await opened.wait_connected(60)
        await opened.flush()
        await opened.close()


async def test_credentials_that_the_server_withdraws_do_not_end_it():
    password = "first"
    async with NatsServer(password=password) as server:
        opened = connection(server.url, reconnect_max_seconds=0.2)
        await opened.open()
        configuration = server.directory / "nats.conf"
        text = configuration.read_text()
        configuration.write_text(text.replace('"first"', '"second"'))
        server.send_signal(1)  # SIGHUP: reloads, and ends connections no longer allowed
        await until(lambda: not opened.connected)
        await until(lambda: "authorization" in (opened.last_error or "").lower())
        configuration.write_text(text)
        server.send_signal(1)
        await opened.wait_connected(60)
        await opened.flush()
        await opened.close()


async def test_closing_while_the_server_is_away_is_quick():
    async with NatsServer() as server:
        opened = connection(server.url)
        await opened.open()
        server.kill()
        await until(lambda: not opened.connected)
        waiting = asyncio.create_task(opened.wait_connected())
        await asyncio.sleep(0)
        async with asyncio.timeout(60):
            await opened.close()
        with pytest.raises(TransportClosed):
            await waiting


async def test_closing_while_the_server_reads_nothing_is_quick():
    async with NatsServer() as server:
        opened = connection(server.url)
        await opened.open()
        server.pause()
        for _ in range(20):
            opened.publish("x", bytes(1_000_000))
        async with asyncio.timeout(60):
            await opened.close()
        server.resume()


# Requests


async def test_a_request_has_its_answer(opened: Connection):
    def answer(subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        opened.publish(reply.decode(), data.upper())

    await opened.subscribe("upper", answer)
    replies = await asyncio.gather(
        *(opened.request("upper", b"a%d" % each, timeout=60) for each in range(100))
    )
    assert [each.data for each in replies] == [b"A%d" % each for each in range(100)]
    assert replies[0].headers == {}


async def test_a_flush_comes_after_a_subscription(nats_url: str, opened: Connection):
    other = connection(nats_url)
    await other.open()
    got: list[bytes] = []
    for number in range(50):
        await opened.subscribe(f"s{number}", lambda _s, _r, data, _h: got.append(data))
        await opened.flush()
        other.publish(f"s{number}", b"%d" % number)
    await other.flush()
    await opened.flush()
    await other.close()
    assert got == [b"%d" % number for number in range(50)]


async def test_a_request_nobody_answers(opened: Connection):
    with pytest.raises(NoResponders):
        await opened.request("nobody", timeout=5)
    silent = await opened.subscribe("silent", lambda *_: None)
    with pytest.raises(NatsTimeout, match=r"within 0\.2 s"):
        await opened.request("silent", timeout=0.2)
    await silent.close()
    await silent.close()
    with pytest.raises(NoResponders):
        await opened.request("silent", timeout=5)
    assert not opened._answers


async def test_a_request_that_is_too_large_does_not_end_the_connection(opened: Connection):
    with pytest.raises(MessageTooLarge):
        await opened.request("x", bytes(opened.max_payload + 1), timeout=5)
    assert opened.connected


@pytest.mark.parametrize(
    "subject", ["", "a b", "a\r\nPUB evil 0\r\n", "a _INBOX.x 0\r\n\r\nPUB evil 0"]
)
async def test_a_request_cannot_break_the_protocol(opened: Connection, subject: str):
    got: list[bytes] = []
    await opened.subscribe("evil", lambda subject, *_: got.append(subject))
    with pytest.raises(ValidationError, match="spaces"):
        await opened.request(subject, timeout=5)
    await opened.flush()
    assert not got
    assert opened.reconnects == 0


def users(permissions: str) -> str:
    user = f"{{user: u, password: p, permissions: {permissions}}}"
    return f"authorization: {{users: [{user}]}}"


async def test_a_request_that_permissions_forbid_fails_at_once():
    async with NatsServer(config=users('{publish: {deny: ["Secret.>"]}}')) as server:
        opened = connection(f"nats://u:p@{server.host}:{server.port}")
        await opened.open()
        with pytest.raises(
            NatsPermissionError, match=r"forbid .* to publish to Secret\.x"
        ) as caught:
            await opened.request("Secret.x", timeout=60)
        assert not caught.value.retryable
        with pytest.raises(NoResponders):
            await opened.request("other", timeout=60)
        await opened.close()


async def test_answers_that_permissions_keep_away_are_not_waited_for():
    async with NatsServer(config=users('{subscribe: ["evt.>", "mine.>"]}')) as server:
        url = f"nats://u:p@{server.host}:{server.port}"
        opened = connection(url)
        await opened.open()
        for _ in range(2):
            with pytest.raises(NatsPermissionError, match=r"subscribe to _INBOX\.>"):
                await opened.request("x", timeout=60)
        await opened.close()
        opened = connection(url, inbox_prefix="mine")
        await opened.open()
        with pytest.raises(NoResponders):
            await opened.request("x", timeout=60)
        await opened.close()


async def test_what_a_server_forbids_that_was_never_reached_again_does_not_count():
    """Servers of a cluster may differ, or be reloaded, between one attempt and the next."""
    async with NatsServer() as server, FaultProxy(server.url) as proxy:
        opened = connection(proxy.url(server.url))
        await opened.open()
        proxy.refuse()
        proxy.cut()
        await until(lambda: not opened.connected)
        inbox = opened._inbox.decode()
        denied = f'nats: permissions violation for subscription to "{inbox.lower()}.*"'
        await opened._error(Error(denied))
        with pytest.raises(BrokerUnavailable):
            await opened.request("x", timeout=0.1)
        proxy.heal()
        with pytest.raises(NoResponders):
            await opened.request("x", timeout=60)
        await opened.close()


async def test_requests_fail_when_it_is_closed(opened: Connection):
    await opened.subscribe("silent", lambda *_: None)
    task = asyncio.create_task(opened.request("silent", timeout=30))
    await opened.flush()
    await opened.close()
    with pytest.raises(TransportClosed):
        await task


async def test_a_sink_that_fails_does_not_end_the_connection(opened: Connection, caplog):
    def fails(*_: object) -> None:
        raise RuntimeError("boom")

    await opened.subscribe("bad", fails)
    opened.publish("bad", b"1")
    await opened.flush()
    await opened.flush()
    assert "boom" in caplog.text


async def test_answers_to_pings_nobody_waits_for_do_not_end_the_connection():
    async with NatsServer() as server:
        opened = connection(server.url, ping_interval_seconds=60)
        await opened.open()
        server.pause()
        with pytest.raises(NatsTimeout):
            await opened.flush(0.05)
        with pytest.raises(NatsTimeout):
            await opened.flush(0.05)
        server.resume()
        await opened.flush(60)
        assert opened.reconnects == 0
        await opened.close()


HALF = "-----BEGIN USER NKEY SEED-----\nhunter2\n------END USER NKEY SEED------\n"


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("credentials_file", ""),
        ("credentials_file", HALF),
        ("credentials_file", f"-----BEGIN NATS USER JWT-----\nx.y.z\n{HALF}"),
        ("nkey_seed_file", "hunter2"),
        ("nkey_seed_file", ""),
    ],
)
async def test_a_file_that_holds_no_credentials(tmp_path: Path, field: str, text: str):
    """nats-py would read the first two of these for ever, and stop the event loop."""
    (tmp_path / "file").write_text(text)
    user, _ = key_pair(nkeys.PREFIX_BYTE_USER, b"1")
    users = f'authorization: {{users: [{{nkey: "{public(user)}"}}]}}'
    async with NatsServer(config=users) as server:
        url = f"nats://{server.host}:{server.port}"
        with pytest.raises(NatsAuthenticationError, match="file: holds no credentials") as caught:
            await connection(url, **{field: tmp_path / "file"}).open()
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("paused", [False, True])
async def test_nothing_runs_on_after_closing(paused: bool):
    """Whatever state the server is in: no task is left that connects again."""
    async with NatsServer() as server:
        before = asyncio.all_tasks()
        opened = connection(server.url, reconnect_max_seconds=0.1)
        await opened.open()
        if paused:
            server.pause()
            opened.publish("x", b"1")
        await opened.close()
        assert opened.closed
        server.resume()
        await until(lambda: asyncio.all_tasks() == before)


async def test_a_loop_that_ends_while_it_connects_again_is_not_held_up():
    """Cancelled once, as an event loop does at its end, at any moment of connecting again."""
    async with NatsServer() as server:
        for turns in range(0, 60, 3):
            opened = connection(server.url, reconnect_max_seconds=0.05)
            await opened.open()
            nc = opened.nc
            nc._abort()
            await until(lambda nc=nc: nc._reconnection_task is not None)
            task = nc._reconnection_task
            assert task is not None
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            async with asyncio.timeout(60):
                await asyncio.gather(task, return_exceptions=True)
            await opened.close()
