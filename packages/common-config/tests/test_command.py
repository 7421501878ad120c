import json
import os
import subprocess
import sys

import pytest

MODULE = """
from typing import Annotated
from pydantic import Field, SecretStr
from common.config import BaseAppSettings, EnvPrefix, Postgres, Section

class Smtp(Section):
    host: str
    \"\"\"Where to send mail.\"\"\"
    password: SecretStr = SecretStr("default-canary")

class Settings(BaseAppSettings, prefix="ORDERS_"):
    smtp: Smtp
    page_size: int = 50
    limits: dict[str, int] = {}
    db: Annotated[Postgres, EnvPrefix("CREDIT_DB_")] = Postgres(enabled=False)

class Outer:
    Inner = Settings

class Nothing(BaseAppSettings, prefix="NOTHING_"):
    pass

class Made(BaseAppSettings, prefix="MADE_"):
    tags: list[str] = Field(default_factory=list)

class NoPrefix(BaseAppSettings):
    pass
"""


@pytest.fixture
def run(tmp_path):
    (tmp_path / "shop.py").write_text(MODULE)
    (tmp_path / "broken.py").write_text("raise RuntimeError('canary')")
    (tmp_path / "base.yaml").write_text("smtp:\n  host: mail\n  password: canary-1\n")
    (tmp_path / "wrong.yaml").write_text(
        "smtp:\n  host: mail\n  pasword: canary-1\npage_size: canary\n"
    )

    def run(*arguments, **environ):
        keep = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        done = subprocess.run(
            [sys.executable, "-m", "common.config", *arguments],
            cwd=tmp_path, env={**keep, **environ}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert "canary" not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout, done.stderr

    return run


def test_show_prints_values_and_sources_with_secrets_masked(run):
    status, output, errors = run(
        "show", "shop:Settings", "--file", "base.yaml", ORDERS_SMTP__HOST="m2"
    )
    assert (status, errors) == (0, "")
    assert [line.split(maxsplit=2) for line in output.splitlines()[:3]] == [
        ["smtp.host", '"m2"', "ORDERS_SMTP__HOST (over base.yaml:2)"],
        ["smtp.password", '"**********"', "base.yaml:3"],
        ["page_size", "50", "default"],
    ]


def test_show_as_json(run):
    status, output, _ = run(
        "show", "shop:Settings", "--file", "base.yaml", "--json", ORDERS_PAGE_SIZE="7"
    )
    assert status == 0
    shown = json.loads(output)
    assert shown["page_size"] == {"value": 7, "source": "ORDERS_PAGE_SIZE", "overridden": []}
    assert shown["smtp.password"]["value"] == "**********"


def test_check_is_quiet_about_what_is_right(run, tmp_path):
    (tmp_path / "local.env").write_text("ORDERS_PAGE_SIZE=3\n")
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "orders_smtp__password").write_text("canary-2")
    layers = ["--file", "base.yaml", "--optional-file", "gone.yaml", "--env-file", "local.env"]
    status, output, errors = run("check", "shop:Settings", *layers, "--secrets-dir", "secrets")
    assert (status, errors) == (0, "")
    assert output.startswith("ok: ")
    assert json.loads(run("check", "shop:Settings", *layers, "--json")[1])["ok"] is True


def test_check_tells_every_problem(run):
    status, output, errors = run(
        "check", "shop:Settings", "--file", "wrong.yaml", ORDERS_PAGESIZE="1"
    )
    assert (status, output) == (1, "")
    assert errors.splitlines() == [
        "3 problems in the configuration of Settings",
        '  unknown variable ORDERS_PAGESIZE; did you mean "ORDERS_PAGE_SIZE"?',
        '  smtp.pasword (wrong.yaml:3): unknown key; did you mean "password"?',
        (
            "  page_size (wrong.yaml:4): "
            "Input should be a valid integer, unable to parse string as an integer"
        ),
    ]
    status, output, _ = run("check", "shop:Settings", "--file", "wrong.yaml", "--json")
    assert status == 1
    assert [each["path"] for each in json.loads(output)["problems"]] == [
        "smtp.pasword",
        "page_size",
    ]


def test_env_lists_every_variable_with_type_and_default(run):
    status, output, _ = run("env", "shop:Settings")
    assert status == 0
    lines = {line.split()[0]: " ".join(line.split()[1:]) for line in output.splitlines()}
    assert lines["ORDERS_SMTP__HOST"] == "str required Where to send mail."
    assert lines["ORDERS_SMTP__PASSWORD"] == 'SecretStr "**********"'
    assert lines["ORDERS_PAGE_SIZE"] == "int 50"
    assert lines["ORDERS_LIMITS__<KEY>"] == "int"
    assert lines["CREDIT_DB_PORT_EXTERNAL"].startswith("int or null null Port from outside")
    listed = {each["name"]: each for each in json.loads(run("env", "shop:Settings", "--json")[1])}
    assert set(listed) == set(lines)
    assert listed["ORDERS_SMTP__PASSWORD"]["secret"] is True
    assert listed["ORDERS_SMTP__HOST"]["required"] is True
    assert listed["ORDERS_PAGE_SIZE"]["default"] == 50
    assert listed["ORDERS_LIMITS"]["default"] == {}
    assert listed["CREDIT_DB_HOST"]["default"] == "localhost"
    assert listed["ORDERS_SMTP__PASSWORD"]["default"] == "**********"
    assert json.loads(run("env", "shop:Made", "--json")[1])[0]["default"] is None


def test_env_needs_no_configuration_and_every_listed_variable_works(run):
    listed = json.loads(run("env", "shop:Settings", "--json")[1])
    environ = {each["name"]: "x" for each in listed if each["type"] in {"str", "SecretStr"}}
    status, output, _ = run("show", "shop:Settings", "--json", **environ)
    assert status == 0
    assert {each["source"] for each in json.loads(output).values()} >= set(environ) - {"x"}


def test_schema_is_a_json_schema_of_the_class(run):
    status, output, _ = run("schema", "shop:Settings")
    assert status == 0
    schema = json.loads(output)
    assert schema["$defs"]["Smtp"]["properties"]["host"]["description"] == "Where to send mail."
    assert schema["$defs"]["Postgres"]["properties"]["port"]["description"].startswith("Port, as")
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate({"smtp": {"host": "x"}}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"smtp": {"host": "x", "prot": 1}}, schema)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "usage:"),
        (["show"], "usage:"),
        (["dance", "shop:Settings"], "invalid choice"),
        (["show", "shop"], "'shop' does not name a class: write module:Class"),
        (["show", "shop:"], "does not name a class"),
        (["show", "gone:Settings"], "importing gone failed with ModuleNotFoundError"),
        (["show", "broken:Settings"], 'failed with RuntimeError; see python -c "import broken"'),
        (["show", "shop:Gone"], "shop:Gone is not a class derived from"),
        (["show", "shop:Smtp"], "is not a class derived from"),
        (["show", "shop:NoPrefix"], "NoPrefix has no prefix"),
    ],
)
def test_wrong_usage_has_a_status_of_its_own(run, arguments, message):
    status, output, errors = run(*arguments)
    assert (status, output) == (2, "")
    assert message in errors


def test_a_nested_class_can_be_named(run):
    assert run("env", "shop:Outer.Inner")[0] == 0


def test_missing_files_are_problems(run):
    status, _, errors = run("check", "shop:Settings", "--file", "gone.yaml")
    assert status == 1
    assert "gone.yaml: there is no such file" in errors
    assert "mark it as optional" in errors
    assert run("check", "shop:Nothing", "--optional-file", "gone.yaml")[0] == 0


@pytest.mark.parametrize("option", ["file", "env-file", "secrets-dir"])
def test_every_layer_may_be_marked_as_optional(run, option):
    status, _, errors = run("check", "shop:Nothing", f"--{option}", "gone")
    assert status == 1
    assert errors.endswith("create it, or mark it as optional\n")
    assert run("check", "shop:Nothing", f"--optional-{option}", "gone") == (0, "ok: 0 values\n", "")


def test_files_keep_their_order_whether_optional_or_not(run, tmp_path):
    (tmp_path / "a.yaml").write_text("smtp: {host: a}\npage_size: 1\n")
    (tmp_path / "b.yaml").write_text("page_size: 2\n")
    for first, second, last in (("a", "b", 2), ("b", "a", 1)):
        files = ["--optional-file", f"{first}.yaml", "--file", f"{second}.yaml"]
        shown = json.loads(run("show", "shop:Settings", "--json", *files)[1])
        assert shown["page_size"]["value"] == last


@pytest.mark.parametrize("command", ["env", "show"])
def test_a_class_without_fields_prints_nothing(run, command):
    assert run(command, "shop:Nothing") == (0, "", "")
    assert run(command, "shop:Nothing", "--json")[1].strip() in {"[]", "{}"}


def test_help_is_plain_text(run):
    status, output, _ = run("--help")
    assert status == 0
    assert "`" not in output
