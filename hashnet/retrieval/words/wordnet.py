"""What nouns mean to a network with the classes of ImageNet: WordNet's is-a tree above them.

Each class is a noun of WordNet, and lies below more general ones: a tench is a fish, a fish is an
animal. So a word that no class is called by stands for the classes below it.
`make_wordnet.py` wrote the table.

Reference:
    Miller, "WordNet: A Lexical Database for English", Communications of the ACM 1995.
"""

import functools
import pathlib
import re
from collections.abc import Iterable

import numpy as np

# How regular plurals end, and their singulars: WordNet's own rules.
_PLURALS = (
    ("ses", "s"),
    ("xes", "x"),
    ("zes", "z"),
    ("ches", "ch"),
    ("shes", "sh"),
    ("men", "man"),
    ("ies", "y"),
    ("s", ""),
)
_LONGEST = 5  # words of one noun in a text


class WordNet:
    """The nouns above the classes of a network.

    Args:
        lines: iterable of str, each a synset: its offset, the number of its class or nothing,
            offsets of its parents, words, and irregular plurals of these, separated by tabs, and
            by commas.

    Attributes:
        words: tuple of a tuple of str for each class: what it is called, most commonly first.
        vocabulary: tuple of str, all words, sorted.

    Example:
        >>> lines = ["1\\t\\t\\tfish\\t", "2\\t0\\t1\\ttench,doctor fish\\t", "3\\t1\\t1\\teel\\t"]
        >>> tree = WordNet(lines)
        >>> tree.classes("Fishes").tolist(), tree.classes("eel").tolist()
        ([0, 1], [1])
        >>> tree.words[0]
        ('tench', 'doctor fish')
    """

    def __init__(self, lines: Iterable[str]) -> None:
        parents: dict[str, list[str]] = {}
        class_of: dict[str, int] = {}
        named: dict[str, list[str]] = {}
        plurals: dict[str, list[str]] = {}
        for line in lines:
            offset, number, *lists = line.split("\t")
            parents[offset], named[offset], plurals[offset] = (
                some.split(",") if some else [] for some in lists
            )
            if number:
                class_of[offset] = int(number)
        below: dict[str, set[int]] = {offset: set() for offset in parents}
        for offset, place in class_of.items():
            rest = [offset]
            while rest:
                one = rest.pop()
                if place not in below[one]:
                    below[one].add(place)
                    rest += parents[one]
        by_class = sorted(class_of, key=class_of.__getitem__)
        self.words = tuple(tuple(named[offset]) for offset in by_class)
        self.vocabulary = tuple(sorted({word for some in named.values() for word in some}))
        self._classes: dict[str, set[int]] = {}
        for offset, places in below.items():
            for word in (*named[offset], *plurals[offset]):
                self._classes.setdefault(key(word), set()).update(places)

    def classes(self, noun: str) -> np.ndarray:
        """The classes that lie below a noun, in any of its senses that are known here.

        Args:
            noun: str, of one or several words; singular or plural, whatever its capitals, hyphens
                and gaps.

        Returns:
            int64 `(m,)`, ascending; empty where no class lies below such a noun.

        Example:
            >>> [len(wordnet().classes(noun)) for noun in ("tench", "Dogs", "geese", "love")]
            [1, 118, 1, 0]
        """
        for form in _forms(key(noun)):
            if form in self._classes:
                return np.array(sorted(self._classes[form]), np.int64)
        return np.empty(0, np.int64)

    def nouns(self, text: str) -> list[str]:
        """The nouns in a text that classes lie below, from the left the longest.

        Args:
            text: str.

        Returns:
            list of str, as they stand there.

        Example:
            >>> wordnet().nouns("two golden retrievers on a sofa")
            ['golden retrievers', 'sofa']
        """
        words = re.findall(r"[\w'-]+", text)
        found: list[str] = []
        start = 0
        while start < len(words):
            for end in range(min(len(words), start + _LONGEST), start, -1):
                noun = " ".join(words[start:end])
                if len(self.classes(noun)):
                    found.append(noun)
                    start = end - 1
                    break
            start += 1
        return found


@functools.cache
def wordnet() -> WordNet:
    """The nouns above the classes that every pretrained F8 knows.

    Returns:
        A `WordNet`.

    Example:
        >>> wordnet().words[207]
        ('golden retriever',)
    """
    path = pathlib.Path(__file__).with_name("wordnet.txt")
    return WordNet(path.read_text(encoding="ascii").splitlines())


def key(noun: str) -> str:
    """A noun without that in which its spellings differ: capitals, gaps, hyphens, apostrophes.

    Args:
        noun: str.

    Returns:
        str; empty where it has no letters.

    Example:
        >>> key("T-shirt") == key("tee shirt"), key("T-shirt") == key("t shirt")
        (False, True)
    """
    return re.sub(r"[\W_]+", "", noun).casefold()


def _forms(plural: str) -> list[str]:
    """A word, and what it may be the plural of."""
    return [plural, *(plural[: -len(end)] + one for end, one in _PLURALS if plural.endswith(end))]
