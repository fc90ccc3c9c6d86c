"""Backbones of one's own, beside those that have a name: what was opened, and how to have it again.

A bundle remembers such a backbone by a description, `Backbone.own`, a dictionary with a `kind`; the
weights are in the bundle's `encoder.onnx`.
"""

import os
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from hashnet.errors import ArgumentError, BundleError, UnknownNameError
from hashnet.network import (
    backbones,
    onnx_layers,
    own_hub,
    own_keras,
    own_onnx,
    own_text,
    transformer,
)
from hashnet.network.backbones import BACKBONES
from hashnet.network.efficientnet_lite import Tensors

if TYPE_CHECKING:
    import keras

# Numbers of a feature; more are no feature of an image.
MAX_FEATURE_DIM = 1 << 16


class Backbone(backbones.Backbone):
    """A pretrained network under the hash layer: one that has a name, or one of yours.

    Args:
        name: str, one of `BACKBONES`, with a pooling behind it if wanted, see `backbones.known`; or
            the path of an `.onnx` or `.keras` file with a TOML beside it, see `own_settings`; or
            what `own_hub.open_preset` takes, `keras_hub:` and the name of a preset, or the folder
            of one.

    Raises:
        UnknownNameError: it is neither a name nor a file.
        WeightsError: the file is damaged, or holds what is refused.

    Example:
        >>> Backbone("resnet50").feature_dim
        2048
    """

    def __init__(self, name: str | os.PathLike[str]) -> None:
        found = opened(name)
        super().__init__(**{field.name: getattr(found, field.name) for field in fields(found)})


def opened(name: str | os.PathLike[str] | backbones.Backbone) -> backbones.Backbone:
    """The backbone that a user names, with the weights that it came with.

    Args:
        name: as for `Backbone`; or a backbone, which is given back.

    Returns:
        A `backbones.Backbone`.

    Raises:
        UnknownNameError, WeightsError: as for `Backbone`.

    Example:
        >>> opened("resnet50").name
        'resnet50'
    """
    if isinstance(name, backbones.Backbone):
        return name
    path = os.fsdecode(name)
    if backbones.is_known(path):
        return backbones.known(path)
    for suffix, kind in _FILES.items():
        if path.lower().endswith(suffix):
            backbone = kind.open_file(path)
            return replace(backbone, text=own_text.beside(path, backbone.feature_dim))
    if own_hub.is_preset(path):
        return own_hub.open_preset(path)
    raise UnknownNameError("backbone", path, BACKBONES)


def described(name: str, own: dict[str, Any]) -> backbones.Backbone:
    """The backbone of a description, without the weights that it came with.

    Args:
        name: str, what it is called.
        own: dict, a `Backbone.own`.

    Returns:
        A `Backbone`.

    Raises:
        BundleError: it describes none.

    Example:
        >>> described("clip", {"kind": "vectors", "feature_dim": 512}).feature_dim
        512
    """
    try:
        return _KINDS[own["kind"]](name, own)
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(
            "A backbone of one's own is described by its kind and what that needs.",
            f"{name}: {own!r}"[:300],
        ) from error


def of_vectors(feature_dim: int, name: str = "vectors") -> backbones.Backbone:
    """What stands for a network that is elsewhere, of which only the features are known.

    Args:
        feature_dim: int, numbers of a feature.
        name: str, what it is called.

    Returns:
        A `Backbone` that takes vectors.

    Raises:
        ArgumentError: there are no features of this length.

    Example:
        >>> of_vectors(384).takes
        'vector'
    """
    if type(feature_dim) is not int or not 1 <= feature_dim <= MAX_FEATURE_DIM:
        raise ArgumentError(
            f"A vector has 1 to {MAX_FEATURE_DIM} numbers.", f"feature_dim={feature_dim!r}"
        )

    def build(size: int, weights: str | None) -> "keras.Model":
        raise ArgumentError(
            "Networks are built, trained and exported that take images.",
            "one that takes vectors",
            "Its encoder.onnx, from vectors to codes, is all that there is.",
        )

    def write(size: int, weights: str, layers: onnx_layers.Layers) -> Tensors[str]:
        vector = layers.take("vector", "float32", ["n", feature_dim])
        return Tensors(map="", feature=vector, scores="")

    return backbones.Backbone(
        name=name,
        image_size=0,
        any_size=False,
        feature_dim=feature_dim,
        map_channels=0,
        build=build,
        source="vectors of yours",
        write=write,
        has_classes=False,
        takes="vector",
        own={"kind": "vectors", "feature_dim": feature_dim},
    )


_FILES = {".onnx": own_onnx, ".keras": own_keras}
_KINDS = {
    "vectors": lambda name, own: of_vectors(own["feature_dim"], name),
    own_onnx.KIND: own_onnx.described,
    own_keras.KIND: own_keras.described,
    transformer.KIND: transformer.described,
}
