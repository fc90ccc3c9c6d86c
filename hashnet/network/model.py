"""The hash network: a backbone with the latent layer H between its last two layers.

image -> backbone -> F7 -> [embedding] -> feature -> H -> latent
                      |                              |
                      +------------ or --------------+--> F8 -> scores
"""

from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Self

from hashnet.codes import MAX_BITS
from hashnet.errors import ArgumentError, BundleError, ShapeError
from hashnet.network import backbones, own_backbones
from hashnet.network.backbones import Backbone
from hashnet.network.onnx_check import MOST
from hashnet.network.onnx_cost import Cost
from hashnet.quiet import import_keras

if TYPE_CHECKING:
    import keras

SCORES_FROM = ("latent", "feature", "none")

# Far above what any backbone was pretrained on; a description that asks for more asks for memory.
MAX_IMAGE_SIZE = 2048
MAX_EMBEDDING = 4096

# What an encoder may take for an image, in times of what its backbone needs: other converters than
# ours take some times as much.
ALLOWED = 4
# Likewise of a backbone of one's own: half a minute on a core, and 1 GB.
MOST_OF_OWN = Cost(work=MOST.work, numbers=2.0**28)

# Fields that descriptions of before do not have.
_NEWER = {"mirror", "own", "embedding"}


@dataclass(frozen=True)
class HashNetConfig:
    """All that it takes to build a hash network again.

    Attributes:
        backbone: str, one of `BACKBONES`; or any name of one that `own` describes.
        image_size: int. Side of the square images in pixels, 2048 at most; 0 means the
            backbone's own, and is replaced by it.
        num_bits: int, 1 to 1024. Units of H.
        classes: tuple of str. Names of F8's classes, in order.
        scores_from: `"latent"` as in the paper, where F8 sees only the latent layer;
            `"feature"`, where F8 is the pretrained classifier on F7 and H stands beside it; or
            `"none"`, where there is no F8, and no class.
        mirror: bool. F7 is the mean over an image and its mirror image, which therefore have the
            same code: better codes at twice the time. F8 must not see the feature.
        own: dict that JSON can hold, or None. What `Backbone.own` says of a backbone that is not
            one of `BACKBONES`.
        embedding: int, 4096 at most. Length of the feature where a layer of its own makes it of
            F7; 0 where F7 is the feature. F8 must not see the feature then.

    Raises:
        ArgumentError: a value is out of its range.
        UnknownNameError: there is no such backbone.

    Example:
        >>> HashNetConfig(num_bits=12, classes=("cat", "dog")).image_size
        224
    """

    backbone: str = "efficientnet_lite0"
    image_size: int = 0
    num_bits: int = 64
    classes: tuple[str, ...] = ()
    scores_from: str = "latent"
    mirror: bool = False
    own: dict[str, Any] | None = field(default=None, hash=False)
    embedding: int = 0

    def __post_init__(self) -> None:
        backbone = self.known
        if not _is_count(self.num_bits) or not 1 <= self.num_bits <= MAX_BITS:
            raise ArgumentError(f"A code has 1 to {MAX_BITS} bits.", f"num_bits={self.num_bits!r}")
        if not _is_count(self.image_size) or self.image_size > MAX_IMAGE_SIZE:
            raise ArgumentError(
                f"image_size is in whole pixels, {MAX_IMAGE_SIZE} at most.", repr(self.image_size)
            )
        if self.scores_from not in SCORES_FROM:
            raise ArgumentError(
                f"scores_from is one of {SCORES_FROM}.", f"scores_from={self.scores_from!r}"
            )
        if type(self.mirror) is not bool or (self.mirror and self.scores_from == "feature"):
            raise ArgumentError(
                "mirror is True or False, and False where F8 sees the feature.",
                f"mirror={self.mirror!r}, scores_from={self.scores_from!r}",
            )
        if not _is_count(self.embedding) or self.embedding > MAX_EMBEDDING:
            raise ArgumentError(
                f"An embedding has 1 to {MAX_EMBEDDING} numbers, or 0 for none.",
                f"embedding={self.embedding!r}",
            )
        if self.embedding and self.scores_from == "feature":
            raise ArgumentError(
                "F8 sees the latent layer, if there is one, where an embedding is the feature.",
                f"embedding={self.embedding}, scores_from={self.scores_from!r}",
            )
        if not all(isinstance(name, str) for name in self.classes) or (
            bool(self.classes) != (self.scores_from != "none")
        ):
            raise ArgumentError(
                'F8 needs at least one class name, and scores_from="none" has none.',
                f"classes={self.classes!r}, scores_from={self.scores_from!r}",
            )
        object.__setattr__(self, "classes", tuple(self.classes))
        object.__setattr__(self, "image_size", self.image_size or backbone.image_size)

    @property
    def known(self) -> Backbone:
        """The `Backbone`, without the weights that one of one's own came with."""
        if self.own is None:
            return backbones.known(self.backbone)
        return own_backbones.described(self.backbone, self.own)

    @property
    def feature_dim(self) -> int:
        """int, length of a feature."""
        return self.embedding or self.known.feature_dim

    @property
    def most(self) -> Cost:
        """`Cost`: what the encoder may take for an image, at the most.

        `ALLOWED` times what its backbone needs; of a backbone of one's own `MOST_OF_OWN`.
        """
        backbone = self.known
        if backbone.cost is None:
            return MOST_OF_OWN
        behind = backbone.feature_dim * (self.num_bits + len(self.classes))
        seen = (self.image_size / backbone.image_size) ** 2 * (2 if self.mirror else 1)
        work, numbers = backbone.cost.times(seen)
        return Cost(work + behind, numbers + behind).times(ALLOWED)

    @property
    def takes_vectors(self) -> bool:
        """bool. Whether this network takes features of another one, and no images."""
        return self.known.takes == "vector"

    @property
    def outputs(self) -> tuple[str, ...]:
        """tuple of str: what the network gives, `latent`, `feature`, and `scores` if it has F8."""
        return ("latent", "feature", "scores") if self.classes else ("latent", "feature")

    def to_dict(self) -> dict[str, Any]:
        """dict that `from_dict` takes back; without what is newer, where that is not needed."""
        values = {**asdict(self), "classes": list(self.classes)}
        for name in _NEWER:
            if not values[name]:
                del values[name]
        return values

    @classmethod
    def from_dict(cls, values: object) -> Self:
        """The configuration that `to_dict` described.

        Args:
            values: dict, as JSON gives it back.

        Returns:
            A `HashNetConfig`.

        Raises:
            BundleError: it has other fields, or a value that is not valid.

        Example:
            >>> config = HashNetConfig(num_bits=12, classes=("cat", "dog"))
            >>> HashNetConfig.from_dict(config.to_dict()) == config
            True
        """
        known = {field.name for field in fields(cls)}
        if not isinstance(values, dict) or set(values) | _NEWER != known:
            raise BundleError(
                f"A network's description has these fields: {', '.join(sorted(known))}.",
                repr(values)[:200],
            )
        if not isinstance(values["classes"], list):  # a text would become its letters
            raise BundleError(
                "A network's description has a list of classes.", repr(values["classes"])[:200]
            )
        try:
            return cls(**{**values, "classes": tuple(values["classes"])})
        except (ArgumentError, TypeError) as error:
            raise BundleError("A network's description must be valid.", str(error)) from error


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def build(
    config: HashNetConfig, *, weights: str | None = "imagenet", backbone: Backbone | None = None
) -> "keras.Model":
    """Build the hash network; H and a new F8 start at random, the backbone from `weights`.

    The feature is F7 scaled to length 1: on every set of photos measured so far, Euclidean
    distance ranks better that way, and H sees the same vector that the fine stage ranks by. An
    embedding is a linear layer between the two, of F7 scaled to length 1.

    Args:
        config: a `HashNetConfig`.
        weights: as for `backbones.create`.
        backbone: the `Backbone` that `config` is of, with its weights; None where it is one of
            `BACKBONES`, or `weights` is None.

    Returns:
        A `keras.Model` from float32 images `(n, image_size, image_size, 3)`, RGB in 0..255, to
        a dictionary of `latent` `(n, num_bits)` in 0..1, `feature` `(n, feature_dim)` of length
        1, and, where there are classes, `scores` `(n, len(classes))` that add up to 1; all
        float32, whatever the precision policy, so that a code does not depend on it. Its
        attribute `map` is the Keras tensor of the backbone's map, None where it has none.

    Raises:
        WeightsError: the weights cannot be had.
        ShapeError: `scores_from="feature"` with another number of classes than pretrained.
        HashnetError: Keras is not installed.

    Example:
        >>> config = HashNetConfig(image_size=64, num_bits=12, classes=("cat", "dog"))
        >>> network = build(config, weights=None)
        >>> {name: tuple(tensor.shape) for name, tensor in network.output.items()}
        {'latent': (None, 12), 'feature': (None, 1280), 'scores': (None, 2)}

    Reference:
        Lin et al., "Deep Learning of Binary Hash Codes for Fast Image Retrieval", CVPR
        Workshops 2015, section 3.1: the latent layer between F7 and F8.
    """
    import_keras()
    from keras import Model, layers

    network = backbones.create(
        backbone or config.known, weights=weights, image_size=config.image_size
    )
    unit = layers.UnitNormalization(name="feature", dtype="float32")
    f7 = network.output["feature"]
    if config.mirror:
        f7 = layers.Average(name="f7_of_both")([f7, _f7_of_mirrored(network)])
    if config.embedding:
        f7 = layers.UnitNormalization(name="f7_unit", dtype="float32")(f7)
        f7 = layers.Dense(config.embedding, name="embedding", dtype="float32")(f7)
    feature = unit(f7)  # (n, config.feature_dim)
    hash_layer = layers.Dense(config.num_bits, "sigmoid", name="latent", dtype="float32")
    latent = hash_layer(feature)  # (n, num_bits)
    outputs = {"latent": latent, "feature": feature}
    if config.scores_from == "latent":
        f8 = layers.Dense(len(config.classes), "softmax", name="scores", dtype="float32")
        outputs["scores"] = f8(latent)
    elif config.scores_from == "feature":
        scores = outputs["scores"] = network.output["scores"]
        if scores.shape[-1] != len(config.classes):
            raise ShapeError(
                "The pretrained F8 has classes of its own.",
                f"{len(config.classes)} names for {scores.shape[-1]} classes",
            )
    model = Model(network.input, outputs, name="hashnet")
    model.map_geometry = getattr(network, "map_geometry", None)
    model.map = network.output.get("map")  # no output: local features and regions ask for it alone
    return model


def _f7_of_mirrored(backbone: "keras.Model") -> "keras.KerasTensor":
    """F7 of the mirror image, by the same layers."""
    from keras import models, ops

    # Columns are picked one by one: runtimes know that better than a step of -1.
    columns = list(range(backbone.input.shape[2]))[::-1]
    image = ops.take(backbone.input, columns, axis=2)

    def call(layer: Any, x: Any, *args: Any, **options: Any) -> Any:
        return layer(image if x is backbone.input else x, *args, **options)

    mirrored = models.clone_model(
        backbone, backbone.input, clone_function=lambda layer: layer, call_function=call
    )
    return mirrored.output["feature"]
