"""Pictures for people: a contact sheet of queries and what was found for them."""

import numpy as np

from hashnet import images
from hashnet.errors import ImageError

TILE = 160
GAP = 8
LINE = 14
COLUMNS = 6
_PAPER, _INK, _FAINT, _FRAME = 255, 20, 110, (30, 110, 220)


def contact_sheet(results, *, columns=COLUMNS):
    """Draw the queries, each followed by its hits with label, bits apart and distance.

    Args:
        results: sequence of `(query, hits)`: `query` as for `hashnet.images.read` or an image,
            and objects with the fields of `retrieval.hits.Hit`.
        columns: int. Tiles in a row; the query is the first.

    Returns:
        uint8 array `(height, width, 3)`.

    Example:
        >>> grey = np.full((40, 60, 3), 128, dtype=np.uint8)
        >>> contact_sheet([(grey, [])]).shape
        (220, 1024, 3)
    """
    rows = []
    for query, hits in results:
        tiles = [_tile(query, ["query"], framed=True)]
        for rank, hit in enumerate(hits, 1):
            score = f"{hit.bits_apart} bits, {hit.distance:.3f}"
            if hit.inliers is not None:
                score += f", {hit.inliers} inliers"
            tiles.append(_tile(hit.path, [f"{rank}. {hit.label or _base(hit)}", score]))
        for start in range(0, len(tiles), columns):
            group = tiles[start : start + columns]
            blank = np.full_like(group[0], _PAPER)
            rows.append(np.concatenate(group + [blank] * (columns - len(group)), axis=1))
    sheet = np.concatenate(rows, axis=0)
    return np.pad(sheet, ((GAP, GAP), (GAP, GAP), (0, 0)), constant_values=_PAPER)


def _base(hit):
    return hit.id.rsplit("/", 1)[-1]


def _tile(source, lines, framed=False):
    """One picture with its caption, `(TILE + two lines + gaps, TILE + gap, 3)`."""
    tile = np.full((TILE + 2 * LINE + 2 * GAP, TILE + GAP, 3), _PAPER, dtype=np.uint8)
    try:
        image = source if isinstance(source, np.ndarray) else images.read(source, min_side=TILE)
        picture = images.resize(image, _fitted(image.shape[:2]))
        top, left = (TILE - picture.shape[0]) // 2, (TILE - picture.shape[1]) // 2
        if framed:
            tile[:TILE, :TILE] = _FRAME
        tile[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    except (ImageError, TypeError):
        # A hit's file may have gone since it was indexed, or never have been one.
        lines = [*lines[:1], "(no picture)"]
    for number, line in enumerate(lines):
        mask = images.text(line, LINE)[:, :TILE, None] / 255
        ink = _INK if number == 0 else _FAINT
        y = TILE + 3 + number * LINE
        patch = tile[y : y + LINE, : mask.shape[1]]
        patch[:] = np.round(patch * (1 - mask) + ink * mask)
    return tile


def _fitted(shape, margin=3):
    """`shape` scaled so that the longer side fills a tile but for its frame."""
    side = TILE - 2 * margin
    scale = side / max(shape)
    return tuple(max(1, round(length * scale)) for length in shape)
