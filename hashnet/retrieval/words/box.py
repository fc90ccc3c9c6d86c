"""The box that a text is typed into: all ways are asked, and what they find gets one order."""

import dataclasses
import time
from collections.abc import Sequence

import numpy as np

from hashnet import deadline
from hashnet.errors import ArgumentError, HashnetError, StoreError
from hashnet.retrieval.search.engine import Engine
from hashnet.retrieval.search.query import Query
from hashnet.retrieval.search.sharded import ShardedEngine
from hashnet.retrieval.words import plain, sentence
from hashnet.retrieval.words.fusion import WEIGHTS, fused
from hashnet.retrieval.words.results import TextHit, TextResult
from hashnet.retrieval.words.spelling import latin_words, nearly_alike
from hashnet.retrieval.words.way import Box, Matches, Way
from hashnet.retrieval.words.ways import ways_of
from hashnet.retrieval.words.written import TextWay

DEFAULT = Query()
SUGGESTIONS = 5
# Fields of a `Query` that a text has use for: how many hits, among which images.
FIELDS = ("k", "labels", "ids", "after", "before", "under")
# What each way is asked for, at least: an image far down in two ways may be high in both together.
_DEPTH = 1000


class WordBox:
    """Searches one snapshot of an index in words.

    Args:
        engine: `Engine` of one index.
        ways: list of `Way`, or None for all that there are.

    Raises:
        ArgumentError: the engine is of several indexes.

    Example:
        >>> from hashnet.retrieval.index import Index
        >>> box = WordBox(Engine(Index.open(index_folder)))
        >>> [(hit.id, hit.ways[0]) for hit in box.search("DOG")]
        [('dog', 'label')]
    """

    def __init__(self, engine: Engine, ways: Sequence[Way] | None = None) -> None:
        if isinstance(engine, ShardedEngine):
            raise ArgumentError(
                "Words are searched in one index at a time.",
                "several that are searched as one",
                "Name one of them.",
            )
        self._engine = engine
        self._known = ways_of(engine) if ways is None else ways

    @property
    def ways(self) -> list[Way]:
        """list of `Way` that the index is searched by."""
        return [way for way in self._known if way.missing is None]

    @property
    def of_pixels(self) -> TextWay:
        """The way to what was read in pixels.

        Raises:
            StoreError: the index is not searched by it.
        """
        [way] = [way for way in self._known if isinstance(way, TextWay) and way.name == "ocr"]
        if way.missing is not None:
            raise StoreError(
                "What is written in a query is looked for in what was read in an index.",
                way.missing,
                "Make an index with `hashnet index --ocr`.",
            )
        return way

    @property
    def missing(self) -> dict[str, str]:
        """dict of the names of the other ways to why it is not."""
        reasons = {way.name: way.missing for way in self._known}
        return {name: reason for name, reason in reasons.items() if reason is not None}

    def search(self, text: str, query: Query = DEFAULT) -> TextResult:
        """Find the images that a text means, by all ways.

        Args:
            text: str. Taken literally: quotes, stars and the like are letters.
            query: `Query`, of which `FIELDS` are used.

        Returns:
            A `TextResult`, whose hits are ordered by (score, row).

        Raises:
            ArgumentError: the text is empty or too long, or a field of the query is set that a
                text has no use for.
            UnknownNameError, UnknownIdError: as for `Engine.search`.
            HashnetError: the index is not searched in any way.
        """
        words = plain.query(text)
        _refuse_others(query)
        ways, missing = self.ways, self.missing
        if not ways:
            reasons = "; ".join(f"{name}: {why}" for name, why in missing.items())
            raise HashnetError("A search in words needs a way from words to images.", reasons)
        allowed = self._engine.allowed(query)
        found: dict[str, Matches] = {}
        milliseconds = {}
        for way in ways:
            deadline.check()
            start = time.perf_counter()
            found[way.name] = way.find(words, max(_DEPTH, query.k), allowed)
            milliseconds[way.name] = round((time.perf_counter() - start) * 1000, 3)
        is_written = any(len(found[way.name].rows) for way in ways if way.name not in WEIGHTS)
        meant = [] if is_written else self.misspelt(words)
        best = fused({} if meant else found)
        if not len(best.rows):
            self._engine.refuse_strangers(query)
        shown = best.rows[: query.k]
        places = _regions(found, shown)
        hits = tuple(
            TextHit(item.id, item.path, item.label, score, ways, places.get(row))
            for item, row, score, ways in zip(
                self._engine.snapshot.items(shown),
                shown.tolist(),
                best.scores.tolist(),
                best.ways,
                strict=False,
            )
        )
        suggestions = () if hits else tuple(dict.fromkeys([*meant, *self.suggestions(words)]))
        suggestions = suggestions[:SUGGESTIONS]
        return TextResult(text, len(best.rows), milliseconds, hits, missing, suggestions)

    def misspelt(self, words: str) -> list[str]:
        """What a text was to say, of which no word is known as it is written, and one has a slip.

        A sentence network takes any letters to something that photos show. Where it is not
        installed, nothing tells words from others.

        Args:
            words: str, as `plain.query` gives it.

        Returns:
            list of str: what is known, and spelled nearly like it.
        """
        latin = latin_words(words)
        if not latin or sentence.missing() is not None:
            return []
        if any(map(sentence.opened().knows, words.split())):
            return []
        written = [way for way in self.ways if way.name not in WEIGHTS]
        if any(len(way.find(words, 1, None).rows) for way in written):
            return []
        meant = []
        for word in latin:
            known = [one for way in self.ways for one in way.suggest(word, SUGGESTIONS)]
            meant += nearly_alike(word, known)
        return list(dict.fromkeys(meant))

    def suggestions(self, words: str) -> tuple[str, ...]:
        """What is known that is like a text, the first of each way before the second of any.

        Args:
            words: str, as `plain.query` gives it.

        Returns:
            tuple of at most `SUGGESTIONS` str.
        """
        of_ways = [way.suggest(words, SUGGESTIONS) for way in self.ways]
        ranked = [
            one
            for rank in range(SUGGESTIONS)
            for of_way in of_ways
            for one in of_way[rank : rank + 1]
        ]
        return tuple(dict.fromkeys(ranked))[:SUGGESTIONS]


def _refuse_others(query: Query) -> None:
    others = [
        field.name
        for field in dataclasses.fields(Query)
        if field.name not in FIELDS and getattr(query, field.name) != field.default
    ]
    if others:
        raise ArgumentError(
            "A search in words takes how many hits are wanted, and among which images.",
            ", ".join(others),
            f"Fields that it takes: {', '.join(FIELDS)}.",
        )


def _regions(found: dict[str, Matches], shown: np.ndarray) -> dict[int, Box]:
    """Where in the images of some rows the words stand, by the first way that tells."""
    places: dict[int, Box] = {}
    for matches in found.values():
        if matches.regions is not None:
            rows = shown[np.isin(shown, matches.rows)]
            for row, region in zip(rows.tolist(), matches.regions(rows), strict=True):
                if region is not None:
                    places.setdefault(row, region)
    return places
