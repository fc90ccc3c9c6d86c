"""Whether two pictures are copies of each other, told from small grey sketches of them.

A *sketch* is a picture squashed to 64 x 64 grey pixels. Its *pixel code* is the signs of its
lowest frequencies (as pHash, Zauner 2010), which recompressing, scaling and other colours hardly
change. Where something was cut off, added around or turned a little, the code of a part of one
picture is near to the code of the other: `VIEWS` are such parts. Two sketches are then laid over
each other by the affine map under which they correlate best (ECC: Evangelidis and Psarakis,
"Parametric image alignment using enhanced correlation coefficient maximization", TPAMI 2008), and
must agree in their fine structure, block by block. Different pictures of like things do not.
"""

import functools
from typing import NamedTuple

import numpy as np

from hashnet.images.reading import Photo, Source

SIDE = 64
# So many frequencies along each side; without the mean, their signs are the code.
FREQUENCIES = 10
CODE_BITS = FREQUENCIES**2 - 1
CODE_BYTES = -(-CODE_BITS // 8)
# Pairs that are aligned at one time: the arrays of so many stay in the processor's cache.
AT_ONCE = 32
SHARPNESS_SIDE = 512
_GREY = np.array([0.299, 0.587, 0.114], np.float32)
_BLOCK = 8
# Below this correlation after the first of three steps, the map is not looked for any further.
_LEAST_COARSE = 0.72
# Iterations at 16, 32 and 64 pixels a side, and the farthest an iteration moves, in half sides.
_ITERATIONS = {16: 8, 32: 5, 64: 3}
_STEP = 0.15
_SMOOTH = 5
# A block with less than this share of the usual contrast says nothing.
_PLAIN = 0.1
# A row or column whose standard deviation is below this is part of a margin.
_EVEN = 4.0
# Of a picture at least so much must lie on the other.
_LEAST_OVERLAP = 0.5
# And at least such a share of the blocks must tell something.
_LEAST_BLOCKS = 0.1


class Least(NamedTuple):
    """From where on two pictures agree: all of one, or half of its blocks very well.

    Attributes:
        whole: float. What all of it reaches.
        half: float. What half of its blocks reach, and
        rest: float, what all of it then reaches: something was laid over the other half.
    """

    whole: float
    half: float
    rest: float

    def holds(self, whole: np.ndarray, half: np.ndarray) -> np.ndarray:
        """Whether pairs agree: bool `(n,)`, of their agreement as a whole and of half."""
        return (whole >= self.whole) | ((half >= self.half) & (whole >= self.rest))


# Measured by tests/bench/duplicates.py. A map that is free to move makes different pictures of like
# things agree more: those that were nearest reach .59 and .65 as they lie, .83 and .92 moved.
AS_THEY_LIE = Least(whole=0.68, half=0.85, rest=0.45)
MOVED = Least(whole=0.845, half=0.94, rest=0.40)


def _map(
    down: float = 1, across: float = 1, top: float = 0, left: float = 0, degrees: float = 0
) -> np.ndarray:
    """An affine map of (row, column), each from -1 to 1, float32 `(2, 3)`."""
    sine, cosine = np.sin(np.radians(degrees)), np.cos(np.radians(degrees))
    return np.array(
        [[down * cosine, -down * sine, top], [across * sine, across * cosine, left]], np.float32
    )


# Parts of a picture that are compared with other pictures: the whole of it, its inner part, what
# is left when a side is cut off, and a little turned.
VIEWS = np.stack(
    [
        _map(),
        _map(0.9, 0.9),
        _map(0.82, 0.82),
        *(_map(down=0.89, top=side) for side in (-0.11, 0.11)),
        *(_map(across=0.89, left=side) for side in (-0.11, 0.11)),
        *(_map(degrees=degrees) for degrees in (-4, 4)),
    ]
)
# Where the search for the best map begins: at a view, or where the other picture has been cut.
_STARTS = np.stack(
    [
        _map(),
        *(_map(scale, scale) for scale in (0.8, 0.9, 1.12, 1.25)),
        *(
            start
            for scale in (0.88, 1 / 0.88)
            for side in (scale - 1, 1 - scale)
            for start in (_map(down=scale, top=side), _map(across=scale, left=side))
        ),
    ]
)
# The eight ways in which a picture lies, told by (transposed, rows reversed, columns reversed).
WAYS = tuple((t, r, c) for t in (False, True) for r in (False, True) for c in (False, True))


def sketch(source: Source | Photo) -> np.ndarray:
    """A picture in 64 x 64 grey pixels, squashed.

    Args:
        source: as for `images.Photo`.

    Returns:
        uint8 `(64, 64)`.

    Raises:
        ImageError: it cannot be read.

    Example:
        >>> sketch(np.full((90, 30, 3), 7, np.uint8))[0, :3].tolist()
        [7, 7, 7]
    """
    return np.rint(Photo.of(source).resized((SIDE, SIDE)) @ _GREY).astype(np.uint8)


def lying(sketches: np.ndarray, way: tuple[bool, bool, bool]) -> np.ndarray:
    """Sketches turned by a quarter or more, or mirrored.

    Args:
        sketches: `(n, 64, 64)`.
        way: one of `WAYS`; the first leaves all as it is.

    Returns:
        `(n, 64, 64)`, a view.

    Example:
        >>> lying(np.arange(4).reshape(1, 2, 2), (True, False, True)).tolist()
        [[[2, 0], [3, 1]]]
    """
    transposed, rows, columns = way
    turned = sketches.swapaxes(1, 2) if transposed else sketches
    return turned[:, :: -1 if rows else 1, :: -1 if columns else 1]


def pixel_codes(sketches: np.ndarray, view: int = 0) -> np.ndarray:
    """The codes of sketches, or of a part of each.

    Args:
        sketches: uint8 `(n, 64, 64)`.
        view: int, a place in `VIEWS`.

    Returns:
        uint8 `(n, 13)`: 99 bits, packed.

    Example:
        >>> ramp = np.tile(np.arange(64, dtype=np.uint8), (1, 64, 1))
        >>> codes, brighter = pixel_codes(ramp), pixel_codes(ramp + 40)
        >>> codes.shape, int(np.bitwise_count(codes ^ brighter).sum())
        ((1, 13), 0)
    """
    # Sums of whole numbers: exact, and so is half the work of the mean.
    rows = sketches[:, ::2].astype(np.uint16) + sketches[:, 1::2]
    small = (rows[:, :, ::2] + rows[:, :, 1::2]).reshape(len(sketches), -1) / 4
    # Rounded, so that a frequency that is not there has one sign whatever order sums are made in.
    return np.packbits(np.round(small @ _waves_of_view(view), 2) > 0, axis=1)


def are_copies(sketches: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Which pairs of pictures are copies of each other.

    Args:
        sketches, others: uint8 `(n, 64, 64)`, pair by pair.

    Returns:
        bool `(n,)`.

    Example:
        >>> noise = np.random.default_rng(0).integers(0, 256, (2, 64, 64), dtype=np.uint8)
        >>> are_copies(noise, np.stack([noise[0] // 2, noise[0]])).tolist()
        [True, False]
    """
    parts = [
        _are_copies(*(each[start : start + AT_ONCE].astype(np.float32) for each in pair))
        for pair in [(sketches, others)]
        for start in range(0, len(sketches), AT_ONCE)
    ]
    return np.concatenate(parts) if parts else np.zeros(0, bool)


def sharpness(source: Source | Photo) -> float:
    """How much fine structure a picture has, to tell which of equal size was compressed less.

    Args:
        source: as for `images.Photo`.

    Returns:
        float, 0 or more: the mean root of how far a pixel is from the mean of its neighbours. A
        root, since compression takes small steps away where it adds large ones, at the borders
        of its blocks.

    Raises:
        ImageError: it cannot be read.

    Example:
        >>> sharpness(np.zeros((9, 9, 3), np.uint8))
        0.0
    """
    grey = Photo.of(source).at_least(SHARPNESS_SIDE) @ _GREY
    if min(grey.shape) < 3:
        return 0.0
    around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    return float(np.sqrt(np.abs(grey[1:-1, 1:-1] - around / 4)).mean())


def _are_copies(sketches: np.ndarray, others: np.ndarray) -> np.ndarray:
    # As they lie: what words or a mark cover in part would pull the best map away.
    found = _block_agreement(sketches, others, np.ones(sketches.shape, bool))
    copies = AS_THEY_LIE.holds(*found)
    left = np.flatnonzero(~copies)
    copies[left] = MOVED.holds(*agreement(sketches[left], others[left]))
    return copies


def agreement(sketches: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How well pairs of pictures agree where one is laid over the other by the best affine map.

    Args:
        sketches, others: float32 `(n, 64, 64)`, pair by pair.

    Returns:
        whole: float32 `(n,)`, -1 to 1. Correlation of the fine structure, over all blocks.
        half: float32 `(n,)`, -1 to 1. What half of the blocks reach or exceed: a mark or words
            on a copy leave it as it is. Both are 0 for pairs that are far from agreeing, or of
            which one has no structure.

    Example:
        >>> noise = np.random.default_rng(0).normal(size=(2, 64, 64)).astype(np.float32)
        >>> sketches = noise.cumsum(axis=1).cumsum(axis=2)
        >>> whole, half = agreement(sketches, sketches)
        >>> whole.round(2).tolist()
        [1.0, 1.0]
    """
    whole, half = np.zeros((2, len(sketches)), np.float32)
    if not len(sketches):
        return whole, half
    # Where one begins better, the other way round may end better.
    for first, second in ((sketches, others), (others, sketches)):
        left = np.flatnonzero(whole < MOVED.whole)
        found = _moved_agreement(first[left], second[left])
        better = found[0] > whole[left]
        for best, now in ((whole, found[0]), (half, found[1])):
            best[left[better]] = now[better]
    return whole, half


def _moved_agreement(sketches: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`agreement` by the map that is found from the best start; 0 where none promises any."""
    whole, half = np.zeros((2, len(sketches)), np.float32)
    if not len(sketches):
        return whole, half
    middle = _halved(sketches), _halved(others)
    small = _halved(middle[0]), _halved(middle[1])
    maps = _aligned(*small, _best_start(*small), _ITERATIONS[16])
    near = np.flatnonzero(_correlation(*small, maps) >= _LEAST_COARSE)
    if len(near):
        maps = _aligned(middle[0][near], middle[1][near], maps[near], _ITERATIONS[32])
        pairs, maps = _coarser_first(sketches[near], others[near], maps)
        maps = _aligned(*pairs, maps, _ITERATIONS[64])
        values, _, _, inside = _warped(pairs[1], maps)
        shape = pairs[0].shape
        whole[near], half[near] = _block_agreement(
            pairs[0], values.reshape(shape), inside.reshape(shape)
        )
    return whole, half


def _coarser_first(
    sketches: np.ndarray, others: np.ndarray, maps: np.ndarray
) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """Pairs in the order in which the second is seen through no magnifying glass, and its maps.

    What was cut shows more in its 64 pixels than the part of the other that it lies on.
    """
    areas = np.linalg.det(maps[:, :, :2])
    swapped = (np.abs(areas) < 1) & (np.abs(areas) > 0.2)
    square = np.concatenate(
        [maps, np.tile(np.array([0, 0, 1], np.float32), (len(maps), 1, 1))], axis=1
    )
    square[swapped] = np.linalg.inv(square[swapped])
    chosen = swapped[:, None, None]
    pair = np.where(chosen, others, sketches), np.where(chosen, sketches, others)
    return pair, square[:, :2].astype(np.float32)


@functools.cache
def _waves_of_view(view: int) -> np.ndarray:
    """What each pixel of a halved sketch adds to the frequencies of a part, float64 `(n, 99)`."""
    side = SIDE // 2
    places = (np.arange(side) + 0.5) / side
    waves = np.cos(np.pi * np.arange(FREQUENCIES)[:, None] * places)
    pixels = np.eye(side**2, dtype=np.float32).reshape(-1, side, side)
    maps = np.repeat(VIEWS[view : view + 1], len(pixels), axis=0)
    seen = _warped(pixels, maps)[0].reshape(pixels.shape) if view else pixels
    return (waves @ seen @ waves.T).reshape(len(pixels), -1)[:, 1:]


def _halved(sketches: np.ndarray) -> np.ndarray:
    count, height, width = sketches.shape
    return sketches.reshape(count, height // 2, 2, width // 2, 2).mean((2, 4))


@functools.cache
def _grid(side: int) -> np.ndarray:
    """Places of the pixels, float32 `(3, side * side)`: row and column from -1 to 1, and 1."""
    places = (np.arange(side, dtype=np.float32) + 0.5) / side * 2 - 1
    rows, columns = np.meshgrid(places, places, indexing="ij")
    return np.stack([rows.ravel(), columns.ravel(), np.ones(side * side, np.float32)])


def _warped(
    sketches: np.ndarray, maps: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Sketches seen through affine maps: values, slopes by row and by column, and which are inside.

    Each float32 `(n, side * side)`, the last bool.
    """
    count, side, _ = sketches.shape
    places = (maps @ _grid(side) + 1) * (side / 2) - 0.5
    rows, columns = places[:, 0], places[:, 1]
    inside = (rows > -0.5) & (rows < side - 0.5) & (columns > -0.5) & (columns < side - 0.5)
    rows, columns = (np.clip(each, 0, side - 1.001) for each in (rows, columns))
    top, left = rows.astype(np.int32), columns.astype(np.int32)
    down, across = rows - top, columns - left
    corner = (np.arange(count) * side * side)[:, None] + top * side + left
    flat = sketches.reshape(-1)
    a, b, c, d = (flat[corner + offset] for offset in (0, 1, side, side + 1))
    upper, lower = a + (b - a) * across, c + (d - c) * across
    by_column = ((b - a) + ((d - c) - (b - a)) * down) * (side / 2)
    return upper + (lower - upper) * down, (lower - upper) * (side / 2), by_column, inside


def _centred(values: np.ndarray, inside: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Values less their mean over what is inside, 0 elsewhere; along the last axis."""
    values = values * inside
    return (values - values.sum(-1, keepdims=True) / counts) * inside


def _correlation(sketches: np.ndarray, others: np.ndarray, maps: np.ndarray) -> np.ndarray:
    values, _, _, inside = _warped(others, maps)
    counts = inside.sum(1, keepdims=True) + 1e-6
    seen = _centred(values, inside, counts)
    wanted = _centred(sketches.reshape(len(sketches), -1), inside, counts)
    energy = (wanted**2).sum(1) * (seen**2).sum(1)
    found = (wanted * seen).sum(1) / np.sqrt(energy + 1e-3)
    return np.where(counts[:, 0] >= _LEAST_OVERLAP * inside.shape[1], found, -1)


def _best_start(sketches: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The start at which each pair correlates best, float32 `(n, 2, 3)`."""
    scores = [
        _correlation(sketches, others, np.repeat(start[None], len(sketches), axis=0))
        for start in _STARTS
    ]
    best: np.ndarray = _STARTS[np.argmax(np.stack(scores), axis=0)]
    return best


def _aligned(
    sketches: np.ndarray, others: np.ndarray, maps: np.ndarray, iterations: int
) -> np.ndarray:
    """Maps that make `others` correlate best with `sketches`, from given ones on."""
    grid, count = _grid(sketches.shape[1]), len(sketches)
    wanted_all = sketches.reshape(count, -1)
    for _ in range(iterations):
        values, down, across, inside = _warped(others, maps)
        counts = inside.sum(1, keepdims=True) + 1e-6
        wanted, seen = (_centred(each, inside, counts) for each in (wanted_all, values))
        slopes = np.concatenate([down[:, None] * grid, across[:, None] * grid], axis=1)
        slopes = _centred(slopes, inside[:, None], counts[:, :, None])
        squares = slopes @ slopes.swapaxes(1, 2)
        damping = 1e-3 * np.trace(squares, axis1=1, axis2=2) / 6 + 1e-3
        squares += damping[:, None, None] * np.eye(6, dtype=np.float32)
        both = slopes @ np.stack([wanted, seen], axis=2)  # (n, 6, 2)
        solved = np.linalg.solve(squares, both)
        above = (seen**2).sum(1) - (both[:, :, 1] * solved[:, :, 1]).sum(1)
        below = (wanted * seen).sum(1) - (both[:, :, 0] * solved[:, :, 1]).sum(1)
        gain = np.where(below > 1e-6, above / np.maximum(below, 1e-6), 0)
        step = gain[:, None] * solved[:, :, 0] - solved[:, :, 1]
        step = np.clip(step, -_STEP, _STEP).reshape(count, 2, 3)
        maps = np.clip(maps + step, -1.6, 1.6).astype(np.float32)
    return maps


def _fine(sketches: np.ndarray) -> np.ndarray:
    """Sketches less what is smooth in them: the mean of 5 x 5 pixels."""
    smooth = sketches
    for axis in (1, 2):
        ends = [(0, 0)] * 3
        ends[axis] = (_SMOOTH // 2, _SMOOTH // 2)
        padded, side = np.pad(smooth, ends, mode="edge").swapaxes(1, axis), smooth.shape[axis]
        smooth = padded[:, :side].copy()
        for place in range(1, _SMOOTH):
            smooth += padded[:, place : place + side]
        smooth = smooth.swapaxes(1, axis) / np.float32(_SMOOTH)
    return sketches - smooth


def _content(sketches: np.ndarray) -> np.ndarray:
    """What lies within even margins, bool `(n, side, side)`: like margins make nothing alike."""
    lines = []
    for axis in (2, 1):
        even = sketches.std(axis=axis) < _EVEN
        starts = np.cumprod(even, axis=1).sum(axis=1, keepdims=True)
        ends = np.cumprod(even[:, ::-1], axis=1).sum(axis=1, keepdims=True)
        # The edge of a margin shows as far as the mean of neighbours reaches.
        starts, ends = (each + (each > 0) * (_SMOOTH // 2 + 1) for each in (starts, ends))
        places = np.arange(even.shape[1])
        lines.append((places >= starts) & (places < even.shape[1] - ends))
    content: np.ndarray = lines[0][:, :, None] & lines[1][:, None, :]
    return content


def _blocks(sketches: np.ndarray) -> np.ndarray:
    count, side, _ = sketches.shape
    shape = (count, side // _BLOCK, _BLOCK, side // _BLOCK, _BLOCK)
    return sketches.reshape(shape).swapaxes(2, 3).reshape(count, -1, _BLOCK**2)


def _block_agreement(
    sketches: np.ndarray, others: np.ndarray, inside: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """`agreement` of sketches that lie on each other, where the second is not outside its own."""
    content = _content(sketches) & _content(others)
    first, second = _blocks(_fine(sketches) * content), _blocks(_fine(others) * content)
    counted = (_blocks(inside).mean(2) > 0.95) & (_blocks(content).mean(2) > 0.25)
    energies = [(each * each).mean(2) * counted for each in (first, second)]
    usual = [
        each.sum(1, keepdims=True) / np.maximum(counted.sum(1, keepdims=True), 1) + 1e-6
        for each in energies
    ]
    structured = counted & ((energies[0] > _PLAIN * usual[0]) | (energies[1] > _PLAIN * usual[1]))
    found = (first * second).mean(2) / np.sqrt(energies[0] * energies[1] + 1e-6)
    weights = sum(np.sqrt(each / mean) for each, mean in zip(energies, usual, strict=True))
    whole = (found * weights).sum(1) / np.maximum(weights.sum(1), 1e-6)
    ordered = np.sort(np.where(structured, found, np.inf), axis=1)
    middle = np.maximum(structured.sum(1) - 1, 0) // 2
    half = ordered[np.arange(len(found)), middle]
    enough = counted.mean(1) >= _LEAST_BLOCKS
    return (
        np.where(enough, whole, 0).astype(np.float32),
        np.where(enough & np.isfinite(half), half, 0).astype(np.float32),
    )
