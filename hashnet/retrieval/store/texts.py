"""The texts that an index keeps of an image: captions, and what was read in its pixels."""

import json
from typing import Any, NamedTuple

from hashnet.errors import ArgumentError

Box = tuple[int, int, int, int]

MOST_LETTERS = 10_000  # of a caption
MOST_LINES = 200  # read in one image
_FARTHEST = 2**31  # no edge of a box is this far from the corner


class Line(NamedTuple):
    """One line of text that was read in an image.

    Attributes:
        text: str.
        region: (top, left, bottom, right) in pixels of the upright original.
        confidence: float, 0 to 1: how sure the network was of its letters.
    """

    text: str
    region: Box
    confidence: float


class Texts(NamedTuple):
    """What is written about an image, and in it.

    Attributes:
        given: str or None. The caption that its owner has given it (`Index.caption`).
        beside: str or None. What the file of the same name beside it says.
        inside: str or None. What its own file says beside the pixels: EXIF, IPTC, XMP.
        lines: tuple of `Line`, read in its pixels; None where they were not looked at.
    """

    given: str | None = None
    beside: str | None = None
    inside: str | None = None
    lines: tuple[Line, ...] | None = None

    @property
    def caption(self) -> str:
        """str. All captions, a line each, none twice; "" where there is none."""
        return "\n".join(dict.fromkeys(one for one in self[:3] if one))

    def renewed(self, found: "Texts") -> "Texts":
        """These, with what was found out anew of the files; what was given stays.

        Args:
            found: `Texts`, whose `inside` and `lines` are None where the picture was not read.

        Returns:
            `Texts`.

        Example:
            >>> Texts("Rex", "dog", "dogs").renewed(Texts(beside="cat"))
            Texts(given='Rex', beside='cat', inside='dogs', lines=None)
        """
        return Texts(
            self.given,
            found.beside,
            self.inside if found.inside is None else found.inside,
            self.lines if found.lines is None else found.lines,
        )


def bytes_of(texts: Texts | None) -> bytes:
    """Texts as an index keeps them.

    Args:
        texts: `Texts` or None.

    Returns:
        bytes, none where there is no text.

    Example:
        >>> texts = Texts("dog", lines=(Line("IPA", (0, 0, 9, 20), 0.5),))
        >>> bytes_of(texts)
        b'["dog",null,null,[["IPA",[0,0,9,20],0.5]]]'
        >>> of_bytes(bytes_of(texts)) == texts, bytes_of(Texts())
        (True, b'')
    """
    if texts is None or texts == Texts():
        return b""
    return json.dumps(texts, separators=(",", ":")).encode()


def of_bytes(content: bytes) -> Texts | None:
    """What `bytes_of` was given.

    Args:
        content: bytes.

    Returns:
        `Texts`, or None where there is no text.

    Raises:
        ValueError: they are nothing of the kind.
    """
    if not content:
        return None
    try:
        given, beside, inside, lines = json.loads(content)
        read = None if lines is None else tuple(_line(*one) for one in lines)
        texts = Texts(given, beside, inside, read)
        check(texts)
    except (TypeError, ArgumentError, RecursionError) as error:
        raise ValueError(f"texts of {content[:50]!r}") from error
    return texts


def _line(text: str, region: Any, confidence: float) -> Line:
    top, left, bottom, right = region
    return Line(text, (top, left, bottom, right), confidence)


def check(texts: Any) -> None:
    """Refuse what is no `Texts` that an index keeps.

    Args:
        texts: whatever is to be kept.

    Raises:
        ArgumentError: a caption is no text or too long, or a line is none.
    """
    captions = [one for one in texts[:3] if one is not None] if isinstance(texts, Texts) else [None]
    if not all(isinstance(one, str) and len(one) <= MOST_LETTERS for one in captions):
        raise ArgumentError(
            f"A caption is a text of at most {MOST_LETTERS:,} letters.", repr(texts)[:200]
        )
    lines = texts.lines if texts.lines is not None else ()
    if len(lines) > MOST_LINES or not all(_is_line(one) for one in lines):
        raise ArgumentError(
            f"What is read in an image is {MOST_LINES} lines at most, each a text in a box.",
            repr(lines)[:200],
        )


def _is_line(line: Any) -> bool:
    if not (isinstance(line, Line) and isinstance(line.text, str)):
        return False
    top, left, bottom, right = line.region
    whole = all(isinstance(edge, int) and 0 <= edge < _FARTHEST for edge in line.region)
    return whole and top < bottom and left < right and 0 <= line.confidence <= 1
