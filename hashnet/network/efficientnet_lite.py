"""EfficientNet-Lite, said once and built twice: in Keras to be trained, as ONNX to be run.

`Lite` says which layers follow each other; whoever walks it gives each a meaning. The weights are
those of a PyTorch state dict.

Reference:
    Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML
    2019, arXiv:1905.11946; the Lite variants, without squeeze and excitation and with ReLU6.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar

from hashnet.network import onnx_layers, pooling
from hashnet.network.geometry import Window
from hashnet.network.torch_weights import StateDict

if TYPE_CHECKING:
    import keras

FEATURE_DIM, NUM_CLASSES = 1280, 1000

# (blocks, kernel, stride of the first, expansion, channels) of the stages of Lite0
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_EPSILON = 1e-3  # of batch normalisation
_SCALE, _OFFSET = 1 / 128, -127 / 128  # of pixels

T = TypeVar("T")


class Tensors(NamedTuple, Generic[T]):
    """What a walk through the network gives.

    Attributes:
        map: float32 `(n, rows, columns, channels)`, of stride 16.
        feature: float32 `(n, 1280)`, F7.
        scores: float32 `(n, 1000)`, of F8; None where F7 is pooled as the classes never saw it.
    """

    map: T
    feature: T
    scores: T | None


class _Meaning(Protocol[T]):
    """What the layers stand for; each takes what is before it and the layer's name."""

    def image(self, size: int) -> T: ...
    def rescaled(self, x: T, name: str) -> T: ...
    def convolved(self, x: T, name: str, filters: int, kernel: int, stride: int) -> T: ...
    def convolved_depthwise(self, x: T, name: str, kernel: int, stride: int) -> T: ...
    def normalised(self, x: T, name: str) -> T: ...
    def clipped(self, x: T, name: str) -> T: ...
    def added(self, x: T, y: T, name: str) -> T: ...
    def global_pooling(self, x: T, name: str) -> T: ...
    def pooled(self, x: T, stride_16: T, names: Sequence[str]) -> T: ...
    def classified(self, x: T, name: str) -> T: ...


@dataclass(frozen=True)
class Lite:
    """One network of the family.

    Attributes:
        variant: int, 0 for the smallest.
        width: float, times which the channels of Lite0 are taken, to the nearest multiple of 8.
        depth: float, times which its blocks are taken.

    Example:
        >>> Lite(0, 1.0, 1.0).num_blocks
        16
    """

    variant: int
    width: float
    depth: float

    @property
    def name(self) -> str:
        """str, as `BACKBONES` has it."""
        return f"efficientnet_lite{self.variant}"

    @property
    def num_blocks(self) -> int:
        """int, blocks of all stages."""
        return sum(blocks for blocks, *_ in self._stages())

    def _stages(self) -> list[tuple[int, int, int, int, int]]:
        """The first and the last stage keep their one block."""
        return [
            (
                blocks if blocks == 1 else math.ceil(blocks * self.depth),
                kernel,
                stride,
                expansion,
                int(channels * self.width + 4) // 8 * 8,
            )
            for blocks, kernel, stride, expansion, channels in _STAGES
        ]

    def walk(self, layers: _Meaning[T], size: int, poolings: Sequence[str] = ()) -> Tensors[T]:
        """Go through the layers in their order.

        Args:
            layers: what they stand for.
            size: int. Side of the images in pixels.
            poolings: names as from `pooling.named`, of what F7 is; none for the network's own, by
                which F8 knows the classes.

        Returns:
            `Tensors`, of what the layers gave.
        """

        def normalise(x: T, name: str) -> T:
            return layers.clipped(layers.normalised(x, f"{name}_bn"), f"{name}_relu")

        x = layers.rescaled(layers.image(size), "scale")
        x = normalise(layers.convolved(x, "stem_conv", 32, 3, 2), "stem")  # (n, size/2, size/2, 32)
        stride_16, index, before_channels = x, 0, 32
        for blocks, kernel, first_stride, expansion, channels in self._stages():
            for position in range(blocks):
                name, before = f"block{index}", x
                stride = first_stride if position == 0 else 1
                if expansion > 1:
                    filters = before_channels * expansion
                    x = layers.convolved(x, f"{name}_expand_conv", filters, 1, 1)
                    x = normalise(x, f"{name}_expand")
                if stride == 2:
                    stride_16 = x  # in the end the widest map of it, as feature pyramids take it
                x = layers.convolved_depthwise(x, f"{name}_depthwise_conv", kernel, stride)
                x = normalise(x, f"{name}_depthwise")
                x = layers.convolved(x, f"{name}_project_conv", channels, 1, 1)
                x = layers.normalised(x, f"{name}_project_bn")
                if before_channels == channels and stride == 1:
                    x = layers.added(before, x, f"{name}_add")
                before_channels = channels
                index += 1
        x = layers.convolved(x, "head_conv", FEATURE_DIM, 1, 1)
        last = normalise(x, "head")  # (n, size/32, size/32, 1280)
        if poolings:
            return Tensors(stride_16, layers.pooled(last, stride_16, poolings), None)
        feature = layers.global_pooling(last, "f7")  # (n, 1280)
        return Tensors(stride_16, feature, layers.classified(feature, "f8"))

    def tensor_names(self, *, has_classes: bool = True) -> dict[str, list[str]]:
        """The names of its weights in the state dict.

        Args:
            has_classes: bool. Whether F8 is one of its layers.

        Returns:
            dict of layer name to those of its weights, in Keras's order.
        """

        def norm(prefix: str) -> list[str]:
            parts = ("weight", "bias", "running_mean", "running_var")
            return [f"{prefix}.{part}" for part in parts]

        names = {
            "stem_conv": ["_conv_stem.weight"],
            "stem_bn": norm("_bn0"),
            "head_conv": ["_conv_head.weight"],
            "head_bn": norm("_bn1"),
        }
        if has_classes:
            names["f8"] = ["_fc.weight", "_fc.bias"]
        for index in range(self.num_blocks):
            steps = {"expand": "_bn0", "depthwise": "_bn1", "project": "_bn2"}
            if index == 0:
                del steps["expand"]
            for step, norm_name in steps.items():
                names[f"block{index}_{step}_conv"] = [f"_blocks.{index}._{step}_conv.weight"]
                names[f"block{index}_{step}_bn"] = norm(f"_blocks.{index}.{norm_name}")
        return names

    def keras(self, size: int, poolings: Sequence[str] = ()) -> "keras.Model":
        """The network in Keras, with random weights.

        Args:
            size: int. Side of the images in pixels.
            poolings: as for `walk`.

        Returns:
            A `keras.Model`, as from `backbones.create`.
        """
        from keras import Model

        meaning = _InKeras()
        found: dict[str, Any] = self.walk(meaning, size, poolings)._asdict()
        outputs = {name: tensor for name, tensor in found.items() if tensor is not None}
        return Model(meaning.input, outputs, name=self.name)

    def onnx(
        self,
        size: int,
        tensors: StateDict,
        layers: onnx_layers.Layers,
        poolings: Sequence[str] = (),
    ) -> Tensors[str]:
        """Add the network to one of ONNX.

        Args:
            size: int. Side of the images in pixels.
            tensors: its `StateDict`.
            layers: the ONNX network, empty; it learns the `Geometry` of the map.
            poolings: as for `walk`.

        Returns:
            `Tensors` of the names of values.

        Raises:
            WeightsError: the state dict is of another network.
        """
        found = self.walk(_InOnnx(layers, tensors, self.tensor_names(), size), size, poolings)
        layers.geometry = found.map.window.geometry()
        scores = None if found.scores is None else found.scores.name
        return Tensors(found.map.name, found.feature.name, scores)


class _InKeras:
    """Keras layers."""

    def __init__(self) -> None:
        from keras import layers

        self._layers = layers

    def image(self, size: int) -> Any:
        from keras import Input

        self.input = Input((size, size, 3), name="image")
        return self.input

    def rescaled(self, x: Any, name: str) -> Any:
        return self._layers.Rescaling(_SCALE, offset=_OFFSET, name=name)(x)

    def convolved(self, x: Any, name: str, filters: int, kernel: int, stride: int) -> Any:
        return self._layers.Conv2D(
            filters, kernel, stride, padding="same", use_bias=False, name=name
        )(x)

    def convolved_depthwise(self, x: Any, name: str, kernel: int, stride: int) -> Any:
        return self._layers.DepthwiseConv2D(
            kernel, stride, padding="same", use_bias=False, name=name
        )(x)

    def normalised(self, x: Any, name: str) -> Any:
        return self._layers.BatchNormalization(epsilon=_EPSILON, name=name)(x)

    def clipped(self, x: Any, name: str) -> Any:
        return self._layers.ReLU(6.0, name=name)(x)

    def added(self, x: Any, y: Any, name: str) -> Any:
        return self._layers.Add(name=name)([x, y])

    def global_pooling(self, x: Any, name: str) -> Any:
        return self._layers.GlobalAveragePooling2D(name=name)(x)

    def pooled(self, x: Any, stride_16: Any, names: Sequence[str]) -> Any:
        return pooling.in_keras(x, stride_16, names)

    def classified(self, x: Any, name: str) -> Any:
        return self._layers.Dense(NUM_CLASSES, activation="softmax", name=name)(x)


class _End(NamedTuple):
    """A value of an ONNX network: its name, its channels, and which pixels its places see."""

    name: str
    channels: int
    window: Window


class _InOnnx:
    """ONNX operators, filled with the weights of a state dict."""

    def __init__(
        self,
        layers: onnx_layers.Layers,
        tensors: StateDict,
        names: Mapping[str, list[str]],
        size: int,
    ) -> None:
        self._layers, self._tensors, self._names = layers, tensors, names
        self._size = size

    def _weight(
        self,
        layer: str,
        variable: str,
        shape: tuple[int, ...],
        order: tuple[int, ...] | None = None,
        *,
        place: int = 0,
    ) -> str:
        array = self._tensors.of_keras(
            self._names[layer][place], shape, order == onnx_layers.DEPTHWISE
        )
        return self._layers.weight(f"{layer}/{variable}", array, order)

    def image(self, size: int) -> _End:
        return _End(self._layers.image(["n", size, size, 3]), 3, Window())

    def rescaled(self, x: _End, name: str) -> _End:
        return x._replace(name=self._layers.rescaled(x.name, _SCALE, _OFFSET))

    def convolved(self, x: _End, name: str, filters: int, kernel: int, stride: int) -> _End:
        weight = self._weight(
            name, "kernel", (kernel, kernel, x.channels, filters), onnx_layers.CONVOLUTION
        )
        strides = (stride, stride)
        found = self._layers.convolution(x.name, weight, strides=strides, padding="same")
        return _End(found, filters, x.window.after(kernel, stride, "same"))

    def convolved_depthwise(self, x: _End, name: str, kernel: int, stride: int) -> _End:
        weight = self._weight(
            name, "kernel", (kernel, kernel, x.channels, 1), onnx_layers.DEPTHWISE
        )
        found = self._layers.convolution(
            x.name, weight, strides=(stride, stride), padding="same", group=x.channels
        )
        return _End(found, x.channels, x.window.after(kernel, stride, "same"))

    def normalised(self, x: _End, name: str) -> _End:
        gamma, beta, mean, variance = (
            self._weight(name, variable, (x.channels,), place=place)
            for place, variable in enumerate(("gamma", "beta", "moving_mean", "moving_variance"))
        )
        return x._replace(
            name=self._layers.normalised(x.name, gamma, beta, mean, variance, _EPSILON)
        )

    def clipped(self, x: _End, name: str) -> _End:
        return x._replace(name=self._layers.clipped(x.name, 6.0))

    def added(self, x: _End, y: _End, name: str) -> _End:
        # The later one of two has seen all that the earlier one has.
        return y._replace(name=self._layers.node("Add", [x.name, y.name]))

    def global_pooling(self, x: _End, name: str) -> _End:
        return x._replace(name=self._layers.global_pooling(x.name))

    def pooled(self, x: _End, stride_16: _End, names: Sequence[str]) -> _End:
        last, other = ((end.name, -(-self._size // end.window.stride)) for end in (x, stride_16))
        return x._replace(name=pooling.in_onnx(self._layers, last, other, names))

    def classified(self, x: _End, name: str) -> _End:
        kernel = self._weight(name, "kernel", (x.channels, NUM_CLASSES))
        bias = self._weight(name, "bias", (NUM_CLASSES,), place=1)
        scores = self._layers.dense(x.name, kernel, bias)
        return _End(self._layers.node("Softmax", [scores], axis=-1), NUM_CLASSES, x.window)
