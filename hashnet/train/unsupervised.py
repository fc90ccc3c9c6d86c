"""A bundle for photos without labels: a pretrained backbone, and H fitted to the photos."""

import os
import pathlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hashnet import files, images
from hashnet.encode.encoder import Encoder
from hashnet.errors import ImageError
from hashnet.network import bundle, model, onnx_graph, own_backbones, pretrained
from hashnet.network.backbones import Backbone
from hashnet.network.own_text import TextPart
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
    backbone: str | Backbone = "efficientnet_lite0",
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
        backbone: str, as for `own_backbones.Backbone`; or a `Backbone`.
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
    opened = own_backbones.opened(backbone)
    config = pretrained.config_of(opened, num_bits)
    sources = list(sources)
    places = sample(len(sources), seed)
    tell = progress or (lambda stage, done, total: None)
    tell(OPENING, 0, 0)
    network = pretrained.write(config, weights, opened)
    with files.scratch_folder() as scratch:
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
        folder,
        network,
        config,
        features,
        seed=seed,
        origin=origin,
        text=opened.text,
        progress=progress,
    )
    return Fitted(saved, np.concatenate(positions), features, extras)


def fit_vectors(
    folder: str | os.PathLike[str],
    vectors: Callable[[np.ndarray], np.ndarray],
    num_vectors: int,
    *,
    backbone: Backbone,
    num_bits: int = NUM_BITS,
    seed: int = 0,
    origin: dict[str, Any] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> bundle.Bundle:
    """Fit H to features that were computed elsewhere and save the network with it as a bundle.

    Args:
        folder: str or path-like, where the bundle goes.
        vectors: function of places, int64 ascending, to features of these, float
            `(n, feature_dim)`, each of length 1.
        num_vectors: int, how many there are; of more than 10,000 a seeded sample is used.
        backbone: the `Backbone` that gives such features, or `own_backbones.of_vectors`.
        num_bits, seed, origin, progress: as for `fit_bundle`.

    Returns:
        The `Bundle`, opened.

    Example:
        >>> from hashnet.network import own_backbones
        >>> features = np.eye(16, dtype=np.float32)
        >>> fitted = fit_vectors(
        ...     "my.bundle", features.__getitem__, 16, backbone=own_backbones.of_vectors(16),
        ...     num_bits=8,
        ... )
        >>> fitted.config.num_bits, fitted.config.takes_vectors
        (8, True)
    """
    config = pretrained.config_of(backbone, num_bits)
    network = pretrained.write(config, backbone=backbone)
    features = vectors(sample(num_vectors, seed))
    return fit_hash_layer(
        folder,
        network,
        config,
        features,
        seed=seed,
        origin=origin,
        text=backbone.text,
        progress=progress,
    )


def fit_hash_layer(
    folder: str | os.PathLike[str],
    network: "onnx.ModelProto",
    config: model.HashNetConfig,
    features: np.ndarray,
    *,
    seed: int = 0,
    origin: dict[str, Any] | None = None,
    text: TextPart | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> bundle.Bundle:
    """Fit H to features and save the network with it as a bundle.

    Args:
        folder: str or path-like, where the bundle goes.
        network: ONNX model, as from `pretrained.write`; its own H counts for nothing.
        config: its `HashNetConfig`.
        features: float array `(n, feature_dim)`, n at least 1, of length 1.
        seed, origin, progress: as for `fit_bundle`.
        text: `TextPart` that the bundle carries, or None.

    Returns:
        The `Bundle`, opened.
    """
    tell = progress or (lambda stage, done, total: None)
    # As an index stores them, and in an order of their own: fitted again to what it holds, in
    # whatever order that came, codes are the same.
    stored = np.ascontiguousarray(features, np.float16)
    whole = stored.view(np.dtype((np.void, stored.dtype.itemsize * stored.shape[1])))
    features = stored[np.argsort(whole.ravel(), kind="stable")].astype(np.float32)
    # The prior is of F7 as it was pretrained.
    is_f7 = config.own is None and not config.embedding
    prior = prior_of(config.backbone) if is_f7 else None
    hash_weights = unsupervised_codes.fit(
        features,
        config.num_bits,
        prior=prior,
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
    mean = unsupervised_codes.mean_feature(features, prior)
    graph = onnx_graph.content(fitted)
    return bundle.save_encoder(folder, graph, config, origin=origin, mean=mean, text=text)


def prior_of(backbone: str) -> np.ndarray | None:
    """Features of photos of all kinds, which tell a handful of photos how photos differ.

    See the model card beside the file.

    Args:
        backbone: str, name of the backbone that gave them.

    Returns:
        float32 `(512, feature_dim)`, of length 1; None if there are none of this backbone.
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
