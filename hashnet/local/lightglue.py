"""LightGlue: a network that matches the local features of two images, all of them together.

Nearest neighbours compare two descriptors by themselves. This network lets each feature look at all
others, of its own image and of the other one, layer by layer, before it says which are the same
place; that finds matches that descriptors alone do not tell apart. After each layer it is asked how
sure it is: where most features are, it stops, and features that have no match are left out
of the layers to come.

Each layer is an ONNX network of its own, written here from the weights of a package and opened
when a pair first comes so far.

Reference:
    Lindenberger, Sarlin and Pollefeys, "LightGlue: Local Feature Matching at Light Speed", ICCV
    2023, sections 3.1 to 3.3.
"""

import functools
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from hashnet.errors import ShapeError, UnknownNameError
from hashnet.local import packaged
from hashnet.network import onnx_graph, runtimes
from hashnet.network.torch_weights import StateDict

if TYPE_CHECKING:
    import onnx

LEAST_SCORE = 0.1  # of a match
SURE = 0.95  # share of features that are sure, from which on no further layer is asked
LEAST_MATCHABLE = 0.01  # a sure feature below it has no match
_EPSILON = 1e-5  # of the normalisation of layers


@dataclass(frozen=True)
class Kind:
    """A matcher for the features of one extractor.

    Attributes:
        package: the `packaged.Package` that carries its weights.
        file: str, in the package.
        prefix: str. How the names of its weights begin.
        heads: int, of attention.
    """

    package: packaged.Package
    file: str
    prefix: str = ""
    heads: int = 4


KINDS = {
    "aliked": Kind(packaged.LIGHTGLUE, "pretrained_weights/aliked_lightglue.pth"),
    "disk": Kind(packaged.LIGHTGLUE, "pretrained_weights/disk_lightglue.pth"),
    "xfeat": Kind(packaged.XFEAT, "weights/xfeat-lighterglue.pt", "matcher.", 1),
}


@functools.cache
def opened(extractor: str) -> "LightGlue":
    """The matcher for the features of an extractor, opened once in a process.

    Args:
        extractor: str, one of `KINDS`.

    Returns:
        A `LightGlue`.

    Raises:
        UnknownNameError, WeightsError: as for `LightGlue.open`.
    """
    return LightGlue.open(extractor)


@dataclass(frozen=True, eq=False)
class _Side:
    """The features of one of two images, on their way through the layers.

    Attributes:
        x: float32 `(n, dim)`.
        cosines, sines: float32 `(n, head_dim / 2)`, of what their places turn attention by.
        rows: int64 `(n,)`, which of the image's features they are.
    """

    x: np.ndarray
    cosines: np.ndarray
    sines: np.ndarray
    rows: np.ndarray

    def only(self, keep: np.ndarray) -> "_Side":
        if keep.all():
            return self
        return _Side(self.x[keep], self.cosines[keep], self.sines[keep], self.rows[keep])


class LightGlue:
    """Matches the local features of two images.

    Args:
        weights: dict of name to weights, float32 of any shape, as the package's file has them.
        heads: int, of attention.

    Raises:
        WeightsError: one of the weights is missing or has another shape.
    """

    def __init__(self, weights: Mapping[str, np.ndarray], heads: int = 4) -> None:
        named = {_present_name(name): array for name, array in weights.items()}
        self._weights = StateDict(named, "LightGlue", "its package")
        self._heads = heads
        self.num_layers = sum(name.endswith("final_proj.weight") for name in named)
        self._dim, self._inputs = named.get("input_proj.weight", np.zeros((0, 0))).shape
        self._inwards = (
            self._weights.of_keras("input_proj.weight", (self._inputs, self._dim)),
            self._weights.of_keras("input_proj.bias", (self._dim,)),
        )
        self._opened: dict[str, runtimes.Runnable] = {}
        self._lock = threading.Lock()

    @classmethod
    def open(cls, extractor: str) -> Self:
        """The matcher for the features of an extractor.

        Args:
            extractor: str, one of `KINDS`.

        Returns:
            A `LightGlue`.

        Raises:
            UnknownNameError: there is none for such features.
            WeightsError: its weights are not installed; the message says how they are.
        """
        if extractor not in KINDS:
            raise UnknownNameError("extractor whose features LightGlue matches", extractor, KINDS)
        kind = KINDS[extractor]
        found = packaged.weights(kind.package, kind.file, "LightGlue")
        named = {
            name.removeprefix(kind.prefix): array
            for name, array in found.items()
            if name.startswith(kind.prefix)
        }
        return cls(named, kind.heads)

    def match(
        self,
        query_yx: np.ndarray,
        query: np.ndarray,
        yx: np.ndarray,
        descriptors: np.ndarray,
    ) -> np.ndarray:
        """Match the features of two images.

        Args:
            query_yx, yx: float32 `(m, 2)` and `(n, 2)`, (row, column) in pixels.
            query, descriptors: float32 or float16 `(m, d)` and `(n, d)`.

        Returns:
            int64 `(matches, 2)`: a place in `query` and one in `descriptors`, ascending by the
            first.

        Raises:
            ShapeError: the arrays are not of such shapes.
        """
        sides = [self._entered(query_yx, query), self._entered(yx, descriptors)]
        nothing = np.zeros((0, 2), np.int64)
        for layer in range(self.num_layers):
            if not all(len(side.x) for side in sides):
                return nothing
            sides, confidence, matchable = self._layer(layer, sides)
            if layer == self.num_layers - 1:
                break
            # How sure the network must be of a feature: less after more layers.
            least = 0.8 + 0.1 * np.exp(-4.0 * layer / self.num_layers)
            num_unsure = sum(int((one < least).sum()) for one in confidence)
            if 1 - num_unsure / (len(query) + len(descriptors)) > SURE:
                break
            sides = [
                side.only((may_match > LEAST_MATCHABLE) | (sure <= least))
                for side, may_match, sure in zip(sides, matchable, confidence, strict=True)
            ]
        if not all(len(side.x) for side in sides):
            return nothing
        return self._assigned(layer, sides)

    def _entered(self, yx: np.ndarray, descriptors: np.ndarray) -> _Side:
        if descriptors.shape != (len(yx), self._inputs) or yx.shape != (len(yx), 2):
            raise ShapeError(
                f"Features that are matched have the shapes (m, 2) and (m, {self._inputs}).",
                f"{yx.shape} and {descriptors.shape}",
            )
        kernel, bias = self._inwards
        x = descriptors.astype(np.float32) @ kernel + bias
        # Only differences of places count, in halves of the area that the features take up: an
        # index does not keep the size of its images.
        finite = np.isfinite(yx).all(axis=1) & np.isfinite(x).all(axis=1)
        rows = np.flatnonzero(finite)
        xy = yx[rows, ::-1].astype(np.float32)
        lowest, highest = (xy.min(axis=0), xy.max(axis=0)) if len(xy) else (0, np.ones(2))
        places = (xy - (lowest + highest) / 2) / np.float32(max(1.0, (highest - lowest).max()) / 2)
        half = self._dim // self._heads // 2
        angles = places @ self._weights.of_keras("posenc.Wr.weight", (2, half))
        return _Side(x[rows], np.cos(angles), np.sin(angles), rows)

    def _layer(
        self, layer: int, sides: list[_Side]
    ) -> tuple[list[_Side], list[np.ndarray], list[np.ndarray]]:
        """The sides after a layer; how sure it is of each feature, and how matchable they are."""
        last = layer == self.num_layers - 1
        network = self._network(
            f"layer {layer}",
            lambda: _layer_network(self._weights, layer, self._dim, self._heads, last=last),
        )
        names = ["x"] if last else ["x", "confidence", "matchable"]
        given = {
            f"{name}{number}": array
            for number, side in enumerate(sides)
            for name, array in (("x", side.x), ("cosines", side.cosines), ("sines", side.sines))
        }
        outputs = [f"{name}{number}" for name in names for number in (0, 1)]
        found = network.run([*(f"{one}'" for one in outputs[:2]), *outputs[2:]], given)
        sides = [
            _Side(x, side.cosines, side.sines, side.rows)
            for x, side in zip(found[:2], sides, strict=True)
        ]
        return sides, found[2:4], found[4:]

    def _assigned(self, layer: int, sides: list[_Side]) -> np.ndarray:
        """Matches by what a layer gives: pairs that are each other's best."""
        network = self._network(
            f"assignment {layer}", lambda: _assignment_network(self._weights, layer, self._dim)
        )
        given = {f"x{number}": side.x for number, side in enumerate(sides)}
        [scores] = network.run(["scores"], given)
        rows, best = np.arange(len(scores)), scores.argmax(axis=1)
        keep = (scores.argmax(axis=0)[best] == rows) & (scores[rows, best] > np.log(LEAST_SCORE))
        return np.stack([sides[0].rows[keep], sides[1].rows[best[keep]]], axis=1)

    def _network(self, name: str, made: "Callable[[], onnx.ModelProto]") -> runtimes.Runnable:
        with self._lock:
            if name not in self._opened:
                content = onnx_graph.content(made())
                self._opened[name] = runtimes.open_own(content, f"LightGlue, {name}")
            return self._opened[name]


def _present_name(name: str) -> str:
    """What newer files call a weight: those of the layers of one number come together."""
    block, _, rest = name.partition(".")
    if block in ("self_attn", "cross_attn"):
        number, _, rest = rest.partition(".")
        return f"transformers.{number}.{block}.{rest}"
    return name


class _Layer(onnx_graph.Builder):
    """A graph whose weights come from a state dict; linear layers by their names.

    Args:
        weights: a `StateDict`.
        within: str. How the names of its weights begin.
        dim: int, numbers of a feature.
    """

    def __init__(self, weights: StateDict, within: str, dim: int) -> None:
        super().__init__()
        self._weights, self._within, self.dim = weights, within, dim

    def of(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Weights; those of linear layers as `(inputs, outputs)`."""
        return self._weights.of_keras(self._within + name, shape)

    def of_linear(self, name: str, inputs: int, outputs: int) -> tuple[np.ndarray, np.ndarray]:
        return self.of(name + ".weight", (inputs, outputs)), self.of(name + ".bias", (outputs,))

    def linear(self, x: str, kernel: str, bias: str) -> str:
        return self.node("Gemm", [x, kernel, bias])

    def in_heads(self, x: str, heads: int) -> str:
        """`(n, dim)` as `(heads, n, dim / heads)`."""
        shape = self.constant([0, heads, self.dim // heads], "int64")
        return self.node("Transpose", [self.node("Reshape", [x, shape])], perm=[1, 0, 2])

    def out_of_heads(self, x: str) -> str:
        shape = self.constant([0, self.dim], "int64")
        return self.node("Reshape", [self.node("Transpose", [x], perm=[1, 0, 2]), shape])

    def attended(self, query: str, keys: str, values: str) -> str:
        """`(heads, m, d)` from as many queries, and n keys and values."""
        turned = self.node("Transpose", [keys], perm=[0, 2, 1])
        likeness = self.node("Softmax", [self.node("MatMul", [query, turned])], axis=-1)
        return self.node("MatMul", [likeness, values])

    def message(self, block: str, out: str) -> "Callable[[str, str], str]":
        """What a block makes of a feature and of what it attended to."""
        dim = self.dim
        kernel, bias = self.of_linear(f"{block}.ffn.0", 2 * dim, 2 * dim)
        # What is attended to goes through a layer of its own first: two products are one.
        out_kernel, out_bias = self.of_linear(f"{block}.{out}", dim, dim)
        bias = bias + out_bias @ kernel[dim:]
        kernel = np.concatenate([kernel[:dim], out_kernel @ kernel[dim:]])
        names = [
            self.constant(array)
            for array in (
                kernel,
                bias,
                self.of(f"{block}.ffn.1.weight", (2 * dim,)),
                self.of(f"{block}.ffn.1.bias", (2 * dim,)),
                *self.of_linear(f"{block}.ffn.3", 2 * dim, dim),
            )
        ]
        root, half, one = self.constant(2**0.5), self.constant(0.5), self.constant(1)

        def apply(x: str, attended: str) -> str:
            both = self.node("Concat", [x, attended], axis=1)
            hidden = self.linear(both, *names[:2])
            hidden = self.node(
                "LayerNormalization", [hidden, *names[2:4]], axis=-1, epsilon=_EPSILON
            )
            error = self.node("Erf", [self.node("Div", [hidden, root])])
            hidden = self.node("Mul", [hidden, self.node("Add", [error, one])])
            hidden = self.node("Mul", [hidden, half])  # GELU
            return self.node("Add", [x, self.linear(hidden, *names[4:])])

        return apply


def _layer_network(
    weights: StateDict, layer: int, dim: int, heads: int, *, last: bool
) -> "onnx.ModelProto":
    """A layer: attention of each image to itself, then of the two to each other."""
    graph = _Layer(weights, f"transformers.{layer}.", dim)
    head_dim = dim // heads
    half = head_dim // 2
    # Numbers of queries, keys and values take turns, and so do the two that a place turns; here
    # the first ones of all pairs come before the second ones.
    kernel, bias = graph.of_linear("self_attn.Wqkv", dim, 3 * dim)
    kernel, bias = kernel.reshape(dim, heads, head_dim, 3), bias.reshape(heads, head_dim, 3)
    pairs = np.concatenate([np.arange(0, head_dim, 2), np.arange(1, head_dim, 2)])
    parts = []
    for part, order, scale in (
        (0, pairs, head_dim**-0.5),
        (1, pairs, 1.0),
        (2, np.arange(head_dim), 1.0),
    ):
        parts.append(
            (
                graph.constant(kernel[:, :, order, part].reshape(dim, dim) * scale),
                graph.constant(bias[:, order, part].ravel() * scale),
            )
        )
    ends = [graph.constant([number], "int64") for number in (0, half, head_dim, 2)]
    message = graph.message("self_attn", "out_proj")

    def turned(x: str, cosines: str, sines: str) -> str:
        first = graph.node("Slice", [x, ends[0], ends[1], ends[3]])
        second = graph.node("Slice", [x, ends[1], ends[2], ends[3]])
        along = graph.node(
            "Sub", [graph.node("Mul", [first, cosines]), graph.node("Mul", [second, sines])]
        )
        across = graph.node(
            "Add", [graph.node("Mul", [second, cosines]), graph.node("Mul", [first, sines])]
        )
        return graph.node("Concat", [along, across], axis=2)

    seen = []
    for number, n in enumerate("mn"):
        x = graph.take(f"x{number}", "float32", [n, dim])
        places = [
            graph.take(f"{one}{number}", "float32", [n, half]) for one in ("cosines", "sines")
        ]
        query, keys, values = (graph.in_heads(graph.linear(x, *part), heads) for part in parts)
        attended = graph.attended(turned(query, *places), turned(keys, *places), values)
        seen.append(message(x, graph.out_of_heads(attended)))

    kernel, bias = graph.of_linear("cross_attn.to_qk", dim, dim)
    scale = head_dim**-0.25
    both = graph.constant(kernel * scale), graph.constant(bias * scale)
    value = [graph.constant(array) for array in graph.of_linear("cross_attn.to_v", dim, dim)]
    message = graph.message("cross_attn", "to_out")
    asked = [graph.in_heads(graph.linear(x, *both), heads) for x in seen]
    values_of = [graph.in_heads(graph.linear(x, *value), heads) for x in seen]
    for number, n in enumerate("mn"):
        other = 1 - number
        attended = graph.attended(asked[number], asked[other], values_of[other])
        x = message(seen[number], graph.out_of_heads(attended))
        if not last:
            for name, of in (
                ("confidence", f"token_confidence.{layer}.token.0"),
                ("matchable", f"log_assignment.{layer}.matchability"),
            ):
                kernel = weights.of_keras(of + ".weight", (dim, 1))
                bias = weights.of_keras(of + ".bias", (1,))
                scores = graph.linear(x, graph.constant(kernel), graph.constant(bias))
                scores = graph.node("Reshape", [scores, graph.constant([-1], "int64")])
                graph.give(f"{name}{number}", graph.node("Sigmoid", [scores]), shape=[n])
        graph.give(f"x{number}'", x, shape=[n, dim])
    return graph.model()


def _assignment_network(weights: StateDict, layer: int, dim: int) -> "onnx.ModelProto":
    """From the features of a layer to the logarithm of how well each two match."""
    graph = _Layer(weights, f"log_assignment.{layer}.", dim)
    kernel, bias = graph.of_linear("final_proj", dim, dim)
    scale = dim**-0.25
    project = graph.constant(kernel * scale), graph.constant(bias * scale)
    kernel, bias = graph.of_linear("matchability", dim, 1)
    matchable = graph.constant(kernel), graph.constant(bias)
    projected, certain = [], []
    for number, n in enumerate("mn"):
        x = graph.take(f"x{number}", "float32", [n, dim])
        projected.append(graph.linear(x, *project))
        # log(sigmoid(z)) == -softplus(-z)
        negative = graph.node("Neg", [graph.linear(x, *matchable)])
        certain.append(graph.node("Neg", [graph.node("Softplus", [negative])]))
    turned = graph.node("Transpose", [projected[1]], perm=[1, 0])
    likeness = graph.node("MatMul", [projected[0], turned])
    scores = graph.node(
        "Add",
        [
            graph.node("LogSoftmax", [likeness], axis=1),
            graph.node("LogSoftmax", [likeness], axis=0),
        ],
    )
    certain[1] = graph.node("Transpose", [certain[1]], perm=[1, 0])
    for one in certain:
        scores = graph.node("Add", [scores, one])
    graph.give("scores", scores, shape=["m", "n"])
    return graph.model()
