"""From a map of how likely each pixel is of a text to boxes around lines.

Liao, Wan, Yao, Chen, Bai: *Real-time Scene Text Detection with Differentiable Binarization*, AAAI
2020: the network gives lines that are shrunken, each is one component of the likely pixels, and its
box grows back by its area over its perimeter.
"""

import numpy as np

LIKELY = 0.3  # of a pixel, to be of a line
SURE = 0.6  # of the pixels of a line, on average
GROWTH = 1.6  # of a box, times its area over its perimeter
_LEAST_SIDE = 3.0  # pixels of the map, of a shrunken line
# Of a page of small print some hundred lines of a few dozen rows each.
_MOST_PARTS, _MOST_RUNS = 2000, 2**17
_DIRECTIONS = 90  # into which boxes are turned, one for each degree


def boxes_of(likelihood: np.ndarray, most: int) -> list[np.ndarray]:
    """The boxes around lines of text, the largest first.

    Args:
        likelihood: float32 `(height, width)`, 0 to 1.
        most: int. Boxes wanted.

    Returns:
        list of float64 `(4, 2)`: the corners, (row, column) in pixels of the map, from the top left
        one clockwise as the line is read.

    Example:
        >>> likelihood = np.zeros((40, 80), np.float32)
        >>> likelihood[10:20, 20:60] = 1
        >>> [box] = boxes_of(likelihood, 5)
        >>> np.round(box).astype(int).tolist()
        [[4, 14], [4, 66], [26, 66], [26, 14]]
    """
    found = []
    for runs in _largest(components(likelihood > LIKELY)):
        rows, starts, ends = runs.T
        if len(rows) < _LEAST_SIDE and (ends - starts).max() < _LEAST_SIDE:
            continue
        lengths = ends - starts
        total = sum(
            float(likelihood[row, start:end].sum())
            for row, start, end in zip(rows.tolist(), starts.tolist(), ends.tolist(), strict=True)
        )
        # Corners of the pixels, so that a line of one pixel has an area.
        corners = np.concatenate(
            [np.stack([rows + down, at], axis=1) for down in (0, 1) for at in (starts, ends)]
        ).astype(float)
        box = _tightest(corners)
        sides = sides_of(box)
        if total < SURE * lengths.sum() or min(sides) < _LEAST_SIDE:
            continue
        found.append((sides[0] * sides[1], _grown(box, sides)))
    # Stable, so that equal areas stay in the order of their first rows.
    found.sort(key=lambda one: -one[0])
    return [box for _, box in found[:most]]


def _largest(parts: list[np.ndarray]) -> list[np.ndarray]:
    """Those in the largest upright boxes, in their order: to turn a box takes some time."""
    if len(parts) <= _MOST_PARTS:
        return parts
    sizes = np.array([(one[-1, 0] - one[0, 0] + 1) * np.ptp(one[:, 1:]) for one in parts])
    kept = np.sort(np.argsort(-sizes, kind="stable")[:_MOST_PARTS])
    return [parts[place] for place in kept.tolist()]


def components(mask: np.ndarray) -> list[np.ndarray]:
    """The connected parts of a mask; pixels that touch at a corner are connected.

    Args:
        mask: bool `(height, width)`.

    Returns:
        list of int64 `(m, 3)`, one for each part: row, first column and the one behind the last of
        its runs of pixels, by row. Parts are in the order of their first runs. None where there
        are far more runs than lines of text have.

    Example:
        >>> parts = components(np.array([[1, 0, 1], [0, 1, 0], [0, 0, 0], [1, 0, 0]], bool))
        >>> [part.tolist() for part in parts]
        [[[0, 0, 1], [0, 2, 3], [1, 1, 2]], [[3, 0, 1]]]
    """
    height = len(mask)
    steps = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = np.nonzero(steps == 1)
    ends = np.nonzero(steps == -1)[1]
    if len(rows) > _MOST_RUNS:
        return []
    parents = list(range(len(rows)))

    def root(run: int) -> int:
        while parents[run] != run:
            parents[run] = parents[parents[run]]
            run = parents[run]
        return run

    firsts = np.searchsorted(rows, np.arange(height + 1)).tolist()
    begin, end = starts.tolist(), ends.tolist()
    for row in range(1, height):
        above, here = firsts[row - 1], firsts[row]
        while above < firsts[row] and here < firsts[row + 1]:
            if begin[here] <= end[above] and begin[above] <= end[here]:
                one, other = root(above), root(here)
                parents[max(one, other)] = min(one, other)
            if end[above] < end[here]:
                above += 1
            else:
                here += 1
    roots = np.array([root(run) for run in range(len(rows))], np.int64)
    order = np.argsort(roots, kind="stable")
    runs = np.stack([rows, starts, ends], axis=1)[order]
    borders = np.flatnonzero(np.diff(roots[order])) + 1
    return np.split(runs, borders) if len(runs) else []


def _tightest(points: np.ndarray) -> np.ndarray:
    """The least box around points, of those turned by whole degrees, `(4, 2)`."""
    angles = np.radians(np.arange(_DIRECTIONS))
    along = np.stack([np.sin(angles), np.cos(angles)], axis=1)  # (row, column)
    across = np.stack([np.cos(angles), -np.sin(angles)], axis=1)
    low, high = [], []
    for axes in (along, across):
        places = points @ axes.T
        low.append(places.min(axis=0))
        high.append(places.max(axis=0))
    best = int(np.argmin((high[0] - low[0]) * (high[1] - low[1])))
    one, other = along[best], across[best]
    edges = [(low[0][best], high[0][best]), (low[1][best], high[1][best])]
    # Of the two directions of its sides, a line is read along the one that is nearer to level.
    if angles[best] > np.pi / 4:
        one, other, edges = -other, one, [(-edges[1][1], -edges[1][0]), edges[0]]
    (left, right), (top, bottom) = edges
    return np.array(
        [
            one * left + other * top,
            one * right + other * top,
            one * right + other * bottom,
            one * left + other * bottom,
        ]
    )


def sides_of(box: np.ndarray) -> tuple[float, float]:
    """Width and height of a box.

    Args:
        box: float `(4, 2)`, corners as `boxes_of` gives them.

    Returns:
        (width, height), in pixels.

    Example:
        >>> sides_of(np.array([[0, 0], [3, 4], [7, 1], [4, -3]]))
        (5.0, 5.0)
    """
    return float(np.linalg.norm(box[1] - box[0])), float(np.linalg.norm(box[3] - box[0]))


def _grown(box: np.ndarray, sides: tuple[float, float]) -> np.ndarray:
    width, height = sides
    more = GROWTH * width * height / (2 * (width + height))
    along, across = (box[1] - box[0]) / width * more, (box[3] - box[0]) / height * more
    return box + np.array([-along - across, along - across, along + across, across - along])
