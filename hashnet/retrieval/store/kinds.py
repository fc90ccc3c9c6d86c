"""Which kind of store a place belongs to."""

import os

from hashnet.retrieval.store import protocol
from hashnet.retrieval.store.folder import store as folder


def kind_of(place: str | os.PathLike[str]) -> type[protocol.Store]:
    """The class of stores that a place belongs to.

    Args:
        place: str or path-like, of a folder; or the URL of a table.

    Returns:
        A class with `create`, `open` and `is_there`; see `protocol.Store`.

    Example:
        >>> kind_of("photos.index").FEATURE_DTYPE, kind_of("chdb:///tmp/db/photos").FEATURE_DTYPE
        ('float16', 'float32')
    """
    if isinstance(place, str) and "://" in place:
        from hashnet.retrieval.store.clickhouse import store as clickhouse

        return clickhouse.Store
    return folder.Store
