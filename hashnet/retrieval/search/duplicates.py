"""Which images are copies of each other: codes find candidates, then the pictures decide.

Candidates are pairs whose codes are near, and pairs whose *pixel codes* are: those are made of the
files, and keep what a network passes over. Whether a candidate is a copy is decided by the
pixels of the two (`hashnet.images.likeness`). Where a file is away, features decide alone, and
more strictly. Copies of copies are one group, with a suggestion which of them to keep.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np

from hashnet import images, threads
from hashnet.checks import checked_integer
from hashnet.errors import ImageError
from hashnet.images import likeness
from hashnet.retrieval.search.coarse.hamming import CodeIndex
from hashnet.retrieval.search.finder import Finder
from hashnet.retrieval.store.items import Item
from hashnet.retrieval.store.protocol import Snapshot

# Pairs whose pixel codes differ in fewer bits are candidates: 25 of 99 is the most that an edit
# changed, of those that the test tells (tests/bench/duplicates.py).
PIXEL_THRESHOLD = 27
# Where so many pictures are alike that an image has more candidates than this on average, fewer
# bits count; but as many as recompressing and scaling change always do.
CANDIDATES_AN_IMAGE = 64
LEAST_PIXEL_THRESHOLD = 6
SAMPLE = 256
# Where a file is away: features of different pictures were .34 apart at the least.
DISTANCE_ALONE = 0.25
# Of upright copies 1.07 is the most; of pictures taken by chance 1.2 is usual.
MOST_DISTANCE = 1.15
# Of equally large files, those are as sharp as the sharpest whose sharpness is such a share of it.
AS_SHARP = 0.9
ROWS_AT_ONCE = 1024
PAIRS_AT_ONCE = 4096

Progress = Callable[[str, int, int], None]
T = TypeVar("T")
U = TypeVar("U")


class Copy(NamedTuple):
    """One image of a group of copies.

    Attributes:
        id: str. The caller's stable name.
        path: str or None. Where the file is.
        label: str or None.
        bits_apart: int. Differing bits of its code and that of the image to keep.
        distance: float. Euclidean distance of the two features.
        size: (height, width) in pixels; None where the file cannot be read now.
        bytes: int or None. Of the file, when it was indexed.
        mtime_ns: int or None. When the file was last changed, in nanoseconds.
    """

    id: str
    path: str | None
    label: str | None
    bits_apart: int
    distance: float
    size: tuple[int, int] | None
    bytes: int | None
    mtime_ns: int | None


@dataclass(frozen=True)
class DuplicateGroup:
    """Images that are copies of one picture, or of each other's copies.

    Attributes:
        keep: `Copy`. The one to keep: the largest in pixels; of equally large ones the sharpest,
            of equally sharp ones the oldest.
        copies: tuple of `Copy`, the others, in the order in which they were added.
    """

    keep: Copy
    copies: tuple[Copy, ...]

    def __len__(self) -> int:
        return 1 + len(self.copies)


def find(
    snapshot: Snapshot,
    finder: Finder[Any],
    threshold: int,
    *,
    turned: bool = False,
    num_threads: int = 1,
    progress: Progress | None = None,
) -> Iterator[DuplicateGroup]:
    """Find groups of copies. Memory is bound; sketches of the pictures wait on disk meanwhile.

    Args:
        snapshot: a `Snapshot`.
        finder: its `Finder`.
        threshold: int, 1 or more. Pairs whose codes differ in fewer bits are candidates.
        turned: bool. Also find copies that lie on a side, on their head, or are mirrored: seven
            more comparisons of all pixel codes with all.
        num_threads: int, 1 or more.
        progress: called with the stage, images done and images to do; or None.

    Yields:
        `DuplicateGroup`, in the order in which their first image was added.

    Raises:
        ArgumentError: the threshold is no such integer, or several indexes are searched as one.
        StoreError: features are damaged.
    """
    threshold = checked_integer(threshold, 1, "threshold")
    say = progress or (lambda stage, done, total: None)
    near = finder.pairs_within(threshold)  # refused by several indexes that are searched as one
    with tempfile.TemporaryDirectory(prefix="hashnet-") as scratch:
        search = _Search(snapshot, finder, scratch, num_threads, say)
        search.join_equal()
        search.join_near(near)
        search.join_near_pixels(turned)
    yield from search.groups()


class _Groups:
    """Places joined into groups; the first place of a group stands for it."""

    def __init__(self, size: int) -> None:
        self._first = np.arange(size)

    def join(self, one: int, other: int) -> None:
        first, second = sorted((self.of(one), self.of(other)))
        self._first[second] = first

    def of(self, place: int) -> int:
        first = self._first
        while first[place] != place:
            first[place] = first[first[place]]
            place = first[place]
        return int(place)

    def all(self) -> np.ndarray:
        """The first place of the group of each place, int64."""
        while (self._first != (further := self._first[self._first])).any():
            self._first = further
        return self._first


class _Search:
    """One search for copies: what is known of each image, at its place among all images."""

    def __init__(
        self,
        snapshot: Snapshot,
        finder: Finder[Any],
        scratch: str,
        num_threads: int,
        say: Progress,
    ) -> None:
        self._snapshot, self._finder, self._num_threads = snapshot, finder, num_threads
        self._say = say
        self._rows = finder.rows()
        size = len(self._rows)
        self._groups = _Groups(size)
        # 4 kB an image: on disk, of which the system keeps in memory what it has room for.
        self._sketches = np.memmap(
            os.path.join(scratch, "sketches"),
            np.uint8,
            "w+",
            shape=(max(1, size), likeness.SIDE, likeness.SIDE),
        )
        self._there = np.zeros(size, bool)
        self._digests = np.zeros(size, "V16")

    def join_equal(self) -> None:
        """Read all files, and join images that are equal to the network and in their sketch."""
        size = len(self._rows)
        for start in range(0, size, ROWS_AT_ONCE):
            self._say("reading", start, size)
            rows = self._rows[start : start + ROWS_AT_ONCE]
            items = self._snapshot.verify_features(rows)
            features = self._snapshot.features(rows)
            sketches = threads.mapped(
                lambda item: _of_file(likeness.sketch, item, None), items, self._num_threads
            )
            for place, found in enumerate(sketches, start):
                digest = hashlib.blake2b(features[place - start].tobytes(), digest_size=16)
                if found is not None:
                    self._sketches[place] = found
                    self._there[place] = True
                    digest.update(found.tobytes())
                self._digests[place] = digest.digest()
        self._say("reading", size, size)
        _, firsts, which = np.unique(self._digests, return_index=True, return_inverse=True)
        for place in np.flatnonzero(firsts[which] != np.arange(size)).tolist():
            self._groups.join(int(firsts[which[place]]), place)

    def join_near(self, pairs: Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> None:
        """Join those whose codes are near: pairs of rows, as `Finder.pairs_within` gives them."""
        for first, second, _ in pairs:
            one, other = (np.searchsorted(self._rows, rows) for rows in (first, second))
            self._join(one, other, likeness.WAYS[0])

    def join_near_pixels(self, turned: bool) -> None:
        """Join those whose pixel codes are near, as wholes or as parts; of each group the first."""
        places = np.flatnonzero(self._there & (self._groups.all() == np.arange(len(self._there))))
        if len(places) < 2:
            return
        codes = np.concatenate(
            [likeness.pixel_codes(self._sketches[part]) for part in _parts(places)]
        )
        index = CodeIndex(codes, num_threads=self._num_threads)
        threshold = _affordable(index, codes)
        looks = [(likeness.WAYS[0], view) for view in range(len(likeness.VIEWS))]
        looks += [(way, 0) for way in likeness.WAYS[1:] if turned]
        done = 0
        for part in _parts(places):
            self._say("comparing", done, len(places))
            done += len(part)
            found: dict[tuple[bool, bool, bool], list[np.ndarray]] = {}
            for way, view in looks:
                lying = likeness.lying(self._sketches[part], way)
                near = index.within_batch(likeness.pixel_codes(lying, view), threshold)
                counts = [len(rows) for rows, _ in near]
                pairs = np.stack(
                    [np.repeat(part, counts), places[np.concatenate([rows for rows, _ in near])]]
                )
                # A whole is found from both sides, a part only from that of the larger picture.
                others = pairs[0] < pairs[1] if view == 0 else pairs[0] != pairs[1]
                found.setdefault(way, []).append(pairs[:, others])
            for way, of_way in found.items():
                one, other = np.unique(np.concatenate(of_way, axis=1), axis=1)
                self._join(one, other, way)
        self._say("comparing", len(places), len(places))

    def _join(self, ones: np.ndarray, others: np.ndarray, way: tuple[bool, bool, bool]) -> None:
        """Join those pairs that are copies, where they are not in one group yet."""
        for start in range(0, len(ones), PAIRS_AT_ONCE):
            one, other = ones[start : start + PAIRS_AT_ONCE], others[start : start + PAIRS_AT_ONCE]
            groups = self._groups.all()
            apart = groups[one] != groups[other]
            one, other = one[apart], other[apart]
            seen = self._there[one] & self._there[other]
            copies = np.zeros(len(one), bool)
            if len(one) and not seen.all():
                copies[~seen] = self._distances(one[~seen], other[~seen]) <= DISTANCE_ALONE
            places = np.flatnonzero(seen)
            if way == likeness.WAYS[0]:  # a network sees a turned picture as another one
                near = self._distances(one[places], other[places]) <= MOST_DISTANCE
                places = places[near]
            copies[places] = self._are_copies(one[places], other[places], way)
            for pair in zip(one[copies].tolist(), other[copies].tolist(), strict=True):
                self._groups.join(*pair)

    def _are_copies(
        self, ones: np.ndarray, others: np.ndarray, way: tuple[bool, bool, bool]
    ) -> np.ndarray:
        def part(first: int, last: int) -> np.ndarray:
            lying = likeness.lying(self._sketches[ones[first:last]], way)
            return likeness.are_copies(lying, self._sketches[others[first:last]])

        return np.concatenate(
            threads.in_parts(part, len(ones), self._num_threads, likeness.AT_ONCE)
        )

    def _distances(self, ones: np.ndarray, others: np.ndarray) -> np.ndarray:
        features = [
            self._snapshot.features(self._rows[places]).astype(np.float32)
            for places in (ones, others)
        ]
        return np.linalg.norm(features[0] - features[1], axis=1)

    def groups(self) -> Iterator[DuplicateGroup]:
        """What was joined."""
        firsts = self._groups.all()
        order = np.argsort(firsts, kind="stable")
        borders = np.flatnonzero(np.diff(firsts[order], prepend=-1, append=len(firsts)))
        for start in np.flatnonzero(np.diff(borders) > 1).tolist():
            yield self._group(order[borders[start] : borders[start + 1]])

    def _group(self, places: np.ndarray) -> DuplicateGroup:
        items, sizes = [], []
        for part in _parts(places):
            of_part = self._snapshot.items(self._rows[part])
            items += of_part
            sizes += threads.mapped(
                lambda item: _of_file(images.size, item, None), of_part, self._num_threads
            )
        best = _to_keep(items, sizes, [self._digests[place].tobytes() for place in places])
        code = self._snapshot.codes[self._rows[places[best : best + 1]]]
        copies = []
        for first in range(0, len(places), ROWS_AT_ONCE):
            part = places[first : first + ROWS_AT_ONCE]
            bits = np.bitwise_count(self._snapshot.codes[self._rows[part]] ^ code).sum(axis=1)
            distances = self._distances(part, np.repeat(places[best], len(part)))
            for at, apart, distance in zip(
                range(first, first + len(part)), bits.tolist(), distances.tolist(), strict=True
            ):
                item = items[at]
                copies.append(
                    Copy(
                        item.id,
                        item.path,
                        item.label,
                        apart,
                        distance,
                        sizes[at],
                        item.size,
                        item.mtime_ns,
                    )
                )
        keep = copies.pop(best)
        return DuplicateGroup(keep, tuple(copies))


def _parts(places: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(places), ROWS_AT_ONCE):
        yield places[start : start + ROWS_AT_ONCE]


def _of_file(read: Callable[[str], T], item: Item, otherwise: U) -> T | U:
    """What is read of an image's file, or something else where that is away or no picture now."""
    try:
        return otherwise if item.path is None else read(item.path)
    except ImageError:
        return otherwise


def _affordable(index: CodeIndex, codes: np.ndarray) -> int:
    """The threshold of pixel codes at which an image has not too many candidates."""
    sample = np.random.default_rng(0).permutation(len(codes))[:SAMPLE]
    counts = sum(index.histogram(codes[row]) for row in sample)
    others = np.cumsum(counts) / len(sample) * len(likeness.VIEWS)
    threshold = int(np.searchsorted(others, CANDIDATES_AN_IMAGE + len(likeness.VIEWS), "right"))
    return min(PIXEL_THRESHOLD, max(LEAST_PIXEL_THRESHOLD, threshold))


def _to_keep(items: list[Item], sizes: list[tuple[int, int] | None], contents: list[bytes]) -> int:
    """The place of the largest, of those the sharpest, of those the oldest, of those the first."""
    areas = [0 if size is None else size[0] * size[1] for size in sizes]
    left = [place for place, area in enumerate(areas) if area == max(areas)]
    if len({contents[place] for place in left}) > 1:
        sharp = {place: _of_file(likeness.sharpness, items[place], 0.0) for place in left}
        left = [place for place in left if sharp[place] >= AS_SHARP * max(sharp.values())]
    return min(left, key=lambda place: (items[place].mtime_ns or np.inf, place))
