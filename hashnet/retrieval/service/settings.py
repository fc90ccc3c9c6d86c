"""How a service behaves, and what its requests may hold at most."""

from dataclasses import dataclass

MAX_K = 10_000
MAX_MARKED = 200  # images marked right, and as many wrong
MAX_LABELS = 100
MAX_IDS = 1000  # that a search is narrowed to
MAX_TEXT = 4096  # characters of an id or label
MAX_LISTED = 1000  # labels, classes, images or ids in one answer
MAX_SIDE = 2048  # pixels of a picture


@dataclass(frozen=True)
class Settings:
    """How a service behaves.

    Attributes:
        token: str or None. What a client must show to change the index; None: nobody may.
        show_paths: bool. Whether answers say where files lie.
        hosts: tuple of str. As for `Limits`.
        workers: int. Threads that encode and search.
        capacity: int. Searches at once, those that wait included.
        seconds: float. For one search, its wait included.
        body_bytes, bodies_bytes, body_seconds: as for `Limits`.
        thumbnail_bytes: int. Of all thumbnails that are remembered.
        refresh_seconds: float. How often the index on disk is looked at for changes.
    """

    token: str | None = None
    show_paths: bool = False
    hosts: tuple[str, ...] = ()
    workers: int = 2
    capacity: int = 128
    seconds: float = 30.0
    body_bytes: int = 32 * 2**20
    bodies_bytes: int = 256 * 2**20
    body_seconds: float = 30.0
    thumbnail_bytes: int = 64 * 2**20
    refresh_seconds: float = 2.0
