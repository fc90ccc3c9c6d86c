"""What a search in words answers. Python, command line and HTTP show these same fields."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, overload

_PRINTED = 10


class TextHit(NamedTuple):
    """One image that was found in words.

    Attributes:
        id: str. The caller's stable name.
        path: str or None. Where the file is.
        label: str or None.
        score: float, above 0: see `fusion`. It orders the hits of one query, and means nothing
            beside those of another.
        ways: tuple of str, the ways that have found it: of `way.NAMES`.
        region: (top, left, bottom, right) in pixels of the upright original: where the words
            stand in it; None where no way tells.
    """

    id: str
    path: str | None
    label: str | None
    score: float
    ways: tuple[str, ...]
    region: tuple[int, int, int, int] | None = None


@dataclass(frozen=True, repr=False)
class TextResult(Sequence[TextHit]):
    """The answer to a text, a sequence of its hits: `len(result)`, `result[0]`, `result[:3]`.

    Attributes:
        query: str. The text.
        found: int. Images that some way has found, those behind the hits included.
        milliseconds: dict of a way to float. Results that differ in nothing else are equal.
        hits: tuple of `TextHit`, best first.
        missing: dict of each way that this index is not searched by to the reason, a str.
        suggestions: tuple of str. Where there is no hit: what is known that is like the
            text, the most alike first.

    Example:
        >>> hits = (TextHit("a", None, "cat", 0.0164, ("label",)),)
        >>> result = TextResult("cat", 1, {"label": 0.2}, hits, {"ocr": "made without --ocr"}, ())
        >>> len(result), result[0].ways, result
        (1, ('label',), 'cat': 1 of 1 found
           1  0.0164  label  [cat]  'a')
    """

    query: str
    found: int
    milliseconds: dict[str, float] = field(compare=False)
    hits: tuple[TextHit, ...]
    missing: dict[str, str]
    suggestions: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.hits)

    @overload
    def __getitem__(self, place: int) -> TextHit: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[TextHit, ...]: ...
    def __getitem__(self, place: int | slice) -> TextHit | tuple[TextHit, ...]:
        return self.hits[place]

    def __iter__(self) -> Iterator[TextHit]:
        return iter(self.hits)

    def to_dict(self) -> dict[str, Any]:
        """dict that JSON can hold, as `hashnet search --text --json` prints it."""
        return {
            "query": self.query,
            "found": self.found,
            "milliseconds": self.milliseconds,
            "missing": self.missing,
            "suggestions": self.suggestions,
            "hits": tuple(hit._asdict() for hit in self.hits),
        }

    def __repr__(self) -> str:
        lines = [f"{self.query!r}: {len(self)} of {self.found} found"]
        for rank, hit in enumerate(self.hits[:_PRINTED], 1):
            label = "" if hit.label is None else f"  [{ascii(hit.label)[1:-1]}]"
            lines.append(f"{ranked(rank, hit)}{label}  {hit.path or hit.id!r}")
        if len(self) > _PRINTED:
            lines.append(f"      and {len(self) - _PRINTED} more")
        return "\n".join(lines)


def ranked(rank: int, hit: TextHit) -> str:
    """How a line about a hit begins: its rank, its score, and the ways that have found it.

    Args:
        rank: int, 1 for the first.
        hit: `TextHit`.

    Returns:
        str.

    Example:
        >>> ranked(1, TextHit("a", None, None, 0.03226, ("name", "ocr")))
        '   1  0.0323  name, ocr'
    """
    return f"{rank:4}  {hit.score:.4f}  {', '.join(hit.ways)}"
