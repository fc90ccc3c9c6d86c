"""XFeat: local features from a network that is small enough for a telephone.

The network works on grey pixels and gives, for each 8 x 8 of them, a descriptor, how reliable it
is, and in which of the 64 there is a feature.

Reference:
    Potje, Cadar, Araujo, Martins and Nascimento, "XFeat: Accelerated Features for Lightweight Image
    Matching", CVPR 2024.
"""

import itertools
from typing import TYPE_CHECKING

import numpy as np

from hashnet.local.learned.layers import LearnedLayers
from hashnet.network.torch_weights import StateDict

if TYPE_CHECKING:
    import onnx

DESCRIPTOR_DIM = 64
_CELL = 8
_LEAST_PEAK = 0.05  # how likely a feature lies in a pixel


def network(weights: StateDict) -> "onnx.ModelProto":
    """The network, from the weights of XFeat.

    Args:
        weights: a `StateDict`.

    Returns:
        As for `aliked.network`.

    Raises:
        WeightsError: weights are missing, or of another shape.
    """
    graph = _XFeat(weights)
    grey = graph.grey()
    features = graph.features(grey)
    likely = graph.likely(grey)
    everywhere = graph.places_of(likely)
    at = [graph.sampling_place(*one) for one in zip(everywhere, graph.size, strict=True)]
    reliable = graph.between(graph.reliable(features), at, 1, "bilinear")
    reliable = graph.node("Reshape", [reliable, graph.node("Shape", [likely])])
    zero = graph.constant(0)
    is_peak = graph.node(
        "And",
        [
            graph.node("Equal", [likely, graph.highest_around(likely)]),
            graph.node("Greater", [likely, graph.constant(_LEAST_PEAK)]),
        ],
    )
    scores = graph.node("Where", [is_peak, graph.node("Mul", [likely, reliable]), zero])
    found, y, x = graph.best(graph.inner(scores))
    places = graph.floats(y), graph.floats(x)
    at = [graph.sampling_place(*one) for one in zip(places, graph.size, strict=True)]
    unit = graph.of_length_1(features)
    descriptors = graph.of_length_1(graph.between(unit, at, DESCRIPTOR_DIM, "bicubic"))
    graph.give_features(*places, found, descriptors, DESCRIPTOR_DIM)
    return graph.model()


class _XFeat(LearnedLayers):
    def basic(
        self, x: str, name: str, inputs: int, outputs: int, side: int = 3, stride: int = 1
    ) -> str:
        kernel = self.kernel(f"{name}.layer.0", (side, side, inputs, outputs))
        folded = self.folded(kernel, f"{name}.layer.1", scaled=False)
        return self.node("Relu", [self.convolved(x, *folded, stride=stride)])

    def last(self, x: str, name: str, outputs: int) -> str:
        kernel = self.kernel(name, (1, 1, 64, outputs))
        return self.convolved(x, kernel, self.vector(f"{name}.bias", outputs))

    def grey(self) -> str:
        mean = self.constant(np.full((1, 3, 1, 1), 1 / (3 * 255)))
        return self.normalised(self.node("Conv", [self.pixels, mean]))

    def features(self, grey: str) -> str:
        """The descriptors of cells, before they have length 1."""
        x = grey
        for number, (inputs, outputs, stride) in enumerate(
            ((1, 4, 1), (4, 8, 2), (8, 8, 1), (8, 24, 2))
        ):
            x = self.basic(x, f"block1.{number}", inputs, outputs, stride=stride)
        kernel = self.kernel("skip1.1", (1, 1, 1, 24))
        beside = self.convolved(self.averaged(grey, 4), kernel, self.vector("skip1.1.bias", 24))
        x = self.node("Add", [x, beside])
        for number in (0, 1):
            x = self.basic(x, f"block2.{number}", 24, 24)
        sizes = []
        for block, widths in ((3, (24, 64, 64)), (4, (64, 64, 64, 64)), (5, (64, 128, 128, 128))):
            for number, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
                x = self.basic(
                    x, f"block{block}.{number}", inputs, outputs, stride=1 if number else 2
                )
            if block != 4:  # then each place by itself
                x = self.basic(x, f"block{block}.{len(widths) - 1}", widths[-1], 64, side=1)
            sizes.append(x)
        x = sizes[0]
        for factor, smaller in zip((2, 4), sizes[1:], strict=True):
            x = self.node("Add", [x, self.enlarged(smaller, factor, "half_pixel")])
        for number in (0, 1):
            x = self.basic(x, f"block_fusion.{number}", 64, 64)
        return self.last(x, "block_fusion.2", DESCRIPTOR_DIM)

    def reliable(self, features: str) -> str:
        x = features
        for number in (0, 1):
            x = self.basic(x, f"heatmap_head.{number}", 64, 64, side=1)
        return self.node("Sigmoid", [self.last(x, "heatmap_head.2", 1)])

    def likely(self, grey: str) -> str:
        """How likely a feature lies in each pixel, `(1, 1, height, width)`."""
        x = self.node("SpaceToDepth", [grey], blocksize=_CELL)
        for number in (0, 1, 2):
            x = self.basic(x, f"keypoint_head.{number}", 64, 64, side=1)
        x = self.node("Softmax", [self.last(x, "keypoint_head.3", _CELL**2 + 1)], axis=1)
        # The last says that there is none.
        ends = self.whole([0]), self.whole([_CELL**2]), self.whole([1])
        return self.node("DepthToSpace", [self.node("Slice", [x, *ends])], blocksize=_CELL)

    def sampling_place(self, places: str, length: str) -> str:
        """Pixels along an axis as the network was trained to be asked, about -1 to 1."""
        steps = self.floats(self.node("Sub", [length, self.whole([1])]))
        twice = self.node("Mul", [places, self.constant(2)])
        return self.node("Sub", [self.node("Div", [twice, steps]), self.constant(1)])

    def between(self, x: str, at: list[str], channels: int, mode: str) -> str:
        """What a map says at k places, `(k, channels)`."""
        grid = self.node("Concat", at[::-1], axis=1)
        grid = self.node("Reshape", [grid, self.whole([1, -1, 1, 2])])
        found = self.node("GridSample", [x, grid], mode=mode, align_corners=0)
        flat = self.node("Reshape", [found, self.whole([channels, -1])])
        return self.node("Transpose", [flat], perm=[1, 0])
