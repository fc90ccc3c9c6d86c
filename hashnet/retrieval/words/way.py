"""What a *way* from a text to images answers; `ways` says which ways an index has."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

Box = tuple[int, int, int, int]

# All ways, in the order in which hits and messages name them.
NAMES = ("label", "name", "caption", "ocr", "class", "learned", "network")


class Matches(NamedTuple):
    """What one way has found.

    Attributes:
        rows: int64 `(m,)`, of whole images, each once: the best first, equal scores by row.
        scores: float32 `(m,)`, falling. Only their order counts: ways do not share a scale.
        regions: function of some of these rows, int64 `(n,)`, which gives a list of n (top, left,
            bottom, right) in pixels of the upright original: where in the image it was found, or
            None. None where the way knows no places.
        shares: float32 `(m,)`, 0 to 1, or None for 1 of all: how much of the text was found there.
    """

    rows: np.ndarray
    scores: np.ndarray
    regions: Callable[[np.ndarray], list[Box | None]] | None = None
    shares: np.ndarray | None = None

    @classmethod
    def ordered(
        cls, rows: np.ndarray, scores: np.ndarray, most: int, shares: np.ndarray | None = None
    ) -> "Matches":
        """The best of some images, without places.

        Args:
            rows: int64 `(n,)`, each once.
            scores: float32 `(n,)`.
            most: int. Images wanted.
            shares: float32 `(n,)` or None.

        Returns:
            `Matches`.

        Example:
            >>> Matches.ordered(np.array([7, 3, 5]), np.array([1, 2, 1], "f4"), 2).rows.tolist()
            [3, 5]
        """
        best = np.lexsort((rows, -scores))[:most]
        return cls(rows[best], scores[best], shares=None if shares is None else shares[best])


class Way(Protocol):
    """One way from a text to images of one snapshot of an index. Safe to use from several threads.

    `find` and `suggest` are called where it is not missing.
    """

    @property
    def name(self) -> str:
        """str, one of `NAMES`."""

    @property
    def missing(self) -> str | None:
        """str or None. Why this index is not searched this way; None where it is.

        In a few words that say what to do, as "it was made without --ocr".
        """

    def find(self, text: str, most: int, allowed: Any) -> Matches:
        """The images that a text means, by this way.

        Args:
            text: str, as `plain.plain` gives it: of one line, not empty, in small letters.
            most: int, 1 or more. Images wanted.
            allowed: object, what passes the filters, as `Finder.allowed` gives it;
                None where all do.

        Returns:
            `Matches`; of none where the text means nothing to this way.
        """

    def suggest(self, text: str, most: int) -> list[str]:
        """What this way knows that is like a text, for one that no way knows.

        Args:
            text: str, as for `find`.
            most: int, 1 or more.

        Returns:
            list of str, the most alike first; empty where the way does not go by spelling.
        """


@runtime_checkable
class Pointing(Protocol):
    """A way that knows where among the features a text lies: it can stand beside a picture."""

    def direction(self, text: str) -> np.ndarray | None:
        """Where images lie that show what a text says, as seen from the mean of all.

        Args:
            text: str, as for `Way.find`.

        Returns:
            float32 `(feature_dim,)`, of length 1; None where the text means nothing to this way.
        """
