"""The command common-events: options, check, streams."""

import runpy
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from common.domain import registry, schema_lock
from common.events.core import StreamSpec

if TYPE_CHECKING:
    from command_support import Project
else:  # pytest's import mode knows no modules beside a test
    globals().update(runpy.run_path(str(Path(__file__).with_name("command_support.py")))["shared"])


def lock(project: "Project", **replaced: str) -> Path:
    text = schema_lock(project.module.REGISTRY.all())
    for old, new in replaced.items():
        assert f'"{old}"' in text
        text = text.replace(f'"{old}"', f'"{new}"')
    path = project.path / "schema-lock.json"
    path.write_text(text)
    return path


def test_it_is_installed_as_a_command(tmp_path: Path):
    command = Path(sys.executable).with_name("common-events")
    done = subprocess.run(
        [command, "streams", "plan", "--transport", "memory"],
        capture_output=True, text=True, cwd=tmp_path, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, "")
    assert "+ stream CALL\n" in done.stdout
    assert done.stdout.endswith("14 streams: 14 changes\n")


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path):
    command = Path(sys.executable).with_name("common-events")
    arguments = [command, "asyncapi"]  # more than a pipe holds
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 0


# check


def test_check_compares_with_the_lock_and_looks_at_the_bus(project: "Project"):
    lock(project)
    code, out, err = project.run("check", "--app", "@lamps", "--app", "@doors")
    assert (code, err) == (0, "")
    assert "lamps: 3 subscriptions can start" in out
    assert "compatible with schema-lock.json: 4 schemas" in out


def test_check_tells_what_broke_and_how_to_mend_it(project: "Project"):
    lock(project, door="gate")
    code, out, _ = project.run("check", "--app", "@doors")
    assert code == 1
    assert "door.opened v1: $.gate: field removed (forward)" in out
    assert "door.opened v1: $.door: required field added (backward)" in out
    assert "fix: declare version 2 with @upcast(1)" in out
    code, out, _ = project.run("check", "--app", "@doors", "--direction", "forward")
    assert code == 1
    assert "backward" not in out


def test_check_wants_the_lock_brought_up_to_date(project: "Project"):
    path = lock(project)
    path.write_text(schema_lock([project.module.Opened]))
    code, out, _ = project.run("check", "--app", "@doors")
    assert code == 1
    assert "the lock is behind the code" in out


def test_check_finds_a_dependency_that_nobody_provides(project: "Project"):
    lock(project)
    code, out, _ = project.run("check", "--app", "@broken")
    assert code == 1
    assert "nothing is provided for parameter 'url': call bus.provide(…, name='url')" in out


def test_check_of_chosen_modules_leaves_the_others_out(project: "Project"):
    calls = schema_lock([registry.get("call.completed")])
    (project.path / "schema-lock.json").write_text(calls)
    code, out, _ = project.run("check", "--module", "common.domain.calls")
    assert (code, out) == (0, "compatible with schema-lock.json: 1 schema\n")
    code, out, _ = project.run("check", "--module", "common.domain")
    assert code == 1
    assert "the lock is behind the code" in out


def test_check_of_an_application_without_types_of_its_own_has_nothing_to_compare(
    project: "Project",
):
    command = Path(sys.executable).with_name("common-events")

    def check(*options: str) -> tuple[int, str, str]:
        # In a process of its own: here, others may have declared types in the shared registry.
        done = subprocess.run(
            [command, "check", "--app", f"{project.name}:borrower", *options],
            capture_output=True, text=True, cwd=project.path, timeout=60, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    code, out, err = check()
    assert (code, err) == (0, "")
    assert "borrower: 1 subscription can start" in out
    assert "no schemas to compare: all message types are those of common.domain" in out
    # One that keeps a lock of what it borrows wants it compared; one that is named must exist.
    shared = [each for each in registry.all() if each.__module__.startswith("common.domain.")]
    (project.path / "schema-lock.json").write_text(schema_lock(shared))
    code, out, _ = check()
    assert code == 0
    assert "compatible with schema-lock.json" in out
    code, _, err = check("--lock", "gone.json")
    assert code == 2
    assert "gone.json: there is no lock" in err


def test_an_error_of_several_lines_is_told_in_several_lines(project: "Project"):
    code, out, err = project.run("dlq", "list", "--app", "@unconfigured")
    assert (code, out) == (2, "")
    assert err == (
        f"common-events: --app {project.name}:unconfigured: 2 problems\n"
        "    url: is required\n"
        "    \\x1b[1mname: is required\n"
    )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["check"], "there is no lock: write and commit one"),
        (["check", "--app", "@failing"], ":failing: calling it failed with KeyError: 'URL'"),
        (["check", "--app", "@later"], ":later is a coroutine function"),
        (["check", "--app", "@wanting"], "calling it failed with TypeError: wanting() missing"),
        (["dlq", "replay", "1", "--to", "a b", "--app", "@lamps"], "give the durable name"),
        (["check", "--app", "nowhere:bus"], "importing nowhere failed with ModuleNotFoundError"),
        (["check", "--app", "nowhere"], "give package.module:name"),
        (["check", "--app", "@number"], "is no EventBus"),
        (["check", "--app", "@absent"], "has no attribute 'absent'"),
        (["check", "--module", "json"], "json declare no message types"),
        (["streams", "plan"], "say which broker"),
        (["streams", "plan", "--transport", "pigeons"], "no transport 'pigeons' is installed"),
        (["streams", "plan", "--transport", "memory", "--url-file", "url"], "use --config"),
        (["streams", "plan", "--transport", "memory", "--url-file", "gone"], "cannot be read"),
        (["asyncapi", "--app", "@lamps", "--app", "@doors"], "give --app once"),
        (["catalog", "-o", "no/such/folder"], "cannot be written"),
    ],
)
def test_what_is_missing_or_wrong_is_told_in_one_line(
    project: "Project", arguments: list[str], told: str
):
    (project.path / "url").write_text("memory://s3cret")
    code, out, err = project.run(*arguments)
    assert (code, out) == (2, "")
    assert told in err
    assert "s3cret" not in err
    told_lines = [each for each in err.splitlines() if not each.startswith(("usage:", " "))]
    assert len(told_lines) == 1


def test_a_wrong_url_is_told_without_the_url(project: "Project"):
    pytest.importorskip("common.events.nats")
    (project.path / "url").write_text("mysql://me:s3cret@host")
    code, _, err = project.run("dlq", "list", "--transport", "nats", "--url-file", "url")
    assert (code, err.count("\n")) == (2, 1)
    assert "the configuration of nats is wrong: servers" in err
    assert "s3cret" not in err


def test_a_transport_that_needs_to_know_where_its_broker_is_says_so(project: "Project"):
    pytest.importorskip("common.events.nats")
    code, _, err = project.run("dlq", "list", "--transport", "nats")
    told = "--transport nats: say where it is: --url-file FILE, or --config MODULE:NAME"
    assert (code, err) == (2, f"common-events: {told}\n")


# settings


def test_options_may_stand_in_pyproject(project: "Project"):
    lock(project).rename(project.path / "locked.json")
    settings = f"""
        [tool.common-events]
        app = ["{project.name}:lamps", "{project.name}:doors"]
        lock = "locked.json"
        """
    (project.path / "pyproject.toml").write_text(settings)
    code, out, _ = project.run("check")
    assert code == 0
    assert "doors: 1 subscription can start" in out
    code, out, _ = project.run("check", "--app", "@lamps")  # takes the place of both
    assert "doors" not in out


def test_an_unknown_setting_is_refused(project: "Project"):
    (project.path / "pyproject.toml").write_text('[tool.common-events]\napps = "x:y"\n')
    code, _, err = project.run("check")
    assert code == 2
    assert "has no 'apps'; it has app, modules, lock, transport, config" in err


def test_a_file_with_the_url_beats_the_configured_broker(project: "Project"):
    (project.path / "pyproject.toml").write_text(
        f'[tool.common-events]\nconfig = "{project.name}:broker"\ntransport = "memory"\n'
    )
    (project.path / "url").write_text("x")
    assert project.run("streams", "plan")[0] == 1
    assert (
        "--url-file: memory is not configured by a URL"
        in (project.run("streams", "plan", "--url-file", "url")[2])
    )


# streams


def test_plan_is_a_diff_and_apply_makes_it_so(project: "Project"):
    plan = ["streams", "plan", "--app", "@lamps"]
    assert project.run(*plan) == (
        1, "+ stream LAMP\n+ stream DEAD_LETTERS\n2 streams: 2 changes\n", ""
    )  # fmt: skip
    assert not project.module.BROKER.streams
    code, out, _ = project.run("streams", "apply", "--app", "@lamps")
    assert code == 0
    assert out.endswith("2 streams: 2 changes made\n")
    assert project.run(*plan) == (0, "2 streams: no changes\n", "")


def test_apply_changes_only_what_the_mode_allows(project: "Project"):
    apply = ["streams", "apply", "--app", "@lamps", "--mode"]
    code, out, _ = project.run(*apply, "verify")
    assert (code, out) == (1, "+ stream LAMP\n+ stream DEAD_LETTERS\n")
    assert project.run(*apply, "create")[0] == 0
    stream = project.module.BROKER.stream("LAMP")
    stream.spec = StreamSpec(name="LAMP", subjects=("evt.lamp.>",))
    code, out, err = project.run(*apply, "create")
    assert code == 1
    assert "~ stream LAMP: subjects:" in out
    assert "beyond what mode create changes" in err
    assert project.run(*apply, "reconcile")[0] == 0
    assert stream.spec.subjects == ("evt.lamp.>", "cmd.lamp.>")


def test_several_applications_must_declare_a_stream_alike(project: "Project"):
    project.module.other = project.module.make(
        "doors", streams=(StreamSpec(name="LAMP", subjects=("evt.lamp.>",)),)
    )
    code, _, err = project.run("streams", "plan", "--app", "@lamps", "--app", "@other")
    assert code == 2
    assert "declare stream LAMP differently" in err
