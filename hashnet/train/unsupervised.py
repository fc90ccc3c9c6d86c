"""A bundle for photos without labels: a pretrained backbone, and H fitted to the photos."""

import os
import pathlib
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hashnet import images
from hashnet.encode.encoder import Encoder
from hashnet.errors import ImageError
from hashnet.network import backbones, bundle, model, onnx_graph, pretrained
from hashnet.train import unsupervised_codes

if TYPE_CHECKING:
    import onnx

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
    places = sample(len(sources), seed)
    tell = progress or (lambda stage, done, total: None)
    tell(OPENING, 0, 0)
    network = pretrained.write(config, weights)
    with tempfile.TemporaryDirectory(prefix="hashnet-") as scratch:
        start = bundle.save_encoder(scratch, onnx_graph.content(network), config, origin={})
        parts, positions, num_done = [], [], 0
        extras: list[Any] = []
        problem: images.Problem | None = None
        chosen = (sources[place] for place in places)
        for part in Encoder(start).stream(chosen, also=also):
            parts.append(part.features)
            positions.append(places[part.positions])
            extras += part.extras
            problem = problem or next(iter(part.problems), None)
            num_done += len(part) + len(part.problems)
            tell(READING, num_done, len(places))
    features = np.concatenate(parts) if parts else np.empty((0, config.feature_dim))
    if not len(features):
        reason = f"{len(places)} images, the first: {problem.reason}" if problem else "no images"
        raise ImageError("Codes are fitted to at least one readable image.", reason)
    saved = fit_hash_layer(
        folder, network, config, features, seed=seed, origin=origin, progress=progress
    )
    return Fitted(saved, np.concatenate(positions), features, extras)


def fit_hash_layer(
    folder: str | os.PathLike[str],
    network: "onnx.ModelProto",
    config: model.HashNetConfig,
    features: np.ndarray,
    *,
    seed: int = 0,
    origin: dict[str, Any] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> bundle.Bundle:
    """Fit H to features and save the network with it as a bundle.

    Args:
        folder: str or path-like, where the bundle goes.
        network: ONNX model, as from `pretrained.write`; its own H counts for nothing.
        config: its `HashNetConfig`.
        features: float array `(n, feature_dim)`, n at least 1, of length 1.
        seed, origin, progress: as for `fit_bundle`.

    Returns:
        The `Bundle`, opened.
    """
    tell = progress or (lambda stage, done, total: None)
    # As an index stores them, and in an order of their own: fitted again to what it holds, in
    # whatever order that came, codes are the same.
    stored = np.ascontiguousarray(features, np.float16)
    whole = stored.view(np.dtype((np.void, stored.dtype.itemsize * stored.shape[1])))
    features = stored[np.argsort(whole.ravel(), kind="stable")].astype(np.float32)
    hash_weights = unsupervised_codes.fit(
        features,
        config.num_bits,
        prior=_prior(config.backbone),
        seed=seed,
        progress=lambda done, total: tell(FITTING, done, total),
    )
    fitted = pretrained.with_hash_layer(network, hash_weights.kernel, hash_weights.bias)
    origin = {
        **(origin or {}),
        "codes": bundle.LABEL_FREE,
        "fitted_to": len(features),
        "seed": seed,
    }
    mean = unsupervised_codes.mean_feature(features, _prior(config.backbone))
    graph = onnx_graph.content(fitted)
    return bundle.save_encoder(folder, graph, config, origin=origin, mean=mean)


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


def sample(num_items: int, seed: int) -> np.ndarray:
    """Which of many items are fitted to.

    Args:
        num_items: int.
        seed: int.

    Returns:
        int64, ascending; all, up to `SAMPLE`.
    """
    if num_items <= SAMPLE:
        return np.arange(num_items)
    chosen = np.random.default_rng(seed).choice(num_items, SAMPLE, replace=False)
    return np.sort(chosen)
