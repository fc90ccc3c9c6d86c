"""What a training run can be told, with the default of each; recipes are files of these."""

import pathlib
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from hashnet import files
from hashnet.errors import ArgumentError, UnknownNameError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

CODE_LOSSES = ("paper", "ssdh", "csq", "orthohash", "greedyhash")
METRIC_LOSSES = (
    "proxy_anchor",
    "arcface",
    "multi_similarity",
    "triplet",
    "supcon",
    "supcon_softmax",
    "softmax",
)
LOSSES = CODE_LOSSES + METRIC_LOSSES
EMBEDDING, IMAGES_OF_CLASS = 256, 4
OPTIMIZERS = ("adamw", "sgd")
SCHEDULES = ("cosine", "step")
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
RECIPES = pathlib.Path(__file__).with_name("recipes")


@dataclass(frozen=True)
class TrainConfig:
    """All settings of a training run, each with a default.

    Attributes:
        num_bits: int. Length of the codes.
        backbone: str, one of `BACKBONES`, with a pooling behind it if wanted, as in
            `efficientnet_lite0:gem`; or the path of a network of yours.
        weights: `"imagenet"`, the path of a weights file, or `"random"`.
        image_size: int, pixels a side; 0 for the backbone's own, or `start_from`'s.
        start_from: str. Folder of a bundle whose backbone is taken instead of `weights`; empty
            for none.
        loss: str, one of `LOSSES`. What the network learns to make small: of codes for the classes
            it is shown (paper, ssdh, csq, orthohash, greedyhash), or of features, for classes
            never seen (the others).
        embedding: int. Length of the feature that a loss of features learns; 0 for 256, or that
            of F7 if it is less. With a loss of codes 0: F7 is the feature.
        components: int. Further numbers of the feature beside those that a loss of features learns:
            so many principal components of F7 as it is after the training, scaled towards equal
            variance. They keep what tells apart classes that the loss has not seen.
        images_of_class: int. Images of each class in a batch of a loss of features; 0 for 4.
        pretrained_share: float, 0 to 1. With a loss of features: how much of the backbone's weights
            before phase 2 is in those that are kept, the rest is of those after it.
        head_epochs: int. Phase 1, H and F8, or the embedding, on features computed once.
        head_rate: float. Highest learning rate of phase 1.
        epochs: int. Phase 2, the whole network; 0 leaves the backbone as it is.
        rate: float. Highest learning rate of phase 2.
        freeze_bn: bool. Keep the backbone's batch normalisation as it was pretrained in phase 2:
            faster, and better unless the training is long.
        freeze_depthwise: bool. Keep the backbone's depthwise kernels as they were pretrained in
            phase 2: with `freeze_bn` and mixed_bfloat16, half of the time on a processor.
        learn_from: str. Name of the first layer of the backbone that learns in phase 2, those
            before it stay as they are: a third faster on large images, whose first layers take
            the most time and change the least. Empty for all.
        optimizer: `"adamw"` or `"sgd"` (Nesterov momentum .9).
        schedule: `"cosine"`, down to zero after the warm-up, or `"step"`, a tenth from the
            middle on.
        warmup: float, 0 to 1. Part of each phase in which the rate rises from zero; with
            `"cosine"` only.
        weight_decay: float. On kernels, not on biases and normalisation.
        batch: int, images a step.
        flip: bool. Mirror half of the images.
        shift: float, 0 to 1. Farthest shift, as a part of the side.
        zoom: float, 0 to 1. Farthest enlargement: .3 shows at least 70 % of each side.
        mirror: bool. The network that is kept sees an image and its mirror image, as
            `HashNetConfig` says.
        balanced: bool. Show every class equally often.
        validation: float, 0 to .5. Part of the training images that is kept apart to measure mAP
            after each epoch; with a loss of features, part of the classes.
        patience: int. Stop after so many epochs without a better mAP, and go back to the best;
            0 to never stop early.
        held_out: tuple of str. Classes that are left out of the training.
        precision: str, one of `PRECISIONS`. The mixed ones are for GPUs, and
            mixed_bfloat16 for processors with AVX512-BF16 too, together with `freeze_depthwise`.
        seed: int. Of the initial weights, the order of images, the augmentation and the split.
        logs: str. Folder for `log.csv`; empty for none.
        tensorboard: bool. Write TensorBoard's files into `logs` too.

    Raises:
        ArgumentError: a value is out of its range.
        UnknownNameError: a name is not among the known ones.

    Example:
        >>> TrainConfig(num_bits=12, epochs=0).loss
        'orthohash'
    """

    num_bits: int = 48
    backbone: str = "efficientnet_lite0"
    weights: str = "imagenet"
    image_size: int = 0
    start_from: str = ""
    loss: str = "orthohash"
    embedding: int = 0
    components: int = 0
    images_of_class: int = 0
    pretrained_share: float = 0.0
    head_epochs: int = 10
    head_rate: float = 3e-3
    epochs: int = 5
    rate: float = 5e-4
    freeze_bn: bool = True
    freeze_depthwise: bool = False
    learn_from: str = ""
    optimizer: str = "adamw"
    schedule: str = "cosine"
    warmup: float = 0.1
    weight_decay: float = 1e-3
    batch: int = 64
    flip: bool = True
    shift: float = 0.1
    zoom: float = 0.0
    mirror: bool = False
    balanced: bool = False
    validation: float = 0.0
    patience: int = 0
    held_out: tuple[str, ...] = ()
    precision: str = "float32"
    seed: int = 0
    logs: str = ""
    tensorboard: bool = False

    def __post_init__(self) -> None:
        held_out = self.held_out
        if isinstance(held_out, str) or not all(isinstance(name, str) for name in held_out):
            raise ArgumentError("held_out is a tuple of class names.", repr(held_out))
        object.__setattr__(self, "held_out", tuple(held_out))
        check_types(self)
        for name, known in (
            ("loss", LOSSES),
            ("optimizer", OPTIMIZERS),
            ("schedule", SCHEDULES),
            ("precision", PRECISIONS),
        ):
            if getattr(self, name) not in known:
                raise UnknownNameError(name, getattr(self, name), known)
        for name, low, high in (
            ("embedding", 0, None),
            ("components", 0, None),
            ("images_of_class", 0, None),
            ("batch", 2, None),
            ("image_size", 0, None),
            ("head_epochs", 0, None),
            ("epochs", 0, None),
            ("patience", 0, None),
            ("seed", 0, 2**31 - 1),
            ("weight_decay", 0, None),
            ("warmup", 0, 1),
            ("pretrained_share", 0, 1),
            ("shift", 0, 1),
            ("zoom", 0, 0.9),
            ("validation", 0, 0.5),
        ):
            value = getattr(self, name)
            if not value >= low or (high is not None and value > high):
                rule = f"{name} is {low} or more" + (f", and {high} at most." if high else ".")
                raise ArgumentError(rule, f"{name}={value}")
        for name in ("head_rate", "rate"):
            if not getattr(self, name) > 0:
                raise ArgumentError(f"{name} is above 0.", f"{name}={getattr(self, name)}")
        self._check_features()
        if self.epochs + self.head_epochs == 0:
            raise ArgumentError(
                "A training has at least one epoch.",
                "head_epochs=0, epochs=0",
                "Give head_epochs for codes on the backbone as it is.",
            )
        if self.patience and not self.validation:
            raise ArgumentError(
                "Stopping early needs images to measure by.",
                f"patience={self.patience}, validation=0",
                "Keep a part of the training images apart: validation=0.1.",
            )
        if self.tensorboard and not self.logs:
            raise ArgumentError(
                "TensorBoard's files need a folder.", "tensorboard=True, logs=''", "Give logs."
            )

    def _check_features(self) -> None:
        """Settle what belongs to losses of features, and refuse it with others."""
        if not self.learns_features:
            for name in ("embedding", "components", "images_of_class", "pretrained_share"):
                if getattr(self, name):
                    raise ArgumentError(
                        f"{name} goes with a loss of features.",
                        f"{name}={getattr(self, name)}, loss={self.loss!r}",
                        f"Those are {', '.join(METRIC_LOSSES)}.",
                    )
            return
        object.__setattr__(self, "images_of_class", self.images_of_class or IMAGES_OF_CLASS)
        if self.images_of_class < 2 or self.batch % self.images_of_class:
            raise ArgumentError(
                "A batch holds some classes and as many images of each, two or more.",
                f"batch={self.batch}, images_of_class={self.images_of_class}",
                "Give a batch that is a multiple of images_of_class.",
            )
        if self.batch == self.images_of_class:
            raise ArgumentError(
                "A batch holds two classes or more.",
                f"batch={self.batch}, images_of_class={self.images_of_class}",
                "Give a larger batch.",
            )
        if self.balanced:
            raise ArgumentError(
                "Batches of a loss of features show every class equally often as it is.",
                "balanced=True",
                "Leave it out.",
            )

    @property
    def learns_features(self) -> bool:
        """bool. Whether the loss is one of features, and not of codes."""
        return self.loss in METRIC_LOSSES

    def to_dict(self) -> dict[str, Any]:
        """dict that JSON can hold, for a bundle's origin."""
        return {**asdict(self), "held_out": list(self.held_out)}


def check_types(settings: "DataclassInstance") -> None:
    """Refuse a field of another type than its default; an int where a float is due becomes one.

    Args:
        settings: an instance of a frozen dataclass all of whose fields have defaults.

    Raises:
        ArgumentError: a field has another type; the message names it.

    Example:
        >>> check_types(TrainConfig())
    """
    for field in fields(settings):
        value, kind = getattr(settings, field.name), type(field.default)
        if kind is float and type(value) is int:
            object.__setattr__(settings, field.name, float(value))
        elif type(value) is not kind:
            raise ArgumentError(f"{field.name} is of type {kind.__name__}.", repr(value))


def recipe_names() -> tuple[str, ...]:
    """Names of the recipes that come with HashNet.

    Example:
        >>> "cifar10_48" in recipe_names()
        True
    """
    return tuple(sorted(path.stem for path in RECIPES.glob("*.toml")))


def from_recipe(recipe: str | None, **changes: Any) -> TrainConfig:
    """Read a recipe, and change some of it.

    Args:
        recipe: name of a recipe that comes with HashNet, or path of a TOML file whose keys are
            fields of `TrainConfig`; or None, to change the defaults.
        **changes: fields of `TrainConfig` that overrule the file.

    Returns:
        `TrainConfig`.

    Raises:
        UnknownNameError: there is no such recipe, or a key is no field.
        ArgumentError: the file cannot be read, or a value is out of its range.

    Example:
        >>> from_recipe("cifar10_48", epochs=1).epochs
        1
    """
    values = {} if recipe is None else _read_recipe(recipe)
    known = {field.name for field in fields(TrainConfig)}
    for name in (*values, *changes):
        if name not in known:
            raise UnknownNameError("training setting", name, known)
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    return replace(TrainConfig(**values), **changes)


def _read_recipe(recipe: str) -> dict[str, Any]:
    path = RECIPES / f"{recipe}.toml" if recipe in recipe_names() else pathlib.Path(recipe)
    if path.suffix != ".toml":
        raise UnknownNameError("recipe", recipe, recipe_names())
    try:
        return files.read_toml(path)
    except (OSError, ValueError) as error:
        raise ArgumentError("A recipe is a TOML file.", f"{path}: {error}") from error
