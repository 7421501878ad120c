"""What the tests listen with, and a real uvicorn."""

import logging
import socket
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest
import uvicorn

from common.context import current, observe

sys.path.append(str(Path(__file__).parent))  # importlib mode leaves it out

from api_drivers import read_all


class Operations:
    """Every operation that ended, with the context at its end."""

    def __init__(self):
        self.ended = []

    def on_start(self, op):
        pass

    def on_end(self, op):
        self.ended.append(op)
        op_logger.info("%s", op.name)

    @property
    def server(self):
        return [op for op in self.ended if op.kind == "http.server"]


op_logger = logging.getLogger("tests.access")


@pytest.fixture
def operations():
    seen = Operations()
    with observe(seen):
        yield seen


@pytest.fixture
def log():
    """All records, each with the request id at the time it was made."""

    class Keep(logging.Handler):
        def emit(self, record):
            record.id_in_context = current().request_id
            records.append(record)

    records: list[logging.LogRecord] = []
    handler, root = Keep(), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield records
    root.removeHandler(handler)
    root.setLevel(level)


class Served:
    def __init__(self, port):
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    def connect(self):
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        sock.settimeout(20)
        return sock

    def raw(self, data):
        """Send bytes as they are; return all that comes until the server closes."""
        with self.connect() as sock:
            with suppress(ConnectionError):  # refused before all of it was read
                sock.sendall(data)
            return read_all(sock)


@pytest.fixture
def serve():
    """Serve an app with uvicorn, on a thread of its own."""
    stops = []

    def start(app, **options):
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            app, log_config=None, lifespan="on", timeout_graceful_shutdown=5, **options
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
        thread.start()

        def stop():
            server.should_exit = True
            thread.join(20)
            sock.close()

        stops.append(stop)
        for _ in range(2000):
            if server.started or not thread.is_alive():
                break
            threading.Event().wait(0.01)
        assert server.started, "uvicorn did not start"
        return Served(sock.getsockname()[1])

    yield start
    for stop in stops:
        stop()
