"""A bundle for photos without labels: a pretrained backbone, and H fitted to the photos."""

import os
import pathlib
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hashnet import images
from hashnet.encode.encoder import Encoder
from hashnet.errors import ImageError
from hashnet.network import backbones, bundle, model, onnx_graph, pretrained
from hashnet.train import unsupervised_codes

# Measured by tests/bench/label_free_codes.py: half as many find less of everything.
NUM_BITS = 128
SAMPLE = unsupervised_codes.MAX_ITEMS

# What `progress` is told.
OPENING, READING, FITTING = "opening the pretrained network", "reading images", "fitting codes"


@dataclass(frozen=True)
class Fitted:
    """What `fit_bundle` made, and what it computed on the way.

    Attributes:
        bundle: the `Bundle`.
        positions: int64 `(n,)`. Which of the images given were read for the fit, ascending.
        features: float32 `(n, feature_dim)`. Theirs, which need not be computed again.
        extras: list of n: what `also` made of each.
    """

    bundle: bundle.Bundle
    positions: np.ndarray
    features: np.ndarray
    extras: list[Any]


def fit_bundle(
    folder: str | os.PathLike[str],
    sources: Sequence[images.Source | np.ndarray],
    *,
    num_bits: int = NUM_BITS,
    backbone: str = "efficientnet_lite0",
    weights: str = "imagenet",
    seed: int = 0,
    origin: dict[str, Any] | None = None,
    also: Callable[[images.Photo], Any] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Fitted:
    """Fit H to photos without labels and save the network as a bundle.

    H learns from the collection's own features alone; see `unsupervised_codes`. The backbone and
    F8, the pretrained classifier, stay as they are. Keras is needed only for backbones that have
    no `Backbone.write`; the bundle has no `model.keras`, which `hashnet export` makes of it.

    Args:
        folder: str or path-like, where the bundle goes.
        sources: images as for `Encoder.encode`; of more than 10,000 a
            seeded sample is used.
        num_bits: int, 1 to 1024.
        backbone: str, one of `BACKBONES`.
        weights: `"imagenet"`, or the path of a weights file.
        seed: int. Of the sample and of the fit.
        origin: dict or None. What the bundle should remember of how it was made.
        also: as for `Encoder.stream`.
        progress: called with what is being done, how many images or steps of the fit are done,
            and how many there are; 0 of 0 before that is known.

    Returns:
        A `Fitted`.

    Raises:
        ImageError: none of the images can be read.
        WeightsError: the backbone's weights cannot be had.
    """
    config = model.HashNetConfig(
        backbone=backbone,
        num_bits=num_bits,
        classes=backbones.imagenet_classes(),
        scores_from="feature",
    )
    sources = list(sources)
    sample = _sample(len(sources), seed)
    tell = progress or (lambda stage, done, total: None)
    tell(OPENING, 0, 0)
    network = pretrained.write(config, weights)
    with tempfile.TemporaryDirectory(prefix="hashnet-") as scratch:
        start = bundle.save_encoder(scratch, onnx_graph.content(network), config, origin={})
        parts, positions, num_done = [], [], 0
        extras: list[Any] = []
        problem: images.Problem | None = None
        chosen = (sources[place] for place in sample)
        for part in Encoder(start).stream(chosen, also=also):
            parts.append(part.features)
            positions.append(sample[part.positions])
            extras += part.extras
            problem = problem or next(iter(part.problems), None)
            num_done += len(part) + len(part.problems)
            tell(READING, num_done, len(sample))
    features = np.concatenate(parts) if parts else np.empty((0, config.feature_dim))
    if not len(features):
        reason = f"{len(sample)} images, the first: {problem.reason}" if problem else "no images"
        raise ImageError("Codes are fitted to at least one readable image.", reason)
    hash_weights = unsupervised_codes.fit(
        features,
        num_bits,
        prior=_prior(backbone),
        seed=seed,
        progress=lambda done, total: tell(FITTING, done, total),
    )
    network = pretrained.with_hash_layer(network, hash_weights.kernel, hash_weights.bias)
    origin = {
        **(origin or {}),
        "codes": "label-free",
        "fitted_to": len(features),
        "seed": seed,
    }
    saved = bundle.save_encoder(folder, onnx_graph.content(network), config, origin=origin)
    return Fitted(saved, np.concatenate(positions), features, extras)


def _prior(backbone: str) -> np.ndarray | None:
    """Features of photos of all kinds, float32 `(512, feature_dim)`; None if there are none.

    They tell a handful of photos how photos differ; see the model card beside the file.
    """
    path = pathlib.Path(__file__).with_name("presets") / f"{backbone}_prior.npz"
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as file:
        features = file["features"] * file["scale"]
    return (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)


def _sample(num_sources: int, seed: int) -> np.ndarray:
    """int64 places of the images to fit to, ascending."""
    if num_sources <= SAMPLE:
        return np.arange(num_sources)
    chosen = np.random.default_rng(seed).choice(num_sources, SAMPLE, replace=False)
    return np.sort(chosen)
