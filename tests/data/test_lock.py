"""The lock of checksums: recorded at first use, held to ever after."""

import errno
import fcntl
import hashlib
import multiprocessing
import os
import pwd
import subprocess
from pathlib import Path

import pytest

from apo_bench.data import lock
from apo_bench.data.download import download
from apo_bench.data.location import data_folder
from apo_bench.errors import DataError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("APO_BENCH_DATA", str(tmp_path))
    return tmp_path


def _write(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    return folder / name


def test_the_first_use_records_and_the_second_holds_to_it(folder: Path) -> None:
    file = _write(folder, "some/a file.zip", b"first")
    digest = lock.check(file)
    assert digest == hashlib.sha256(b"first").hexdigest()
    assert (folder / lock.LOCK).read_text() == f"{digest}  some/a file.zip\n"
    assert lock.check(file) == digest
    _write(folder, "some/a file.zip", b"other")
    with pytest.raises(DataError, match=r"a file\.zip is not the file whose .*checksums\.lock.*delete the file and"):
        lock.check(file)
    assert digest in (folder / lock.LOCK).read_text()


def test_sha256sum_reads_the_lock(folder: Path) -> None:
    for name in ("b", "a"):
        lock.check(_write(folder, name, name.encode()))
    subprocess.run(["sha256sum", "--strict", "-c", lock.LOCK], cwd=folder, check=True, capture_output=True)  # noqa: S607 - the tool that a user has


def test_a_removed_line_is_recorded_anew_and_record_replaces(folder: Path) -> None:
    file = _write(folder, "a", b"first")
    lock.check(file)
    _write(folder, "a", b"second")
    (folder / lock.LOCK).write_text("")
    assert lock.check(file) == hashlib.sha256(b"second").hexdigest()
    _write(folder, "a", b"third!")
    assert lock.record(file) == lock.check(file) == hashlib.sha256(b"third!").hexdigest()


@pytest.mark.parametrize("content", [b"nonsense\n", b"\xff\xfe"])
def test_a_damaged_lock_is_one_line(folder: Path, content: bytes) -> None:
    (folder / lock.LOCK).write_bytes(content)
    with pytest.raises(DataError, match=r"checksums\.lock") as caught:
        lock.check(_write(folder, "a", b"x"))
    assert len(str(caught.value).splitlines()) == 1


def test_a_missing_file_is_one_line(folder: Path) -> None:
    with pytest.raises(DataError, match=r"absent cannot be read \(No such file"):
        lock.check(folder / "absent")


def test_writers_do_not_lose_each_others_lines(folder: Path) -> None:
    files = [_write(folder, f"file-{i}", bytes([i])) for i in range(12)]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.map(lock.check, files, chunksize=1)
    assert len((folder / lock.LOCK).read_text().splitlines()) == 12


def test_a_failed_download_is_one_line_and_leaves_no_file(folder: Path) -> None:
    with pytest.raises(DataError, match=r"cannot download http://127\.0\.0\.1:9/x: .*put the file at") as caught:
        download(["http://127.0.0.1:9/x"], folder / "sub" / "x")
    assert len(str(caught.value).splitlines()) == 1
    assert not (folder / "sub" / "x").exists()


def test_a_lock_that_windows_wrote_is_read(folder: Path) -> None:
    """With a byte-order mark, an asterisk for binary files, capitals and its own ends of lines."""
    file = _write(folder, "a b", b"content")
    digest = hashlib.sha256(b"content").hexdigest()
    (folder / lock.LOCK).write_bytes(f"\ufeff{digest.upper()} *a b\r\n".encode())
    assert lock.check(file) == digest
    _write(folder, "a b", b"other")
    with pytest.raises(DataError, match="is not the file whose checksum"):
        lock.check(file)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(DataError, match=rf"has no locks \({os.strerror(code)}\); name a data folder on another"):
        lock.check(_write(folder, "a", b"content"))


def test_a_user_without_a_home_folder_is_told_which_variable_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("APO_BENCH_DATA", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)

    def unknown(_: int) -> None:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(DataError, match=r"has no home folder; set \$APO_BENCH_DATA to a folder for the data, or"):
        data_folder()
    monkeypatch.setenv("APO_BENCH_DATA", "here")
    assert data_folder() == Path("here")
