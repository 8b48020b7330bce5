import errno
import fcntl
import os
from pathlib import Path

import pytest
from iai_train.files import appending, locked, make_folder, parse_json, write_atomically
from least_squares import full_disk


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for content in (b"old", b"new"):
        write_atomically(path, content)
        assert path.read_bytes() == content
    assert os.listdir(tmp_path) == ["file"]


def test_a_full_disk_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with (
        full_disk(1000),
        pytest.raises(OSError, match=r"`.*file` could not be written: File too large") as caught,
    ):
        write_atomically(path, b"new" * 10_000)
    assert caught.value.errno == errno.EFBIG
    assert "what was there before is untouched" in str(caught.value)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_disk_that_fills_at_the_last_moment_does_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "file"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_folder_under_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match=r"The folder `.*out` cannot be written to: Not a directory"):
        make_folder(tmp_path / "file" / "out")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OSError, match="cannot be written to: Permission denied"):
        make_folder(tmp_path)


def test_making_a_folder_leaves_it_empty(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    assert os.listdir(tmp_path / "a" / "b") == []


@pytest.mark.parametrize("name", ["file", ".file.0123456789abcdef.tmp"])
def test_links_are_not_followed(tmp_path: Path, name: str) -> None:
    (tmp_path / "theirs").write_bytes(b"theirs")
    (tmp_path / name).symlink_to(tmp_path / "theirs")
    write_atomically(tmp_path / "file", b"ours")
    assert (tmp_path / "theirs").read_bytes() == b"theirs"
    assert (tmp_path / "file").read_bytes() == b"ours"
    assert not (tmp_path / "file").is_symlink()


def test_links_are_not_appended_to(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_bytes(b"theirs")
    (tmp_path / "log").symlink_to(tmp_path / "theirs")
    with (
        pytest.raises(OSError, match=r"`.*log` could not be written: "),
        appending(tmp_path / "log"),
    ):
        pass
    assert (tmp_path / "theirs").read_bytes() == b"theirs"


def test_a_link_is_no_lock(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_bytes(b"theirs")
    (tmp_path / ".lock").symlink_to(tmp_path / "theirs")
    with pytest.raises(OSError, match=r"The folder `.*` cannot be written to: "), locked(tmp_path):
        pass
    assert (tmp_path / "theirs").read_bytes() == b"theirs"


def test_what_killed_writers_left_is_removed_and_a_living_ones_stays(tmp_path: Path) -> None:
    dead, living, other = (tmp_path / name for name in (".a.0.tmp", ".a.1.tmp", ".b.0.tmp"))
    for path in (dead, living, other):
        path.write_bytes(b"half")
    with living.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        write_atomically(tmp_path / "a", b"whole")
    assert sorted(os.listdir(tmp_path)) == [".a.1.tmp", ".b.0.tmp", "a"]


def test_a_temporary_file_that_is_removed_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, removed = fcntl.flock, []

    def late(file: object, how: int) -> None:
        if not removed:
            removed.extend(tmp_path.iterdir())
            removed[0].unlink()
        lock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    write_atomically(tmp_path / "a", b"whole")
    assert (tmp_path / "a").read_bytes() == b"whole"
    assert len(removed) == 1


def test_one_at_a_time_holds_a_folder(tmp_path: Path) -> None:
    for _ in range(2):
        with locked(tmp_path) as first, locked(tmp_path) as second:
            assert (first, second) == (True, False)


@pytest.mark.parametrize(
    "text", ["[" * 10**5, "[" * 201 + "]" * 201, '{"a":' * 300 + "0" + "}" * 300]
)
def test_json_that_is_too_deep_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="JSON must be nested at most 200 levels deep"):
        parse_json(text)


def test_an_integer_that_no_float_holds_is_refused() -> None:
    with pytest.raises(ValueError, match="JSON must hold integers of at most 300 digits"):
        parse_json('{"a": 1' + "0" * 400 + "}")
    assert parse_json(str(2**128)) == 2**128


def test_json_of_200_levels_is_parsed() -> None:
    assert parse_json("[" * 200 + "]" * 200) is not None
