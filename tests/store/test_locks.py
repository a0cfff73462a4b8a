"""A store on a file system without locks is refused before anything waits for one that never comes."""

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from apo_bench.errors import StoreError
from apo_bench.store.store import Store

CODES = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


def _refusing(code: int) -> Callable[..., None]:
    def flock(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    return flock


@pytest.mark.parametrize("code", CODES)
def test_it_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    monkeypatch.setattr(fcntl, "flock", _refusing(code))
    with pytest.raises(StoreError) as caught:
        Store(tmp_path / "store", create=True)
    assert str(caught.value) == (
        f"the file system of {tmp_path / 'store'} has no locks ({os.strerror(code)}), without which two processes "
        "would write one run; name a folder on another one with --store, for example on a local disk"
    )


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_claim_there_is_no_claim_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    store = Store(tmp_path, create=True)
    monkeypatch.setattr(fcntl, "flock", _refusing(code))
    with pytest.raises(StoreError, match="has no locks"), store.claim("a"):
        pytest.fail("claimed")


def test_it_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Store(tmp_path, create=True)
    monkeypatch.setattr(fcntl, "flock", _refusing(errno.ENOLCK))
    assert list(Store(tmp_path).in_flight().runs) == []
    assert Store(tmp_path).scan().records == ()


def test_looking_leaves_nothing_behind(tmp_path: Path) -> None:
    Store(tmp_path, create=True)
    assert list((tmp_path / "locks").iterdir()) == []
