"""The way by a text network that came with the image network: both give vectors of one space.

A text becomes a vector, and that is searched by like the feature of a picture, coarse to fine. It
is ranked by plain cosines: texts lie apart from pictures, so the mean of the pictures is no place
to see a text from.

Reference:
    Liang et al., "Mind the Gap: Understanding the Modality Gap in Multi-modal Contrastive
    Representation Learning", NeurIPS 2022.
"""

from typing import Any

import numpy as np

from hashnet.encode.encoder import Encoder
from hashnet.network import own_text
from hashnet.retrieval.search.engine import Engine
from hashnet.retrieval.search.query import Query
from hashnet.retrieval.words.nearest import cosines, nearest
from hashnet.retrieval.words.way import Matches

_BY_FEATURE = Query(rank_by="feature")


class NetworkWay:
    """The images whose features lie nearest to the vector of a text.

    Args:
        engine: `Engine`.
    """

    name = "network"

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        # A store can be searched by itself, without a network.
        encoder: Any = getattr(engine.index, "encoder", None)
        self._encoder: Encoder = encoder
        self.missing = self._why_not()

    def _why_not(self) -> str | None:
        if self._encoder is None or self._encoder.bundle.text is None:
            return "its network came without one for texts"
        return own_text.missing()

    def find(self, text: str, most: int, allowed: Any) -> Matches:
        engine, vector = self._engine, self._vector(text)
        [code], [feature] = self._encoder.encode_vectors(vector[None])
        ranking = engine.ranking(code, feature, _BY_FEATURE)
        found = nearest(engine, code, feature, most, ranking, allowed)
        alike = cosines(engine.snapshot.features(found.rows).astype(np.float32), vector)
        return Matches.ordered(found.image_rows, alike.astype(np.float32), most)

    def suggest(self, text: str, most: int) -> list[str]:
        return []

    def direction(self, text: str) -> np.ndarray | None:
        vector, mean = self._vector(text), self._engine.mean
        apart = vector if mean is None else vector - mean
        return (apart / max(float(np.linalg.norm(apart)), 1e-12)).astype(np.float32)

    def _vector(self, text: str) -> np.ndarray:
        network = self._encoder.text_network
        assert network is not None  # or the way would be missing
        return network.vector(text)
