"""Folders that are whole or not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from vivit_core.system.files import new_folder


def test_a_folder_gets_its_name_when_it_is_whole(tmp_path: Path) -> None:
    out = tmp_path / "a" / "out"
    with new_folder(out) as making:
        (making / "x").write_text("x")
        assert not out.exists()
    assert [path.name for path in out.iterdir()] == ["x"] and [path.name for path in out.parent.iterdir()] == ["out"]
    with pytest.raises(ValueError, match="stands there already; name a new folder"), new_folder(out):
        pass
    assert (out / "x").exists()


def test_an_empty_folder_that_stood_keeps_its_rights_and_its_link(tmp_path: Path) -> None:
    stood, link = tmp_path / "stood", tmp_path / "link"
    stood.mkdir()
    stood.chmod(0o770)
    link.symlink_to(stood)
    with new_folder(link) as making:
        (making / "x").write_text("x")
    assert (stood / "x").exists() and link.is_symlink() and stood.stat().st_mode & 0o777 == 0o770


def test_the_folder_under_our_feet_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for out in (Path("."), tmp_path):
        with pytest.raises(ValueError, match=r"you stand in this folder, .* name a new"), new_folder(out):
            pass
    (tmp_path / "disk").mkdir()
    monkeypatch.setattr(Path, "is_mount", lambda path: path.name == "disk")
    with pytest.raises(ValueError, match="a disk is mounted there"), new_folder(tmp_path / "disk"):
        pass


def test_what_others_put_there_meanwhile_stays(tmp_path: Path) -> None:
    """Two commands on one name: the first that is done has it."""
    out = tmp_path / "out"
    with pytest.raises(OSError, match="not empty"), new_folder(out) as making:
        (making / "x").write_text("second")
        with new_folder(out) as first:
            (first / "x").write_text("first")
    assert (out / "x").read_text() == "first"
    with pytest.raises(RuntimeError, match="broken"), new_folder(tmp_path / "other") as making:
        (making / "x").write_text("x")
        raise RuntimeError("broken")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
