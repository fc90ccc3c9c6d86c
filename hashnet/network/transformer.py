"""Vision transformers of plain Keras layers: what CLIP, SigLIP, DINO and ViT have in common.

image -> patches -> tokens, with the places' own numbers added -> blocks of attention and two dense
layers -> a norm -> pooled to F7. The tokens of the patches, laid out as they lie in the image, are
the map.

Scales of layers are part of the dense layers before them, and places rotate queries and keys as
products with tables: nothing here needs a class of its own, so that any Keras reads the network.

Reference:
    Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021, arXiv:2010.11929; Su et al.,
    "RoFormer", arXiv:2104.09864, for rotary positions; Radenovic et al., "Fine-tuning CNN Image
    Retrieval", arXiv:1711.02512, for GeM.
"""

import math
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from hashnet.errors import ArgumentError, BundleError, WeightsError
from hashnet.network.backbones import Backbone, no_weights
from hashnet.network.geometry import Geometry

if TYPE_CHECKING:
    import keras

KIND = "transformer"
ACTIVATIONS = ("gelu", "gelu_tanh", "quick_gelu", "silu", "linear")
POOLINGS = ("cls", "mean", "gem", "attention")
# Far above what is known; a description that asks for more asks for memory.
_MOST = {"width": 1 << 13, "depth": 128, "heads": 128, "mlp_width": 1 << 15, "prefix": 64}
_MOST |= {"patch_size": 256, "projection": 1 << 14, "image_size": 2048}


@dataclass(frozen=True)
class Transformer:
    """A vision transformer, but for its weights.

    Attributes:
        image_size, patch_size: int, pixels a side.
        width, depth, heads, mlp_width: int. Numbers of a token, blocks, heads of an attention, and
            numbers between the two dense layers of a block.
        activation: str, one of `ACTIVATIONS`, between those.
        gated: bool. Whether what is activated is multiplied by a third dense layer.
        prefix: int. Tokens before those of patches: the class token, then registers.
        first_norm: bool. Whether tokens are normalised before the first block.
        epsilon, last_epsilon: float. Of the norms, and of the last one.
        rope_theta: float. Base of rotary positions; 0 for none.
        pooling: tuple of str, of `POOLINGS`. What F7 is: of several, one behind the other.
        projection: int. Numbers of F7 behind a last dense layer; 0 without one.
        scale, offset: three floats each: pixels in 0..255 are multiplied by, and then added to.

    Raises:
        ArgumentError: a value is out of its range.
    """

    image_size: int
    patch_size: int
    width: int
    depth: int
    heads: int
    mlp_width: int
    scale: tuple[float, ...]
    offset: tuple[float, ...]
    activation: str = "gelu"
    gated: bool = False
    prefix: int = 1
    first_norm: bool = False
    epsilon: float = 1e-6
    last_epsilon: float = 1e-6
    rope_theta: float = 0.0
    pooling: tuple[str, ...] = ("cls",)
    projection: int = 0

    def __post_init__(self) -> None:
        for name in ("scale", "offset", "pooling"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name, most in _MOST.items():
            value, least = getattr(self, name), 0 if name in ("prefix", "projection") else 1
            if type(value) is not int or not least <= value <= most:
                raise ArgumentError(f"{name} is {least} to {most}.", repr(value))
        if self.image_size % self.patch_size or self.width % (4 * self.heads):
            raise ArgumentError(
                "Patches fill the image, and heads share a token's numbers in fours.",
                f"{self.image_size} and {self.patch_size} pixels, {self.heads} of {self.width}",
            )
        if not self.pooling or not set(self.pooling) <= set(POOLINGS):
            raise ArgumentError(
                f"pooling is some of {', '.join(POOLINGS)}.", ", ".join(map(str, self.pooling))
            )
        if "cls" in self.pooling and not self.prefix:
            raise ArgumentError("A network without a class token pools its patches.", "cls")
        if self.activation not in ACTIVATIONS or len(self.scale) != 3 or len(self.offset) != 3:
            raise ArgumentError(
                f"activation is one of {', '.join(ACTIVATIONS)}; scale and offset are of three "
                "channels.",
                f"{self.activation!r}, {self.scale}, {self.offset}",
            )

    @property
    def grid(self) -> int:
        """int. Patches along a side."""
        return self.image_size // self.patch_size

    @property
    def feature_dim(self) -> int:
        """int, length of F7."""
        return self.projection or len(self.pooling) * self.width

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The transformer that a dictionary holds.

        Args:
            values: dict, as `to_dict` gives, by way of JSON.

        Returns:
            `Transformer`.

        Raises:
            KeyError, TypeError, ArgumentError: it holds another.
        """
        return cls(**{field.name: values[field.name] for field in fields(cls)})

    def to_dict(self) -> dict[str, Any]:
        """dict that `from_dict` takes back and JSON can hold."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }

    def build(self) -> "keras.Model":
        """The network in Keras, with random weights.

        Returns:
            A `keras.Model`, as from `backbones.create`; its attribute `map_geometry` says which
            pixels the places of the map see.

        Example:
            >>> small = Transformer(32, 8, 16, 1, 2, 32, scale=(1, 1, 1), offset=(0, 0, 0))
            >>> {name: tuple(end.shape) for name, end in small.build().output.items()}
            {'feature': (None, 16), 'map': (None, 4, 4, 16)}
        """
        return _Builder(self).model()


def backbone(
    name: str, network: Transformer, weights: dict[str, list[np.ndarray]] | None, source: str
) -> Backbone:
    """A transformer as a backbone.

    Args:
        name: str, what it is called.
        network: `Transformer`.
        weights: dict of the name of a layer of `network.build()` to its weights, float arrays in
            Keras's order; None where they are elsewhere.
        source: str. Where they come from.

    Returns:
        A `Backbone`.
    """

    def build(size: int, given: str | None) -> "keras.Model":
        model = network.build()
        if given is not None:
            if weights is None:
                raise no_weights(name)
            fill(model, weights)
        return model

    return Backbone(
        name=name,
        image_size=network.image_size,
        any_size=False,
        feature_dim=network.feature_dim,
        map_channels=network.width,
        build=build,
        source=source,
        has_classes=False,
        own={"kind": KIND, **network.to_dict()},
    )


def described(name: str, own: dict[str, Any]) -> Backbone:
    """The backbone of a description, without its weights; see `own_backbones.described`.

    Args:
        name: str.
        own: dict.

    Returns:
        A `Backbone`.

    Raises:
        BundleError: it describes none.
    """
    try:
        return backbone(name, Transformer.from_dict(own), None, "a transformer of yours")
    except ArgumentError as error:
        raise BundleError("A transformer's description must be valid.", str(error)) from error


def fill(model: "keras.Model", weights: dict[str, list[np.ndarray]]) -> None:
    """Set the weights of all layers.

    Args:
        model: of `Transformer.build`, changed in place.
        weights: as for `backbone`.

    Raises:
        WeightsError: a layer has none, or others.
    """
    for layer in model.layers:
        if not layer.weights:
            continue
        given = weights.get(layer.name)
        if given is None or [one.shape for one in given] != [w.shape for w in layer.weights]:
            shapes = None if given is None else [one.shape for one in given]
            raise WeightsError(
                "Weights must fit the network.",
                f"{shapes} for {[tuple(w.shape) for w in layer.weights]} of {layer.name}",
            )
        layer.set_weights(given)


class _Builder:
    """One network in the making."""

    def __init__(self, network: Transformer) -> None:
        from keras import layers, ops

        self.network, self.layers, self.ops = network, layers, ops
        self.tokens = network.prefix + network.grid**2
        self.head = network.width // network.heads
        if network.rope_theta:
            cos, sin = _rotations(network)
            self.cos = layers.Rescaling(cos.tolist(), name="rope_cos")
            self.sin = layers.Rescaling(sin.tolist(), name="rope_sin")

    def model(self) -> "keras.Model":
        from keras import Input, Model

        it, layers = self.network, self.layers
        image = Input((it.image_size, it.image_size, 3), name="image")
        x = layers.Rescaling(list(it.scale), offset=list(it.offset), name="scale")(image)
        x = layers.Conv2D(it.width, it.patch_size, it.patch_size, name="patches")(x)
        x = layers.Reshape((it.grid**2, it.width), name="rows")(x)  # (n, patches, width)
        if it.prefix:
            x = layers.ZeroPadding1D((it.prefix, 0), name="prefix")(x)  # (n, tokens, width)
        # What is added to tokens, class token, registers and positions, is the weights of a dense
        # layer that sees a one.
        one = self.ops.take(layers.GlobalAveragePooling2D(name="grey")(image), [0], axis=1)
        one = layers.Rescaling(0.0, offset=1.0, name="one")(one)
        added = layers.Dense(self.tokens * it.width, use_bias=False, name="tokens")(one)
        added = layers.Reshape((self.tokens, it.width), name="token_rows")(added)
        x = layers.Add(name="placed")([x, added])
        if it.first_norm:
            x = self.norm(x, "norm_first")
        for number in range(it.depth):
            x = layers.Add(name=f"b{number}_add1")([x, self.attended(x, f"b{number}")])
            y = self.norm(x, f"b{number}_norm2")
            x = layers.Add(name=f"b{number}_add2")([x, self.dense_pair(y, f"b{number}")])
        x = self.norm(x, "norm_last", it.last_epsilon)
        patches = x
        if it.prefix:
            patches = layers.Cropping1D((it.prefix, 0), name="patches_alone")(x)
        pooled = [getattr(self, f"pool_{kind}")(x, patches) for kind in it.pooling]
        feature = pooled[0] if len(pooled) == 1 else layers.Concatenate(name="pooled")(pooled)
        if it.projection:
            feature = layers.Dense(it.projection, use_bias=False, name="projection")(feature)
        feature = layers.Flatten(name="f7")(feature)
        places = layers.Reshape((it.grid, it.grid, it.width), name="map")(patches)
        model = Model(image, {"feature": feature, "map": places}, name=KIND)
        model.map_geometry = Geometry(it.patch_size, it.patch_size, (it.patch_size - 1) / 2)
        return model

    def norm(self, x: Any, name: str, epsilon: float | None = None) -> Any:
        return self.layers.LayerNormalization(epsilon=epsilon or self.network.epsilon, name=name)(x)

    def heads(self, x: Any, name: str) -> Any:
        """One row of tokens for each head, (n, heads, tokens, numbers of a head)."""
        it, layers = self.network, self.layers
        x = layers.Dense(it.width, name=name)(x)
        x = layers.Reshape((self.tokens, it.heads, self.head), name=f"{name}_heads")(x)
        return layers.Permute((2, 1, 3), name=f"{name}_by_head")(x)

    def rotated(self, x: Any) -> Any:
        half = self.head // 2
        other = self.ops.take(x, [*range(half, self.head), *range(half)], axis=3)
        return self.layers.Add()([self.cos(x), self.sin(other)])

    def attended(self, x: Any, block: str) -> Any:
        it, layers, ops = self.network, self.layers, self.ops
        x = self.norm(x, f"{block}_norm1")
        query, key = self.heads(x, f"{block}_query"), self.heads(x, f"{block}_key")
        if it.rope_theta:
            query, key = self.rotated(query), self.rotated(key)
        query = layers.Rescaling(self.head**-0.5, name=f"{block}_by_root")(query)
        key = layers.Permute((1, 3, 2), name=f"{block}_key_across")(key)
        alike = ops.matmul(query, key)  # (n, heads, tokens, tokens)
        shares = layers.Activation("softmax", name=f"{block}_shares")(alike)
        x = ops.matmul(shares, self.heads(x, f"{block}_value"))
        return self.joined(x, f"{block}_out", self.tokens)

    def joined(self, x: Any, name: str, tokens: int) -> Any:
        """Tokens again of what each head gives."""
        it, layers = self.network, self.layers
        x = layers.Permute((2, 1, 3), name=f"{name}_by_token")(x)
        x = layers.Reshape((tokens, it.width), name=f"{name}_tokens")(x)
        return layers.Dense(it.width, name=name)(x)

    def dense_pair(self, x: Any, block: str) -> Any:
        it, layers = self.network, self.layers
        up = layers.Dense(it.mlp_width, name=f"{block}_up")(x)
        if it.gated:
            gate = layers.Dense(it.mlp_width, name=f"{block}_gate")(x)
            up = layers.Multiply(name=f"{block}_gated")([self.activated(gate, block), up])
        else:
            up = self.activated(up, block)
        return layers.Dense(it.width, name=f"{block}_down")(up)

    def activated(self, x: Any, block: str) -> Any:
        layers, kind = self.layers, self.network.activation
        if kind == "quick_gelu":
            share = layers.Activation("sigmoid", name=f"{block}_share")(
                layers.Rescaling(1.702, name=f"{block}_steep")(x)
            )
            return layers.Multiply(name=f"{block}_active")([x, share])
        if kind == "gelu_tanh":
            cube = layers.Multiply(name=f"{block}_cube")([x, x, x])
            cube = layers.Rescaling(0.044715, name=f"{block}_part")(cube)
            y = layers.Add(name=f"{block}_bent")([x, cube])
            y = layers.Rescaling(math.sqrt(2 / math.pi), name=f"{block}_steep")(y)
            y = layers.Activation("tanh", name=f"{block}_tanh")(y)
            y = layers.Rescaling(0.5, offset=0.5, name=f"{block}_share")(y)
            return layers.Multiply(name=f"{block}_active")([x, y])
        return layers.Activation(kind, name=f"{block}_active")(x)

    # Each takes all tokens and those of patches, and gives (n, width).

    def pool_cls(self, x: Any, _patches: Any) -> Any:
        first = self.layers.Cropping1D((0, self.tokens - 1), name="cls")(x)
        return self.layers.Flatten(name="pool_cls")(first)

    def pool_mean(self, _x: Any, patches: Any) -> Any:
        return self.layers.GlobalAveragePooling1D(name="pool_mean")(patches)

    def pool_gem(self, _x: Any, patches: Any) -> Any:
        layers = self.layers
        x = layers.Rescaling(1.0, offset=1e-6, name="gem_positive")(
            layers.ReLU(name="gem_relu")(patches)
        )
        x = layers.GlobalAveragePooling1D(name="gem_mean")(
            layers.Multiply(name="gem_cube")([x, x, x])
        )
        return self.ops.power(x, 1 / 3)

    def pool_attention(self, x: Any, _patches: Any) -> Any:
        """A learned query, which asks all tokens: it is part of the keys' dense layer."""
        it, layers, ops = self.network, self.layers, self.ops
        shares = layers.Dense(it.heads, name="pool_key")(x)  # (n, tokens, heads)
        shares = layers.Permute((2, 1), name="pool_by_head")(shares)
        shares = layers.Activation("softmax", name="pool_shares")(shares)
        shares = layers.Reshape((it.heads, 1, self.tokens), name="pool_rows")(shares)
        y = self.joined(ops.matmul(shares, self.heads(x, "pool_value")), "pool_out", 1)
        z = self.dense_pair(self.norm(y, "pool_norm2"), "pool")
        return layers.Flatten(name="pool_attention")(layers.Add(name="pool_add")([y, z]))


def _rotations(network: Transformer) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and signed sines, float32 `(tokens, numbers of a head)`; of the prefix 1 and 0."""
    head = network.width // network.heads
    centres = (np.arange(network.grid, dtype=np.float32) + 0.5) / network.grid * 2 - 1
    rows, columns = np.meshgrid(centres, centres, indexing="ij")
    inverse = 1 / network.rope_theta ** np.arange(0, 1, 4 / head, dtype=np.float32)
    places = np.stack([rows.ravel(), columns.ravel()], axis=1)  # (patches, 2)
    angles = (2 * np.pi * places[:, :, None] * inverse).reshape(len(places), head // 2)
    angles = np.concatenate([np.zeros((network.prefix, head // 2)), angles])
    cos, sin = np.cos(angles), np.sin(angles)
    return (
        np.concatenate([cos, cos], axis=1).astype(np.float32),
        np.concatenate([-sin, sin], axis=1).astype(np.float32),
    )
