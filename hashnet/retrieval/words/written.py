"""Ways to what is written: labels, names of files, captions, and what was read in pixels."""

import functools
import threading
from typing import Any

import numpy as np

from hashnet.retrieval.search.engine import Engine
from hashnet.retrieval.search.folder_finder import FolderFinder
from hashnet.retrieval.search.written import Written
from hashnet.retrieval.store import documents
from hashnet.retrieval.store.folder import text_index
from hashnet.retrieval.words.lookup import LEAST_SHARE, Lookup
from hashnet.retrieval.words.plain import plain
from hashnet.retrieval.words.spelling import alike, units
from hashnet.retrieval.words.way import Box, Matches, Way

_OLD_TABLE = "a table of format version 5 or older keeps no texts to look up; make it anew"
_OLD_SQLITE = "SQLite 3.34 or later, with FTS5, looks texts up; this Python has none"


def written_ways(engine: Engine) -> list[Way]:
    """The ways to what is written in an index, of one snapshot.

    Args:
        engine: `Engine`.

    Returns:
        list of `Way`.
    """
    lookups = _Shared(engine)
    return [
        LabelWay(engine),
        TextWay("name", documents.NAME, lookups),
        TextWay("caption", documents.CAPTION, lookups),
        TextWay("ocr", documents.OCR, lookups),
    ]


class LabelWay:
    """The images of a label that has all words of a text; of a label that is the text, first.

    Args:
        engine: `Engine`.
    """

    name, missing = "label", None

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @functools.cached_property
    def _labels(self) -> dict[str, str]:
        return {label: plain(label) for label in self._engine.snapshot.label_counts()}

    def find(self, text: str, most: int, allowed: Any) -> Matches:
        words, rows, scores = text.split(), [np.empty(0, np.int64)], [np.empty(0, np.float32)]
        for label, known in self._labels.items():
            if all(word in known for word in words):
                of_label = self._engine.snapshot.rows_of_label(label)
                rows.append(of_label)
                share = len(text) / max(len(text), len(known))
                scores.append(np.full(len(of_label), share, np.float32))
        found, shares = np.concatenate(rows), np.concatenate(scores)
        passing = self._engine.finder.passing(found, allowed)
        return Matches.ordered(found[passing], shares[passing], most)

    def suggest(self, text: str, most: int) -> list[str]:
        return alike(text, self._labels, most)


class _Shared:
    """The look-up that several ways have in common, opened by the first that needs it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._lock = threading.Lock()
        self._lookup: Lookup | None = None

    @property
    def missing(self) -> str | None:
        """Why there is none."""
        if not isinstance(self.engine.finder, FolderFinder):
            return None if self.engine.index.store.texts else _OLD_TABLE
        return None if text_index.is_available() else _OLD_SQLITE

    def get(self) -> Lookup:
        """The look-up."""
        with self._lock:
            if self._lookup is None:
                self._lookup = Lookup(self.engine.snapshot, self.engine.finder)
            return self._lookup


class TextWay:
    """The images that have words of a text in texts of one kind.

    Args:
        name: str, of the way.
        kind: int, of the texts.
        shared: what opens the look-up.
    """

    def __init__(self, name: str, kind: int, shared: _Shared) -> None:
        self.name, self._kind, self._shared = name, kind, shared

    @functools.cached_property
    def missing(self) -> str | None:
        """Why the index is not searched this way."""
        store = self._shared.engine.index.store
        if (why := self._shared.missing) is not None:
            return why
        if self._kind == documents.CAPTION and not store.texts:
            return "an index of format version 6 or older keeps no captions; make it anew"
        if self._kind == documents.CAPTION and not self._shared.get().has_kind(self._kind):
            return "no image has a caption; see index --captions"
        if self._kind == documents.OCR and store.ocr is None:
            return "it was made without --ocr"
        return None

    def find(self, text: str, most: int, allowed: Any) -> Matches:
        rows, scores, shares = self._shared.get().find(text, self._kind, allowed)
        found = Matches.ordered(rows, scores, most, shares)
        if self._kind != documents.OCR:
            return found
        return found._replace(regions=lambda rows: self._regions(rows, text))

    def suggest(self, text: str, most: int) -> list[str]:
        return self._shared.get().suggest(text, self._kind, most)

    def shared(self, text: str, allowed: Any) -> Written:
        """The images that have something of a text: see `Lookup.shared`.

        Args:
            text: str, of any length.
            allowed: as for `find`.

        Returns:
            `Written`.
        """
        return Written(*self._shared.get().shared(text, self._kind, allowed))

    def _regions(self, rows: np.ndarray, text: str) -> list[Box | None]:
        """Around the lines that have the most of each word of a text, the first of equal ones."""
        found = []
        words = [set(trigrams) for trigrams in units(text)]
        for item in self._shared.engine.snapshot.items(rows):
            lines = () if item.texts is None else item.texts.lines or ()
            known = [{one for unit in units(line.text) for one in unit} for line in lines]
            boxes = []
            for word in words:
                shares = [len(word & of_line) / len(word) for of_line in known]
                if (most := max(shares, default=0)) >= LEAST_SHARE:
                    boxes.append(lines[shares.index(most)].region)
            found.append(_around(boxes) if boxes else None)
        return found


def _around(boxes: list[Box]) -> Box:
    tops, lefts, bottoms, rights = zip(*boxes, strict=True)
    return min(tops), min(lefts), max(bottoms), max(rights)
