"""Ways to what is written: labels."""

import difflib
import functools
from typing import Any

import numpy as np

from hashnet.retrieval.search.engine import Engine
from hashnet.retrieval.search.folder_finder import FolderFinder
from hashnet.retrieval.words.plain import plain
from hashnet.retrieval.words.way import Matches

OF_FOLDERS = "an index in a database keeps no texts to search; one in a folder does"
_LEAST_ALIKE = 0.6  # of difflib, for what is suggested


def _why_not(engine: Engine) -> str | None:
    """Why an index is not searched by what is written in it; None where it is."""
    return None if isinstance(engine.finder, FolderFinder) else OF_FOLDERS


def _passing(engine: Engine, rows: np.ndarray, allowed: Any) -> np.ndarray:
    """bool `(n,)`: which rows of an index folder are live and pass the filters."""
    passes = np.ones(len(rows), bool)
    for mask in (engine.snapshot.live_images, allowed):
        if mask is not None:
            passes &= mask[rows]
    return passes


def _alike(text: str, known: list[str], most: int) -> list[str]:
    """Which of some texts are spelled like one, the most alike first."""
    plain_of = {plain(one): one for one in reversed(known)}
    return [plain_of[one] for one in difflib.get_close_matches(text, plain_of, most, _LEAST_ALIKE)]


class LabelWay:
    """The images of a label that has all words of a text; of a label that is the text, first.

    Args:
        engine: `Engine`.
    """

    name = "label"

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.missing = _why_not(engine)

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
        passes = _passing(self._engine, found, allowed)
        return Matches.ordered(found[passes], shares[passes], most)

    def suggest(self, text: str, most: int) -> list[str]:
        return _alike(text, list(self._labels), most)
