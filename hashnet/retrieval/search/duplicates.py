"""Which images are copies of each other: codes find candidates, then the pictures decide.

Candidates are pairs whose codes are near, and pairs whose *pixel codes* are: those are made of the
files, and keep what a network passes over. In each comparison an image is a candidate with those
64 at most that are nearest, so that work and memory grow with what is there, however alike it is.
A copy differs from its original either to the network or in its pixel code, hardly in both; what
does is a candidate no more. Whether the rest are copies is decided by the pixels of the two
(`hashnet.images.likeness`). Where a file is away, features decide alone, and more strictly. Copies
of copies are one group, with a suggestion which of them to keep.
"""

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any, NamedTuple, TypeVar

import numpy as np

from hashnet import images, threads
from hashnet.checks import checked_integer
from hashnet.errors import ImageError, StoreError
from hashnet.images import likeness
from hashnet.retrieval.search.coarse.hamming import CodeIndex
from hashnet.retrieval.search.finder import Finder
from hashnet.retrieval.store.items import Item
from hashnet.retrieval.store.protocol import Snapshot

# Pairs whose pixel codes differ in fewer bits are candidates: 25 of 99 is the most that an edit
# changed, of those that the test tells (tests/bench/duplicates.py).
PIXEL_THRESHOLD = 27
# Of all that are as near, so many are looked at, the nearest; in each comparison with all others.
CANDIDATES = 64
# The most by which features of copies differ is 1.07 where they are upright, 1.25 where they are
# turned; of pictures taken by chance 1.2 is usual. The squares of the shares of this and of the
# pixel threshold add up to 1.12 at the most for copies (see `_may_be_copies`).
MOST_DISTANCE = 1.15
MOST_DISTANCE_TURNED = 1.4
MOST_OF_BOTH = 1.2
# Where a file is away: features of different pictures were .34 apart at the least.
DISTANCE_ALONE = 0.25
# Of equally large files, those are as sharp as the sharpest whose sharpness is such a share of it.
AS_SHARP = 0.9
ROWS_AT_ONCE = 1024
COMPARED_AT_ONCE = 256  # with all others
PAIRS_AT_ONCE = 4096
# Distances of so many pairs are reckoned in the processor's cache.
DISTANCES_AT_ONCE = 64

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
        ArgumentError: the threshold is no such integer.
        StoreError: features are damaged, or the disk has no room for the sketches.
    """
    threshold = checked_integer(threshold, 1, "threshold")
    say = progress or (lambda stage, done, total: None)
    # Without a name where the system has such files: whoever kills this leaves nothing behind.
    with (
        tempfile.TemporaryFile(prefix="hashnet-", buffering=0) as scratch,
        threads.blas_threads(1),  # work is shared out here, and sums have one order
    ):
        search = _Search(snapshot, finder, scratch, num_threads, say)
        search.join_equal()
        search.join_near(threshold)
        search.join_near_pixels(turned)
    yield from search.groups()


class _Groups:
    """Places joined into groups; the first place of a group stands for it."""

    def __init__(self, firsts: np.ndarray) -> None:
        self._first = firsts

    def join(self, one: int, other: int) -> None:
        first, second = sorted((self._of(one), self._of(other)))
        self._first[second] = first

    def _of(self, place: int) -> int:
        first = self._first
        while first[place] != place:
            first[place] = first[first[place]]
            place = first[place]
        return int(place)

    def of(self, places: np.ndarray) -> np.ndarray:
        """The first place of the group of each place, int64."""
        first = self._first[places]
        while (first != (further := self._first[first])).any():
            first = further
        self._first[places] = first
        return first


class _Search:
    """One search for copies: what is known of each image, at its place among all images."""

    def __init__(
        self,
        snapshot: Snapshot,
        finder: Finder[Any],
        scratch: IO[bytes],
        num_threads: int,
        say: Progress,
    ) -> None:
        self._snapshot, self._num_threads = snapshot, num_threads
        self._say = say
        self._rows = finder.rows()
        size = len(self._rows)
        self._groups = _Groups(np.arange(size))
        self._scratch = scratch
        self._sketches = np.zeros((0, likeness.SIDE, likeness.SIDE), np.uint8)
        self._there = np.zeros(size, bool)
        self._pixel_codes = np.zeros((size, likeness.CODE_BYTES), np.uint8)
        self._digests = np.zeros(size, "V16")

    def join_equal(self) -> None:
        """Read all files, and join images that are equal to the network and in their sketch."""
        size = len(self._rows)
        for start in range(0, size, ROWS_AT_ONCE):
            self._say("reading", start, size)
            rows = self._rows[start : start + ROWS_AT_ONCE]
            items = self._snapshot.items(rows)
            features = self._snapshot.features(rows)
            found = threads.mapped(
                lambda item: _of_file(likeness.sketch, item, None), items, self._num_threads
            )
            there = np.array([sketch is not None for sketch in found])
            sketches = np.stack([_NO_SKETCH if sketch is None else sketch for sketch in found])
            self._keep(start, there, sketches)
            for place, (feature, sketch) in enumerate(zip(features, found, strict=True), start):
                digest = hashlib.blake2b(feature.tobytes(), digest_size=16)
                if sketch is not None:
                    digest.update(sketch.tobytes())
                self._digests[place] = digest.digest()
        self._say("reading", size, size)
        if self._there.any():
            shape = (size, likeness.SIDE, likeness.SIDE)
            self._sketches = np.memmap(self._scratch, np.uint8, "r", shape=shape)
        _, firsts, which = np.unique(self._digests, return_index=True, return_inverse=True)
        self._groups = _Groups(firsts[which])

    def _keep(self, start: int, there: np.ndarray, sketches: np.ndarray) -> None:
        """Write sketches to disk, of which the system keeps in memory what it has room for."""
        self._there[start : start + len(there)] = there
        if not there.any():
            return
        self._pixel_codes[start : start + len(there)] = self._codes_of(sketches, 0)
        try:
            self._scratch.seek(start * likeness.SIDE**2)
            content = memoryview(sketches.tobytes())
            while content:
                content = content[self._scratch.write(content) :]
            # What follows and is away is not written, but mapped.
            self._scratch.truncate(len(self._rows) * likeness.SIDE**2)
        except OSError as error:
            raise StoreError(
                f"Sketches of all pictures need {likeness.SIDE**2:,} bytes of disk each meanwhile.",
                f"{error}, in {tempfile.gettempdir()}",
                "Make room there, or set TMPDIR to a folder that has it.",
            ) from error

    def join_near(self, threshold: int) -> None:
        """Join those whose codes are near; of each group the first."""
        places = np.flatnonzero(self._firsts())
        if len(places) < 2:
            return
        codes = np.concatenate([self._snapshot.codes[self._rows[part]] for part in _parts(places)])
        near = _Nearest(codes, threshold, self._num_threads)
        for first in range(0, len(places), COMPARED_AT_ONCE):
            self._say("comparing codes", first, len(places))
            found = near.found(first, codes[first : first + COMPARED_AT_ONCE], whole=True)
            ones, others, _ = near.once(found)
            # Where so many codes are near, they say nothing of copies, and pixels say it better.
            told = near.crowded[ones] & self._there[places[ones]] & self._there[places[others]]
            ones, others = places[ones[~told]], places[others[~told]]
            self._join(ones, others, np.zeros_like(ones), likeness.WAYS[0])
        self._say("comparing codes", len(places), len(places))

    def join_near_pixels(self, turned: bool) -> None:
        """Join those whose pixel codes are near, as wholes or as parts; of each group the first."""
        places = np.flatnonzero(self._there & self._firsts())
        if len(places) < 2:
            return
        near = _Nearest(self._pixel_codes[places], PIXEL_THRESHOLD, self._num_threads)
        looks = [(likeness.WAYS[0], view) for view in range(len(likeness.VIEWS))]
        looks += [(way, 0) for way in likeness.WAYS[1:] if turned]
        for first in range(0, len(places), COMPARED_AT_ONCE):
            self._say("comparing pixels", first, len(places))
            sketches = self._sketches[places[first : first + COMPARED_AT_ONCE]]
            looked = []
            for way, view in looks:
                codes = self._codes_of(likeness.lying(sketches, way), view)
                looked.append((way, view == 0, near.found(first, codes, whole=view == 0)))
            found: dict[tuple[bool, bool, bool], list[np.ndarray]] = {}
            for way, whole, of_look in looked:
                # A whole is found from both sides, a part only from that of the larger picture.
                found.setdefault(way, []).append(near.once(of_look) if whole else of_look)
            for way, of_way in found.items():
                ones, others, bits = _distinct(np.concatenate(of_way, axis=1), way)
                self._join(places[ones], places[others], bits, way)
        self._say("comparing pixels", len(places), len(places))

    def _firsts(self) -> np.ndarray:
        """Which places are the first of their groups, bool."""
        every = np.arange(len(self._rows))
        return self._groups.of(every) == every

    def _join(
        self, ones: np.ndarray, others: np.ndarray, bits: np.ndarray, way: tuple[bool, bool, bool]
    ) -> None:
        """Join those pairs that are copies, where they are not in one group yet."""
        most = MOST_DISTANCE if way == likeness.WAYS[0] else MOST_DISTANCE_TURNED
        for start in range(0, len(ones), PAIRS_AT_ONCE):
            one, other, apart = (
                each[start : start + PAIRS_AT_ONCE] for each in (ones, others, bits)
            )
            left = self._groups.of(one) != self._groups.of(other)
            one, other, apart = one[left], other[left], apart[left]
            if not len(one):
                continue
            distances = self._distances(one, other)
            seen = self._there[one] & self._there[other]
            copies = ~seen & (distances <= DISTANCE_ALONE)
            places = np.flatnonzero(seen & _may_be_copies(apart, distances, most))
            copies[places] = self._are_copies(one[places], other[places], way)
            for pair in zip(one[copies].tolist(), other[copies].tolist(), strict=True):
                self._groups.join(*pair)

    def _codes_of(self, sketches: np.ndarray, view: int) -> np.ndarray:
        def part(first: int, last: int) -> np.ndarray:
            return likeness.pixel_codes(sketches[first:last], view)

        return np.concatenate(
            threads.in_parts(part, len(sketches), self._num_threads, likeness.AT_ONCE)
        )

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
        """Euclidean distances of the features of pairs, float32; each feature is read once."""
        places, which = np.unique(np.concatenate([ones, others]), return_inverse=True)
        features = self._snapshot.features(self._rows[places])
        first, second = which[: len(ones)], which[len(ones) :]

        def part(start: int, end: int) -> np.ndarray:
            found = np.empty(end - start, np.float32)
            for at in range(start, end, DISTANCES_AT_ONCE):
                pairs = slice(at, min(at + DISTANCES_AT_ONCE, end))
                apart = features[first[pairs]].astype(np.float32)
                apart -= features[second[pairs]]
                found[at - start :][: len(apart)] = np.linalg.norm(apart, axis=1)
            return found

        return np.concatenate(
            threads.in_parts(part, len(ones), self._num_threads, DISTANCES_AT_ONCE)
        )

    def groups(self) -> Iterator[DuplicateGroup]:
        """What was joined."""
        firsts = self._groups.of(np.arange(len(self._rows)))
        order = np.argsort(firsts, kind="stable")
        borders = np.flatnonzero(np.diff(firsts[order], prepend=-1, append=len(firsts)))
        some: list[np.ndarray] = []  # read together: one by one takes longer, of tables far longer
        for start in np.flatnonzero(np.diff(borders) > 1).tolist():
            some.append(order[borders[start] : borders[start + 1]])
            if sum(map(len, some)) >= ROWS_AT_ONCE:
                yield from self._described(some)
                some = []
        yield from self._described(some)

    def _described(self, groups: list[np.ndarray]) -> Iterator[DuplicateGroup]:
        """Groups of some places, int64 each."""
        items, sizes = [], []
        for part in _parts(np.concatenate([np.zeros(0, np.int64), *groups])):
            of_part = self._snapshot.items(self._rows[part])
            items += of_part
            sizes += threads.mapped(
                lambda item: _of_file(images.size, item, None), of_part, self._num_threads
            )
        kept = []
        ends = np.cumsum([len(places) for places in groups]).tolist()
        for places, end in zip(groups, ends, strict=True):
            of_group = slice(end - len(places), end)
            contents = [self._digests[place].tobytes() for place in places]
            kept.append(_to_keep(items[of_group], sizes[of_group], contents, self._num_threads))
        bits, distances = self._from_kept(groups, kept)
        for places, end, best in zip(groups, ends, kept, strict=True):
            copies = [
                Copy(
                    items[at].id,
                    items[at].path,
                    items[at].label,
                    bits[at],
                    distances[at],
                    sizes[at],
                    items[at].size,
                    items[at].mtime_ns,
                )
                for at in range(end - len(places), end)
            ]
            keep = copies.pop(best)
            yield DuplicateGroup(keep, tuple(copies))

    def _from_kept(
        self, groups: list[np.ndarray], kept: list[int]
    ) -> tuple[list[int], list[float]]:
        """How far the images of groups are from those to keep: in bits, and by feature."""
        bits: list[int] = []
        distances: list[float] = []
        pairs = [
            np.stack([places, np.repeat(places[best], len(places))])
            for places, best in zip(groups, kept, strict=True)
        ]
        ones, others = np.concatenate([np.zeros((2, 0), np.int64), *pairs], axis=1)
        for one, other in zip(_parts(ones), _parts(others), strict=True):
            codes = [self._snapshot.codes[self._rows[places]] for places in (one, other)]
            bits += np.bitwise_count(codes[0] ^ codes[1]).sum(axis=1).tolist()
            distances += self._distances(one, other).tolist()
        return bits, distances


class _Nearest:
    """Codes, each to be compared with all others.

    Attributes:
        crowded: bool, one for each code: whether as many others were near, in a comparison of
            wholes, as are looked at, or more.
    """

    def __init__(self, codes: np.ndarray, threshold: int, num_threads: int) -> None:
        self._index = CodeIndex(codes, num_threads=num_threads)
        self._threshold = threshold
        self.crowded = np.zeros(len(codes), bool)

    def found(self, first: int, codes: np.ndarray, *, whole: bool) -> np.ndarray:
        """The pairs of consecutive places, from `first` on, and those nearest to codes of theirs.

        Args:
            first: int.
            codes: uint8 `(n, code_bytes)`, of as many places: of wholes or of parts.
            whole: bool. Whether they are of wholes.

        Returns:
            int64 `(3, m)`: the two places of a pair, and in how many bits their codes differ.
        """
        rows, bits = self._index.nearest_batch(codes, CANDIDATES + 1)  # one of which is itself
        near, ones = bits < self._threshold, np.arange(first, first + len(codes))
        own = rows == ones[:, None]
        if rows.shape[1] > CANDIDATES:
            own[~own.any(axis=1), -1] = True  # so many are as near that it was not among them
            if whole:
                self.crowded[ones] |= near.all(axis=1)
        near &= ~own
        return np.stack([np.repeat(ones, near.sum(axis=1)), rows[near], bits[near]])

    def once(self, pairs: np.ndarray) -> np.ndarray:
        """Pairs of wholes, without those that were found from the other side before."""
        return pairs[:, (pairs[0] < pairs[1]) | self.crowded[pairs[1]]]


_NO_SKETCH = np.zeros((likeness.SIDE, likeness.SIDE), np.uint8)


def _parts(places: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(places), ROWS_AT_ONCE):
        yield places[start : start + ROWS_AT_ONCE]


def _of_file(read: Callable[[str], T], item: Item, otherwise: U) -> T | U:
    """What is read of an image's file, or something else where that is away or no picture now."""
    try:
        return otherwise if item.path is None else read(item.path)
    except ImageError:
        return otherwise


def _distinct(pairs: np.ndarray, way: tuple[bool, bool, bool]) -> np.ndarray:
    """Pairs as `_Nearest.found` gives them, each once, with the fewest bits, in order."""
    if way == likeness.WAYS[0]:
        pairs = np.concatenate([np.sort(pairs[:2], axis=0), pairs[2:]])
    pairs = pairs[:, np.lexsort(pairs[::-1])]
    return pairs[:, np.diff(pairs[:2], prepend=-1).any(axis=0)]


def _may_be_copies(bits: np.ndarray, distances: np.ndarray, most: float) -> np.ndarray:
    """Whether pairs differ little enough in their pixel codes and to the network together, bool."""
    return (bits / PIXEL_THRESHOLD) ** 2 + (distances / most) ** 2 <= MOST_OF_BOTH


def _to_keep(
    items: list[Item],
    sizes: list[tuple[int, int] | None],
    contents: list[bytes],
    num_threads: int,
) -> int:
    """The place of the largest, of those the sharpest, of those the oldest, of those the first."""
    areas = np.array([0 if size is None else size[0] * size[1] for size in sizes])
    left = np.flatnonzero(areas == areas.max()).tolist()
    # Of those that are equal to the network and in their sketch, one is looked at.
    of_content = {contents[place]: place for place in reversed(left)}
    if len(of_content) > 1:
        sharp = threads.mapped(
            lambda place: _of_file(likeness.sharpness, items[place], 0.0),
            of_content.values(),
            num_threads,
        )
        sharpness = dict(zip(of_content, sharp, strict=True))
        least = AS_SHARP * max(sharp)
        left = [place for place in left if sharpness[contents[place]] >= least]
    return min(left, key=lambda place: (items[place].mtime_ns or np.inf, place))
