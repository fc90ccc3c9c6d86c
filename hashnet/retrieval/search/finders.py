"""Which finder finds in which kind of snapshot."""

from typing import Any

from hashnet.retrieval.search.finder import Finder
from hashnet.retrieval.search.folder_finder import FolderFinder
from hashnet.retrieval.store import protocol
from hashnet.retrieval.store.folder import snapshot as folder


def finder_of(
    snapshot: protocol.Snapshot, *, num_threads: int = 1, after: Finder[Any] | None = None
) -> Finder[Any]:
    """What finds in a snapshot.

    Args:
        snapshot: of an index folder, or of an index in ClickHouse.
        num_threads: int. Threads of one search; answers do not depend on it. A server has
            threads of its own.
        after: what finds in an earlier snapshot of the index, or None. Of a folder, what that one
            has made ready is taken over.

    Returns:
        A `Finder`.
    """
    if isinstance(snapshot, folder.Snapshot):
        older = after if isinstance(after, FolderFinder) else None
        return FolderFinder(snapshot, num_threads, older)
    # A search of a folder need not load what another kind takes.
    from hashnet.retrieval.search.clickhouse_finder import ClickHouseFinder
    from hashnet.retrieval.store.clickhouse import snapshot as clickhouse

    if isinstance(snapshot, clickhouse.Snapshot):
        return ClickHouseFinder(snapshot)
    raise protocol.unsupported("a finder", type(snapshot).__name__)
