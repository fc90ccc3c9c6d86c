"""Words beside a picture, and in it: the engine of one index, which knows what they mean there."""

import functools
from typing import Any

import numpy as np

from hashnet.errors import ArgumentError
from hashnet.retrieval.search.engine import Engine
from hashnet.retrieval.search.written import Written
from hashnet.retrieval.words import plain
from hashnet.retrieval.words.box import WordBox
from hashnet.retrieval.words.way import Pointing


class WordEngine(Engine):
    """An `Engine` whose queries may say what hits are to show besides, or are read themselves.

    See `Query.text` and `Query.written`.

    Example:
        >>> from hashnet.retrieval.index import Index
        >>> from hashnet.retrieval.search.query import Query
        >>> engine = WordEngine(Index.open(index_folder))
        >>> [name, *_] = engine.index.encoder.config.classes
        >>> [hit.id for hit in engine.search("cat.png", Query(text=name, text_weight=0.1)).hits]
        ['cat', 'dog']
    """

    @functools.cached_property
    def words(self) -> WordBox:
        """The `WordBox` of this engine's snapshot."""
        return WordBox(self)

    def written(self, text: str, allowed: Any) -> Written:
        """The images in which something was read that a text has: see `Engine.written`.

        Args:
            text: str, of any length.
            allowed: what passes the filters, as `allowed` gives it.

        Returns:
            `Written`.

        Raises:
            StoreError: nothing was read in the images of the index.
        """
        return self.words.of_pixels.shared(text, allowed)

    def meaning(self, text: str) -> np.ndarray:
        """The direction in which features lie that show what a text says.

        Where several ways know one, it is between theirs.

        Args:
            text: str.

        Returns:
            float32 `(feature_dim,)`, of length 1, as seen from `mean`.

        Raises:
            ArgumentError: the text is empty or too long, or no way knows what it shows.
        """
        words = plain.query(text)
        ways = [way for way in self.words.ways if isinstance(way, Pointing)]
        known = [one for way in ways if (one := way.direction(words)) is not None]
        if known and self.words.misspelt(words):
            known = []
        if not known:
            missing = "; ".join(f"{name}: {why}" for name, why in self.words.missing.items())
            near = [one for one in self.words.suggestions(words) if plain.plain(one) != words]
            raise ArgumentError(
                "Words beside a picture say what hits show, in words that the index knows.",
                repr(text[:50]) + (f", and {missing}" if missing else ""),
                f"Known, and like it: {', '.join(near)}." if near else "",
            )
        direction: np.ndarray = np.sum(known, axis=0)
        return direction / max(float(np.linalg.norm(direction)), 1e-12)
