"""hashnet list: print the ids of an index, as `search --ids` reads them."""

import argparse
import json
from typing import TYPE_CHECKING

from hashnet.cli.indexes import opened
from hashnet.cli.options import add_index, add_json
from hashnet.cli.output import DONE
from hashnet.escapes import printable

if TYPE_CHECKING:
    import numpy as np

    from hashnet.retrieval.search.engine import Engine
    from hashnet.retrieval.store.items import Item

EXAMPLE = "photos.index --label cat"
ROWS_AT_ONCE = 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    add_index(parser)
    parser.add_argument(
        "--label", action="append", metavar="L", help="list only images with this label"
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    from hashnet.retrieval.search.engine import Engine

    engine = Engine(opened(arguments.index))
    rows = _rows(engine, arguments.label)
    # Of a large index, only a few images are in memory at one time.
    for start in range(0, len(rows), ROWS_AT_ONCE):
        for item in engine.snapshot.items(rows[start : start + ROWS_AT_ONCE]):
            print(_as_json(item) if arguments.json else printable(item.id))
    return DONE


def _rows(engine: "Engine", labels: list[str] | None) -> "np.ndarray":
    """Rows of the images that have one of these labels, or of all: int64, ascending."""
    import numpy as np

    from hashnet.errors import UnknownNameError

    if labels is None:
        return engine.finder.rows()
    known = engine.labels
    for label in labels:
        if label not in known:
            raise UnknownNameError("label", label, known)
    # An image has one label, so none comes twice.
    return np.sort(np.concatenate([engine.finder.rows(label) for label in set(labels)]))


def _as_json(item: "Item") -> str:
    fields: dict[str, object] = {"id": item.id, "path": item.path, "label": item.label}
    if item.exif is not None:
        taken = item.exif.taken
        fields |= item.exif._asdict() | {"taken": None if taken is None else taken.isoformat()}
    if item.texts is not None:
        lines = item.texts.lines
        fields["caption"] = item.texts.caption or None
        fields["lines"] = None if lines is None else [line._asdict() for line in lines]
    return json.dumps(fields)
