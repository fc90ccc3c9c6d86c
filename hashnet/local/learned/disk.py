"""DISK: local features that learned from which matches came of them.

A U-Net gives each pixel a score and a descriptor.

Reference:
    Tyszkiewicz, Fua and Trulls, "DISK: Learning local features with policy gradient", NeurIPS 2020.
"""

import itertools
from typing import TYPE_CHECKING

import numpy as np

from hashnet.local.learned.layers import RADIUS, LearnedLayers
from hashnet.network.torch_weights import StateDict

if TYPE_CHECKING:
    import onnx

DESCRIPTOR_DIM = 128
_DOWN, _UP = (16, 32, 64, 64, 64), (64, 64, 64)  # channels; the last layer gives the features
_SIDE = 5  # of all kernels


def network(weights: StateDict) -> "onnx.ModelProto":
    """The network, from the weights of DISK.

    Args:
        weights: a `StateDict`.

    Returns:
        As for `aliked.network`.

    Raises:
        WeightsError: weights are missing, or of another shape.
    """
    graph = _Disk(weights)
    x, inputs = graph.before_last()
    kernel, bias = graph.layer("path_up.3.conv", inputs, DESCRIPTOR_DIM + 1)
    # The last layer gives 129 numbers, of which one is wanted of every pixel. A convolution to one
    # channel is fastest as the reverse of one from it.
    score = kernel[-1:].transpose(1, 0, 2, 3)[:, :, ::-1, ::-1]
    scores = graph.node(
        "ConvTranspose",
        [x, graph.constant(score), graph.constant(bias[-1:])],
        kernel_shape=[_SIDE, _SIDE],
        pads=[_SIDE // 2] * 4,
    )
    found, y, x_at = graph.best(graph.peaks(scores))
    descriptors = graph.described(x, inputs, y, x_at, kernel[:-1], bias[:-1])
    places = graph.floats(y), graph.floats(x_at)
    graph.give_features(*places, found, descriptors, DESCRIPTOR_DIM)
    return graph.model()


class _Disk(LearnedLayers):
    def layer(self, name: str, inputs: int, outputs: int) -> tuple[np.ndarray, np.ndarray]:
        kernel = self.kernel(f"unet.{name}.3", (_SIDE, _SIDE, inputs, outputs))
        return kernel, self.vector(f"unet.{name}.3.bias", outputs)

    def gated(
        self, x: str, name: str, channels: int, stride: int, *, first: int = 0, total: int = 0
    ) -> str:
        """Some channels of what a layer takes, normalised and gated."""
        slopes = self.vector(f"unet.{name}.1.weight", total or channels)[first : first + channels]
        slope = self.constant(slopes.reshape(-1, 1, 1))
        return self.node("PRelu", [self.normalised(x, stride), slope])

    def before_last(self) -> tuple[str, int]:
        """What the last layer takes, of all pixels, and how many channels it has."""
        kernel, bias = self.layer("path_down.0.1", 3, _DOWN[0])
        x = self.convolved(self.pixels, kernel / 255, bias)
        passed = [x]
        for number, (inputs, outputs) in enumerate(itertools.pairwise(_DOWN), 1):
            name = f"path_down.{number}.1"
            x = self.gated(self.averaged(x, 2), name, inputs, 2**number)
            x = self.convolved(x, *self.layer(name, inputs, outputs))
            passed.append(x)
        channels = _DOWN[-1]
        for number, beside in enumerate(_DOWN[-2::-1]):
            name, total, stride = f"path_up.{number}.conv", channels + beside, 2 ** (3 - number)
            # Normalised channel by channel: so each part may be before they are joined.
            large = self.gated(
                self.enlarged(x, 2, "half_pixel"), name, channels, stride, total=total
            )
            skipped = self.gated(
                passed[-2 - number], name, beside, stride, first=channels, total=total
            )
            x = self.node("Concat", [large, skipped], axis=1)
            if number < len(_UP):
                channels = _UP[number]
                x = self.convolved(x, *self.layer(name, total, channels))
        return x, total

    def peaks(self, scores: str) -> str:
        """The scores that are higher than all around, without margins; 0 elsewhere."""
        side, after = 2 * RADIUS + 1, RADIUS + 1
        rows = self.highest(scores, RADIUS, side, padded=False)
        beside = self.highest(scores, 1, RADIUS, padded=False)
        inner = self.inner(scores)
        higher = self.constant(0)
        for near in (
            self.without(rows, (0, after), (0, 0)),
            self.without(rows, (after, 0), (0, 0)),
            self.without(beside, (RADIUS, RADIUS), (0, after)),
            self.without(beside, (RADIUS, RADIUS), (after, 0)),
        ):
            higher = self.node("Max", [higher, near])
        return self.node("Where", [self.node("Greater", [inner, higher]), inner, self.constant(0)])

    def described(
        self, x: str, channels: int, y: str, x_at: str, kernel: np.ndarray, bias: np.ndarray
    ) -> str:
        """What the last layer gives at some places, of length 1."""
        around = np.arange(_SIDE) - _SIDE // 2
        dy, dx = (grid.ravel()[None] for grid in np.meshgrid(around, around, indexing="ij"))
        moves = self.flat_place(self.whole(dy), self.whole(dx))
        places = self.node("Add", [self.flat_place(y, x_at), moves])
        # A map of 80 channels takes longer to turn around than a thousand patches to gather.
        flat = self.node("Reshape", [x, self.whole([channels, -1])])
        patches = self.node("Gather", [flat, places], axis=1)
        patches = self.node("Transpose", [patches], perm=[1, 0, 2])
        flat = self.node("Reshape", [patches, self.whole([-1, channels * _SIDE**2])])
        weights = self.constant(kernel.reshape(len(kernel), -1).T)
        return self.of_length_1(self.node("Gemm", [flat, weights, self.constant(bias)]))
