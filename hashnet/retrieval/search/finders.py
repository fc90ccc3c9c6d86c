"""Which finder finds in which kind of snapshot."""

from typing import Any

from hashnet.retrieval.search.clickhouse_finder import ClickHouseFinder
from hashnet.retrieval.search.finder import Finder
from hashnet.retrieval.search.folder_finder import FolderFinder
from hashnet.retrieval.store import clickhouse
from hashnet.retrieval.store.folder.store import Snapshot


def finder_of(snapshot: Snapshot | clickhouse.Snapshot, *, num_threads: int = 1) -> Finder[Any]:
    """What finds in a snapshot.

    Args:
        snapshot: of an index folder, or of an index in ClickHouse.
        num_threads: int. Threads of one search; answers do not depend on it. A server has
            threads of its own.

    Returns:
        A `Finder`.
    """
    if isinstance(snapshot, clickhouse.Snapshot):
        return ClickHouseFinder(snapshot)
    return FolderFinder(snapshot, num_threads)
