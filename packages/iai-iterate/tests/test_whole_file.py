"""Files that are whole or not there: no link is followed, and nothing of a killed writer stays."""

import os

import pytest
from iai_iterate.whole_file import fcntl, whole_file

with_locks = pytest.mark.skipif(fcntl is None, reason="needs locks of files")


def write(path, content=b"new"):
    with whole_file(path) as file:
        file.write(content)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_link_in_the_place_of_the_temporary_file_is_not_followed(tmp_path, monkeypatch):
    (tmp_path / "victim").write_bytes(b"mine")
    (tmp_path / "x").write_bytes(b"old")
    (tmp_path / ".x.feed.tmp").symlink_to("victim")
    monkeypatch.setattr("secrets.token_hex", lambda size: "feed")
    with pytest.raises(OSError, match="x` could not be written: File exists; what was there befo"):
        write(tmp_path / "x")
    assert (tmp_path / "victim").read_bytes() == b"mine"
    assert (tmp_path / "x").read_bytes() == b"old"


def test_no_name_of_a_temporary_file_comes_twice(tmp_path):
    seen = []
    for _ in range(3):
        with whole_file(tmp_path / "x"):
            seen += names(tmp_path)
    assert len(set(seen) - {"x"}) == 3


def test_a_link_in_the_place_of_the_file_is_replaced(tmp_path):
    (tmp_path / "victim").write_bytes(b"mine")
    (tmp_path / "x").symlink_to("victim")
    write(tmp_path / "x")
    assert (tmp_path / "victim").read_bytes() == b"mine"
    assert (tmp_path / "x").read_bytes() == b"new"


@with_locks
def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path):
    others = {".x.notes.tmp", ".y.0a1b.tmp", "x.0a1b.tmp"}
    for name in (*others, ".x.0a1b.tmp", ".x.4711.tmp", ".x.0c.tmp"):
        (tmp_path / name).write_bytes(b"half")
    (tmp_path / ".x.0d.tmp").symlink_to("x")
    with open(tmp_path / ".x.0c.tmp", "rb") as written:  # by another process, say
        fcntl.flock(written, fcntl.LOCK_EX)
        write(tmp_path / "x")
        assert set(names(tmp_path)) == {"x", ".x.0c.tmp", ".x.0d.tmp", *others}
    write(tmp_path / "x")
    assert set(names(tmp_path)) == {"x", ".x.0d.tmp", *others}


@with_locks
def test_two_writers_of_one_file_do_not_disturb_each_other(tmp_path):
    with whole_file(tmp_path / "x") as one:
        one.write(b"one")
        write(tmp_path / "x", b"other")
        assert (tmp_path / "x").read_bytes() == b"other"
    assert (tmp_path / "x").read_bytes() == b"one"
    assert names(tmp_path) == ["x"]


@with_locks
def test_a_temporary_file_that_is_removed_before_it_is_locked_is_made_again(tmp_path, monkeypatch):
    lock, removed = fcntl.flock, []

    def late(file, how):
        if not removed:
            removed.extend(tmp_path.iterdir())
            removed[0].unlink()
        lock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    write(tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"new"
    assert len(removed) == 1


def test_a_disk_without_locks_is_written_to(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("iai_iterate.whole_file.fcntl.flock", none)
    (tmp_path / ".x.0a1b.tmp").touch()
    write(tmp_path / "x")
    assert names(tmp_path) == [".x.0a1b.tmp", "x"]  # it may be another's


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_what_cannot_be_written_leaves_nothing(tmp_path, monkeypatch, name):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, name, full)
    with pytest.raises(OSError, match="x` could not be written: No space left on device; what was"):
        write(tmp_path / "x")
    assert names(tmp_path) == []
