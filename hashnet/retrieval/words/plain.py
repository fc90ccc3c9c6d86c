"""Texts as they are compared: what is written the same way, whatever its case, width and gaps."""

import unicodedata

from hashnet.errors import ArgumentError

MOST_LETTERS = 1000  # of a query


def plain(text: str) -> str:
    """A text in small letters and on one line, without what nobody types.

    Args:
        text: str.

    Returns:
        str: in the compatibility form of Unicode (NFKC), folded, control characters and stand-ins
        for what is no text as blanks, and one blank for several.

    Example:
        >>> plain(" Straße\\0\\n \\uff29PA")
        'strasse ipa'
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    # Folding may leave what the compatibility form would put together.
    composed = unicodedata.normalize("NFKC", folded)
    return " ".join("".join(map(_letter, composed)).split())


def _letter(char: str) -> str:
    return " " if unicodedata.category(char) in ("Cc", "Cs", "Co", "Cn") else char


def query(text: object) -> str:
    """A text that is searched by, as `plain` gives it; all its letters are taken literally.

    Args:
        text: str.

    Returns:
        str.

    Raises:
        ArgumentError: it is no str, has no letters, or too many.

    Example:
        >>> query('"Dogs" AND NOT cats*')
        '"dogs" and not cats*'
    """
    if not isinstance(text, str):
        raise ArgumentError("A search in words takes a text.", f"a {type(text).__name__}")
    if len(text) > MOST_LETTERS:
        raise ArgumentError(
            f"A text to search by has at most {MOST_LETTERS:,} letters.", f"{len(text):,}"
        )
    words = plain(text)
    if not words:
        raise ArgumentError(
            "A text to search by has letters.", f"{text[:50]!r}", "Write what you look for."
        )
    return words
