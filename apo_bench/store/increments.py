"""What is new in a store since one last looked: a follower reads each record once, however many there are."""

import os
from datetime import UTC, datetime

from apo_bench.errors import StoreError
from apo_bench.store.scan import Scan, in_order, read_records
from apo_bench.store.store import Store


class Increments:
    """Finished runs of a store, each told of once.

    Args:
        store: Which.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: set[str] | None = None

    def new(self) -> Scan:
        """Records that came since the last call, and what came and cannot be read; the first time, all there are.

        Raises:
            StoreError: The store is gone.
        """
        try:
            with os.scandir(self._store.path / "runs") as entries:
                names = {entry.name for entry in entries if not entry.name.startswith(".")}
        except OSError as error:
            gone = f"{self._store.path} cannot be read any more ({error.strerror})"
            raise StoreError(f"{gone}; name the folder where it is with --store") from error
        if self._known is None:
            self._known = names
            whole = self._store.scan()
            self._known |= {folder.name for folder in whole.by_folder}
            return whole
        fresh, self._known = names - self._known, self._known | names
        # a name without one is no run's
        folders = [self._store.path / "runs" / name for name in sorted(fresh) if name.partition("-")[0]]
        by_folder, unreadable = read_records(folders)
        return Scan(in_order(by_folder, datetime.now(UTC)), tuple(unreadable))
