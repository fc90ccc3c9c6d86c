"""What plainer ways of ranking score: features without hashing, classes, fitted projections."""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Protocol

import numpy as np

from hashnet import codes
from hashnet.encode.encoder import Encoder
from hashnet.errors import HashnetError
from hashnet.retrieval.evaluation.ground_truth import Database
from hashnet.retrieval.evaluation.results import CLASS_ID, FLOAT, PROBABILITIES, Row
from hashnet.retrieval.evaluation.scoring import Scorer, Tell
from hashnet.retrieval.search.fine import nearest_features


class Projection(Protocol):
    """What a baseline fits, as those of `hashnet.train.unsupervised_codes` do."""

    @property
    def kernel(self) -> np.ndarray:
        """`(feature_dim, num_bits)`."""

    @property
    def bias(self) -> np.ndarray:
        """`(num_bits,)`."""


# Exact searches without hashing that are timed; each reads every feature.
TIMED_SEARCHES = 10
_ROWS_AT_ONCE = 8192


def without_hashing(scorer: Scorer, num_threads: int) -> dict[str, Row]:
    """Score the features, each query against every image.

    Args:
        scorer: `Scorer`.
        num_threads: int. Threads of the searches that are timed.

    Returns:
        dict of the name to its `Row`.
    """
    query_set, database = scorer.query_set, scorer.database
    row = scorer.features(FLOAT, query_set.features, database.features, database.rows)
    features, spent = database.snapshot.feature_map(database.rows), []
    for query in query_set.answerable[: TIMED_SEARCHES + 1]:
        start = time.perf_counter()
        nearest_features(
            query_set.features[query], database.rows, features, 10, num_threads=num_threads
        )
        spent.append(time.perf_counter() - start)
    # The first one warms up what the others find warm.
    total = round(float(np.median(spent[1:] or spent)) * 1000, 4)
    return {FLOAT: replace(row, milliseconds={"total": total})}


def by_class(scorer: Scorer, encoder: Encoder, encode_database: bool) -> dict[str, Row]:
    """Score the network's own classes: the best one as code, and all of them by probability.

    Args:
        scorer: `Scorer`.
        encoder: `Encoder` of the index.
        encode_database: bool. As for `evaluate`.

    Returns:
        dict of two names to a `Row` each.
    """
    query_set = scorer.query_set
    if not encoder.config.classes or query_set.vectors is not None:
        why = "The network has no classes, or the queries are vectors, of which none are known."
        return {name: Row(name, not_measured=why) for name in (CLASS_ID, PROBABILITIES)}
    scores, reason = _class_scores(scorer.database, encoder, encode_database, scorer.tell)
    if scores is None:
        return {name: Row(name, not_measured=reason) for name in (CLASS_ID, PROBABILITIES)}
    scores = scores[np.searchsorted(scorer.database.rows, scorer.rows)]
    return {
        CLASS_ID: _class_id(
            scorer, query_set.scores.argmax(axis=1), scores.argmax(axis=1), encoder
        ),
        # The one ranking here in which the two sides are not alike.
        PROBABILITIES: scorer.features(
            PROBABILITIES, *_same_class(query_set.scores, scores), scorer.rows, symmetric=False
        ),
    }


def projected(
    scorer: Scorer,
    name: str,
    fit: Callable[..., Projection],
    lengths: Iterable[int],
    *,
    seed: int,
    own_length: int,
) -> dict[int, Row]:
    """Score codes that are fitted to the features.

    Args:
        scorer: `Scorer`.
        name: str, of the rows.
        fit: function `(features, num_bits, *, seed)` to a `Projection`.
        lengths: ints. Code lengths.
        seed: int. Of what is fitted.
        own_length: int. Code length of the index.

    Returns:
        dict of number of bits to `Row`.
    """
    features = np.asarray(scorer.database.features, np.float32)
    order = np.searchsorted(scorer.database.rows, scorer.rows)
    rows = {}
    for num_bits in sorted(lengths):
        try:
            weights = fit(features, num_bits, seed=seed)
        except HashnetError as error:
            rows[num_bits] = Row(name, not_measured=str(error))
            continue
        item_codes = _project(features, weights)[order]
        title = name if num_bits == own_length else f"{name} at {num_bits} bits"
        query_codes = _project(scorer.query_set.features, weights)
        row = scorer.codes(title, query_codes, item_codes, num_bits)
        rows[num_bits] = replace(row, name=name)
    return rows


def _class_id(
    scorer: Scorer, query_class: np.ndarray, item_class: np.ndarray, encoder: Encoder
) -> Row:
    known, classes = np.unique(np.append(query_class, item_class), return_inverse=True)
    if len(known) > codes.MAX_BITS:
        reason = f"{len(known)} different classes, more than codes of {codes.MAX_BITS} bits tell"
        return Row(CLASS_ID, not_measured=reason)
    # One bit a class: all other classes are equally far, as ids have no order.
    one_bit_each = codes.pack(np.eye(len(known), dtype=bool))[classes]
    query_codes, item_codes = np.split(one_bit_each, [len(query_class)])
    row = scorer.codes(CLASS_ID, query_codes, item_codes, len(known), radius=0)
    bits = max(1, math.ceil(math.log2(len(encoder.config.classes))))
    return replace(row, bits=bits)


def _class_scores(
    database: Database, encoder: Encoder, encode_database: bool, tell: Tell
) -> tuple[np.ndarray | None, str | None]:
    """float32 `(n, num_classes)` in the order of rows, or None and why not."""
    if encoder.config.scores_from == "latent":
        return encoder.from_features("scores", database.features), None
    if not encode_database:
        return None, (
            "The class scores of this network do not follow from its features as the index keeps "
            "them. Allow the images of the index to be encoded again (encode_database=True)."
        )
    paths = [item.path for item in database.items if item.path is not None]
    if len(paths) < len(database.items):
        return None, "Some images of the index have no file to encode again."
    parts = []
    for part in encoder.stream(paths):
        if part.problems:
            problem = part.problems[0]
            return None, f"An image of the index cannot be read: {problem.path}: {problem.reason}"
        parts.append(part.scores)
        tell("encoding the index", int(part.positions[-1]) + 1, len(paths))
    return np.concatenate(parts), None


def _same_class(query_scores: np.ndarray, item_scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vectors whose Euclidean distance falls as the chance of two images to be of one class rises.

    That chance is the inner product of their class probabilities. One more dimension makes all
    items equally long, so that |q - x|^2 = |q|^2 + |x|^2 - 2 q.x depends on q.x alone.
    """
    squared = np.einsum("nc,nc->n", item_scores, item_scores)
    missing = np.sqrt(np.maximum(squared.max() - squared, 0))
    nothing = np.zeros((len(query_scores), 1), np.float32)
    return np.hstack([query_scores, nothing]), np.hstack([item_scores, missing[:, None]])


def _project(features: np.ndarray, weights: Projection) -> np.ndarray:
    return np.concatenate(
        [
            codes.pack(features[start : start + _ROWS_AT_ONCE] @ weights.kernel + weights.bias >= 0)
            for start in range(0, len(features), _ROWS_AT_ONCE)
        ]
    )
