"""NATS with JetStream: one server, or a cluster."""

# ruff: noqa: SLF001 - these are friends of the servers that they put together

import asyncio
import http.client
import json
import secrets
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from common.testing._binaries import nats_server
from common.testing._errors import ServerError
from common.testing._process import ManagedProcess, poll

USER = "common"


class NatsServer(ManagedProcess):
    """A private NATS server on 127.0.0.1, with JetStream.

    Args:
        port: Port for clients; default: a free one, kept until `close`.
        password: Of the user ``common``; default: a random one.
        jetstream: Enable JetStream; its store is kept over `kill` and `restart`.
        sync_interval: How often the store is flushed to disk, such as ``10s`` or ``always``;
            default: the server's own (2 minutes), which a killed process survives, too.
        accounts: How many more accounts to declare, each with JetStream and a user of its
            own: see `account_urls`.
        config: More configuration text (https://docs.nats.io/running-a-nats-service/configuration).
        ready_timeout: Seconds until `start` gives up.
    """

    _memory = True

    def __init__(
        self,
        *,
        port: int | None = None,
        password: str | None = None,
        jetstream: bool = True,
        sync_interval: str | None = None,
        accounts: int = 0,
        config: str = "",
        ready_timeout: float = 30.0,
    ) -> None:
        super().__init__(name="NATS", ready_timeout=ready_timeout)
        self._wanted_port = port
        self._password = password or secrets.token_hex(8)
        self._jetstream = jetstream
        self._sync_interval = sync_interval
        self._accounts = accounts
        self._config = config
        self._program = Path()
        self._monitor_port = 0
        self._cluster_port = 0
        self._cluster: dict[str, Any] = {}
        self.host = "127.0.0.1"
        self.port = port or 0

    @property
    def url(self) -> str:
        """URL for clients, with user and password."""
        return self._url(USER)

    @property
    def account_urls(self) -> list[str]:
        """URLs of the additional accounts; none sees another's subjects and streams."""
        return [self._url(f"{USER}{number}") for number in range(self._accounts)]

    @property
    def monitor_url(self) -> str:
        """URL of the monitoring endpoints (``/varz``, ``/jsz``, …)."""
        return f"http://{self.host}:{self._monitor_port}"

    async def monitor(self, path: str) -> dict[str, Any]:
        """Get a monitoring endpoint, such as ``/jsz?streams=true``.

        Raises:
            ServerError: The server does not answer.
        """
        return await asyncio.to_thread(self._get, path)

    def _url(self, user: str) -> str:
        return f"nats://{user}:{quote(self._password, safe='')}@{self.host}:{self.port}"

    def _get(self, path: str) -> dict[str, Any]:
        # Not urllib: it would ask the environment's proxy for a server on this machine.
        connection = http.client.HTTPConnection(self.host, self._monitor_port, timeout=2.0)
        try:
            connection.request("GET", path)
            reply: dict[str, Any] = json.loads(connection.getresponse().read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise ServerError(
                f"{self.name} does not answer on {self.monitor_url}: {error}"
            ) from error
        else:
            return reply
        finally:
            connection.close()

    def _bases(self) -> list[Path]:
        self._program = nats_server()
        return super()._bases()

    async def _prepare(self) -> None:
        self.port = self._reserve(self._wanted_port)
        self._monitor_port = self._reserve(None)
        self._cluster_port = self._reserve(None)
        self._cwd = self.directory

    def _arguments(self) -> list[str]:
        path = self.directory / "nats.conf"
        path.touch(mode=0o600)
        path.write_text(self._configuration())
        return [str(self._program), "-c", str(path)]

    def _configuration(self) -> str:
        settings: dict[str, Any] = {
            "server_name": self.name,
            "listen": f"{self.host}:{self.port}",
            "http": f"{self.host}:{self._monitor_port}",
        }
        if self._jetstream:
            settings["jetstream"] = {"store_dir": str(self.directory / "store")}
            if self._sync_interval is not None:
                settings["jetstream"]["sync_interval"] = self._sync_interval
        if self._accounts:
            settings["accounts"] = {
                user.upper(): {
                    "users": [{"user": user, "password": self._password}],
                    **({"jetstream": "enabled"} if self._jetstream else {}),
                }
                for user in (USER, *(f"{USER}{number}" for number in range(self._accounts)))
            }
        else:
            settings["authorization"] = {"user": USER, "password": self._password}
        if self._cluster:
            settings["cluster"] = self._cluster
        lines = [f"{key}: {json.dumps(value)}" for key, value in settings.items()]
        return "\n".join([*lines, self._config, ""])

    async def _check(self) -> bool:
        try:
            health = await self.monitor("/healthz?js-enabled-only=true")
        except ServerError:
            return False
        return health.get("status") == "ok"


class NatsCluster:
    """A cluster of NATS servers with replicated JetStream, on 127.0.0.1.

    Clients learn only the URLs that they are given (``no_advertise``), so that a proxy in
    between stays in between.

    Args:
        size: Number of servers; JetStream needs a majority of them.
        port: Port of the first server, those of the others follow; default: free ones.
        password: Of the user ``common``; default: a random one.
        sync_interval: As for `NatsServer`.
        config: More configuration text for every server.
        ready_timeout: Seconds until `start` gives up; electing the first leader takes up to 10.
    """

    def __init__(
        self,
        size: int = 3,
        *,
        port: int | None = None,
        password: str | None = None,
        sync_interval: str | None = None,
        config: str = "",
        ready_timeout: float = 60.0,
    ) -> None:
        password = password or secrets.token_hex(8)
        self._secret = secrets.token_hex(8)
        self._ready_timeout = ready_timeout
        self.servers = [
            NatsServer(
                port=port + number if port else None,
                password=password,
                sync_interval=sync_interval,
                config=config,
            )
            for number in range(size)
        ]
        for number, server in enumerate(self.servers, 1):
            server.name = f"nats-{number}"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def urls(self) -> list[str]:
        """URLs for clients, one for each server."""
        return [server.url for server in self.servers]

    async def start(self) -> None:
        """Start all servers and wait until they agree on a leader.

        Raises:
            ServerError: One does not start, there is no leader in time, or the cluster was
                started before.
        """
        if any(server._guard is not None for server in self.servers):
            raise ServerError("the NATS cluster is already started: close() it first")
        try:
            async with asyncio.TaskGroup() as tasks:
                for server in self.servers:
                    tasks.create_task(server._launch())
            routes = [
                f"nats://{USER}:{self._secret}@{s.host}:{s._cluster_port}" for s in self.servers
            ]
            for server in self.servers:
                server._cluster = {
                    "name": "common-testing",
                    "listen": f"{server.host}:{server._cluster_port}",
                    "authorization": {"user": USER, "password": self._secret},
                    "routes": routes,
                    "no_advertise": True,
                }
            async with asyncio.TaskGroup() as tasks:
                for server in self.servers:
                    tasks.create_task(server._run())
            await self.wait_ready(self._ready_timeout)
        except ExceptionGroup as group:
            await self.close()
            raise group.exceptions[0] from None
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Stop all servers and remove their data. Idempotent."""
        async with asyncio.TaskGroup() as tasks:
            for server in self.servers:
                tasks.create_task(server.close())

    async def wait_ready(self, timeout: float = 30.0) -> None:  # noqa: ASYNC109
        """Wait until every running server sees the same leader and is up to date with it.

        Raises:
            ServerError: That does not happen within `timeout` seconds.
        """
        try:
            await poll(self._agree, timeout=timeout, interval=0.1)
        except TimeoutError:
            raise ServerError(
                f"the NATS cluster has no common leader after {timeout:g} s: "
                "it needs a majority of its servers running"
            ) from None

    async def leader(self, stream: str | None = None, timeout: float = 15.0) -> NatsServer:  # noqa: ASYNC109
        """The server that leads a stream; without a stream, the one that leads JetStream itself.

        Args:
            stream: Name of a replicated stream.
            timeout: Seconds to wait for an election.

        Raises:
            ServerError: There is none in time.
        """

        async def find() -> NatsServer | None:
            for name in await asyncio.gather(
                *(self._seen_leader(server, stream) for server in self.servers)
            ):
                for server in self.servers:
                    if server.name == name:
                        return server
            return None

        try:
            found: NatsServer = await poll(find, timeout=timeout, interval=0.1)
        except TimeoutError:
            what = f"stream {stream!r}" if stream else "JetStream"
            raise ServerError(f"{what} has no leader after {timeout:g} s") from None
        return found

    async def _seen_leader(self, server: NatsServer, stream: str | None) -> str | None:
        """Name of the leader, as told by the leader itself: others may not know of its death."""
        if not server.running:
            return None
        try:
            state = await server.monitor("/jsz?streams=true")
        except ServerError:  # paused, or still starting
            return None
        if stream is None:
            leader: str | None = state.get("meta_cluster", {}).get("leader")
            return leader if leader == server.name else None
        for account in state.get("account_details", ()):
            for detail in account.get("stream_detail", ()):
                if (
                    detail["name"] == stream
                    and detail.get("cluster", {}).get("leader") == server.name
                ):
                    return server.name
        return None

    async def _agree(self) -> bool:
        running = [server for server in self.servers if server.running]
        try:
            states = await asyncio.gather(*(server.monitor("/jsz") for server in running))
            health = await asyncio.gather(*(server.monitor("/healthz") for server in running))
        except ServerError:
            return False
        clusters = [state.get("meta_cluster") or {} for state in states]
        leaders = {cluster.get("leader") for cluster in clusters}
        return (
            len(running) > len(self.servers) // 2  # a leader alone takes a while to notice
            and len(leaders) == 1
            and leaders.issubset({server.name for server in running})
            and all(cluster.get("cluster_size") == len(self.servers) for cluster in clusters)
            and all(answer.get("status") == "ok" for answer in health)
        )
