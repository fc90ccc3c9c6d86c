"""Search by a prototype: from the name of a label or class to a code and a feature.

A label of the index stands for its images. A class that only the network knows stands for the
images of the index that F8 gives the most for it. Either way the query is their mean feature and
the majority of their codes, so it lies where images lie, whatever the network's weights are.
"""

import difflib
import itertools
from collections.abc import Collection, Iterable

import numpy as np

from hashnet import codes
from hashnet.errors import HashnetError, UnknownNameError
from hashnet.retrieval.search.engine import Engine
from hashnet.retrieval.store.items import Item

# Images that stand for a label, spread over all of its; and for a class of the network.
LABELLED, BY_NETWORK = 256, 16
NAMES_SHOWN = 5
MOST_COMPARED = 1000  # names that are compared with one that is not known


def find_name(name: str, known: Collection[str]) -> str:
    """The known name that is meant, whatever the case of its letters.

    Args:
        name: str.
        known: collection of str.

    Returns:
        str, one of `known`.

    Raises:
        UnknownNameError: there is none; the message lists the most similar ones.

    Example:
        >>> find_name("Sneaker", ["sneaker", "boot"])
        'sneaker'
    """
    if name in known:
        return name
    folded = {one.casefold(): one for one in known}
    if name.casefold() not in folded:
        like: Iterable[str] = folded
        if len(folded) > MOST_COMPARED:  # which takes seconds
            begun = (one for one in folded if one[:2] == name[:2].casefold())
            like = itertools.islice(begun, MOST_COMPARED)
        close = difflib.get_close_matches(name.casefold(), like, NAMES_SHOWN, 0)
        raise UnknownNameError("class", name, [folded[one] for one in close])
    return folded[name.casefold()]


class Prototypes:
    """The labels and classes that one index can be searched by.

    Args:
        engine: a `Engine`.

    Attributes:
        labels: dict of label to the number of images.
        classes: tuple of str, the names that the network knows.

    Example:
        >>> from hashnet.retrieval.index import Index
        >>> engine = Engine(Index.open(index_folder))
        >>> prototypes = Prototypes(engine)
        >>> total, [item] = prototypes.listed("dog", 0, 10)
        >>> prototypes.labels, total, item.id
        ({'cat': 1, 'dog': 1}, 1, 'dog')
        >>> code, feature = prototypes.query("Dog")
        >>> bool((code == engine.index.encoder.encode_one("dog.png")[0]).all())
        True
    """

    def __init__(self, engine: Engine) -> None:
        self._snapshot, self._finder = engine.snapshot, engine.finder
        self._encoder = engine.index.encoder
        self.labels = self._snapshot.label_counts()
        self._names = sorted(self.labels)
        self.classes = self._encoder.config.classes

    def query(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """The prototype of a label or class.

        Args:
            name: str, a label or, if there is no such label, a class of the network.

        Returns:
            code: uint8 `(code_bytes,)`.
            feature: float32 `(feature_dim,)`, of length 1.

        Raises:
            UnknownNameError: it is neither; the message lists names like it.
            HashnetError: the index is empty.
        """
        name = find_name(name, list(dict.fromkeys([*self.labels, *self.classes])))
        if name in self.labels:
            rows = self._finder.spread(name, LABELLED)
        else:
            rows = np.sort(self._most_like(self.classes.index(name)))
        if not len(rows):
            raise HashnetError("A prototype is made of images of an index.", "none there")
        feature = self._snapshot.features(rows).astype(np.float32).mean(axis=0)
        num_bits = self._encoder.config.num_bits
        ones = codes.unpack(self._snapshot.codes[rows], num_bits).mean(axis=0)
        return codes.pack(ones >= 0.5), feature / max(np.linalg.norm(feature), 1e-12)

    def labels_listed(
        self, find: str, offset: int, limit: int
    ) -> tuple[int, list[tuple[str, int]]]:
        """How many labels hold some text, whatever the case of its letters, and some of them.

        Args:
            find: str; "" for all labels.
            offset, limit: int. Which of them, by name.

        Returns:
            total: int.
            labels: list of (label, number of images).
        """
        wanted = find.casefold()
        names = [name for name in self._names if not wanted or wanted in name.casefold()]
        return len(names), [(name, self.labels[name]) for name in names[offset:][:limit]]

    def listed(self, label: str | None, offset: int, limit: int) -> tuple[int, list[Item]]:
        """How many images have a label, or are there, and the items of some of them.

        Args:
            label: str, or None for all images.
            offset, limit: int. Which of them, in the order of their rows.

        Returns:
            total: int.
            items: list of `Item`.

        Raises:
            UnknownNameError: no image has this label.
        """
        if label is not None and label not in self.labels:
            raise UnknownNameError("label", label, self.labels)
        total = self._snapshot.num_items if label is None else self.labels[label]
        rows = self._finder.rows(label, offset=offset, limit=limit)
        return total, self._snapshot.items(rows)

    def _most_like(self, place: int) -> np.ndarray:
        """The rows that F8 gives the most for one class, best first.

        Its input is the latent, of which the code keeps the signs, or the feature but for its
        length; either gives the order of the scores nearly, and without a picture.
        """
        by = "code" if self._encoder.config.scores_from == "latent" else "feature"
        return self._finder.most_like(self._encoder.class_weights[:, place], BY_NETWORK, by=by)
