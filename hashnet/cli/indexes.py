"""The index that a command is given: opened, refused, or shown."""

import re
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hashnet import extras
from hashnet.cli.output import detail, note
from hashnet.errors import ArgumentError
from hashnet.escapes import printable

if TYPE_CHECKING:
    from hashnet.retrieval.index import Index
    from hashnet.retrieval.search.engine import Engine

# Runtimes: the one that opens fastest, and the one that runs fastest.
FEW, MANY = "soonest", "auto"
# From so many images on, a query takes 10 ms longer without compiled code (tests/bench/plain.py).
LARGE = 100_000


def opened(place: str) -> "Index":
    """An index for a handful of queries or none: its runtime opens fastest."""
    return _open(place, FEW)


def engine_of(places: Sequence[str]) -> "Engine":
    """What searches one index, or several as one, for a handful of queries."""
    from hashnet.retrieval.index import open_sharded
    from hashnet.retrieval.words.beside import WordEngine

    if len(places) == 1:
        return WordEngine(opened(places[0]))
    return open_sharded(places, runtime=FEW)


def opened_for_many(place: str) -> "Index":
    """An index for many images: its runtime runs fastest."""
    return _open(place, MANY)


def _open(place: str, runtime: str) -> "Index":
    start = time.perf_counter()
    from hashnet.retrieval.index import Index

    index = Index.open(place, runtime=runtime)
    say_which(index)
    detail(f"opened in {time.perf_counter() - start:.2f} seconds")
    return index


def say_which(index: "Index") -> None:
    """Say, with `-v`, what an index is searched with."""
    encoder, store = index.encoder, index.store
    local = f", local features of {store.extractor}" if store.extractor else ""
    detail(
        f"{shown(str(store.folder))}: {encoder.config.num_bits} bits, {encoder.config.backbone} "
        f"in {encoder.precision} by {encoder.runtime}{local}"
    )


def refuse_url(place: str, way_out: str) -> None:
    """Refuse an index that lies in a database.

    Raises:
        ArgumentError: it does; `way_out` says what to do.
    """
    if "://" in place:
        rule = "This command reads the files of an index folder."
        raise ArgumentError(rule, shown(place), way_out)


def shown(place: str) -> str:
    """Where an index is, on one line and without the password that a URL may hold."""
    return printable(re.sub(r"(://[^/@:]*):[^/@]*@", r"\1@", place))


def hint_at_numba(num_images: int) -> None:
    """Say on stderr what would search an index faster, if it is large and that is missing.

    Args:
        num_images: int, of the index.
    """
    if num_images >= LARGE and not extras.is_installed("numba"):
        note(
            "with Numba, many searches of so large an index take a fraction of the time: "
            f"{extras.install_command('fast')}"
        )
