"""Retrieval by aggregated local features: bits in place of descriptors, for very many images.

A codebook of *visual words* divides the space of descriptors. All features of an image that fall
to one word are aggregated to one signature: the signs of their summed differences from the word,
a bit for each number of a descriptor. Two images are alike where signatures of words they share
are near in Hamming distance. No descriptor and no place is kept, so a million images fit in
memory; geometry (`verify`) may look at the best of them, where an index folder holds their
features.

Reference:
    Tolias, Avrithis and Jégou, "Image search with selective match kernels: aggregation across
    single and multiple images", IJCV 2016: the binary aggregated selective match kernel, ASMK*.
"""

import io
import os
import pathlib
import threading
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hashnet import codes, files, threads
from hashnet.checks import checked_integer
from hashnet.errors import ArgumentError, ShapeError, StoreError
from hashnet.retrieval.search import compiled
from hashnet.retrieval.search.coarse.hamming import to_words
from hashnet.retrieval.store.items import to_bytes, to_text

FORMAT = 1
# The paper's exponent, and no threshold: whatever agrees in more than half of its bits counts.
ALPHA, TAU = 3.0, 0.0
# Words that each feature of a query falls to; a feature of an image falls to one. Five are usual
# among tens of thousands of words; among a thousand, one finds more (tests/bench/aggregated.py).
ASSIGNMENTS = 1
ROUNDS = 10
# Features that are compared with all words at one time. It is the same on any number of threads,
# since products of other shapes may be rounded otherwise.
FEATURES_AT_ONCE = 256
# Images worth a thread of their own.
LEAST_IMAGES = 4096
# What reading a damaged file raises, down to an array that claims more than memory holds.
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, EOFError, MemoryError, zipfile.BadZipFile)


def learn_codebook(
    descriptors: np.ndarray,
    num_words: int,
    *,
    seed: int = 0,
    rounds: int = ROUNDS,
    num_threads: int = 1,
) -> np.ndarray:
    """Learn words by k-means (Lloyd's rounds from random descriptors).

    Learn them of other images than those that are searched, some tens of descriptors a word: more
    words tell features apart better and make searching faster, fewer forgive more.

    Args:
        descriptors: float32 or float16 `(n, d)`, finite, of many images.
        num_words: int, 1 to n.
        seed: int. Of the first words.
        rounds: int, 0 or more.
        num_threads: int. The words do not depend on it.

    Returns:
        codebook: float32 `(num_words, d)`.

    Raises:
        ShapeError: the descriptors are no such array.
        ArgumentError: there are fewer descriptors than words, or one is not finite.

    Example:
        >>> around = np.array([[0, 0], [0, 2], [9, 0], [9, 2]], np.float32)
        >>> sorted(learn_codebook(around, 2, seed=1).tolist())
        [[0.0, 1.0], [9.0, 1.0]]
    """
    descriptors = _checked_descriptors(descriptors, None)
    num_words = checked_integer(num_words, 1, "num_words")
    rounds = checked_integer(rounds, 0, "rounds")
    if num_words > len(descriptors):
        raise ArgumentError(
            "Words are learned from at least as many descriptors.",
            f"{len(descriptors)} for num_words={num_words}",
            "Give descriptors of more images, or ask for fewer words.",
        )
    _refuse_infinite(descriptors, "descriptors")
    chosen = np.random.default_rng(seed).choice(len(descriptors), num_words, replace=False)
    words = descriptors[np.sort(chosen)]
    # SciPy's k-means holds a similarity for each pair, which for many words is too much.
    for _ in range(rounds):
        nearest = _nearest_words(descriptors, words, 1, num_threads)[:, 0]
        counts = np.bincount(nearest, minlength=num_words)[:, None]
        sums = [np.bincount(nearest, column, minlength=num_words) for column in descriptors.T]
        # A word that no descriptor falls to stays where it is.
        means = np.stack(sums, axis=1) / np.maximum(counts, 1)
        words = np.where(counts > 0, means, words).astype(np.float32)
    return words


@dataclass(frozen=True)
class _Lists:
    """For each word, the images that have it, ascending by row, and their signatures of it."""

    ids: list[str]
    lengths: np.ndarray  # int64 (num_images,), how many words each image has
    borders: np.ndarray  # int64 (num_words + 1,), of the words in the other two
    rows: np.ndarray  # uint32 (n,)
    signatures: np.ndarray  # uint64 (n, words_a_signature)

    @classmethod
    def sorted(
        cls,
        ids: list[str],
        num_words: int,
        words: np.ndarray,
        rows: np.ndarray,
        signatures: np.ndarray,
    ) -> "_Lists":
        """Lists of signatures that come by row, and not by word."""
        order = np.argsort(words, kind="stable")
        borders = np.zeros(num_words + 1, np.int64)
        np.cumsum(np.bincount(words, minlength=num_words), out=borders[1:])
        lengths = np.bincount(rows, minlength=len(ids))
        return cls(ids, lengths, borders, rows[order], signatures[order])

    def words(self) -> np.ndarray:
        """int64 `(n,)`: the word of each signature."""
        return np.repeat(np.arange(len(self.borders) - 1), np.diff(self.borders))


class AggregatedIndex:
    """Images by the signatures of their local features.

    The similarity of two images is, over the words that both have, the sum of the selectivity of
    1 - 2 * distance / bits, divided by the root of the number of words of each: an image
    has similarity 1 with itself, as long as a feature falls to one word. It may be searched from
    several threads at once, also while images come and go.

    Args:
        codebook: float32 `(num_words, d)`, finite, as `learn_codebook` gives it; d is at most
            1024.
        num_threads: int. The most threads one call runs on; no answer depends on it.

    Raises:
        ShapeError: the codebook is no such array.
        ArgumentError: the codebook is not finite, or `num_threads` is not 1 or more.

    Example:
        >>> from hashnet.local.features import LocalFeatures
        >>> def seen(*descriptors):
        ...     m = len(descriptors)
        ...     yx, scores = np.zeros((m, 2), np.float32), np.zeros(m, np.float32)
        ...     return LocalFeatures(yx, np.array(descriptors, np.float32), scores)
        >>> index = AggregatedIndex(np.array([[0, 1], [1, 0]], np.float32))
        >>> index.add(["door", "roof"], [seen([0.1, 0.9], [0.8, 0.2]), seen([-0.1, 1.1])])
        2
        >>> ids, scores = index.search(seen([0.9, 0.1]), assignments=1)
        >>> ids, scores.round(3).tolist()
        (['door'], [0.707])
    """

    def __init__(self, codebook: np.ndarray, *, num_threads: int = 1) -> None:
        self.codebook = _checked_descriptors(codebook, None)
        if not self.codebook.size:
            raise ShapeError(
                "A codebook is a float32 array of shape (num_words, d), of one word or more.",
                f"shape {self.codebook.shape}",
                "Learn one by learn_codebook.",
            )
        _refuse_infinite(self.codebook, "the codebook")
        self.num_threads = checked_integer(num_threads, 1, "num_threads")
        self._code_bytes = codes.code_bytes(self.codebook.shape[1])
        none = to_words(np.zeros((0, self._code_bytes), np.uint8))
        nothing = np.zeros(0, np.int64)
        self._take(_Lists.sorted([], len(self.codebook), nothing, nothing.astype(np.uint32), none))
        # What was added since the lists were made, and which of their rows were removed.
        self._added: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._removed: set[int] = set()
        self._changing = threading.Lock()

    @property
    def num_bytes(self) -> int:
        """int, bytes that signatures and rows take in memory; ids and codebook come on top."""
        lists = self._settled()
        return lists.signatures.nbytes + lists.rows.nbytes + lists.lengths.nbytes

    def __len__(self) -> int:
        return len(self._row_of) + len(self._added)

    def add(self, ids: Iterable[str], features: Sequence[Any]) -> int:
        """Add images; one whose id is there already is replaced.

        Args:
            ids: iterable of n str; none may repeat.
            features: sequence of n objects with `descriptors`, float32 or float16 `(m, d)`, as
                `LocalFeatures` and `StoredFeatures`; m
                may differ and be 0.

        Returns:
            int. How many were added, n.

        Raises:
            ArgumentError: an id is no text or repeats, or a descriptor is not finite; nothing is
                added then.
            ShapeError: the descriptors have another size than the words of the codebook.
        """
        ids = list(ids)
        if len(ids) != len(features):
            raise ShapeError(
                "Every image has an id and local features, if only none.",
                f"{len(ids)} ids and features of {len(features)}",
            )
        if not all(isinstance(id, str) for id in ids) or len(set(ids)) != len(ids):
            raise ArgumentError(
                "An id is text and occurs once in a call.", f"ids={ids!r:.200}", "Name each once."
            )
        added = {}
        with threads.blas_threads(1):
            for id, one in zip(ids, features, strict=True):
                descriptors = _checked_descriptors(one.descriptors, self.codebook.shape[1])
                _refuse_infinite(descriptors, f"those of {id!r}")
                added[id] = self._aggregated(descriptors, 1)
        with self._changing:
            self._forget(ids)
            self._added |= added
        return len(ids)

    def remove(self, ids: Iterable[str]) -> list[str]:
        """Remove images.

        Args:
            ids: iterable of str; unknown ones are passed over.

        Returns:
            list of str: the ids that were there and are no more, in the order given.
        """
        with self._changing:
            return self._forget(dict.fromkeys(ids))

    def search(
        self,
        features: Any,
        *,
        k: int = 10,
        assignments: int = ASSIGNMENTS,
        tau: float = TAU,
        alpha: float = ALPHA,
    ) -> tuple[list[str], np.ndarray]:
        """Find the images most similar to a query.

        Args:
            features: an object with `descriptors`, float32 or float16 `(m, d)`; those that are
                not finite match nothing.
            k: int, 1 or more. Images wanted.
            assignments: int, 1 or more. Nearest words that each feature of the query falls to.
            tau: float, 0 to below 1. Agreements of 1 - 2 * distance / bits up to this count
                nothing.
            alpha: float, above 0. Exponent of the others.

        Returns:
            ids, list of at most k str, and their similarities, float64, descending; equal ones
            in the order in which they were added. Images without any similarity are left out.

        Raises:
            ShapeError: the descriptors have another size than the words of the codebook.
            ArgumentError: a number is outside its range.
        """
        k = checked_integer(k, 1, "k")
        assignments = checked_integer(assignments, 1, "assignments")
        selectivity = _selectivity(self.codebook.shape[1], tau, alpha)
        descriptors = _checked_descriptors(features.descriptors, self.codebook.shape[1])
        descriptors = descriptors[np.isfinite(descriptors).all(axis=1)]
        lists = self._settled()
        with threads.blas_threads(1):
            words, signatures = self._aggregated(descriptors, assignments)
        scores = np.zeros(len(lists.ids))
        if not len(words):
            return [], scores[:0]
        self._add_agreements(lists, words, signatures, selectivity, scores)
        rows = np.flatnonzero(scores)
        similarities = scores[rows] / np.sqrt(lists.lengths[rows] * float(len(words)))
        order = np.lexsort([rows, -similarities])[:k]
        return [lists.ids[row] for row in rows[order].tolist()], similarities[order]

    def _add_agreements(
        self,
        lists: _Lists,
        words: np.ndarray,
        signatures: np.ndarray,
        selectivity: np.ndarray,
        scores: np.ndarray,
    ) -> None:
        """Add to each image's score what the words that it shares with the query say."""
        kernels = compiled.load()
        if kernels is None:
            for word, signature in zip(words.tolist(), signatures, strict=True):
                places = slice(lists.borders[word], lists.borders[word + 1])
                apart = np.bitwise_count(lists.signatures[places] ^ signature)
                # An image is once in a list at most, so no sum is lost.
                scores[lists.rows[places]] += selectivity[apart.sum(axis=1, dtype=np.int64)]
            return
        flat, like = lists.signatures.reshape(-1), kernels.query_like(signatures)

        def count(first: int, last: int) -> None:
            lists_of_words = flat, lists.rows, lists.borders
            query = words, signatures, like
            kernels.add_agreements(*lists_of_words, *query, selectivity, scores, first, last)

        threads.in_parts(count, len(scores), self.num_threads, LEAST_IMAGES)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index as one `.npz` file, codebook included; an old one is replaced whole.

        Args:
            path: str or path-like.

        Raises:
            StoreError: the disk refuses; an old file is as it was.
        """
        lists, path = self._settled(), pathlib.Path(path)
        ids = [to_bytes(id) for id in lists.ids]
        packed = lists.signatures.view(np.uint8)[:, : self._code_bytes]
        try:
            with files.whole_file(path) as file:
                np.savez(
                    file,
                    format=np.int64(FORMAT),
                    codebook=self.codebook,
                    ids=np.frombuffer(b"".join(ids), np.uint8),
                    id_ends=np.cumsum([len(id) for id in ids], dtype=np.int64),
                    borders=lists.borders,
                    rows=lists.rows,
                    codes=packed,
                )
        except OSError as error:
            raise StoreError(
                "An index is written to a folder that has room.", f"{path}: {error}"
            ) from error

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, num_threads: int = 1) -> "AggregatedIndex":
        """Read an index that `save` wrote.

        Args:
            path: str or path-like.
            num_threads: int, as for the constructor.

        Returns:
            An `AggregatedIndex`.

        Raises:
            StoreError: there is none, or it is damaged or of a newer format.
        """
        try:
            content = pathlib.Path(path).read_bytes()
            _refuse_compressed(content)
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                if (version := int(file["format"])) != FORMAT:
                    raise StoreError(
                        f"This version reads aggregated indexes of format {FORMAT}.",
                        f"format {version} in {path}",
                        "Was it written by a newer version of HashNet?",
                    )
                index = cls(file["codebook"], num_threads=num_threads)
                index._take(index._read(file))
            return index
        except StoreError:
            raise
        except _UNREADABLE as error:
            raise StoreError(
                "An aggregated index is a file that AggregatedIndex.save wrote.", f"{path}: {error}"
            ) from error

    def _read(self, file: Any) -> _Lists:
        """The lists of a file, each array looked through; ValueError names what is wrong."""
        kinds = {"ids": np.uint8, "id_ends": np.int64, "borders": np.int64, "rows": np.uint32}
        arrays = {name: file[name] for name in kinds}
        for name, array in arrays.items():
            if array.dtype != kinds[name] or array.ndim != 1:
                raise ValueError(f"{name} is {array.dtype} {array.shape}")
        packed, rows, ends = file["codes"], arrays["rows"], arrays["id_ends"]
        codes.validate(packed, self.codebook.shape[1])
        if packed.shape != (len(rows), self._code_bytes):
            raise ValueError(f"codes {packed.shape} of {len(rows)} rows")
        _check_borders(arrays["borders"], len(self.codebook), len(rows), "words")
        text = arrays["ids"].tobytes()
        starts = np.concatenate([[0], ends])
        _check_borders(starts, len(ends), len(text), "ids")
        ids = [
            to_text(text[first:last])
            for first, last in zip(starts[:-1].tolist(), ends.tolist(), strict=True)
        ]
        if len(set(ids)) != len(ids):
            raise ValueError("an id occurs twice")
        if len(rows) and rows.max() >= len(ids):
            raise ValueError(f"row {rows.max()} of {len(ids)} images")
        lengths = np.bincount(rows, minlength=len(ids))
        lists = _Lists(ids, lengths, arrays["borders"], rows, to_words(packed))
        of_one_word = np.diff(lists.words()) == 0
        if (rows[1:] <= rows[:-1])[of_one_word].any():
            raise ValueError("the images of a word do not ascend")
        return lists

    def _take(self, lists: _Lists) -> None:
        self._lists = lists
        self._row_of = {id: row for row, id in enumerate(lists.ids)}

    def _forget(self, ids: Iterable[str]) -> list[str]:
        """Drop those of some ids that are there, and return them."""
        gone = []
        for id in ids:
            row = self._row_of.pop(id, None)
            if row is not None:
                self._removed.add(row)
            if self._added.pop(id, None) is not None or row is not None:
                gone.append(id)
        return gone

    def _settled(self) -> _Lists:
        """The lists, with what was added and without what was removed since they were made."""
        with self._changing:
            if self._added or self._removed:
                self._take(self._merged())
                self._added, self._removed = {}, set()
            return self._lists

    def _merged(self) -> _Lists:
        old = self._lists
        stays = np.ones(len(old.ids), bool)
        stays[list(self._removed)] = False
        kept = stays[old.rows]
        moved = np.cumsum(stays, dtype=np.uint32) - np.uint32(1)
        ids = [id for id, stay in zip(old.ids, stays.tolist(), strict=True) if stay]
        added = list(self._added.values())
        counts = [len(words) for words, _ in added]
        new_rows = np.repeat(np.arange(len(added), dtype=np.uint32) + np.uint32(len(ids)), counts)
        return _Lists.sorted(
            ids + list(self._added),
            len(self.codebook),
            np.concatenate([old.words()[kept], *(words for words, _ in added)]),
            np.concatenate([moved[old.rows[kept]], new_rows]),
            np.concatenate([old.signatures[kept], *(signatures for _, signatures in added)]),
        )

    def _aggregated(
        self, descriptors: np.ndarray, assignments: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Words of some features, int64 `(n,)`, ascending, and their signatures."""
        nearest = _nearest_words(descriptors, self.codebook, assignments, self.num_threads)
        features = np.repeat(np.arange(len(nearest)), nearest.shape[1])
        order = np.argsort(nearest.reshape(-1), kind="stable")
        features, word_of = features[order], nearest.reshape(-1)[order]
        words, starts = np.unique(word_of, return_index=True)
        if not len(words):
            return words, to_words(np.zeros((0, self._code_bytes), np.uint8))
        sums = np.add.reduceat(
            descriptors[features] - self.codebook[word_of],
            starts,
            axis=0,
            dtype=np.float64,
        )
        return words, to_words(codes.pack(sums > 0))


def _nearest_words(
    descriptors: np.ndarray, codebook: np.ndarray, count: int, num_threads: int
) -> np.ndarray:
    """int64 `(m, count)`: each descriptor's nearest words, nearest first; all if fewer."""
    count = min(count, len(codebook))
    halves = np.square(codebook).sum(axis=1) / 2
    nearest = np.zeros((len(descriptors), count), np.int64)

    def fill(first: int, last: int) -> None:
        for block in range(first, last):
            part = slice(block * FEATURES_AT_ONCE, (block + 1) * FEATURES_AT_ONCE)
            # Half the squared distance, but for what is the same for all words.
            apart = halves - descriptors[part] @ codebook.T
            if count == 1:
                nearest[part, 0] = apart.argmin(axis=1)
                continue
            near = np.sort(np.argpartition(apart, count - 1, axis=1)[:, :count], axis=1)
            order = np.argsort(np.take_along_axis(apart, near, 1), axis=1, kind="stable")
            nearest[part] = np.take_along_axis(near, order, 1)

    blocks = -(-len(descriptors) // FEATURES_AT_ONCE)
    threads.in_parts(fill, blocks, num_threads, 1)
    return nearest


def _selectivity(num_bits: int, tau: float, alpha: float) -> np.ndarray:
    """float64 `(num_bits + 1,)`: what an agreement counts, by the Hamming distance."""
    if not (0 <= tau < 1 and 0 < alpha < np.inf):
        raise ArgumentError(
            "tau is 0 to below 1, alpha is above 0.",
            f"tau={tau!r}, alpha={alpha!r}",
            f"{TAU} and {ALPHA} are the usual choice.",
        )
    agreement = 1 - 2 * np.arange(num_bits + 1) / num_bits
    return np.where(agreement > tau, np.maximum(agreement, 0) ** alpha, 0.0)


def _checked_descriptors(descriptors: Any, size: int | None) -> np.ndarray:
    """The descriptors as float32 `(m, d)`."""
    array = np.asarray(descriptors)
    right_size = array.ndim == 2 and size in (None, array.shape[1])
    if not right_size or array.dtype not in (np.float32, np.float16):
        raise ShapeError(
            f"Descriptors are a float32 or float16 array of shape (m, {size or 'd'}).",
            f"{array.dtype} {array.shape}",
            "Were they extracted by the extractor that the codebook was learned for?",
        )
    return np.ascontiguousarray(array, np.float32)


def _refuse_infinite(descriptors: np.ndarray, name: str) -> None:
    if not np.isfinite(descriptors).all():
        raise ArgumentError(
            "A local feature holds finite numbers.", f"NaN or infinity in {name}", "Leave it out."
        )


def _refuse_compressed(content: bytes) -> None:
    """See that nothing is packed: a small file could unfold to far more than its size."""
    with zipfile.ZipFile(io.BytesIO(content)) as members:
        if any(one.compress_type != zipfile.ZIP_STORED for one in members.infolist()):
            raise ValueError("a compressed member")


def _check_borders(borders: np.ndarray, parts: int, end: int, name: str) -> None:
    if (
        len(borders) != parts + 1
        or borders[0] != 0
        or borders[-1] != end
        or (np.diff(borders) < 0).any()
    ):
        raise ValueError(f"borders of {name} do not divide {end} into {parts}")
