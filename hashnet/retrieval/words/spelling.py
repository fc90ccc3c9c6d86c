"""Words and their trigrams: what texts are found by, though some of their letters are others.

A text is *spaced*: its words stand between blanks, and each letter of a script that has none
between words, as Chinese, is a word. So three letters tell where a word begins and ends, one
Chinese character is found by itself, and two by one trigram.
"""

import difflib
import itertools
import re
from collections.abc import Iterable

from hashnet.retrieval.words.plain import plain

# Han, kana, Hangul, and the marks of iteration among them.
_UNSPACED = "\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\U00020000-\U0003ffff"
_INNER = re.compile(r"(?<=\w)['\u2019](?=\w)")  # of "Harry's", which many write without it
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")
_RUN = re.compile(rf"[{_UNSPACED}]+|[^\W_{_UNSPACED}]+")
_IS_UNSPACED = re.compile(rf"[{_UNSPACED}]")
_LEAST_ALIKE = 0.6  # of difflib, for what is suggested
_NEARLY_ALIKE = 0.8  # of one or two letters in a word of six


def spaced(text: str) -> str:
    """A text as it is looked up.

    Args:
        text: str.

    Returns:
        str; "" where there is no word.

    Example:
        >>> spaced("Pale_Ale, 啤酒!"), spaced("Harry's")
        (' pale ale 啤 酒 ', ' harrys ')
    """
    words = _WORD.findall(_INNER.sub("", plain(text)))
    return f" {' '.join(words)} " if words else ""


def units(text: str) -> list[tuple[str, ...]]:
    """The parts of a text that are each looked up by themselves: their trigrams.

    Args:
        text: str.

    Returns:
        list of tuples of str, of three letters each, none twice: of every word, or of every two
        neighbours of a script without blanks.

    Example:
        >>> units("Pale 啤酒"), units("狗")
        ([(' pa', 'pal', 'ale', 'le '), ('啤 酒',)], [(' 狗 ',)])
    """
    found: list[tuple[str, ...]] = []
    for run in _RUN.findall(_INNER.sub("", plain(text))):
        if _IS_UNSPACED.match(run):
            pairs = [f"{one} {other}" for one, other in itertools.pairwise(run)]
            found += [(pair,) for pair in pairs or [f" {run} "]]
        else:
            padded = f" {run} "
            found.append(tuple(dict.fromkeys(padded[at : at + 3] for at in range(len(run)))))
    return list(dict.fromkeys(found))


def latin_words(text: str) -> list[str]:
    """The words of a text that have enough Latin letters, and only these, to be told from a slip.

    Args:
        text: str.

    Returns:
        list of str, plain, of four letters or more.

    Example:
        >>> latin_words("Pale ale, 啤酒 2L IPA!")
        ['pale']
    """
    return [word for word in spaced(text).split() if re.fullmatch("[a-z]{4,}", word)]


def nearly_alike(word: str, known: Iterable[str]) -> list[str]:
    """Which of some texts are a word but for a slip.

    Args:
        word: str, plain.
        known: iterable of str.

    Returns:
        list of str, in their order; none where one of them is the word.

    Example:
        >>> nearly_alike("siarra", ["Sierra", "sari"]), nearly_alike("Sari", ["sari"])
        (['Sierra'], [])
    """
    matcher = difflib.SequenceMatcher(b=word)
    found = []
    for one in known:
        matcher.set_seq1(plain(one))
        ratio = matcher.ratio()
        if ratio == 1:
            return []
        if ratio >= _NEARLY_ALIKE:
            found.append(one)
    return found


def alike(text: str, known: Iterable[str], most: int) -> list[str]:
    """Which of some texts are spelled like one.

    Args:
        text: str, plain.
        known: iterable of str.
        most: int. As many are wanted.

    Returns:
        list of str, the most alike first.

    Example:
        >>> alike("serra", ["Sierra", "Nevada"], 3)
        ['Sierra']
    """
    plain_of = {plain(one): one for one in sorted(known, reverse=True)}
    return [plain_of[one] for one in difflib.get_close_matches(text, plain_of, most, _LEAST_ALIKE)]
