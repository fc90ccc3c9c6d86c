"""The network that attention is trained in: places -> weighted sum -> classes."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import KerasTensor, initializers, layers, ops


class AttentionPooling(layers.Layer):
    """The sum of places, each weighted by its attention, scaled to length 1.

    Takes columns `(n, places, channels)` and attention `(n, places, 1)`, both float32.
    """

    def call(self, columns: KerasTensor, attention: KerasTensor) -> KerasTensor:
        """Apply the layer.

        Args:
            columns: float32 tensor `(n, places, channels)`.
            attention: float32 tensor `(n, places, 1)`, 0 or more.

        Returns:
            float32 tensor `(n, channels)`, of length 1.
        """
        total = ops.sum(attention * columns, axis=1)  # (n, channels)
        return ops.normalize(total, axis=-1)


class CosineClasses(layers.Layer):
    """Logits that are the cosines between a vector and one learned direction for each class.

    Args:
        num_classes: int.
        sharpness: float, factor of the cosines.
        seed: int, of the initial directions.
    """

    def __init__(self, num_classes: int, sharpness: float, seed: int, **options: Any) -> None:
        super().__init__(**options)
        self.num_classes, self.sharpness, self.seed = num_classes, sharpness, seed

    def build(self, shape: tuple[int | None, int]) -> None:
        """Make the directions, before the first call.

        Args:
            shape: tuple of int or None, of the vectors: `(n, channels)`.
        """
        self.directions = self.add_weight(
            shape=(shape[-1], self.num_classes),
            initializer=initializers.GlorotUniform(self.seed),
            name="directions",
        )

    def call(self, vectors: KerasTensor) -> KerasTensor:
        """Apply the layer.

        Args:
            vectors: float32 tensor `(n, channels)`, of length 1.

        Returns:
            float32 tensor `(n, num_classes)`, logits.
        """
        return self.sharpness * vectors @ ops.normalize(self.directions, axis=0)


def network_of(
    mean: np.ndarray, hidden: int, num_classes: int, sharpness: float, seeds: Sequence[int]
) -> tuple[keras.Model, tuple[layers.Layer, layers.Layer]]:
    """From columns of length 1, `(n, places, channels)`, to logits `(n, num_classes)`.

    Args:
        mean: float32 `(channels,)`, subtracted before places are added up.
        hidden: int, channels between the two layers of attention.
        num_classes: int.
        sharpness: float, factor of the cosines.
        seeds: three int, of the initial weights.

    Returns:
        A `keras.Model`, and its two layers of attention.
    """
    columns = keras.Input((None, len(mean)))
    first = layers.Dense(
        hidden, "relu", kernel_initializer=initializers.GlorotUniform(seeds[0]), name="hidden"
    )
    second = layers.Dense(
        1, "softplus", kernel_initializer=initializers.GlorotUniform(seeds[1]), name="attention"
    )
    pooled = AttentionPooling(name="pool")(columns - mean, second(first(columns)))
    logits = CosineClasses(num_classes, sharpness, seeds[2], name="classes")(pooled)
    return keras.Model(columns, logits), (first, second)
