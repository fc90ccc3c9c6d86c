"""How a query weighs what is known of it: how sure it is of its bits, and what distance joins.

The coarse stage takes the pool of a least size by the certainty of the bits that differ, which
costs no more than counting them and finds more of the nearest; see `CodeIndex.pool_by_steps`.
The pool of a threshold is that of the Hamming distance, whatever the certainty.

The fine stage ranks by features and codes. They see different things: of a network that learned
from labels, the codes know the classes and the features know everything else. So a hit's distance
joins the two. Its square is the sum of

- the square of the distance between the *directions* of the two features from the mean feature of
  the photos that the network was made from: 0 to 4;
- `WEIGHT` times the share of the bits in which the codes differ, where each bit counts by how sure
  the query is of it, |2 latent - 1|: 0 to 8.

A query that is unlike those photos lies farther from their mean than they do, and then its bits
mean little: the second part fades with `FADING`-th power of that. tests/bench/ranking.py
compares what the parts and their sum find, on many sets.

Reference:
    Gordo, Perronnin, Gong, Lazebnik, "Asymmetric Distances for Binary Embeddings", PAMI 2014:
    latents of the query against bits of the rows.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from hashnet import codes
from hashnet.encode.encoder import Encoder

# Chosen among 2, 4, 6, 8, 12 and 16, and 0, 4, 6, 8 and 12, by the worst and the mean of all sets.
WEIGHT = 8.0
FADING = 8
# Certainties in so many steps tell as much as numbers do, and their sums are whole numbers.
STEPS = 15


@dataclass(frozen=True, eq=False)
class Certainty:
    """How sure a query is of the bits of its code.

    Attributes:
        steps: uint8 `(num_bits,)`, 0 to `STEPS`, which the surest bit has.
        unit: float. What one step stands for; all steps of all bits of which a query is quite
            sure add up to 1.
    """

    steps: np.ndarray
    unit: float

    @classmethod
    def of(cls, latent: np.ndarray, code: np.ndarray) -> Self:
        """The certainty that a latent gives.

        Args:
            latent: float `(num_bits,)`, 0 to 1.
            code: uint8 `(code_bytes,)`. Of a bit for which the latent speaks against it, nothing
                is known.

        Returns:
            A `Certainty`.

        Example:
            >>> certainty = Certainty.of(np.array([1, 0.6, 0.2]), np.array([192], np.uint8))
            >>> certainty.steps.tolist(), round(certainty.unit * 15 * 3, 6)
            ([15, 3, 9], 1.0)
        """
        signs = np.where(codes.unpack(code, len(latent)), 1.0, -1.0)
        sure = np.maximum((2.0 * latent - 1.0) * signs, 0.0)
        surest = float(sure.max())
        steps = np.rint(sure * (STEPS / surest)) if surest else sure
        return cls(steps.astype(np.uint8), surest / (STEPS * len(latent)))


@dataclass(frozen=True, eq=False)
class Ranking:
    """What one query is ranked by, besides its code and its feature.

    Attributes:
        certainty: `Certainty`.
        mean: float64 `(feature_dim,)`, about which features are ranked; None where they rank as
            they are, and alone.
        weight: float, what one step of certainty in a bit that differs adds to the square of a
            distance; 0 without a mean.
    """

    certainty: Certainty
    mean: np.ndarray | None
    weight: float


def ranking_of(
    encoder: Encoder, mean: np.ndarray | None, code: np.ndarray, feature: np.ndarray
) -> Ranking | None:
    """What a query is ranked by.

    Args:
        encoder: `Encoder` of the index.
        mean: float32 `(feature_dim,)`, of features of length 1; None where features alone are to
            rank.
        code: uint8 `(code_bytes,)`, of the query.
        feature: float32 `(feature_dim,)`, of the query.

    Returns:
        A `Ranking`; or None where nothing is known but code and feature.

    Example:
        >>> encoder = Encoder.open(bundle_folder)
        >>> code, feature = encoder.encode_one("cat.png")
        >>> ranking = ranking_of(encoder, feature / 2, code, feature)
        >>> 0 < ranking.weight <= WEIGHT / STEPS
        True
    """
    latent = encoder.latent_of(feature)
    if latent is None and mean is None:
        return None
    if latent is None:  # then it is as sure of every bit
        latent = codes.unpack(code, encoder.config.num_bits).astype(np.float32)
    if mean is None:
        return Ranking(Certainty.of(latent, code), None, 0.0)
    return ranking_about(mean, latent, code, feature)


def ranking_about(
    mean: np.ndarray, latent: np.ndarray, code: np.ndarray, feature: np.ndarray
) -> Ranking:
    """What a query is ranked by about a mean.

    Args:
        mean: float `(feature_dim,)`, of features of length 1.
        latent: float `(num_bits,)`, 0 to 1, of the query.
        code: uint8 `(code_bytes,)`, of the query.
        feature: float32 `(feature_dim,)`, of the query.

    Returns:
        A `Ranking`.

    Example:
        >>> code, latent = np.array([128], np.uint8), np.array([0.9, 0.2])
        >>> ranking_about(np.zeros(2), latent, code, np.array([1, 0])).certainty.steps.tolist()
        [15, 11]
    """
    certainty = Certainty.of(latent, code)
    centre = mean.astype(np.float64)
    # Of features of length 1, this is the mean of the squares of their distances from the mean.
    spread = max(1.0 - float(np.square(centre).sum()), 0.0)
    apart = float(np.square(feature - centre).sum())
    fading = (spread / apart) ** FADING if apart > spread else 1.0
    return Ranking(certainty, centre, WEIGHT * fading * certainty.unit)
