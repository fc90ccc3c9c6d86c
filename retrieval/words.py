"""Search by a word: from the name of a label or class to a code and a feature.

A label of the index stands for its images. A class that only the network knows stands for the
images of the index that F8 gives the most for it. Either way the query is their mean feature and
the majority of their codes, so it lies where images lie, whatever the network's weights are.
"""

import difflib
from collections.abc import Collection

import numpy as np

from hashnet import codes
from hashnet.encoder import Encoder
from hashnet.errors import HashnetError, UnknownNameError
from retrieval.store import Snapshot

# Images that stand for a label, spread over all of its; and for a class of the network.
LABELLED, BY_NETWORK = 256, 16
NAMES_SHOWN = 5


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
        close = difflib.get_close_matches(name.casefold(), folded, NAMES_SHOWN, 0)
        raise UnknownNameError("class", name, [folded[one] for one in close])
    return folded[name.casefold()]


class Words:
    """The words that one index can be searched by.

    Args:
        snapshot: a `retrieval.store.Snapshot`.
        encoder: the `hashnet.encoder.Encoder` of the index.

    Attributes:
        labels: dict of label to the number of images.
        classes: tuple of str, the names that the network knows.

    Example:
        >>> from retrieval.index import Index
        >>> index = Index.open(index_folder)
        >>> words = Words(index.store.snapshot(), index.encoder)
        >>> words.labels, words.rows("dog").tolist()
        ({'cat': 1, 'dog': 1}, [1])
        >>> code, feature = words.query("Dog")
        >>> bool((code == index.encoder.encode_one("dog.png")[0]).all())
        True
    """

    def __init__(self, snapshot: Snapshot, encoder: Encoder) -> None:
        self._snapshot, self._encoder = snapshot, encoder
        self._label_codes, names = snapshot.labels()
        counts = np.bincount(self._label_codes[self._label_codes >= 0], minlength=len(names))
        self.labels = {name: int(count) for name, count in zip(names, counts, strict=True)}
        self.classes = encoder.config.classes

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
            rows = self.rows(name)
            rows = rows[np.linspace(0, len(rows) - 1, min(LABELLED, len(rows))).astype(int)]
        else:
            rows = self._most_like(self.classes.index(name))
        if not len(rows):
            raise HashnetError("A word is looked up among the images of an index.", "none there")
        self._snapshot.verify_features(rows)
        feature = self._snapshot.features(rows).astype(np.float32).mean(axis=0)
        num_bits = self._encoder.config.num_bits
        ones = codes.unpack(self._snapshot.codes[rows], num_bits).mean(axis=0)
        return codes.pack(ones >= 0.5), feature / max(np.linalg.norm(feature), 1e-12)

    def rows(self, label: str | None = None) -> np.ndarray:
        """The rows of one label, or of all images.

        Args:
            label: str or None.

        Returns:
            int64 `(n,)`, ascending.

        Raises:
            UnknownNameError: no image has this label.
        """
        if label is not None:
            if label not in self.labels:
                raise UnknownNameError("label", label, self.labels)
            return np.flatnonzero(self._label_codes == list(self.labels).index(label))
        live = self._snapshot.live
        return np.arange(self._snapshot.num_rows) if live is None else np.flatnonzero(live)

    def _most_like(self, place: int) -> np.ndarray:
        """The rows that F8 gives the most for one class, best first.

        Its input is the latent, of which the code keeps the signs, or the feature but for its
        length; either gives the order of the scores nearly, and without a picture.
        """
        weights = self._encoder.class_weights[:, place]
        snapshot = self._snapshot
        scores = np.empty(snapshot.num_rows, np.float32)
        if self._encoder.config.scores_from == "latent":
            for rows in _parts(0, snapshot.num_rows):
                bits = codes.unpack(snapshot.codes[rows], len(weights))
                scores[rows] = bits.astype(np.float32) @ weights
        else:
            for first, features in snapshot.feature_blocks:
                for rows in _parts(first, first + len(features)):
                    block = features[rows.start - first : rows.stop - first]
                    scores[rows] = block.astype(np.float32) @ weights
        live = self.rows()
        order = np.argsort(-scores[live], kind="stable")[:BY_NETWORK]
        return np.sort(live[order])


def _parts(first: int, last: int, step: int = 8192) -> list[slice]:
    return [slice(start, min(start + step, last)) for start in range(first, last, step)]
