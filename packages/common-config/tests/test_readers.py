import os
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from common.config import (
    BaseAppSettings,
    ConfigError,
    Postgres,
    SecretUrl,
    Section,
    explain,
    load,
    optional,
)


class Db(Section):
    host: str = "localhost"
    password: SecretUrl | None = None


class Orders(BaseAppSettings, prefix="ORDERS_"):
    name: str = "orders"
    note: str = ""
    db: Db = Db()


def refused(**options: Any):
    options.setdefault("environ", {})
    with pytest.raises(ConfigError) as caught:
        load(Orders, **options)
    return [str(each) for each in caught.value.problems]


# Files


@pytest.mark.parametrize("option", ["files", "env_file"])
def test_a_missing_file_is_an_error_unless_it_is_optional(tmp_path, option):
    path = tmp_path / "gone"
    assert refused(**{option: path}) == [
        f"{path}: there is no such file; create it, or mark it as optional"
    ]
    assert load(Orders, environ={}, **{option: optional(path)}) == Orders()


@pytest.mark.parametrize("option", ["files", "env_file"])
def test_an_optional_file_that_exists_is_still_checked(tmp_path, option):
    path = tmp_path / "there"
    path.write_bytes(b"name: x\nnote: \xff\n")
    assert refused(**{option: optional(path)}) == [f"{path}:2: is not UTF-8 text; save it as UTF-8"]


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_other_encodings_are_named(tmp_path, encoding):
    path = tmp_path / "base.yaml"
    path.write_bytes("name: Käse".encode(encoding))
    assert refused(files=path) == [f"{path}:1: is not UTF-8 text; save it as UTF-8"]


def test_a_byte_order_mark_is_passed_over(tmp_path):
    path = tmp_path / "base.yaml"
    path.write_bytes(b"\xef\xbb\xbfname: x")
    assert load(Orders, files=path, environ={}).name == "x"


def test_a_file_of_more_than_a_mebibyte_is_refused(tmp_path):
    path = tmp_path / "base.yaml"
    path.write_text("# " + "x" * 1024 * 1024)
    assert refused(files=path) == [f"{path}: is larger than 1048576 bytes, the most allowed"]


def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert refused(files=[pipe, tmp_path]) == [
        f"{pipe}: is not a regular file",
        f"{tmp_path}: is not a regular file",
    ]


def test_a_file_that_cannot_be_opened_says_why(tmp_path):
    loop = tmp_path / "loop.yaml"
    loop.symlink_to(loop)
    assert refused(files=loop) == [f"{loop}: cannot be read: Too many levels of symbolic links"]
    assert refused(files="a\0b") == ["a\0b: cannot be read: not a path"]


def test_all_unreadable_files_are_told_at_once(tmp_path):
    (tmp_path / "b.yaml").write_text("a: [")
    found = refused(files=[tmp_path / "a.yaml", tmp_path / "b.yaml"], env_file=tmp_path / ".env")
    assert [each.split(":")[0] for each in found] == [
        str(tmp_path / "a.yaml"),
        str(tmp_path / "b.yaml"),
        str(tmp_path / ".env"),
    ]


# .env


def env_file(tmp_path, text):
    path = tmp_path / ".env"
    path.write_text(textwrap.dedent(text))
    return path


def test_a_variable_of_a_env_file_is_known_by_its_line(tmp_path):
    path = env_file(
        tmp_path,
        """
        # a comment

        export ORDERS_NAME="two
        lines"
        OTHER=ignored
        BROKEN_BY_OTHERS

        ORDERS_DB__HOST=db # the host
        """,
    )
    settings = load(Orders, env_file=path, environ={})
    assert settings.name == "two\nlines"
    assert str(explain(settings, "name").source) == f"{path}:4"
    assert str(explain(settings, "db.host").source) == f"{path}:9"


def test_dollars_are_not_interpolated(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/wrong")
    path = env_file(tmp_path, "ORDERS_NOTE=pa$$w${HOME}rd\n")
    assert load(Orders, env_file=path, environ={}).note == "pa$$w${HOME}rd"


def test_lines_that_are_no_assignments_are_named_without_their_text(tmp_path):
    path = env_file(tmp_path, "ORDERS_NAME=x\nORDERS_NOTE canary\n='canary\nORDERS_DB__HOST\n")
    assert refused(env_file=path) == [
        f"{path}:2: is not of the form NAME=value",
        f"{path}:3: is not of the form NAME=value",
        f"{path}:4: ORDERS_DB__HOST has no value; write ORDERS_DB__HOST= for an empty one",
    ]


def test_a_variable_twice_in_a_env_file_is_refused_with_both_lines(tmp_path):
    path = env_file(tmp_path, "ORDERS_NAME=x\n\nORDERS_NAME=y\n")
    assert refused(env_file=path) == [f"name ({path}:3): is also set by {path}:1; keep one"]


def test_an_unknown_variable_of_a_env_file_is_named_with_its_line(tmp_path):
    path = env_file(tmp_path, "ORDERS_DB__HSOT=x\n")
    assert refused(env_file=path) == [
        f'{path}:1: unknown variable ORDERS_DB__HSOT; did you mean "ORDERS_DB__HOST"?'
    ]


# Secret files


def test_secret_files_are_named_like_the_variable_or_the_field(tmp_path):
    (tmp_path / "orders_name").write_text("a\n")
    (tmp_path / "ORDERS_NOTE").write_text(" b \r\n")
    (tmp_path / "db.host").write_text("c")
    (tmp_path / "billing_password").write_text("someone else's")
    (tmp_path / "tls.crt").write_text("someone else's")
    settings = load(Orders, secrets_dir=tmp_path, environ={})
    assert (settings.name, settings.note, settings.db.host) == ("a", " b ", "c")
    assert str(explain(settings, "db.host").source) == str(tmp_path / "db.host")


def test_a_secret_file_may_be_for_a_key_of_a_mapping(tmp_path):
    class Settings(BaseAppSettings, prefix="ORDERS_"):
        tokens: dict[str, str] = Field(default={})
        farms: dict[str, Db] = Field(default={})

    (tmp_path / "tokens.eu").write_text("a\n")
    (tmp_path / "farms.one.host").write_text("b")
    settings = load(Settings, secrets_dir=tmp_path, environ={})
    assert settings.tokens == {"eu": "a"}
    assert settings.farms == {"one": Db(host="b")}
    (tmp_path / "farms.one.hsot").write_text("canary")
    with pytest.raises(ConfigError) as caught:
        load(Settings, secrets_dir=tmp_path, environ={})
    assert 'did you mean "ORDERS_FARMS__ONE__HOST"?' in str(caught.value)
    assert "canary" not in str(caught.value)


def test_a_file_named_like_a_field_at_the_top_belongs_to_somebody_else(tmp_path):
    (tmp_path / "name").write_text("someone else's")
    (tmp_path / "note").mkdir()
    assert load(Orders, secrets_dir=tmp_path, environ={}) == Orders()


def test_a_volume_as_kubernetes_mounts_it(tmp_path):
    data = tmp_path / "..2026_11_15_10_00_00.123"
    data.mkdir()
    (data / "orders_db__host").write_text("db\n")
    (tmp_path / "..data").symlink_to(data.name)
    (tmp_path / "orders_db__host").symlink_to("..data/orders_db__host")
    (tmp_path / ".db.host").write_text("an editor left this")
    assert load(Orders, secrets_dir=tmp_path, environ={}).db.host == "db"


def test_misspelt_secret_files_are_errors(tmp_path):
    (tmp_path / "orders_db__pasword").write_text("canary")
    (tmp_path / "db.pasword").write_text("canary")
    assert refused(secrets_dir=tmp_path) == [
        f'{tmp_path}/db.pasword: unknown field; did you mean "db.password"?',
        (
            f"{tmp_path}/orders_db__pasword: unknown variable orders_db__pasword; did you mean "
            '"ORDERS_DB__PASSWORD"?'
        ),
    ]


def test_a_secret_given_by_two_files_is_refused(tmp_path):
    (tmp_path / "orders_db__host").write_text("a")
    (tmp_path / "db.host").write_text("b")
    assert refused(secrets_dir=tmp_path) == [
        f"db.host ({tmp_path}/orders_db__host): is also set by {tmp_path}/db.host; keep one"
    ]


def test_secret_files_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "orders_name").symlink_to("gone")
    (tmp_path / "orders_note").write_bytes(b"canary\xff")
    (tmp_path / "orders_db__host").mkdir()
    assert refused(secrets_dir=tmp_path) == [
        f"{tmp_path}/orders_db__host: is not a regular file",
        f"{tmp_path}/orders_name: there is no such file; create it, or mark it as optional",
        f"{tmp_path}/orders_note:1: is not UTF-8 text; save it as UTF-8",
    ]


def test_a_secret_file_without_permission_is_named():
    with tempfile.TemporaryDirectory() as folder:  # tmp_path is closed to other users
        Path(folder).chmod(0o755)
        secret = Path(folder) / "orders_name"
        secret.write_text("canary")
        secret.chmod(0)
        script = (
            "import os, sys, pathlib; from common.config._text import read_text\n"
            "if os.geteuid() == 0: os.setuid(65534)  # root may read everything\n"
            "print(read_text(pathlib.Path(sys.argv[1])))"
        )
        command = [sys.executable, "-c", script, secret]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"{secret}: cannot be read: Permission denied\n"


def test_a_missing_folder_is_an_error_unless_it_is_optional(tmp_path):
    gone = tmp_path / "gone"
    assert refused(secrets_dir=gone) == [
        f"{gone}: there is no such folder; create it, or mark it as optional"
    ]
    assert load(Orders, secrets_dir=optional(gone), environ={}) == Orders()
    file = tmp_path / "file"
    file.touch()
    assert refused(secrets_dir=file) == [f"{file}: cannot be read as a folder: Not a directory"]


# The environment


def test_the_environment_is_read_when_settings_are_loaded_and_not_before(monkeypatch):
    monkeypatch.setenv("ORDERS_NAME", "from the process")
    assert Orders().name == "orders"
    assert load(Orders).name == "from the process"
    assert load(Orders, environ={}).name == "orders"


def test_bytes_that_are_no_utf8_are_named():
    assert refused(environ={"ORDERS_NAME": os.fsdecode(b"a\xff")}) == [
        "name (ORDERS_NAME): is not UTF-8 text"
    ]


def test_two_spellings_of_one_variable_are_refused():
    assert refused(environ={"ORDERS_NAME": "a", "orders_name": "b"}) == [
        "name (orders_name): is also set by ORDERS_NAME; keep one"
    ]


def test_what_kubernetes_says_about_services_is_passed_over():
    class Settings(BaseAppSettings, prefix="CREDIT_"):
        port: int = 8000
        db: Postgres = Postgres(enabled=False)

    links = {
        "CREDIT_SERVICE_HOST": "10.0.0.1",
        "CREDIT_SERVICE_PORT": "80",
        "CREDIT_SERVICE_PORT_HTTP": "80",
        "CREDIT_PORT": "tcp://10.0.0.1:80",
        "CREDIT_PORT_80_TCP": "tcp://10.0.0.1:80",
        "CREDIT_PORT_80_TCP_ADDR": "10.0.0.1",
        "CREDIT_DB_PORT": "tcp://10.0.0.2:5432",
        "CREDIT_DB_PORT_5432_TCP_PROTO": "tcp",
        "CREDIT_DB_SERVICE_HOST": "10.0.0.2",
    }
    assert load(Settings, environ=links) == Settings()
    with pytest.raises(ConfigError, match="CREDIT_PORTT"):
        load(Settings, environ={**links, "CREDIT_PORTT": "1"})
