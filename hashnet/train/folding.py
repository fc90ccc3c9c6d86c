"""Convolutions with the frozen batch normalisation after them inside: the same network, faster.

A normalisation whose statistics stay is a scale and a shift of each channel. Scaling the kernel
instead of the activations gives the same numbers and the same gradients, up to rounding, and
saves a pass over the activations forwards and one backwards; those passes are what a training on
a processor waits for.
"""

from typing import Any

import keras
from keras import KerasTensor, layers, ops


class NormalisedConvolution(layers.Layer):
    """A convolution and the frozen normalisation after it, in one; their weights are shared.

    (x * k - mean) s + beta = x * (k s) + (beta - mean s),  s = gamma / sqrt(variance + epsilon)

    Args:
        convolution: `keras.layers.Conv2D` or `DepthwiseConv2D` without bias, built.
        norm: `keras.layers.BatchNormalization` after it, built; not trainable.
        **options: what any Keras layer takes.
    """

    def __init__(
        self, convolution: layers.Layer, norm: layers.BatchNormalization, **options: Any
    ) -> None:
        # The scale is computed in float32 whatever the policy; only the convolution follows it.
        super().__init__(dtype="float32", autocast=False, **options)
        self.convolution, self.norm = convolution, norm

    def call(self, x: KerasTensor) -> KerasTensor:
        """What Keras asks for the output.

        Args:
            x: float tensor `(n, height, width, channels)`.

        Returns:
            float tensor `(n, height, width, filters)` of the convolution's precision.
        """
        convolution, norm = self.convolution, self.norm
        dtype = convolution.compute_dtype
        scale = ops.rsqrt(norm.moving_variance + norm.epsilon)
        if norm.scale:
            scale = scale * norm.gamma
        bias = -norm.moving_mean * scale
        if norm.center:
            bias = bias + norm.beta
        depthwise = isinstance(convolution, layers.DepthwiseConv2D)
        by_filter = ops.reshape(scale, convolution.kernel.shape[2:]) if depthwise else scale
        kernel = ops.cast(convolution.kernel * by_filter, dtype)
        x = ops.cast(x, dtype)
        strides, padding = convolution.strides, convolution.padding
        if not depthwise:
            y = ops.conv(x, kernel, strides, padding)
        elif convolution.trainable:
            y = ops.depthwise_conv(x, kernel, strides, padding)
        else:
            y = _depthwise_of_fixed_kernel(x, kernel, strides[0], padding)
        return y + ops.cast(bias, dtype)


def fold_norms(model: keras.Model) -> keras.Model:
    """The same model with each frozen normalisation inside the convolution before it.

    Args:
        model: functional `keras.Model`; layers are shared with the one returned.

    Returns:
        `keras.Model`.
    """
    convolved: dict[int, tuple[layers.Layer, KerasTensor, KerasTensor]] = {}

    def call(layer: layers.Layer, x: KerasTensor, *args: Any, **options: Any) -> KerasTensor:
        if isinstance(layer, layers.BatchNormalization) and id(x) in convolved:
            convolution, before, _ = convolved[id(x)]
            return NormalisedConvolution(convolution, layer, name=f"{layer.name}_folded")(before)
        y = layer(x, *args, **options)
        if _can_take_a_norm(layer):
            convolved[id(y)] = layer, x, y  # y is kept, so that no other tensor gets its id
        return y

    return keras.models.clone_model(model, clone_function=lambda layer: layer, call_function=call)


def _can_take_a_norm(layer: layers.Layer) -> bool:
    return (
        isinstance(layer, layers.Conv2D | layers.DepthwiseConv2D)
        and not layer.use_bias
        and layer.activation is keras.activations.linear
        and layer.data_format == "channels_last"
        and layer.dilation_rate == (1, 1)
        and getattr(layer, "groups", 1) == 1
        and getattr(layer, "depth_multiplier", 1) == 1
    )


def _depthwise_of_fixed_kernel(
    x: KerasTensor, kernel: KerasTensor, stride: int, padding: str
) -> KerasTensor:
    """A depthwise convolution through which gradients pass, but whose kernel gets none.

    The gradient of the input is a depthwise convolution again, of the flipped kernel, and runs as
    fast as the one forwards. TensorFlow has a kernel of its own for it, which on processors takes
    ten times as long in bfloat16.
    """
    height, width, side = x.shape[1], x.shape[2], kernel.shape[0]

    @ops.custom_gradient
    def convolve(x: KerasTensor) -> tuple[KerasTensor, Any]:
        y = ops.depthwise_conv(x, kernel, stride, padding)

        def gradient(*args: KerasTensor, upstream: KerasTensor | None = None) -> KerasTensor:
            (upstream,) = args if upstream is None else (upstream,)
            spread = _spread(upstream, stride, (height, width), side, padding)
            return ops.depthwise_conv(spread, ops.flip(kernel, (0, 1)), 1, "valid")

        return y, gradient

    return convolve(x)


def _spread(
    y: KerasTensor, stride: int, image: tuple[int, int], side: int, padding: str
) -> KerasTensor:
    """Outputs of a convolution where its kernel was centred, zeros between and around them."""
    down, across, channels = y.shape[1:]
    if stride > 1:
        y = ops.reshape(y, (-1, down, 1, across, 1, channels))
        gap = (0, stride - 1)
        y = ops.pad(y, ((0, 0), (0, 0), gap, (0, 0), gap, (0, 0)))
        y = ops.reshape(y, (-1, down * stride, across * stride, channels))
    margins = []
    for length, outputs in zip(image, (down, across), strict=True):
        first = 0
        if padding == "same":
            first = max((outputs - 1) * stride + side - length, 0) // 2
        before = side - 1 - first
        margins.append((before, length + first - outputs * stride))
    # The zeros after the last output may be more than the image has room for.
    y = y[:, : down * stride + min(margins[0][1], 0), : across * stride + min(margins[1][1], 0)]
    return ops.pad(y, ((0, 0), *((a, max(b, 0)) for a, b in margins), (0, 0)))
