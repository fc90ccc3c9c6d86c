"""Pictures for people: queries and what was found for them, and which places match."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import numpy as np

from hashnet import images
from hashnet.errors import ImageError

TILE = 160
GAP = 8
LINE = 14
COLUMNS = 6
MATCH_TILE = 400
MATCHES_DRAWN = 60
_PAPER, _INK, _FAINT, _FRAME = 255, 20, 110, (30, 110, 220)
_LINE = (40, 200, 60)


class Shown(Protocol):
    """What is drawn of a hit, of whatever search: its picture, the part found, and its name."""

    @property
    def id(self) -> str: ...
    @property
    def path(self) -> str | None: ...
    @property
    def label(self) -> str | None: ...
    @property
    def region(self) -> tuple[int, int, int, int] | None: ...


class Hit(Shown, Protocol):
    """What is drawn of a hit of a search by example: fields of `Hit`."""

    @property
    def bits_apart(self) -> int: ...
    @property
    def distance(self) -> float: ...
    @property
    def inliers(self) -> int | None: ...
    @property
    def verified_by(self) -> str | None: ...
    @property
    def grade(self) -> str | None: ...


def contact_sheet(
    results: Iterable[tuple[images.Source | images.Photo | None, Iterable[Any]]],
    *,
    columns: int = COLUMNS,
    first: str = "query",
    told: Callable[[Any], str] | None = None,
) -> np.ndarray:
    """Draw the queries, each followed by its hits with label, scores and grade.

    Where a hit is a region of its image, the region is outlined.

    Args:
        results: sequence of `(query, hits)`: `query` as for `images.Photo`, such a photo or None,
            and objects with the fields of `Hit`, or of `Shown` where something else is told.
        columns: int. Tiles in a row; the query is the first.
        first: str. What is written below it.
        told: function of a hit, which gives what is written below its name; None for `scores`.

    Returns:
        uint8 array `(height, width, 3)`.

    Example:
        >>> grey = np.full((40, 60, 3), 128, dtype=np.uint8)
        >>> contact_sheet([(grey, [])]).shape
        (220, 1024, 3)
    """
    rows = [np.zeros((0, columns * (TILE + GAP), 3), np.uint8)]
    for query, hits in results:
        tiles = [_tile(query, [first], framed=True)]
        for rank, hit in enumerate(hits, 1):
            name = f"{rank}. {hit.label or _base(hit)}"
            tiles.append(_tile(hit.path, [name, (told or scores)(hit)], region=hit.region))
        for start in range(0, len(tiles), columns):
            group = tiles[start : start + columns]
            blank = np.full_like(group[0], _PAPER)
            rows.append(np.concatenate(group + [blank] * (columns - len(group)), axis=1))
    sheet = np.concatenate(rows, axis=0)
    return np.pad(sheet, ((GAP, GAP), (GAP, GAP), (0, 0)), constant_values=_PAPER)


def scores(hit: Hit) -> str:
    """The scores of a hit, as they stand below its picture.

    Args:
        hit: an object with the fields of `Hit`.

    Returns:
        str: bits, distance, and of grade and inliers what is known.
    """
    score = f"{hit.bits_apart} bits, {hit.distance:.3f}"
    if hit.grade is not None:
        score += f", {hit.grade}"
    if hit.inliers is not None:
        score += f", {hit.inliers} inliers"
    if hit.verified_by is not None:
        score += f" by {hit.verified_by}"
    return score


def match_sheet(
    matched: Iterable[tuple[images.Source | images.Photo, Hit, np.ndarray, np.ndarray]],
) -> np.ndarray:
    """Draw pairs of images side by side, and a line between places that match.

    Where a hit is a region of its image, the region is outlined.

    Args:
        matched: iterable of `(query, hit, query_yx, yx)`: `query` as before, an object
            with the fields of `Hit`, and two float arrays `(m, 2)`, (row, column) in pixels of the
            query and of the hit's file.

    Returns:
        uint8 array `(height, width, 3)`, a row of it for each pair.

    Example:
        >>> match_sheet([]).shape
        (16, 832, 3)
    """
    rows = [np.zeros((0, 2 * MATCH_TILE + 2 * GAP, 3), np.uint8)]
    for query, hit, query_yx, yx in matched:
        left, left_scale = _picture(query, MATCH_TILE)
        right, right_scale = _picture(hit.path, MATCH_TILE)
        height = max(len(left), len(right))
        row = np.full((height + LINE + GAP, 2 * MATCH_TILE + 2 * GAP, 3), _PAPER, np.uint8)
        row[: len(left), : left.shape[1]] = left
        if hit.region is not None:
            _draw_box(right, np.multiply(hit.region, [*right_scale, *right_scale]))
        row[: len(right), MATCH_TILE + GAP : MATCH_TILE + GAP + right.shape[1]] = right
        starts = (np.asarray(query_yx, float) + 0.5) * left_scale
        ends = (np.asarray(yx, float) + 0.5) * right_scale + (0, MATCH_TILE + GAP)
        # The strongest features come first; more lines than these hide the pictures.
        for start, end in list(zip(starts, ends, strict=True))[:MATCHES_DRAWN]:
            _draw_line(row[:height], start, end)
        caption = f"{hit.label or _base(hit)}, {hit.inliers} inliers"
        _write(row[height + 3 :, :], caption, _INK)
        rows.append(row)
    sheet = np.concatenate(rows, axis=0)
    return np.pad(sheet, ((GAP, GAP), (GAP, GAP), (0, 0)), constant_values=_PAPER)


def _picture(
    source: images.Source | images.Photo | None, side: int
) -> tuple[np.ndarray, np.ndarray]:
    """An image in `side` pixels, and by what its (rows, columns) were scaled; white if it is
    none."""
    try:
        image = images.Photo.of("" if source is None else source).full()
    except (ImageError, TypeError):
        image = np.full((1, 1, 3), _PAPER, np.uint8)
    scale = side / max(image.shape[:2])
    size = tuple(max(1, round(length * scale)) for length in image.shape[:2])
    return images.resize(image, size), np.divide(size, image.shape[:2])


def _draw_line(canvas: np.ndarray, start: np.ndarray, end: np.ndarray) -> None:
    steps = int(np.abs(end - start).max()) + 2
    places = np.rint(np.linspace(start, end, steps)).astype(int)
    inside = ((places >= 0) & (places < canvas.shape[:2])).all(axis=1)
    rows, columns = places[inside].T
    canvas[rows, columns] = _LINE


def _draw_box(canvas: np.ndarray, box: np.ndarray) -> None:
    top, left, bottom, right = np.floor(box)
    corners = np.array([(top, left), (top, right - 1), (bottom - 1, right - 1), (bottom - 1, left)])
    for start, end in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        _draw_line(canvas, start, end)


def _base(hit: Shown) -> str:
    return hit.id.rsplit("/", 1)[-1]


def _tile(
    source: images.Source | images.Photo | None,
    lines: list[str],
    framed: bool = False,
    region: tuple[int, int, int, int] | None = None,
) -> np.ndarray:
    """One picture with its caption, `(TILE + two lines + gaps, TILE + gap, 3)`."""
    tile = np.full((TILE + 2 * LINE + 2 * GAP, TILE + GAP, 3), _PAPER, dtype=np.uint8)
    try:
        # A region is in pixels of the original, which a quick look at a file does not give.
        least = TILE if region is None else None
        photo = images.Photo.of("" if source is None else source)
        image = photo.full() if least is None else photo.at_least(least)
        picture = images.resize(image, _fitted(image.shape[:2]))
        if region is not None:
            scale = np.divide(picture.shape[:2], image.shape[:2])
            _draw_box(picture, np.multiply(region, [*scale, *scale]))
        top, left = (TILE - picture.shape[0]) // 2, (TILE - picture.shape[1]) // 2
        if framed:
            tile[:TILE, :TILE] = _FRAME
        tile[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    except (ImageError, TypeError):
        # A hit's file may have gone since it was indexed, or never have been one.
        lines = [*lines[:1], "(no picture)"]
    for number, line in enumerate(lines):
        _write(tile[TILE + 3 + number * LINE :, :TILE], line, _INK if number == 0 else _FAINT)
    return tile


def _write(canvas: np.ndarray, line: str, ink: int) -> None:
    """Write one line of text at the top left of a canvas."""
    mask = images.text(line, LINE)[:, : canvas.shape[1], None] / 255
    patch = canvas[:LINE, : mask.shape[1]]
    patch[:] = np.round(patch * (1 - mask) + ink * mask)


def _fitted(shape: Sequence[int], margin: int = 3) -> tuple[int, int]:
    """`shape` scaled so that the longer side fills a tile but for its frame."""
    side = TILE - 2 * margin
    scale = side / max(shape)
    height, width = (max(1, round(length * scale)) for length in shape)
    return height, width
