import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import common.context
from common.context import doctor

SOURCE = Path(common.context.__file__).parents[2]
SCRIPT = Path(sys.executable).with_name("common-doctor")


def run(*command, cwd, path=()):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if path:
        environment["PYTHONPATH"] = os.pathsep.join(map(str, path))
    return subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def hidden(tmp_path):
    """A working directory whose own folder hides the packages."""
    (tmp_path / "common").mkdir()
    (tmp_path / "common" / "__init__.py").touch()
    return tmp_path


@pytest.fixture
def site(tmp_path):
    """Only common-context, installed as a wheel would be, for an interpreter without site."""
    folder = tmp_path / "site"
    shutil.copytree(SOURCE / "common" / "context", folder / "common" / "context")
    info = folder / "common_context-1.2.3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: common-context\nVersion: 1.2.3\n")
    (info / "RECORD").write_text("common/context/__init__.py,,\n")
    return folder


def install(site, name, *files):
    info = site / f"{name.replace('-', '_')}-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n")
    (info / "RECORD").write_text("".join(f"{file},,\n" for file in files))


def doctor_of(site, cwd):
    return run(sys.executable, "-S", "-m", "common.context.doctor", cwd=cwd, path=[site])


def test_a_sound_environment_is_reported_as_such(site, tmp_path):
    done = doctor_of(site, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "ok       common-context 1.2.3\nNothing hides common.* here.\n"


def test_the_command_finds_a_folder_in_the_working_directory(hidden):
    assert SCRIPT.exists(), "the console script is not installed"
    done = run(SCRIPT, cwd=hidden)
    assert done.returncode == 1
    file = (hidden / "common" / "__init__.py").resolve()
    assert f"PROBLEM  {file} hides every common.* package" in done.stdout
    assert "rename it" in done.stdout
    assert "common-context" in done.stdout


def test_the_command_is_content_elsewhere(tmp_path):
    done = run(SCRIPT, cwd=tmp_path)
    assert "hides every" not in done.stdout
    assert "ok       common-context" in done.stdout


def test_the_module_is_hidden_itself_unless_the_directory_is_left_out(hidden):
    module = ("-m", "common.context.doctor")
    assert "No module named" in run(sys.executable, *module, cwd=hidden).stderr
    done = run(sys.executable, "-P", *module, cwd=hidden)
    assert done.returncode == 1
    assert "hides every common.* package" in done.stdout


def test_the_file_works_whatever_is_hidden(hidden):
    elsewhere = hidden / "elsewhere"
    elsewhere.mkdir()
    done = run(sys.executable, doctor.__file__, cwd=elsewhere, path=[hidden])
    assert done.returncode == 1
    assert f"{(hidden / 'common' / '__init__.py').resolve()} hides every" in done.stdout
    assert "import common.context fails with ModuleNotFoundError" in done.stdout


def test_a_module_of_that_name_hides_them_too(site, tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    (work / "common.py").touch()
    done = run(sys.executable, "-S", "-P", "-m", "common.context.doctor", cwd=work, path=[site])
    assert done.returncode == 1
    assert f"{(work / 'common.py').resolve()} hides every" in done.stdout


def test_a_folder_without_init_hides_nothing(site, tmp_path):
    (tmp_path / "common" / "mine").mkdir(parents=True)
    (tmp_path / "common" / "mine" / "__init__.py").touch()
    assert doctor_of(site, tmp_path).returncode == 0


def test_an_init_in_an_inner_namespace_is_found(site, tmp_path):
    leaf = site / "common" / "db" / "postgres"
    leaf.mkdir(parents=True)
    (leaf / "__init__.py").touch()
    (site / "common" / "db" / "__init__.py").touch()
    install(site, "common-db-postgres", "common/db/postgres/__init__.py")
    done = doctor_of(site, tmp_path)
    assert done.returncode == 1
    assert str(Path("common", "db", "__init__.py")) in done.stdout


def test_a_distribution_that_cannot_be_imported_is_named_with_the_reason(site, tmp_path):
    (site / "common" / "broken").mkdir()
    (site / "common" / "broken" / "__init__.py").write_text("import missing_driver\n")
    install(site, "common-broken", "common/broken/__init__.py")
    done = doctor_of(site, tmp_path)
    assert done.returncode == 1
    assert (
        "PROBLEM  common-broken 0.1: import common.broken fails with "
        "ModuleNotFoundError: No module named 'missing_driver'" in done.stdout
    )
    assert "ok       common-context 1.2.3" in done.stdout


def test_distributions_of_others_whose_names_begin_alike_are_left_alone(site, tmp_path):
    install(site, "common-sense", "sense/__init__.py")
    done = doctor_of(site, tmp_path)
    assert done.returncode == 0
    assert "sense" not in done.stdout


def test_without_any_distribution_it_says_so(site, tmp_path):
    shutil.rmtree(site / "common_context-1.2.3.dist-info")
    done = doctor_of(site, tmp_path)
    assert done.returncode == 1
    assert "no common-* distribution is installed" in done.stdout
