"""The way to what images show: by the classes that their network knows.

Class scores follow from the features that an index holds. A text stands for classes: those that are
called so; with the classes of ImageNet, those that WordNet has below a noun; and where the
sentence network is installed, those whose names and descriptions mean most nearly the same.

It goes coarse to fine, like all searches: each class looks for its images by code and feature, and
what they find is ordered by its class scores.
"""

import functools
import itertools
import pathlib
import re
from typing import Any

import numpy as np

from hashnet.encode.encoder import Encoder
from hashnet.errors import BundleError
from hashnet.network.backbones import imagenet_classes
from hashnet.retrieval.search.engine import Engine, default_pool
from hashnet.retrieval.search.prototypes import Prototypes
from hashnet.retrieval.words import sentence
from hashnet.retrieval.words.nearest import nearest
from hashnet.retrieval.words.spelling import alike
from hashnet.retrieval.words.way import Matches
from hashnet.retrieval.words.wordnet import key, wordnet

NEAREST = 20  # classes that the sentence network finds, by their names, and by their descriptions
SOFTNESS = 0.1  # by how much a cosine falls while the weight of a class falls to a third
# Of a text and the description of some class, below which it means none of them: names and letters
# without a meaning are like names of classes by their spelling, and like no description.
LEAST_COSINE = 0.32
# Searches by code and feature that a text costs at most, and images that each gives at least.
SEARCHES = 32
LEAST_OF_EACH = 100


class ClassWay:
    """The images that score highest in the classes that a text stands for.

    Found are those that score more than all images would if nothing were known of them.

    Args:
        engine: `Engine`.

    Example:
        >>> from hashnet.retrieval.index import Index
        >>> way = ClassWay(Engine(Index.open(index_folder)))
        >>> way.missing, way.find("unicorn", 5, None).rows.tolist()
        (None, [])
    """

    name = "class"

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        # A store can be searched by itself, without a network.
        encoder: Any = getattr(engine.index, "encoder", None)
        self._encoder: Encoder = encoder
        self._classes = encoder.config.classes if encoder else ()
        self.missing = self._why_not()

    def _why_not(self) -> str | None:
        if not self._classes:
            return "its network knows no classes"
        try:
            self._encoder.class_weights  # noqa: B018
        except BundleError as error:
            return str(error)
        return None

    def find(self, text: str, most: int, allowed: Any) -> Matches:
        weights = self.weights(text)
        if weights is None or not self._engine.snapshot.num_items:
            return Matches(np.empty(0, np.int64), np.empty(0, np.float32))
        rows, features = self._candidates(weights, most, allowed)
        chosen = np.flatnonzero(weights)
        scores = self._encoder.class_scores(features)[:, chosen]
        # Column by column: a sum of one order, whatever the threads.
        of_rows = sum((scores[:, place] * weights[one] for place, one in enumerate(chosen)))
        of_rows = np.asarray(of_rows, np.float32)
        best = np.lexsort((rows, -of_rows))
        best = best[of_rows[best] > 1 / len(weights)]
        _, firsts = np.unique(rows[best], return_index=True)  # of regions, the best of an image
        best = best[np.sort(firsts)]
        return Matches.ordered(rows[best], of_rows[best], most)

    def suggest(self, text: str, most: int) -> list[str]:
        """What is spelled like a text and, where the sentence network is, means nearly the same."""
        spelled = alike(text, self._vocabulary, most)
        if not self._is_imagenet or sentence.missing() is not None:
            return spelled
        cosines = (_class_texts()["names"] * sentence.opened().vectors([text])[0]).sum(axis=1)
        meant = (self._classes[one] for one in np.argsort(-cosines, kind="stable")[:most])
        # By turns: of the few that are shown, some are of either kind.
        turns = itertools.chain.from_iterable(itertools.zip_longest(spelled, meant))
        return list(dict.fromkeys(one for one in turns if one is not None))[:most]

    def weights(self, text: str) -> np.ndarray | None:
        """How much a text means each class.

        Args:
            text: str, as for `find`.

        Returns:
            float32 `(num_classes,)`, 0 or more, whose sum is 1; None where it means none.
        """
        weights = np.zeros(len(self._classes))
        known = [place for place, name in enumerate(self._classes) if key(name) == key(text)]
        if self._is_imagenet:
            tree = wordnet()
            known = sorted({*known, *tree.classes(text).tolist()})
            if sentence.missing() is None:
                weights += _meant(text)
            elif not known:
                for noun in tree.nouns(text):
                    places = tree.classes(noun)
                    weights[places] += 1 / len(places)
        if known:
            weights[known] += max(weights.sum(), 1) / len(known)
        total = weights.sum()
        return (weights / total).astype(np.float32) if total else None

    def _candidates(
        self, weights: np.ndarray, most: int, allowed: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows of images, perhaps several times, and features of what was found of them."""
        engine = self._engine
        number = engine.snapshot.num_items
        chosen = np.flatnonzero(weights)
        pool = default_pool(1, number, by_certainty=True)
        # Numbers of classes follow WordNet: neighbours are like each other.
        groups = np.array_split(chosen, min(SEARCHES, len(chosen))) if pool < number else [chosen]
        each = max(LEAST_OF_EACH, most // len(groups)) if pool < number else number
        found: dict[int, int] = {}
        for group in groups:
            code, feature = engine.along(self._direction(group, weights))
            ranking = engine.ranking(code, feature)
            found_here = nearest(engine, code, feature, each, ranking, allowed)
            found |= dict(
                zip(found_here.rows.tolist(), found_here.image_rows.tolist(), strict=True)
            )
        rows = np.array(sorted(found), np.int64)
        images = np.array([found[row] for row in rows.tolist()], np.int64)
        return images, engine.snapshot.features(rows).astype(np.float32)

    def direction(self, text: str) -> np.ndarray | None:
        weights = self.weights(text)
        return None if weights is None else self._direction(np.flatnonzero(weights), weights)

    def _direction(self, classes: np.ndarray, weights: np.ndarray) -> np.ndarray:
        encoder = self._encoder
        if encoder.config.scores_from == "latent":
            queries = [self._prototypes.query(self._classes[place])[1] for place in classes]
            mean = self._engine.mean
            direction = np.mean(queries, axis=0) - (0 if mean is None else mean)
        else:
            rows = encoder.class_weights
            towards = rows[:, classes] - rows.mean(axis=1, keepdims=True)
            direction = (towards * weights[classes]).sum(axis=1)
        return (direction / max(np.linalg.norm(direction), 1e-12)).astype(np.float32)

    @functools.cached_property
    def _prototypes(self) -> Prototypes:
        return Prototypes(self._engine)

    @functools.cached_property
    def _is_imagenet(self) -> bool:
        return self._classes == imagenet_classes()

    @functools.cached_property
    def _vocabulary(self) -> list[str]:
        return sorted({*self._classes, *(wordnet().vocabulary if self._is_imagenet else ())})


@functools.cache
def _class_texts() -> dict[str, np.ndarray]:
    """What the classes of ImageNet are called and how they are described: float32 `(1000, 384)`."""
    with np.load(pathlib.Path(__file__).with_name("class_texts.npz")) as arrays:
        vectors = {name: arrays[name].astype(np.float32) for name in arrays.files}
    return {
        name: some / np.linalg.norm(some, axis=1, keepdims=True) for name, some in vectors.items()
    }


def _meant(text: str) -> np.ndarray:
    """How much the sentence network has a text mean each class of ImageNet: float64 `(1000,)`."""
    weights = np.zeros(len(imagenet_classes()))
    if not re.search("[a-z]", text):  # it has learned English
        return weights
    vector = sentence.opened().vectors([text])[0]
    cosines = {name: (vectors * vector).sum(axis=1) for name, vectors in _class_texts().items()}
    if cosines["glosses"].max() < LEAST_COSINE:
        return weights
    for of_texts in cosines.values():
        best = np.argsort(-of_texts, kind="stable")[:NEAREST]
        shares = np.exp((of_texts[best] - of_texts[best[0]]) / SOFTNESS)
        weights[best] += shares / shares.sum()
    return weights
