import shutil

import pytest
from ws._affected import affected
from ws._cli import app

EVERYTHING = ["common-other", "common-pets-cat", "common-pets-core", "common-zoo", "shop"]


@pytest.fixture
def names(scratch):
    def run(base: str | None = None) -> list[str]:
        return sorted(member.name for member in affected(scratch.load(), base)[0])

    return run


def test_without_a_change_nothing_is_affected(names):
    assert names("HEAD") == []


def test_a_leaf_affects_what_uses_it(scratch, names):
    scratch.write("packages/common-pets-cat/README.md", "# changed\n")
    assert names("HEAD") == ["common-pets-cat", "shop"]


def test_a_core_affects_all_above_it(scratch, names):
    scratch.write("packages/common-zoo/src/common/zoo/_x.py", "")  # untracked
    assert names("HEAD") == ["common-pets-cat", "common-pets-core", "common-zoo", "shop"]


def test_dependents_come_after_what_they_need(scratch):
    scratch.write("packages/common-zoo/LICENSE", "")
    order = [member.name for member in affected(scratch.load(), "HEAD")[0]]
    assert order == ["common-zoo", "common-pets-core", "common-pets-cat", "shop"]


@pytest.mark.parametrize(
    "file", ["Makefile", "pyproject.toml", "tools/ws/x.py", ".github/x.yml", "new/x"]
)
def test_what_belongs_to_all_affects_all(scratch, names, file):
    with (scratch.write(file, "") if file != "pyproject.toml" else scratch.root / file).open(
        "a"
    ) as f:
        f.write("\n")
    assert names("HEAD") == EVERYTHING


def test_documentation_and_ignored_files_affect_nothing(scratch, names):
    scratch.write("docs/index.md", "x")
    scratch.write("packages/common-zoo/__pycache__/x.pyc", "x")
    assert names("HEAD") == []


def test_an_example_affects_itself(scratch, names):
    scratch.write("examples/shop/x.py", "")
    assert names("HEAD") == ["shop"]


def test_staged_and_committed_changes_count(scratch, names):
    start = scratch.git("rev-parse", "HEAD")
    scratch.write("packages/common-other/x.md", "x")
    scratch.commit()
    scratch.write("packages/common-pets-cat/x.md", "x")
    scratch.git("add", "--all")
    assert names(start) == ["common-other", "common-pets-cat", "shop"]


def test_a_deleted_package_affects_who_still_requires_it(scratch, names):
    shutil.rmtree(scratch.root / "packages/common-pets-core")
    assert names("HEAD") == ["common-pets-cat", "shop"]


def test_a_deleted_file_affects_its_package(scratch, names):
    (scratch.root / "packages/common-pets-cat/LICENSE").unlink()
    assert names("HEAD") == ["common-pets-cat", "shop"]


def test_a_file_that_moves_affects_both_places(scratch, names):
    scratch.git("mv", "packages/common-other/LICENSE", "packages/common-pets-cat/COPYING")
    assert names("HEAD") == ["common-other", "common-pets-cat", "shop"]


def test_a_renamed_package_affects_who_requires_either_name(scratch, names):
    scratch.git("mv", "packages/common-zoo", "packages/common-farm")
    scratch.change("packages/common-farm/pyproject.toml", '"common-zoo"', '"common-farm"')
    assert names("HEAD") == ["common-farm", "common-pets-cat", "common-pets-core", "shop"]


def test_what_the_tests_of_all_use_affects_all(scratch, names):
    scratch.change("pyproject.toml", 'test = ["pytest>=9,<10"]', 'test = ["common-pets-core"]')
    scratch.commit()
    scratch.write("packages/common-zoo/x.md", "x")  # pets-core needs it
    assert names("HEAD") == EVERYTHING


def test_without_a_base_a_branch_counts_from_where_it_left_main(scratch, names):
    scratch.git("update-ref", "refs/remotes/origin/main", "HEAD")
    scratch.git("switch", "--quiet", "--create", "work")
    for package in ("common-other", "common-pets-cat"):
        scratch.write(f"packages/{package}/x.md", "x")
        scratch.commit()
    assert names() == ["common-other", "common-pets-cat", "shop"]


def test_what_main_gained_since_does_not_count(scratch, names):
    start = scratch.git("rev-parse", "HEAD")
    scratch.write("packages/common-zoo/x.md", "x")
    scratch.git("update-ref", "refs/remotes/origin/main", scratch.commit())
    scratch.git("switch", "--quiet", "--create", "work", start)
    scratch.write("packages/common-other/x.md", "x")
    scratch.commit()
    assert names() == names("origin/main") == ["common-other"]


def test_without_a_base_main_itself_counts_from_its_last_commit(scratch, names):
    scratch.write("packages/common-other/x.md", "x")
    scratch.git("update-ref", "refs/remotes/origin/main", scratch.commit())
    assert names() == ["common-other"]


@pytest.mark.parametrize("base", ["0" * 40, "no-such-branch", "--help"])
def test_a_base_that_git_does_not_know_means_all(names, base):
    assert names(base) == EVERYTHING


def test_the_first_commit_means_all(scratch, names):
    shutil.rmtree(scratch.root / ".git")
    scratch.git("init", "--quiet")
    assert names() == EVERYTHING
    scratch.commit()
    assert names() == EVERYTHING


def test_the_matrix_is_json_also_when_it_is_empty(scratch, monkeypatch, capsys):
    monkeypatch.chdir(scratch.root / "packages")
    app(["affected", "--base", "HEAD", "--json"], result_action="return_value")
    assert capsys.readouterr().out == "[]\n"
    scratch.write("examples/shop/x.py", "")
    scratch.write("packages/common-other/x.md", "x")
    app(["affected", "--base", "HEAD", "--json"], result_action="return_value")
    assert capsys.readouterr().out == (
        '[{"package": "common-other", "path": "packages/common-other"}]\n'
    )
