import os
from importlib.metadata import PackageNotFoundError

import pytest

from common.testing import ServerError, ValkeyServer, _binaries

FINDERS = [
    (_binaries.valkey_server, _binaries.VALKEY),
    (_binaries.nats_server, _binaries.NATS),
    (_binaries.postgres_bin, _binaries.POSTGRES),
]


@pytest.fixture(autouse=True)
def no_choice(monkeypatch):
    for _, variable in FINDERS:
        monkeypatch.delenv(variable, raising=False)


def test_the_wheels_programs_are_found_and_executable():
    for program in (
        _binaries.valkey_server(),
        _binaries.nats_server(),
        _binaries.postgres_bin() / "psql",
    ):
        assert os.access(program, os.X_OK)


@pytest.mark.parametrize(("find", "variable"), FINDERS)
def test_a_missing_wheel_is_one_line_that_says_what_to_do(monkeypatch, find, variable):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(_binaries, "find_spec", lambda name: None)
    monkeypatch.setattr(_binaries, "files", missing)
    with pytest.raises(ServerError) as caught:
        find()
    assert "is not installed" in str(caught.value)
    assert f"name your own program with {variable}, or use --services=external" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("find", "variable"), FINDERS)
def test_the_environment_wins_and_must_be_right(monkeypatch, tmp_path, find, variable):
    monkeypatch.setenv(variable, str(tmp_path / "nothing"))
    with pytest.raises(ServerError, match=f"does not exist: {variable} must name"):
        find()
    if variable == _binaries.POSTGRES:
        programs = [tmp_path / name for name in ("postgres", "initdb", "psql")]
        monkeypatch.setenv(variable, str(tmp_path))
    else:
        programs = [tmp_path / "program"]
        monkeypatch.setenv(variable, str(programs[0]))
    for program in programs:
        program.touch(mode=0o644)
    with pytest.raises(ServerError, match=f"is not executable: {variable} must name"):
        find()
    for program in programs:
        program.chmod(0o755)
    assert find() == (tmp_path if variable == _binaries.POSTGRES else programs[0])


async def test_a_program_that_is_something_else_fails_with_its_output(monkeypatch, tmp_path, place):
    program = tmp_path / "valkey-server"
    program.write_text("#!/bin/sh\necho wrong program\nexit 9\n")
    program.chmod(0o755)
    monkeypatch.setenv(_binaries.VALKEY, str(program))
    with pytest.raises(
        ServerError, match="Valkey ended early, with return code 9\n    wrong program"
    ):
        await ValkeyServer().start()
