"""How good the codes are that a training ends with: mAP of some images against each other."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hashnet import codes, metrics
from hashnet.train.data import LabelledImages

# Images that are scored: the network sees each once more, at the end of a training.
MOST_IMAGES = 1000
BATCH = 64


@dataclass(frozen=True)
class Score:
    """What the codes of a new network are worth on images of its own training data.

    Attributes:
        map: float, 0 to 1. Tie-aware mAP: each image is a query against all the others, and those
            that share a class with it are relevant. None where no two images share a class.
        images: int. How many.
        kept_apart: bool. Whether the training kept these images apart. If not, it has learned
            from them, and images that it has never seen will score lower.
    """

    map: float | None
    images: int
    kept_apart: bool

    def __str__(self) -> str:
        whose = "kept apart" if self.kept_apart else "that it has learned from"
        if self.map is None:
            return f"no mAP: no two of {self.images} images {whose} share a class"
        return f"mAP {self.map:.3f} on {self.images} images {whose}"

    def to_dict(self) -> dict[str, Any]:
        """dict that JSON can hold, for a bundle's origin."""
        return asdict(self)


def seen_again(
    network: Any, labelled: LabelledImages, *, seed: int
) -> tuple[LabelledImages, dict[str, np.ndarray]]:
    """What a network gives for images, or for so many of them as are enough to judge it.

    Args:
        network: a Keras model as `model.build` makes it.
        labelled: a `LabelledImages` that is decoded at the network's size. Of more than
            `MOST_IMAGES`, so many are chosen by chance.
        seed: int. Of the choice.

    Returns:
        The images, and a dict of the names of the network's outputs to float32 arrays.
    """
    if len(labelled) > MOST_IMAGES:
        chosen = np.random.default_rng((seed, 0x5C0E)).permutation(len(labelled))[:MOST_IMAGES]
        labelled = labelled.rows(np.sort(chosen))
    outputs = network.predict(labelled.sources, batch_size=BATCH, verbose=0)
    return labelled, {name: np.asarray(values) for name, values in outputs.items()}


def score(latents: np.ndarray, labelled: LabelledImages, *, kept_apart: bool) -> Score:
    """Score the codes that a network gives.

    Args:
        latents: float32 `(n, num_bits)`.
        labelled: the n images that they are of.
        kept_apart: bool. Whether the network has not learned from these images.

    Returns:
        A `Score`.
    """
    if not (labelled.targets.sum(axis=0) > 1).any():
        return Score(None, len(labelled), kept_apart)
    packed = codes.from_latent(latents)
    found = metrics.evaluate_codes(
        packed,
        labelled.labels,
        packed,
        labelled.labels,
        num_bits=latents.shape[1],
        exclude_self=True,
    )
    return Score(round(float(found.map_all.expected), 4), len(labelled), kept_apart)
