"""The command common-db, as a user runs it."""

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

from common.db.postgres._command import main

MODELS = """
from sqlalchemy.orm import Mapped, mapped_column
from common.db.postgres import Base, PostgresConfig, TimestampMixin, new_metadata

class Records(Base):
    __abstract__ = True
    metadata = new_metadata()

class Call(TimestampMixin, Records):
    __tablename__ = "calls"
    id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[str]

def settings():
    return PostgresConfig(url=URL)

def wrong():
    return PostgresConfig(url="mysql://a:s3cret@b/c")

URL = {url!r}
"""
PROJECT = """
[tool.common-db]
config = "models:settings"
metadata = "models:Records"
directory = "database/migrations"
"""


@pytest.fixture(scope="session")
def postgres_template():
    return None


@pytest.fixture
def project(tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    name = f"models_{uuid4().hex}"  # modules, and names of mapped classes, outlive a test
    (tmp_path / f"{name}.py").write_text(MODELS.format(url=postgres_url))
    (tmp_path / "pyproject.toml").write_text(PROJECT.replace("models:", f"{name}:"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            code = main(arguments)
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_it_is_installed_as_a_command(tmp_path: Path, postgres_url: str):
    command = Path(sys.executable).with_name("common-db")
    options = ["--url-file", "-", "current"]
    done = subprocess.run(
        [command, *options], input=postgres_url, capture_output=True, text=True, cwd=tmp_path,
        timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "nothing\n", "")


def test_the_whole_life_of_a_migration(run, project: Path):
    assert run("init") == (0, "made database/migrations\n", "")
    code, out, err = run("revision", "-m", "first")
    assert (code, err) == (0, "")
    assert out.startswith("wrote ")
    assert "first.py" in out
    code, out, _ = run("check")
    assert code == 1
    assert "not applied: " in out
    assert "drift: add_table calls" in out
    code, out, err = run("upgrade")
    assert (code, err) == (0, "")
    assert out.startswith("applied ")
    assert run("upgrade") == (0, "nothing\n", "")
    assert run("check") == (0, "models, migrations and database agree\n", "")
    code, out, _ = run("current")
    assert out.strip() in run("history")[1]
    assert run("history")[1].strip().endswith("First.")
    assert run("ensure-schema", "a schema")[:2] == (0, "schema a schema exists\n")
    code, out, _ = run("downgrade", "base")
    assert (code, out.split()[0]) == (0, "undid")


def test_the_url_may_come_from_a_file_or_stdin(run, project: Path, postgres_url: str, monkeypatch):
    run("init")
    (project / "url").write_text(postgres_url + "\n")
    assert run("--url-file", "url", "current")[0] == 0
    monkeypatch.setattr(sys, "stdin", io.StringIO(postgres_url))
    assert run("--url-file", "-", "current")[0] == 0


def test_a_schema_may_be_given_beside_a_configuration(run, project: Path):
    run("init")
    assert run("--schema", "a schema", "revision", "-m", "first")[0] == 0
    assert run("--schema", "a schema", "upgrade")[0] == 0
    assert run("--schema", "a schema", "check")[0] == 0
    assert run("current")[1] == "nothing\n"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--config", "models:nothing", "upgrade"], "nothing"),
        (["--config", "no_such_module:x", "upgrade"], "no_such_module"),
        (["--config", "models", "upgrade"], "module:name"),
        (["--config", "models:URL", "upgrade"], "no PostgresConfig"),
        (["--metadata", "models:URL", "upgrade"], "no MetaData"),
        (["--url", "mysql://a:s3cret@b/c", "upgrade"], "postgresql://"),
        (["--url", "postgresql://a:s3cret@127.0.0.1:1/c", "current"], "127.0.0.1:1"),
        (["--config", "models:wrong", "current"], "made no configuration: url: "),
        (["--schema", "a" * 64, "current"], "63 bytes"),
        (["--url-file", "missing", "current"], "cannot be read"),
        (["upgrade"], "database/migrations"),
        (["ensure-schema", "a" * 64], "63 bytes"),
    ],
)
def test_errors_are_one_line_without_secrets(run, project: Path, arguments: list[str], told: str):
    (models,) = project.glob("models_*.py")
    code, out, err = run(*[each.replace("models", models.stem) for each in arguments])
    assert (code, out) == (1, "")
    assert err.startswith("common-db: ")
    assert err.count("\n") == 1
    assert told in err
    assert "s3cret" not in err


def test_an_unknown_setting_of_the_project_is_refused(run, project: Path):
    (project / "pyproject.toml").write_text('[tool.common-db]\ndirectori = "x"\n')
    code, _, err = run("history")
    assert code == 1
    assert "directori" in err
    (project / "pyproject.toml").write_text("[tool")
    assert run("history")[0] == 1


def test_without_a_database_it_says_how_to_name_one(run, project: Path):
    (project / "pyproject.toml").unlink()
    code, _, err = run("upgrade")
    assert code == 1
    assert "--config" in err
    assert run("fly")[0] == 2
