"""Looking texts up in an index: names, captions, and what was read in pixels.

A word is found where half of its trigrams are, so that a letter misread or mistyped is no end of
it. Words that fewer images have count more, as the logarithm of their share says.
"""

import collections
import contextlib
import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from hashnet import deadline
from hashnet.errors import StoreError
from hashnet.retrieval.search.finder import Finder
from hashnet.retrieval.store import documents
from hashnet.retrieval.store.folder import text_index
from hashnet.retrieval.store.folder.snapshot import Snapshot
from hashnet.retrieval.store.folder.store import Store
from hashnet.retrieval.store.folder.text_index import KINDS, TextIndex
from hashnet.retrieval.words.spelling import alike, spaced, units

LEAST_SHARE = 0.5  # of the trigrams of a word
_LEAST_SCORE = 0.3  # of what the known words of a query weigh together
_LEAST_TRIGRAMS = 6  # of two short words: less that was read in a photo tells less
_CORRECTED, _COMPARED = 8, 20_000  # words of a query, and those that each is compared with
_LOOKED_AT = 500  # of the best texts it is told whether they have the very words
_TRIGRAMS_AT_ONCE = 32  # of which it is asked what has them
_ROWS_AT_ONCE = 4096


def settle(snapshot: Any) -> None:
    """Bring what a folder keeps to look texts up by to what is committed; under the writer's lock.

    A table of a database has all it needs beside its images. Where the disk refuses, searches read
    all texts first, and nothing is lost.

    Args:
        snapshot: `Snapshot`, of the last commit.
    """
    if isinstance(snapshot, Snapshot) and text_index.is_available():
        with contextlib.suppress(StoreError):
            text_index.settle(
                snapshot.folder, _states(snapshot), functools.partial(_documents, snapshot)
            )


def check(snapshot: Snapshot) -> list[str]:
    """Compare what a folder keeps to look texts up by with its rows.

    Args:
        snapshot: `Snapshot`.

    Returns:
        list of str: what is wrong.
    """
    return text_index.check(
        snapshot.folder, _states(snapshot), functools.partial(_documents, snapshot)
    )


def _states(snapshot: Snapshot) -> list[tuple[int, str]]:
    return [(end_row, f"{documents.FORM}-{state[:32]}") for end_row, state in snapshot.states()]


def _documents(snapshot: Snapshot, start: int) -> Iterator[tuple[int, str]]:
    """Those of all rows of images from one on; deleted ones too, which stay till a compaction."""
    rows = np.arange(start, snapshot.num_rows)
    if snapshot.owners is not None:
        rows = rows[snapshot.owners[rows] == rows]
    for at in range(0, len(rows), _ROWS_AT_ONCE):
        some = rows[at : at + _ROWS_AT_ONCE]
        for row, item in zip(some.tolist(), snapshot.items(some), strict=True):
            for kind, text in documents.texts_of(item).items():
                yield KINDS * row + kind, text


def _stored(snapshot: Snapshot) -> TextIndex | None:
    """The file that covers the most rows of a snapshot, and perhaps rows behind them."""
    states = _states(snapshot)
    stored = TextIndex.open(snapshot.folder, states)
    if not states or (stored is not None and stored.end_row == snapshot.num_rows):
        return stored
    # A writer leaves the file of the newest state alone, which may go on from this one.
    with contextlib.suppress(StoreError), Store.open(snapshot.folder).snapshot() as newest:
        newer = _states(newest)
        if states[-1] in newer:
            return TextIndex.open(snapshot.folder, newer) or stored
    return stored


class _Source(Protocol):
    """Where the texts of one snapshot are looked up."""

    def having(self, trigrams: Sequence[str], kind: int) -> list[np.ndarray]:
        """Rows of the images that have each of some trigrams in a text of a kind, ascending."""

    def texts(self, rows: np.ndarray, kind: int) -> list[str]:
        """The texts of a kind of some images, "" where there is none."""

    def has_kind(self, kind: int) -> bool:
        """Whether an image has a text of a kind."""


class _FolderTexts:
    """Those kept on disk, and those of rows behind."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self.end_row = snapshot.num_rows
        stored = _stored(snapshot)
        self._parts = [] if stored is None else [stored]
        end = 0 if stored is None else stored.end_row
        if end < snapshot.num_rows:
            behind = _documents(snapshot, end)
            self._parts.append(TextIndex.in_memory(behind, snapshot.num_rows))

    def has_kind(self, kind: int) -> bool:
        """Also where images that had one wait for a compaction."""
        return any(part.has_kind(kind, self.end_row) for part in self._parts)

    def having(self, trigrams: Sequence[str], kind: int) -> list[np.ndarray]:
        live = self._snapshot.live_images
        found = []
        for trigram in trigrams:
            having = [np.empty(0, np.int64), *(part.having(trigram) for part in self._parts)]
            numbers = np.concatenate(having)
            numbers = numbers[numbers < KINDS * self.end_row]
            rows = numbers[numbers % KINDS == kind] // KINDS
            found.append(rows if live is None else rows[live[rows]])
        return found

    def texts(self, rows: np.ndarray, kind: int) -> list[str]:
        found = [""] * len(rows)
        start = 0
        for part in self._parts:
            places = np.flatnonzero((rows >= start) & (rows < part.end_row))
            texts = part.texts((KINDS * rows[places] + kind).tolist())
            for place, text in zip(places.tolist(), texts, strict=True):
                found[place] = text
            start = part.end_row
        return found


def _source_of(snapshot: Any) -> _Source:
    if isinstance(snapshot, Snapshot):
        return _FolderTexts(snapshot)
    # A search of a folder need not load what another kind takes.
    from hashnet.retrieval.store.clickhouse.text_columns import TextColumns

    return TextColumns(snapshot)


class Lookup:
    """The texts of one snapshot of an index.

    Args:
        snapshot: `Snapshot`; of a table, one that keeps texts.
        finder: `Finder` of it, whose filters it takes.

    Example:
        >>> from hashnet.retrieval.index import Index
        >>> from hashnet.retrieval.search.finders import finder_of
        >>> with Index.open(index_folder).store.snapshot() as snapshot:
        ...     found = Lookup(snapshot, finder_of(snapshot)).find("Dogg", documents.NAME)
        ...     [item.id for item in snapshot.items(found[0])]
        ['dog']
    """

    def __init__(self, snapshot: Any, finder: Finder[Any]) -> None:
        self._snapshot, self._finder = snapshot, finder
        self._source = _source_of(snapshot)

    def has_kind(self, kind: int) -> bool:
        """Whether an image has a text of a kind, or had one before a compaction is due.

        Args:
            kind: int.

        Returns:
            bool.
        """
        return self._source.has_kind(kind)

    def find(
        self, text: str, kind: int, allowed: Any = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The images that have words of a text.

        Args:
            text: str, plain.
            kind: int, of the texts that are looked up.
            allowed: what may be found, as `Finder.allowed` gives it; None for all.

        Returns:
            rows: int64 `(n,)`, ascending.
            scores: float32 `(n,)`, 0 to 1 for the words that are there, .25 more where they stand
                together and as they are, and up to .1 for little else.
            shares: float32 `(n,)`, 0 to 1: that part of the scores which is for the words.
        """
        num_items = max(1, self._snapshot.num_items)
        rows, scores, total = np.empty(0, np.int64), np.empty((0, 2)), np.zeros(2)
        words = units(text)
        for of_word, shares in self._having(words, kind):
            is_there = shares >= LEAST_SHARE
            weight = math.log(1 + num_items / (int(np.count_nonzero(is_there)) or 0.5))
            # What has less of a word is not found by it, and comes before what has nothing.
            both = weight * np.stack([shares * is_there, shares], axis=1)
            total += weight * np.array([is_there.any(), True])
            rows, scores = _summed(rows, scores, of_word, both)
        found = self._finder.passing(rows, allowed) & (scores[:, 0] > 0)
        found &= scores[:, 0] >= _LEAST_SCORE * total[0]
        rows, shares = rows[found], scores[found, 1] / max(total[1], 1e-9)
        best = np.lexsort((rows, -shares))[:_LOOKED_AT]
        texts = self._source.texts(rows[best], kind)
        scores = shares.copy()
        scores[best] += _closeness(texts, spaced(text))
        keep = np.ones(len(rows), bool)
        keep[best] = _have_a_word(texts, words)
        return rows[keep], scores[keep].astype(np.float32), shares[keep].astype(np.float32)

    def shared(self, text: str, kind: int, allowed: Any = None) -> tuple[np.ndarray, np.ndarray]:
        """The images that have something of a text, such as one that was read in a photo.

        Of such a text some words are misread, some stand on what is beside the thing meant, and
        some on half of all labels. So it is weighed by trigrams: what fewer images have counts
        more, what none has, not at all.

        Args:
            text: str, of any length.
            kind: int, of the texts that are looked up.
            allowed: what may be found, as `Finder.allowed` gives it; None for all.

        Returns:
            rows: int64 `(n,)`, ascending.
            shares: float64 `(n,)`, above 0 to 1: how much of the trigrams they have, by weight. Of
                fewer than six a sixth less for each that is missing.

        Example:
            >>> from hashnet.retrieval.index import Index
            >>> from hashnet.retrieval.search.finders import finder_of
            >>> with Index.open(index_folder).store.snapshot() as snapshot:
            ...     lookup = Lookup(snapshot, finder_of(snapshot))
            ...     rows, shares = lookup.shared("HOTDOGS", documents.NAME)
            ...     [item.id for item in snapshot.items(rows)], shares.round(2).tolist()
            (['dog'], [1.0])
        """
        num_items = max(1, self._snapshot.num_items)
        trigrams = list(dict.fromkeys(trigram for word in units(text) for trigram in word))
        every = self._finder.rows()
        is_dense = len(every) == 0 or int(every[-1]) == len(every) - 1
        scores, total = np.zeros(len(every)), 0.0
        for start in range(0, len(trigrams), _TRIGRAMS_AT_ONCE):
            deadline.check()
            some = trigrams[start : start + _TRIGRAMS_AT_ONCE]
            for rows in self._source.having(some, kind):
                if len(rows):
                    weight = math.log(1 + num_items / len(rows))
                    scores[rows if is_dense else np.searchsorted(every, rows)] += weight
                    total += weight
        found = np.flatnonzero(scores)
        found = found[self._finder.passing(every[found], allowed)]
        much = min(1.0, len(trigrams) / _LEAST_TRIGRAMS)
        return every[found], scores[found] / max(total, 1e-9) * much

    def suggest(self, text: str, kind: int, most: int) -> list[str]:
        """Words of the texts that are spelled like those of a text.

        Args:
            text: str, plain.
            kind: int.
            most: int.

        Returns:
            list of str, the most alike first.
        """
        found: list[str] = []
        for word in text.split()[:_CORRECTED]:
            words: set[str] = set()
            for rows, shares in self._having(units(word), kind):
                best = rows[np.lexsort((rows, -shares))[:_LOOKED_AT]]
                for one in self._source.texts(best, kind):
                    if len(words) < _COMPARED:
                        words.update(one.split())
            found += alike(word, words - {word}, most)
        return list(dict.fromkeys(found))[:most]

    def _having(
        self, words: Sequence[tuple[str, ...]], kind: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Of each word, the rows that have some of its trigrams, ascending, and which share."""
        for some in _groups(words):
            deadline.check()
            trigrams = list(dict.fromkeys(trigram for word in some for trigram in word))
            found = dict(zip(trigrams, self._source.having(trigrams, kind), strict=True))
            for word in some:
                having = np.concatenate([found[trigram] for trigram in word])
                rows, counts = np.unique(having, return_counts=True)
                yield rows, counts / len(word)


def _groups(words: Sequence[tuple[str, ...]]) -> Iterator[list[tuple[str, ...]]]:
    """The same words, in their order, with so many trigrams together as are asked for at once."""
    group: list[tuple[str, ...]] = []
    for word in words:
        if group and sum(map(len, group)) + len(word) > _TRIGRAMS_AT_ONCE:
            yield group
            group = []
        group.append(word)
    if group:
        yield group


def _closeness(texts: list[str], text: str) -> np.ndarray:
    """float64 `(n,)`: .25 where the words stand together, and up to .1 for little else."""
    return np.array(
        [
            0.25 * (text in one) + 0.1 * min(len(text), len(one)) / max(len(text), len(one), 1)
            for one in texts
        ]
    )


def _have_a_word(texts: list[str], words: list[tuple[str, ...]]) -> list[bool]:
    """Which texts have enough of some word in one of their own, or in two that are neighbours.

    Trigrams that stand anywhere in a long text are no word.
    """
    words_of: dict[str, list[int]] = {}
    for number, trigrams in enumerate(words):
        for trigram in trigrams:
            words_of.setdefault(trigram, []).append(number)
    least = [LEAST_SHARE * len(trigrams) for trigrams in words]

    def has_one(text: str) -> bool:
        deadline.check()
        for one, other in itertools.pairwise(["", *text.split()]):
            pair = f" {one} {other} "
            of_pair = {pair[at : at + 3] for at in range(len(pair) - 2)}
            counts = collections.Counter(
                number for trigram in of_pair for number in words_of.get(trigram, ())
            )
            if any(count >= least[number] for number, count in counts.items()):
                return True
        return False

    return [has_one(text) for text in texts]


def _summed(
    rows: np.ndarray, scores: np.ndarray, more_rows: np.ndarray, more_scores: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Scores `(n, 2)` by row, those of the same row added up; rows ascending."""
    every = np.union1d(rows, more_rows)
    sums = np.zeros((len(every), 2))
    sums[np.searchsorted(every, rows)] += scores
    sums[np.searchsorted(every, more_rows)] += more_scores
    return every, sums
