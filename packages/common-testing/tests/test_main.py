import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from common.testing.__main__ import main
from common.testing._psql import psql
from common.testing._wire import nats, valkey


@pytest.fixture
def up(place):
    def start(*arguments):
        return subprocess.Popen(
            [sys.executable, "-m", "common.testing", "up", *arguments],
            env=place.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    return start


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_it_starts_all_servers_prints_their_urls_and_stops_them_at_the_end(place, up, number):
    with up("--json") as process:
        urls = json.loads(process.stdout.readline())
        assert psql(urls["postgres"], "SELECT 1") == "1"
        with valkey(urls["valkey"]) as client:
            assert client.call("PING") == "PONG"
        with nats(urls["nats"]) as client:
            assert client.request("$JS.API.INFO")["streams"] == 0
        os.killpg(process.pid, number)  # as a terminal does
        output, errors = process.communicate(timeout=60)
    assert process.returncode == (-number if number == signal.SIGKILL else 0)
    assert (output, errors) == ("", "")
    place.assert_clean()


def test_an_interrupt_during_the_start_leaves_nothing(place, up):
    for delay in (0.2, 0.5, 0.8):
        with up("--only", "postgres") as process:
            time.sleep(delay)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
        assert "Error" not in errors
    place.assert_clean()


def test_ports_password_and_the_choice_of_servers_can_be_given(place, up):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with up(
        "--only", "valkey", "--valkey-port", str(port), "--password", "known", "--env"
    ) as process:
        line = process.stdout.readline()
        assert line == f"COMMON_TESTING_REDIS_URL=redis://:known@127.0.0.1:{port}/0\n"
        assert len(place.files()) == 1
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


def test_a_cluster_can_be_asked_for_and_the_urls_are_for_people(place, up):
    with up("--only", "nats", "--nats-nodes", "3") as process:
        name, urls = process.stdout.readline().split()
        assert name == "nats"
        assert len(urls.split(",")) == 3
        assert process.stdout.readline() == "Ctrl-C stops them.\n"
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


def test_a_taken_port_is_one_line_and_stops_what_was_started(place, up):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with up("--nats-port", str(port)) as process:
            output, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert output == ""
    assert errors.startswith(f"common.testing: port {port} of 127.0.0.1 cannot be used")
    assert errors.count("\n") == 1
    place.assert_clean()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "oracle"], "--only: unknown: oracle (there are postgres, valkey, nats)"),
        (["--only", ""], "--only: name at least one of postgres, valkey, nats"),
        (["--only", ","], "--only: name at least one of postgres, valkey, nats"),
        (["--nats-port", "70000"], "--nats-port: '70000' is not a port (1 to 65535)"),
        (["--valkey-port", "-1"], "--valkey-port: '-1' is not a port (1 to 65535)"),
        (["--postgres-port", "x"], "--postgres-port: 'x' is not a port (1 to 65535)"),
        (["--nats-nodes", "0"], "--nats-nodes: '0' is not a number of servers (1 or more)"),
    ],
)
def test_wrong_arguments_are_one_line_that_says_what_is_right(capsys, arguments, message):
    with pytest.raises(SystemExit) as caught:
        main(["up", *arguments])
    assert caught.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith(f"argument {message}")
