"""A bundle for photos that nobody has labelled: pretrained backbone, label-free H."""

import pathlib
import tempfile
from collections.abc import Callable, Sequence

import numpy as np
from threadpoolctl import threadpool_limits

from hashnet import backbones, bundle, model
from hashnet.encoder import Encoder
from hashnet.errors import ImageError
from train import label_free

# Measured by tests/bench/label_free.py: longer codes gain little.
NUM_BITS = 128
SAMPLE = 4096


def fit_bundle(
    folder,
    sources: Sequence,
    *,
    num_bits: int = NUM_BITS,
    backbone: str = "efficientnet_lite0",
    weights="imagenet",
    seed: int = 0,
    origin: dict | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> bundle.Bundle:
    """Fit H to a collection of unlabelled photos and save the network as a bundle.

    H learns from the collection's own features alone; see `train.label_free`. The backbone and
    F8, the pretrained classifier, stay as they are.

    Args:
        folder: str or path-like, where the bundle goes.
        sources: images as for `hashnet.encoder.Encoder.encode`; of more than 4,096 a seeded
            sample is used.
        num_bits: int, 1 to 1024.
        backbone: str, one of `hashnet.backbones.BACKBONES`.
        weights: as for `hashnet.backbones.create`.
        seed: int. Of the sample and of the fit.
        origin: dict or None. What the bundle should remember of how it was made.
        progress: called with images done and images to do.

    Returns:
        The `hashnet.bundle.Bundle`.

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
    sample = _sample(sources, seed)
    network = model.build(config, weights=weights)
    with tempfile.TemporaryDirectory(prefix="hashnet-") as scratch:
        start = bundle.save(scratch, network, config, origin={})
        features, num_done, problem = [], 0, None
        for part in Encoder(start).stream(sample):
            features.append(part.features)
            problem = problem or next(iter(part.problems), None)
            num_done += len(part) + len(part.problems)
            if progress:
                progress(num_done, len(sample))
    features = np.concatenate(features) if features else np.empty((0, config.feature_dim))
    if not len(features):
        reason = f"{len(sample)} images, the first: {problem.reason}" if problem else "no images"
        raise ImageError("Codes are fitted to at least one readable image.", reason)
    # Sums in another order differ in their last bits; one thread gives every machine one answer.
    with threadpool_limits(1):
        hash_weights = label_free.fit(features, num_bits, prior=_prior(backbone), seed=seed)
    network.get_layer("latent").set_weights([hash_weights.kernel, hash_weights.bias])
    origin = {
        **(origin or {}),
        "codes": "label-free",
        "fitted_to": len(features),
        "seed": seed,
    }
    return bundle.save(folder, network, config, origin=origin)


def _prior(backbone):
    """Features of photos of all kinds, float32 `(512, feature_dim)`; None if there are none.

    They tell a handful of photos how photos differ; see the model card beside the file.
    """
    path = pathlib.Path(bundle.__file__).with_name("presets") / f"{backbone}_prior.npz"
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as file:
        features = file["features"] * file["scale"]
    return (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)


def _sample(sources, seed):
    sources = list(sources)
    if len(sources) <= SAMPLE:
        return sources
    places = np.random.default_rng(seed).choice(len(sources), SAMPLE, replace=False)
    return [sources[place] for place in np.sort(places)]
