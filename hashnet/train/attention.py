"""Train what makes local features of a map: principal components, and attention.

Attention learns which places of an image tell what it shows, from labels of whole images: a
classifier sees the sum of all places, each weighted by its attention, and both learn together.
The map stays as it is. Without labels each photo is a class of its own, and its *views* are its
images: random homographies, crops, sizes and lighting of it. That is what finding the same object
in another photo asks for.

The paper first fine-tunes the backbone on crops of 224 from images of 250 pixels: that is a hash
training (`hashnet.train.supervised`), and `AttentionConfig.start_from` takes the bundle it wrote.

Reference:
    Noh, Araujo, Sim, Weyand and Han, "Large-Scale Image Retrieval with Attentive Deep Local
    Features", ICCV 2017, sections 4.2 and 4.3.
"""

from __future__ import annotations

import os
import pathlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hashnet import files, images
from hashnet.errors import ArgumentError, ImageError, UnknownNameError
from hashnet.local import delf, delf_network
from hashnet.local.delf_head import Head
from hashnet.train.config import check_types

if TYPE_CHECKING:
    import keras

    from hashnet.network.bundle import Bundle

RECIPES = pathlib.Path(__file__).with_name("recipes") / "attention"


@dataclass(frozen=True)
class AttentionConfig:
    """All settings of a training of attention, each with a default.

    Attributes:
        backbone: str, one of `BACKBONES` that takes images of any size.
        weights: `"imagenet"`, the path of a weights file, or `"random"`.
        start_from: str. Folder of a bundle whose backbone is taken instead; empty for none.
        descriptor_dim: int. Principal components that are kept.
        whiten: float, 0 to 1. How far the components are scaled to equal variance: each is divided
            by its deviation to this power.
        root: bool. Take the components of the signed roots of the map's columns: see `Head`.
        hidden: int. Channels between the two layers of attention; 0 trains none, and the length
            of the map's column is the score.
        views: int. Views of each image.
        view_side: int, pixels. Side of the largest view.
        shrink: float, 0 to 1. Smallest factor of that side; each view takes it, its root, or 1.
        places: int. Random places of each view that are seen in one step.
        epochs: int.
        rate: float. Highest learning rate.
        batch: int. Views a step.
        sharpness: float. Factor of the cosines that the classifier decides by.
        seed: int. Of views, places, order and initial weights.

    Raises:
        ArgumentError: a value is out of its range.
    """

    backbone: str = "efficientnet_lite0"
    weights: str = "imagenet"
    start_from: str = ""
    descriptor_dim: int = 40
    whiten: float = 0.0
    root: bool = False
    hidden: int = 512
    views: int = 8
    view_side: int = 320
    shrink: float = 0.5
    places: int = 100
    epochs: int = 10
    rate: float = 1e-3
    batch: int = 32
    sharpness: float = 16.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_types(self)
        least = {"descriptor_dim": 1, "hidden": 0, "views": 1, "view_side": delf.MIN_SIDE}
        least |= {"places": 1, "epochs": 1, "batch": 2}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise ArgumentError(f"{name} is at least {bound}.", f"{getattr(self, name)}")
        if not (0 < self.shrink <= 1 and self.rate > 0 and self.sharpness > 0):
            raise ArgumentError(
                "shrink is above 0 and at most 1, rate and sharpness are above 0.",
                f"shrink={self.shrink}, rate={self.rate}, sharpness={self.sharpness}",
            )
        if not 0 <= self.whiten <= 1:
            raise ArgumentError("whiten is 0 to 1.", f"{self.whiten}")


def from_recipe(recipe: str, **changes: Any) -> AttentionConfig:
    """Settings from a recipe, with some of them changed.

    Args:
        recipe: name of a recipe that comes with HashNet, or path of a TOML file whose keys are
            fields of `AttentionConfig`.
        **changes: fields that overrule the file.

    Returns:
        `AttentionConfig`.

    Raises:
        ArgumentError: the file cannot be read, or a value is out of its range.
        UnknownNameError: a key is no field.

    Example:
        >>> from_recipe("landmarks", epochs=1).view_side
        720
    """
    shipped = RECIPES / f"{recipe}.toml"
    path = shipped if shipped.is_file() else pathlib.Path(recipe)
    try:
        values = files.read_toml(path) | changes
    except (OSError, ValueError) as error:
        raise ArgumentError("A recipe is a TOML file.", f"{path}: {error}") from error
    known = {field.name for field in fields(AttentionConfig)}
    for name in values:
        if name not in known:
            raise UnknownNameError("setting of attention", name, known)
    return replace(AttentionConfig(), **values)


@dataclass(frozen=True)
class Trained:
    """What a training gave.

    Attributes:
        head: the `Head`.
        history: list of dict, one for each epoch: loss (nats) and accuracy (0..1).
        problems: list of `Problem`: images that were left out.
        variance_kept: float, 0..1. Part of the variance that the components hold.
    """

    head: Head
    history: list[dict[str, float]]
    problems: list[images.Problem]
    variance_kept: float


def train(
    sources: Sequence[images.Source | np.ndarray],
    labels: Sequence[Any] | None = None,
    config: AttentionConfig | None = None,
    *,
    verbose: bool = True,
) -> Trained:
    """Fit the principal components and train attention on a map that stays as it is.

    Args:
        sources: images: paths, or uint8 arrays `(height, width, 3)`.
        labels: one for each image; None where each photo is a class of its own.
        config: an `AttentionConfig`, or None for its defaults.
        verbose: bool. Say on stderr what happens.

    Returns:
        A `Trained`. The same on every run with the same seed.

    Raises:
        ArgumentError: there are fewer than two classes, or labels and images differ in number.
        WeightsError: the backbone's weights cannot be had.
        HashnetError: OpenCV is not installed.
    """
    import keras

    config = config or AttentionConfig()
    if labels is not None and len(labels) != len(sources):
        raise ArgumentError(
            "There is one label for each image.", f"{len(labels)} for {len(sources)}"
        )
    say = _speaker(verbose)
    keras.utils.set_random_seed(config.seed)
    columns, of_source, problems = _columns(sources, config, say)
    of_image = np.arange(len(sources)) if labels is None else np.asarray(labels)
    classes, targets = np.unique(of_image[of_source], return_inverse=True)
    if len(classes) < 2:
        raise ArgumentError("Attention learns to tell classes apart.", f"{len(classes)} classes")
    sampled = _unit(_sampled(columns, config.seed))
    described = _unit(np.sign(sampled) * np.sqrt(np.abs(sampled))) if config.root else sampled
    mean, components, kept = principal_components(
        described, config.descriptor_dim, whiten=config.whiten
    )
    say(f"{config.descriptor_dim} components hold {kept:.1%} of the variance")
    attention = None
    history: list[dict[str, float]] = []
    if config.hidden:
        middle = sampled.mean(axis=0, dtype=np.float64).astype(np.float32)
        attention, history = _attention(columns, targets, len(classes), middle, config, say)
    return Trained(Head(mean, components, attention, config.root), history, problems, kept)


def save(trained: Trained, bundle: Bundle) -> pathlib.Path:
    """Write backbone and head as the bundle's extractor, which its new indexes then carry.

    Args:
        trained: a `Trained`, with this bundle as `AttentionConfig.start_from`.
        bundle: a `Bundle`; codes and fingerprint stay as they are.

    Returns:
        pathlib.Path of the file; one that was there is replaced whole.

    Raises:
        BundleError: the bundle cannot be read.
        ShapeError: the head is for another backbone.
    """
    path = bundle.folder / delf.FILE
    with files.scratch_folder() as scratch:
        exported = pathlib.Path(scratch, delf.FILE)
        delf.export_for(bundle, exported, trained.head)
        with files.whole_file(path) as file:
            file.write(exported.read_bytes())
    return path


def principal_components(
    columns: np.ndarray, count: int, *, whiten: float = 0.0
) -> tuple[np.ndarray, np.ndarray, float]:
    """The directions in which features vary most.

    Args:
        columns: float array `(n, channels)`.
        count: int, at most `channels`.
        whiten: float, 0 to 1. Divide each by the deviation along it, to this power.

    Returns:
        mean: float32 `(channels,)`.
        components: float32 `(channels, count)`. The sign of each makes its largest part positive.
        kept: float, 0..1. Part of the variance along them.

    Raises:
        ArgumentError: more components than channels are asked for.

    Example:
        >>> line = np.float32([[0, 0], [3, 4], [6, 8]])
        >>> mean, components, kept = principal_components(line, 1)
        >>> mean.tolist(), components.round(2).tolist(), round(kept, 3)
        ([3.0, 4.0], [[0.6...], [0.8...]], 1.0)
    """
    if not 1 <= count <= columns.shape[1]:
        raise ArgumentError(
            "There are at most as many components as channels.",
            f"{count} of {columns.shape[1]} channels",
        )
    mean = columns.mean(axis=0, dtype=np.float64)
    centred = columns - mean
    variances, axes = np.linalg.eigh(centred.T @ centred / len(columns))
    variances, axes = variances[::-1].clip(min=0), axes[:, ::-1]
    kept = variances[:count].sum() / max(variances.sum(), 1e-12)
    axes = axes[:, :count]
    largest = axes[np.abs(axes).argmax(axis=0), np.arange(count)]
    axes = axes * np.where(largest < 0, -1, 1)
    if whiten:
        axes = axes / (variances[:count] + 1e-6 * max(variances[0], 1e-12)) ** (whiten / 2)
    return mean.astype(np.float32), axes.astype(np.float32), float(kept)


def view(image: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """Another view of a photo: a random homography of a random crop, in other light.

    Args:
        image: uint8 `(height, width, 3)`.
        side: int, pixels, of the square view.
        rng: a `numpy.random.Generator`.

    Returns:
        uint8 `(side, side, 3)`.
    """
    from hashnet.local.features import opencv

    cv2 = opencv()
    height, width = image.shape[:2]
    # A square of most of the image, turned a little, each corner moved on its own.
    half = min(height, width) * rng.uniform(0.55, 1.0) / 2
    turn = rng.uniform(-0.45, 0.45)
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half
    corners = corners @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    corners = corners + rng.uniform(-0.3, 0.3, (4, 2)) * half
    slack = np.maximum(np.array([width, height]) / 2 - half, 0)
    corners = corners + np.array([width, height]) / 2 + rng.uniform(-1, 1, 2) * slack
    target = np.array([[0, 0], [side, 0], [side, side], [0, side]])
    matrix = cv2.getPerspectiveTransform(np.float32(corners), np.float32(target))
    seen = cv2.warpPerspective(
        _reduced(image, side / (2 * half)),
        matrix @ np.diag([*(_reduction(image, side / (2 * half))), 1]),
        (side, side),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    if rng.random() < 0.3:
        seen = cv2.GaussianBlur(seen, (0, 0), rng.uniform(0.4, 1.2))
    light = rng.uniform(0.6, 1.35) * rng.uniform(0.9, 1.1, 3)
    bent = 255 * (seen / 255) ** rng.uniform(0.7, 1.4)
    noise = rng.normal(0, rng.uniform(0, 6), seen.shape)
    return np.clip(bent * light + noise, 0, 255).astype(np.uint8)


def _reduced(image: np.ndarray, scale: float) -> np.ndarray:
    """The image reduced to about `scale` first, since a warp does not average."""
    if scale >= 1:
        return image
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    return images.resize(image, (height, width))


def _reduction(image: np.ndarray, scale: float) -> tuple[float, float]:
    """(x, y) from pixels of `_reduced` to those of the image."""
    height, width = image.shape[:2]
    reduced = _reduced(image, scale).shape
    return width / reduced[1], height / reduced[0]


# --- Columns ----------------------------------------------------------------------------------


def _columns(
    sources: Sequence[images.Source | np.ndarray],
    config: AttentionConfig,
    say: Callable[[str], None],
) -> tuple[list[np.ndarray], np.ndarray, list[images.Problem]]:
    """The columns of the maps of all views, in float16, cached for all epochs.

    Returns:
        list of float16 `(places, channels)`; int64 `(views,)`, the source of each; problems.
    """
    network = _map_network(config)
    columns: list[np.ndarray] = []
    of_source: list[int] = []
    problems = []
    for number, source in enumerate(sources):
        rng = np.random.default_rng((config.seed, number))
        try:
            image = source if isinstance(source, np.ndarray) else images.read(source)
        except ImageError as error:
            problems.append(images.Problem(_name(source, number), str(error)))
            continue
        by_side: dict[int, list[np.ndarray]] = {}
        for _ in range(config.views):
            # Of three sizes, so that one compiled network serves many views.
            factor = config.shrink ** (rng.integers(3) / 2)
            side = max(delf.MIN_SIDE, round(config.view_side * factor / 32) * 32)
            by_side.setdefault(side, []).append(view(image, side, rng))
        for views in by_side.values():
            maps = network.predict_on_batch(np.stack(views)).astype(np.float16)
            columns += list(maps.reshape(len(maps), -1, maps.shape[-1]))
            of_source += [number] * len(maps)
        if (number + 1) % 50 == 0:
            say(f"{number + 1} of {len(sources)} images seen")
    return columns, np.array(of_source, np.int64), problems


def _name(source: images.Source | np.ndarray, number: int) -> str:
    return os.fsdecode(source) if isinstance(source, str | os.PathLike) else f"image {number}"


def _map_network(config: AttentionConfig) -> keras.Model:
    import keras
    from keras import ops

    model = delf_network.load_backbone(config.backbone, config.weights, config.start_from)
    image = keras.Input((None, None, 3), dtype="uint8")
    return keras.Model(image, delf_network.map_of(model, ops.cast(image, "float32")))


def _sampled(columns: list[np.ndarray], seed: int, count: int = 100_000) -> np.ndarray:
    """At most about `count` places of all views, evenly."""
    rng = np.random.default_rng((seed, 1))
    share = max(1, count // len(columns))
    picked = [part[rng.permutation(len(part))[:share]] for part in columns]
    return np.concatenate(picked).astype(np.float32)


def _unit(columns: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(columns, axis=-1, keepdims=True)
    return columns / np.maximum(lengths, 1e-6)


# --- Attention --------------------------------------------------------------------------------


def _attention(
    columns: list[np.ndarray],
    targets: np.ndarray,
    num_classes: int,
    mean: np.ndarray,
    config: AttentionConfig,
    say: Callable[[str], None],
) -> tuple[tuple[np.ndarray, ...], list[dict[str, float]]]:
    """Train; returns the four arrays of `Head.attention`, and the history."""
    from hashnet.train.attention_network import network_of

    seeds = np.random.SeedSequence((config.seed, 2)).generate_state(3).tolist()
    network, layers = network_of(mean, config.hidden, num_classes, config.sharpness, seeds)
    steps = max(1, len(columns) // config.batch)
    _compile(network, config, steps)
    rng = np.random.default_rng((config.seed, 3))
    history = []
    for epoch in range(config.epochs):
        order, seen = rng.permutation(len(columns)), []
        for step in range(steps):
            rows = order[step * config.batch : (step + 1) * config.batch]
            batch = np.stack([_some(columns[row], config.places, rng) for row in rows])
            seen.append(network.train_on_batch(_unit(batch), targets[rows]))
        loss, accuracy = np.mean(seen, axis=0).tolist()
        history.append({"loss": loss, "accuracy": accuracy})
        say(f"epoch {epoch + 1}: " + ", ".join(f"{k} {v:.3f}" for k, v in history[-1].items()))
    (kernel1, bias1), (kernel2, bias2) = (layer.get_weights() for layer in layers)
    return (kernel1, bias1, kernel2[:, 0], bias2.reshape(())), history


def _some(column: np.ndarray, places: int, rng: np.random.Generator) -> np.ndarray:
    """`places` of the places of one view, none twice if it has as many; float32."""
    rows = np.resize(rng.permutation(len(column)), places)
    return column[rows].astype(np.float32)


def _compile(network: keras.Model, config: AttentionConfig, steps: int) -> None:
    from keras import losses, optimizers

    rate = optimizers.schedules.CosineDecay(config.rate, steps * config.epochs)
    network.compile(
        optimizers.AdamW(rate, weight_decay=1e-4),
        losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )


def _speaker(verbose: bool) -> Callable[[str], None]:
    def say(line: str) -> None:
        if verbose:
            print(line, file=sys.stderr, flush=True)

    return say
