"""Train a hash network on labelled images, in two phases.

1. H and F8 learn on features that are computed once: minutes. With a loss of features it is the
   embedding that learns on F7.
2. The whole network learns at a lower rate, on images that augmentation changes each time.

With a loss of features H and F8 are fitted to the finished feature.

After every epoch the state is written, beside the bundle to be; the same call goes on from there
and ends with the same network.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pathlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hashnet import images, system
from hashnet.errors import ArgumentError, BundleError
from hashnet.network import bundle as bundles
from hashnet.network import own_backbones
from hashnet.network.backbones import Backbone
from hashnet.network.model import HashNetConfig, build
from hashnet.train import data as datasets
from hashnet.train.catalogue import Views
from hashnet.train.config import EMBEDDING, TrainConfig
from hashnet.train.score import Score, score, seen_again

if TYPE_CHECKING:
    import keras

    from hashnet.train.batches import Batches
    from hashnet.train.network import Training
    from hashnet.train.state import RunState


@dataclass(frozen=True)
class Trained:
    """What a training gave.

    Attributes:
        bundle: the `Bundle`, opened.
        problems: list of `Problem`: images and folders that were left out.
        history: list of dict, one for each epoch: phase, epoch, loss, and validation_map if
            images were kept apart.
        minutes: float. From the first image to the bundle, over all calls if it was interrupted.
        score: `Score` of the network that was written.
    """

    bundle: bundles.Bundle
    problems: list[images.Problem]
    history: list[dict[str, Any]]
    minutes: float
    score: Score


def train(
    data: str | os.PathLike[str] | datasets.LabelledImages,
    bundle: str | os.PathLike[str],
    config: TrainConfig | None = None,
    *,
    catalogue: datasets.LabelledImages | None = None,
    command: str = "",
    verbose: bool = True,
) -> Trained:
    """Train a hash network and write it as a bundle.

    Args:
        data: what `data.load` takes, or a `LabelledImages`.
        bundle: folder to write; must not exist, or be a bundle, which is replaced at the end.
        config: a `TrainConfig`, or None for its defaults.
        catalogue: `LabelledImages`, pictures that look otherwise, for a loss of features: a batch
            shows one of each of its classes. Those of other classes are left out.
        command: str. How this was called, for the bundle's origin.
        verbose: bool. Show progress on stderr and bars on stdout.

    Returns:
        A `Trained`.

    Raises:
        ArgumentError: the data does not do, or an unfinished training with other settings lies
            beside `bundle`.
        WeightsError: the backbone's weights cannot be had.
        BundleError: the bundle or the state cannot be written, or `start_from` cannot be read.

    Example:
        >>> import tempfile
        >>> pictures = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype="uint8")
        >>> cats_and_dogs = datasets.from_arrays(pictures, ["cat", "dog"] * 4)
        >>> config = TrainConfig(
        ...     backbone="tiny", weights="random", image_size=32, num_bits=8,
        ...     head_epochs=1, epochs=0, batch=4,
        ... )
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     trained = train(cats_and_dogs, f"{folder}/bundle", config, verbose=False)
        >>> trained.bundle.config.classes, len(trained.history)
        (('cat', 'dog'), 1)
    """
    import keras

    config = config or TrainConfig()
    began = time.monotonic()
    say = _speaker(verbose)
    target = _checked_target(bundle)
    system.keep_freed_memory()
    keras.utils.set_random_seed(config.seed)

    # The images.
    labelled = data if isinstance(data, datasets.LabelledImages) else datasets.load(data)
    if config.held_out:
        labelled = labelled.without(config.held_out)
    backbone = own_backbones.opened(config.backbone)
    size = _image_size(config, backbone)
    say(f"{len(labelled)} images of {len(labelled.classes)} classes, read at {size} pixels")
    labelled = labelled.decoded(size)
    shown, apart = labelled, None
    if config.validation:
        split = labelled.split_classes if config.learns_features else labelled.split
        shown, apart = split(config.validation, config.seed)
        if not len(apart):
            raise ArgumentError(
                "A part of the images is kept apart for validation.",
                f"validation={config.validation} of {len(labelled)} images is none",
            )
    if config.learns_features:
        datasets.check_batches(shown, config.batch, config.images_of_class)
    given, num_pictures = [labelled], 0
    if catalogue is not None:
        pictures = datasets.of_catalogue(catalogue, shown.classes, config)
        with datasets.naming_catalogue():
            pictures = pictures.decoded(size).of(shown.classes)
        num_pictures = len(pictures)
        say(f"{num_pictures} pictures of a catalogue")
        given.append(pictures)
        shown = shown.joined(pictures)
    targets = shown.targets / shown.targets.sum(axis=1, keepdims=True)
    targets = targets.astype("float32")

    # The network.
    kept = HashNetConfig(
        backbone=backbone.name,
        image_size=size,
        num_bits=config.num_bits,
        classes=shown.classes,
        mirror=config.mirror,
        own=backbone.own,
        embedding=_learned(config, backbone) + config.components,
    )
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(config.precision)
    try:
        # It learns on one view of an image: augmentation mirrors half of them. The embedding is
        # of the head while it learns.
        bare = replace(kept, mirror=False, embedding=0)
        network = _network(bare, config, backbone)
        state = _state(target, config, given, began)
        run = _Run(config, state, targets, _learned(config, backbone), num_pictures, say, verbose)
        head = _two_phases(run, network, shown.sources, apart)
    finally:
        keras.config.set_dtype_policy(policy)

    # The bundle, in float32 whatever it was trained in.
    from hashnet.train import embedding
    from hashnet.train import network as networks

    plain = build(kept, weights=None)
    networks.copy_backbone(network, plain)
    if config.learns_features:
        if config.pretrained_share:
            networks.mix_backbone(_network(bare, config, backbone), plain, config.pretrained_share)
        kernel, bias = head.get_layer("embedding").get_weights()
        if config.components:
            networks.copy_backbone(plain, network)
            f7 = _features(network, shown.sources)
            kernel, bias = embedding.with_components(kernel, bias, f7, config.components)
        plain.get_layer("embedding").set_weights([kernel, bias])
        embedding.finish(plain, _features(plain, shown.sources), targets, config.seed)
    else:
        networks.fold(head, plain)
    judged, outputs = seen_again(plain, shown if apart is None else apart, seed=config.seed)
    scored = score(outputs["latent"], judged, kept_apart=apart is not None)
    mean = outputs["feature"].mean(axis=0, dtype=np.float64)
    minutes = state.seconds / 60
    origin = {
        "command": command,
        "training": replace(config, logs="", tensorboard=False).to_dict(),
        "images": len(shown),
        "history": state.history,
        "minutes": round(minutes, 2),
        "score": scored.to_dict(),
    }
    saved = _saved(target, plain, kept, origin, mean)
    state.remove()
    say(f"{minutes:.1f} minutes; {scored}; bundle {target}")
    problems = [problem for one in given for problem in one.problems]
    return Trained(saved, problems, state.history, minutes, scored)


def _saved(
    target: pathlib.Path,
    network: keras.Model,
    kept: HashNetConfig,
    origin: dict[str, Any],
    mean: np.ndarray,
) -> bundles.Bundle:
    """Write the bundle, or say what to do where the disk refuses."""
    try:
        return bundles.save(target, network, kept, origin=origin, mean=mean)
    except OSError as error:
        raise BundleError(
            "A bundle is written whole.",
            f"{target}: {error.strerror or error}",
            "Make room and give the same command again: the training is done and kept.",
        ) from error


@dataclass(frozen=True)
class _Run:
    """What all phases of one training share."""

    config: TrainConfig
    state: RunState
    targets: np.ndarray
    embedding: int
    catalogue: int
    say: Callable[[str], None]
    verbose: bool


def _two_phases(
    run: _Run,
    network: keras.Model,
    pixels: np.ndarray,
    apart: datasets.LabelledImages | None,
) -> Training:
    """Train; returns the head. The backbone in `network` has learned afterwards."""
    from hashnet.train import network as networks

    config, state = run.config, run.state
    head = _head(run, network.output["feature"].shape[-1])
    if state.phase == 1:
        of_shown = None
        if config.learns_features:
            from hashnet.train import embedding

            of_shown = _features(network, pixels)
            embedding.start(head, of_shown, run.targets)
        if config.head_epochs:
            what = "the embedding" if config.learns_features else "H and F8"
            run.say(f"phase 1: {what} on features of the backbone as it is")
            validation = None
            if apart is not None:
                validation = _features(network, apart.sources), apart.labels
            of_shown = _features(network, pixels) if of_shown is None else of_shown
            _fit(run, head, of_shown, validation, config.head_rate, config.head_epochs)
        state.begin(2)
    if config.epochs:
        run.say("phase 2: the whole network")
        validation = None if apart is None else (apart.sources, apart.labels)
        if config.freeze_bn:
            networks.freeze_batch_norm(network)
        if config.freeze_depthwise:
            networks.freeze_depthwise(network)
        whole = networks.make_whole(network, head, config)
        seen = Views(pixels, run.catalogue, config.seed) if run.catalogue else pixels
        _fit(run, whole, seen, validation, config.rate, config.epochs)
    return head


def _features(network: keras.Model, pixels: np.ndarray) -> np.ndarray:
    """Features of images, float32 `(n, feature_dim)`."""
    from hashnet.train import network as networks
    from hashnet.train.folding import fold_norms

    part = fold_norms(networks.feature_part(network))
    return np.asarray(part.predict(pixels, batch_size=64, verbose=0))


def _head(run: _Run, feature_dim: int) -> Training:
    """What learns on top of F7."""
    config, num_classes = run.config, run.targets.shape[1]
    if config.learns_features:
        from hashnet.train import embedding, metric_losses

        loss = metric_losses.create(config.loss)
        return embedding.make_head(feature_dim, run.embedding, num_classes, loss)
    from hashnet.train import losses
    from hashnet.train import network as networks

    of_codes = losses.create(config.loss, config.num_bits, num_classes, config.seed)
    return networks.make_head(feature_dim, config.num_bits, num_classes, of_codes)


def _fit(
    run: _Run,
    model: Training,
    inputs: np.ndarray | Views,
    validation: tuple[np.ndarray, np.ndarray] | None,
    rate: float,
    epochs: int,
) -> None:
    """Run the epochs of one phase that are still to do."""
    import keras

    from hashnet.train.batches import Batches
    from hashnet.train.callbacks import AfterEpoch

    config, state, targets = run.config, run.state, run.targets

    def batches(epoch: int) -> Batches:
        return Batches(
            inputs,
            targets,
            config.batch,
            (config.seed, epoch),
            balanced=config.balanced,
            images_of_class=config.images_of_class,
            catalogue=run.catalogue,
        )

    model.compile(_optimizer(config, rate, epochs * len(batches(0))))
    model.optimizer.build(model.trainable_variables)
    if state.epoch:
        run.say(f"going on after epoch {state.epoch} of phase {state.phase}")
        state.restore(model)
    logs = pathlib.Path(config.logs) if config.logs else None
    while state.epoch < epochs and not state.ended:
        callbacks: list[Any] = [AfterEpoch(state, validation, config.patience, logs, run.say)]
        if config.tensorboard and logs:
            callbacks.append(keras.callbacks.TensorBoard(logs / f"phase{state.phase}"))
        # One epoch a call: Keras looks into a dataset ahead of time and would shuffle it once
        # more. And Keras writes its bars to stdout, which is for answers.
        with contextlib.redirect_stdout(sys.stderr):
            model.fit(
                batches(state.epoch),
                initial_epoch=state.epoch,
                epochs=state.epoch + 1,
                shuffle=False,
                callbacks=callbacks,
                verbose=1 if run.verbose and sys.stderr.isatty() else 0,
            )
    if config.patience:
        state.restore_best(model)


def _optimizer(config: TrainConfig, rate: float, steps: int) -> keras.Optimizer:
    from keras import optimizers

    if config.schedule == "cosine":
        warmup = int(config.warmup * steps)
        schedule = optimizers.schedules.CosineDecay(
            0.0 if warmup else rate,
            max(1, steps - warmup),
            warmup_target=rate if warmup else None,
            warmup_steps=warmup,
        )
    else:
        schedule = optimizers.schedules.PiecewiseConstantDecay([steps // 2], [rate, rate / 10])
    if config.optimizer == "adamw":
        optimizer = optimizers.AdamW(schedule, weight_decay=config.weight_decay)
    else:
        decay = config.weight_decay or None
        optimizer = optimizers.SGD(schedule, momentum=0.9, nesterov=True, weight_decay=decay)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


def _network(kept: HashNetConfig, config: TrainConfig, backbone: Backbone) -> keras.Model:
    """The hash network with the weights to begin with; layers that are to stay are frozen."""
    from hashnet.train import network as networks

    if config.start_from:
        source = bundles.load(config.start_from)
        if (source.config.backbone, source.config.own) != (kept.backbone, kept.own):
            raise ArgumentError(
                "A training starts from a bundle with the same backbone.",
                f"{source.config.backbone} in {config.start_from}, backbone={config.backbone!r}",
            )
        network = build(kept, weights=None)
        networks.copy_backbone(source.load_model(), network)
    else:
        weights = None if config.weights == "random" else config.weights
        network = build(kept, weights=weights, backbone=backbone)
    if config.learn_from:
        networks.freeze_before(network, config.learn_from)
    return network


def _learned(config: TrainConfig, backbone: Backbone) -> int:
    """How many numbers of the feature a loss of features learns."""
    if not config.learns_features:
        return 0
    for name in ("embedding", "components"):
        if getattr(config, name) > backbone.feature_dim:
            raise ArgumentError(
                "An embedding is no longer than F7, and so are the components beside it.",
                f"{name}={getattr(config, name)}, {backbone.feature_dim} numbers of "
                f"{backbone.name}",
            )
    return config.embedding or min(EMBEDDING, backbone.feature_dim)


def _image_size(config: TrainConfig, backbone: Backbone) -> int:
    if config.start_from and not config.image_size:
        return bundles.load(config.start_from).config.image_size
    return config.image_size or backbone.image_size


def _state(
    target: pathlib.Path, config: TrainConfig, given: list[datasets.LabelledImages], began: float
) -> RunState:
    """The state of this very training, if it was begun before, or a fresh one."""
    from hashnet.train.state import RunState

    settings = replace(config, logs="", tensorboard=False).to_dict()
    digest = hashlib.sha256(json.dumps([settings, given[0].classes]).encode())
    for labelled in given:
        for array in (labelled.targets, labelled.sources):
            digest.update(np.ascontiguousarray(array).data)
    try:
        return RunState(target.with_name(f"{target.name}.training"), digest.hexdigest(), began)
    except OSError as error:
        raise BundleError(
            "The state of a training is kept beside its bundle.", f"{target}: {error}"
        ) from error


def _checked_target(bundle: str | os.PathLike[str]) -> pathlib.Path:
    """The bundle's place, refused before hours of training and not after."""
    target = pathlib.Path(bundle)
    if target.exists() and not (target / bundles.DESCRIPTION).is_file():
        if not target.is_dir() or any(target.iterdir()):
            raise BundleError(
                "A bundle replaces only a bundle or an empty folder.",
                str(target),
                "Give a new name.",
            )
    return target


def _speaker(verbose: bool) -> Callable[[str], None]:
    def say(line: str) -> None:
        if verbose:
            print(line, file=sys.stderr, flush=True)

    return say
