"""ALIKED: local features whose descriptors look where it pays to look.

A small network gives a score for each pixel. Around each peak of the scores it then decides on
some places of its own, and makes the descriptor of what its maps say there.

Reference:
    Zhao, Wu, Chen, Chen, Xu and Li, "ALIKED: A Lighter Keypoint and Descriptor Extraction Network
    via Deformable Transformation", IEEE Transactions on Instrumentation and Measurement, 2023.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from hashnet.local.learned.layers import RADIUS, LearnedLayers
from hashnet.network.onnx_layers import CHANNELS_FIRST
from hashnet.network.torch_weights import StateDict

if TYPE_CHECKING:
    import onnx

Pixels = Callable[[str, str], str]

_TEMPERATURE = 0.1
DESCRIPTOR_DIM = 128
_CHANNELS = (16, 32, 64, 128)  # of the maps
_STRIDES = (1, 2, 8, 32)
LOOKS = 16  # places that the descriptor of a feature is made of
_QUARTER = DESCRIPTOR_DIM // 4  # channels of a pixel that come from each map


def network(weights: StateDict) -> "onnx.ModelProto":
    """The network, from the weights of ALIKED-n16.

    Args:
        weights: a `StateDict`.

    Returns:
        From `image`, uint8 `(1, height, width, 3)`, sides in whole `learned.MULTIPLE`, to the
        best `features.MAX_FEATURES`: `yx`, `scores` and `descriptors`.

    Raises:
        WeightsError: weights are missing, or of another shape.
    """
    graph = _Aliked(weights)
    maps = graph.maps()
    parts = [graph.part(number, x) for number, x in enumerate(maps)]
    scores = graph.scores(parts)
    found, y, x = graph.best(graph.inner(graph.peaks(scores)))
    y, x = graph.refined(scores, y, x)
    graph.give_features(y, x, found, graph.described(maps[0], parts[1:], y, x), DESCRIPTOR_DIM)
    return graph.model()


class _Aliked(LearnedLayers):
    def gate(self, x: str) -> str:
        return self.node("Selu", [x])

    def maps(self) -> list[str]:
        """The maps of the four blocks."""
        first, second, third, fourth = _CHANNELS
        kernel, bias = self.folded(self.kernel("block1.conv1", (3, 3, 3, first)), "block1.bn1")
        x1 = self.gate(self.convolved(self.pixels, kernel / 255, bias))
        kernel, bias = self.folded(self.kernel("block1.conv2", (3, 3, first, first)), "block1.bn2")
        x1 = self.gate(self.convolved(x1, kernel, bias))
        x2 = self.block("block2", self.averaged(x1, 2), first, second, deformed=False)
        x3 = self.block("block3", self.averaged(x2, 4), second, third, deformed=True)
        x4 = self.block("block4", self.averaged(x3, 4), third, fourth, deformed=True)
        return [x1, x2, x3, x4]

    def block(self, name: str, x: str, inputs: int, outputs: int, *, deformed: bool) -> str:
        convolve = self.deformed if deformed else self.plain
        inner = self.gate(convolve(x, f"{name}.conv1", f"{name}.bn1", inputs, outputs))
        inner = convolve(inner, f"{name}.conv2", f"{name}.bn2", outputs, outputs)
        kernel = self.kernel(f"{name}.downsample", (1, 1, inputs, outputs))
        beside = self.convolved(x, kernel, self.vector(f"{name}.downsample.bias", outputs))
        return self.gate(self.node("Add", [inner, beside]))

    def plain(self, x: str, name: str, norm: str, inputs: int, outputs: int) -> str:
        return self.convolved(x, *self.folded(self.kernel(name, (3, 3, inputs, outputs)), norm))

    def deformed(self, x: str, name: str, norm: str, inputs: int, outputs: int) -> str:
        """A convolution of which each of the nine places is moved by an offset of its own."""
        kernel = self.kernel(f"{name}.offset_conv", (3, 3, inputs, 18))
        offsets = self.convolved(x, kernel, self.vector(f"{name}.offset_conv.bias", 18))
        size = self.size_of(x)
        offsets = self.rows_of(self.within(offsets, size), 18)
        rows = self.rows_of(x, inputs)
        kernel, bias = self.folded(
            self.kernel(f"{name}.regular_conv", (3, 3, inputs, outputs)), norm
        )
        # Rows and columns take turns among the 18.
        moves = np.arange(9) // 3 - 1, np.arange(9) % 3 - 1
        at = []
        for axis, middle in enumerate(self.places_of(x)):
            own = self.node("Gather", [offsets, self.whole(np.arange(axis, 18, 2))], axis=1)
            moved = self.node("Add", [own, self.constant(moves[axis][None])])
            at.append(self.node("Add", [moved, middle]))
        corners = [
            (self.node("Add", [self.node("Mul", [row, size[1]]), column]), weight)
            for row, column, weight in self.corners((at[0], at[1]), size)
        ]
        total = self.constant(bias)
        for place in range(9):
            own_corners = [
                (self.columns(row, place), self.columns(weight, place)) for row, weight in corners
            ]
            seen = self.weighted(rows, own_corners)
            weights = self.constant(kernel[:, :, place // 3, place % 3].T)
            total = self.node("Add", [self.node("MatMul", [seen, weights]), total])
        shape = self.node("Concat", [self.whole([1]), *size, self.whole([outputs])], axis=0)
        last = self.node("Reshape", [total, shape])
        return self.node("Transpose", [last], perm=CHANNELS_FIRST)

    def within(self, offsets: str, size: tuple[str, str]) -> str:
        """Offsets cut to a quarter of the longer side."""
        most = self.node("Mul", [self.floats(self.node("Max", list(size))), self.constant([0.25])])
        cut = self.node("Min", [offsets, most])
        return self.node("Max", [cut, self.node("Neg", [most])])

    def part(self, number: int, x: str) -> str:
        """What a map adds to the channels of a pixel."""
        channels = _CHANNELS[number]
        kernel = self.kernel(f"conv{number + 1}", (1, 1, channels, _QUARTER))
        return self.gate(self.convolved(x, kernel))

    def scores(self, parts: list[str]) -> str:
        """How much of a peak each pixel is, `(1, 1, height, width)`."""
        # The first layer takes all channels of a pixel. What it makes of those of smaller maps is
        # made of these maps, and enlarged afterwards, which is the same.
        kernel = self.kernel("score_head.0", (1, 1, DESCRIPTOR_DIM, 8))
        total = ""
        for number, (part, stride) in enumerate(zip(parts, _STRIDES, strict=True)):
            own = kernel[:, _QUARTER * number : _QUARTER * (number + 1)]
            part = self.convolved(part, own)
            if stride > 1:
                part = self.enlarged(part, stride, "align_corners")
            total = self.node("Add", [total, part]) if total else part
        x = self.gate(total)
        x = self.gate(self.convolved(x, self.kernel("score_head.2", (3, 3, 8, 4))))
        x = self.gate(self.convolved(x, self.kernel("score_head.4", (3, 3, 4, 4))))
        x = self.convolved(x, self.kernel("score_head.6", (3, 3, 4, 1)))
        return self.node("Sigmoid", [x])

    def peaks(self, scores: str) -> str:
        """The scores of peaks, and 0 elsewhere."""
        zero = self.constant(0)
        is_peak = self.node("Equal", [scores, self.highest_around(scores)])
        # What a peak hides may hide a peak, which comes out when the former is gone; twice.
        for _ in range(2):
            near = self.highest_around(self.floats(is_peak))
            hidden = self.node("Greater", [near, zero])
            left = self.node("Where", [hidden, zero, scores])
            more = self.node("Equal", [left, self.highest_around(left)])
            more = self.node("And", [more, self.node("Not", [hidden])])
            is_peak = self.node("Or", [is_peak, more])
        return self.node("Where", [is_peak, scores, zero])

    def refined(self, scores: str, y: str, x: str) -> tuple[str, str]:
        """Places between pixels: the mean of those around a peak, weighted by their scores."""
        around = np.arange(-RADIUS, RADIUS + 1)
        dy, dx = (grid.ravel() for grid in np.meshgrid(around, around, indexing="ij"))
        moves = self.flat_place(self.whole(dy[None]), self.whole(dx[None]))
        places = self.node("Add", [self.flat_place(y, x), moves])
        flat = self.node("Reshape", [scores, self.whole([-1])])
        patch = self.node("Gather", [flat, places])
        patch = self.node("Div", [patch, self.constant(_TEMPERATURE)])
        weight = self.node("Softmax", [patch], axis=1)
        moved = self.node("MatMul", [weight, self.constant(np.stack([dy, dx], axis=1))])
        y, x = (
            self.node("Add", [self.floats(one), self.columns(moved, axis)])
            for axis, one in enumerate((y, x))
        )
        return y, x

    def described(self, map: str, smaller: list[str], y: str, x: str) -> str:
        """The descriptors of places, from the map of all pixels and the parts of smaller ones."""
        # What a descriptor is made of are channels of single pixels, of length 1 together.
        rows_of_all = self.rows_of(map, _CHANNELS[0])
        others = [(self.rows_of(one, _QUARTER), self.size_of(one)) for one in smaller]
        kernel = self.constant(self.kernel("conv1", (1, 1, _CHANNELS[0], _QUARTER))[:, :, 0, 0].T)

        def pixels(y: str, x: str) -> str:
            """`(k, DESCRIPTOR_DIM)` of k pixels, each int64 `(k, 1)`."""
            flat = self.node("Reshape", [self.flat_place(y, x), self.whole([-1])])
            near = self.node("Gather", [rows_of_all, flat])
            found = [self.gate(self.node("MatMul", [near, kernel]))]
            for rows, size in others:
                at = self.shrunk(y, self.size[0], size[0]), self.shrunk(x, self.size[1], size[1])
                found.append(self.sampled(rows, at, size))
            return self.of_length_1(self.node("Concat", found, axis=1))

        seen = self.looked_at(pixels, self.chosen(pixels, y, x))
        kernel_of_each = self.kernel("desc_head.sf_conv", (1, 1, DESCRIPTOR_DIM, DESCRIPTOR_DIM))
        seen = self.node("MatMul", [seen, self.constant(kernel_of_each[:, :, 0, 0].T)])
        weights = self.array("desc_head.agg_weights", (LOOKS, DESCRIPTOR_DIM, DESCRIPTOR_DIM))
        seen = self.node("Reshape", [self.gate(seen), self.whole([-1, LOOKS * DESCRIPTOR_DIM])])
        weights = weights.reshape(-1, DESCRIPTOR_DIM)
        return self.of_length_1(self.node("MatMul", [seen, self.constant(weights)]))

    def chosen(self, pixels: Pixels, y: str, x: str) -> tuple[str, str]:
        """The places that each feature looks at, rows and columns of `(features * LOOKS, 1)`."""
        around = np.arange(3)
        moves = [grid.ravel()[None] for grid in np.meshgrid(around, around, indexing="ij")]
        nine = []
        for places, move, length in zip((y, x), moves, self.size, strict=True):
            # The middle is the pixel that the place lies in; no patch reaches over the edge.
            start = self.node("Sub", [self.node("Floor", [places]), self.constant(0.5)])
            last = self.node("Sub", [length, self.whole([4])])
            start = self.node("Max", [self.wholes(start), self.whole([0])])
            start = self.node("Min", [start, last])
            nine.append(self.column(self.node("Add", [start, self.whole(move)])))
        patch = self.node("Reshape", [pixels(*nine), self.whole([-1, 9 * DESCRIPTOR_DIM])])
        kernel = self.kernel("desc_head.offset_conv.0", (3, 3, DESCRIPTOR_DIM, 2 * LOOKS))
        kernel = kernel.transpose(2, 3, 1, 0).reshape(-1, 2 * LOOKS)
        bias = self.vector("desc_head.offset_conv.0.bias", 2 * LOOKS)
        hidden = self.node("Gemm", [patch, self.constant(kernel), self.constant(bias)])
        kernel = self.kernel("desc_head.offset_conv.2", (1, 1, 2 * LOOKS, 2 * LOOKS))
        bias = self.vector("desc_head.offset_conv.2.bias", 2 * LOOKS)
        weights = self.constant(kernel[:, :, 0, 0].T), self.constant(bias)
        offsets = self.within(self.node("Gemm", [self.gate(hidden), *weights]), self.size)
        across, down = self.columns(offsets, 0, LOOKS), self.columns(offsets, LOOKS, LOOKS)
        return (
            self.column(self.node("Add", [y, down])),
            self.column(self.node("Add", [x, across])),
        )

    def looked_at(self, pixels: Pixels, at: tuple[str, str]) -> str:
        """What there is at places between pixels; nothing beyond the edge."""
        total = ""
        for y, x, weight in self.corners(at, self.size):
            part = self.node("Mul", [pixels(y, x), weight])
            total = self.node("Add", [total, part]) if total else part
        return total
