import os
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from common.testing import ServerError, _places


def free(monkeypatch, **spaces):
    monkeypatch.setattr(
        shutil,
        "disk_usage",
        lambda path: SimpleNamespace(free=spaces["shm" if str(path) == "/dev/shm" else "disk"]),
    )


@pytest.fixture(autouse=True)
def no_choice(monkeypatch):
    monkeypatch.delenv("COMMON_TESTING_DIRECTORY", raising=False)


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="no /dev/shm here")
def test_memory_is_preferred_when_it_is_ample(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    free(monkeypatch, shm=2 * _places.AMPLE, disk=2 * _places.AMPLE)
    assert _places.base_directory(memory=True) == Path("/dev/shm")
    assert _places.base_directory() == tmp_path
    free(monkeypatch, shm=_places.AMPLE // 2, disk=2 * _places.AMPLE)
    assert _places.base_directory(memory=True) == tmp_path


def test_a_full_disk_is_one_line_that_says_what_to_do(monkeypatch):
    free(monkeypatch, shm=0, disk=1_000_000)
    with pytest.raises(ServerError) as caught:
        _places.base_directory(memory=True)
    assert "200 MB free" in str(caught.value)
    assert "free some space, or name another with COMMON_TESTING_DIRECTORY" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_that_others_cannot_enter_is_passed_by(monkeypatch, tmp_path):
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(private))
    assert _places.base_directory() == private
    assert _places.base_directory(everybody=True) != private


def test_no_usable_temporary_folder_is_said(monkeypatch):
    def none():
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    with pytest.raises(ServerError, match="set TMPDIR"):
        _places.base_directory()


def test_a_tree_is_linked_or_copied(monkeypatch, tmp_path):
    source = tmp_path / "source"
    (source / "below").mkdir(parents=True)
    (source / "below" / "file").write_text("content")
    (source / "link").symlink_to("below/file")
    _places.copy_tree(source, tmp_path / "linked")
    assert (tmp_path / "linked/below/file").samefile(source / "below/file")

    def refuse(*_, **__):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    _places.copy_tree(source, tmp_path / "copied")
    assert not (tmp_path / "copied/below/file").samefile(source / "below/file")
    assert (tmp_path / "copied/link").read_text() == "content"
