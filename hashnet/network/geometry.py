"""Which pixels a place of a convolution map sees, computed from the layers."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hashnet.errors import ArgumentError
from hashnet.network.functional import Evaluation

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Geometry:
    """Which pixels a place of a map sees.

    Attributes:
        size: int, pixels. Side of the square that it sees.
        stride: int, pixels between the centres of neighbours.
        offset: float, pixels. Centre of the first place, where the first pixel's is 0.
    """

    size: int
    stride: int
    offset: float


@dataclass(frozen=True)
class Window:
    """What the places of a map see, on the way there: of an image, each place sees a pixel.

    Attributes:
        start, end: int, pixels. The first and the last that the first place sees.
        stride: int, pixels. How far the next place is.

    Example:
        >>> Window().after(kernel=3, stride=2, padding="same").geometry()
        Geometry(size=3, stride=2, offset=1.0)
    """

    start: int = 0
    end: int = 0
    stride: int = 1

    def after(self, kernel: int, stride: int, padding: str, dilation: int = 1) -> "Window":
        """What the places behind a convolution or a pooling see.

        Args:
            kernel, stride, dilation: int, of rows as of columns.
            padding: `"same"` or `"valid"`.

        Returns:
            A `Window`.
        """
        reach = (kernel - 1) * dilation
        margin = max(reach + 1 - stride, 0) // 2 if padding == "same" else 0
        start = self.start - margin * self.stride
        end = self.end + (reach - margin) * self.stride
        return Window(start, end, self.stride * stride)

    def geometry(self) -> Geometry:
        """The `Geometry` of the map."""
        return Geometry(self.end - self.start + 1, self.stride, (self.start + self.end) / 2)


def geometry(model: "keras.Model") -> Geometry:
    """Compute, from the layers, which pixels a place of the map sees.

    For images whose sides are multiples of the stride: "same" padding depends on the size.

    Args:
        model: a `keras.Model` of one image with an output called `map`, such as
            `backbones.create` gives, or with an attribute of that name, as `model.build` gives.

    Returns:
        A `Geometry`.

    Raises:
        ArgumentError: a layer moves places in a way that is not understood.

    Example:
        >>> from hashnet.network import backbones
        >>> geometry(backbones.create("efficientnet_lite0", weights=None))
        Geometry(size=339, stride=16, offset=15.0)
    """
    first: list[tuple[Any, Window | None]] = [(model.input, Window())]
    last = Evaluation(first, _window_after).of(map_tensor(model))
    if last is None:
        raise ArgumentError("A map has places.", model.name)
    return last.geometry()


def map_tensor(model: "keras.Model") -> Any:
    """The Keras tensor of a network's stride-16 map; None if it names none.

    Args:
        model: as for `geometry`.
    """
    return model.output["map"] if "map" in model.output else getattr(model, "map", None)


def _window_after(layer: Any, node: Any, values: dict[int, "Window | None"]) -> "Window | None":
    from keras import layers

    before = [values[id(tensor)] for tensor in node.input_tensors]
    windows = [window for window in before if window is not None]
    if not windows:
        return None  # after a global pooling there are no places
    window = windows[0]
    if isinstance(layer, layers.Conv2D | layers.DepthwiseConv2D | layers.SeparableConv2D):
        return _seen(window, layer, layer.kernel_size, layer.strides, layer.dilation_rate)
    if isinstance(layer, layers.MaxPooling2D | layers.AveragePooling2D):
        return _seen(window, layer, layer.pool_size, layer.strides, 1)
    if isinstance(layer, layers.ZeroPadding2D | layers.Cropping2D):
        (top, _), (left, _) = getattr(layer, "padding", None) or layer.cropping
        move = _alike(layer, (top, left)) * window.stride
        move = move if isinstance(layer, layers.Cropping2D) else -move
        return Window(window.start + move, window.end + move, window.stride)
    out, inputs = node.outputs[0], node.input_tensors
    places = [tensor.shape[1:3] for tensor, seen in zip(inputs, before, strict=True) if seen]
    if len(out.shape) != 4 or out.shape[1:3] == (1, 1) != places[0]:
        return None
    if {*places} != {out.shape[1:3]} or len({window.stride for window in windows}) > 1:
        raise ArgumentError(
            "The places of a map must follow from convolutions, poolings and paddings.",
            f"{type(layer).__name__} {layer.name}",
        )
    start, end = min(w.start for w in windows), max(w.end for w in windows)
    return Window(start, end, window.stride)


def _seen(window: Window, layer: Any, kernel: Any, strides: Any, dilation: Any) -> Window:
    kernel, stride, dilation = (_alike(layer, pair) for pair in (kernel, strides, dilation))
    return window.after(kernel, stride, layer.padding, dilation)


def _alike(layer: Any, pair: Any) -> int:
    rows, columns = pair if isinstance(pair, tuple | list) else (pair, pair)
    if rows != columns:
        raise ArgumentError("A layer treats rows and columns alike.", f"{pair} in {layer.name}")
    return rows
