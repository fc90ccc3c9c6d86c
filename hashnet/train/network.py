"""The network as it is trained: augmentation before the backbone, u and logits at the end.

    image -> augmentation -> backbone -> feature -> H -> [batch norm] -> u -> F8 -> logits

It shares its layers with the hash network that is kept; only the head is another one while it
learns, and is folded into plain H and F8 afterwards.
"""

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import KerasTensor, layers, ops

from hashnet.errors import UnknownNameError
from hashnet.train.folding import fold_norms
from hashnet.train.losses import HashLoss, SeenByF8

if TYPE_CHECKING:
    from hashnet.train.config import TrainConfig


class Training(keras.Model):
    """A functional model that learns by a loss of all that it gives.

    Attributes:
        learned_by: the loss.
    """

    learned_by: Any

    def loss_of(self, outputs: dict[str, KerasTensor], targets: KerasTensor) -> KerasTensor:
        """The loss of a batch.

        Args:
            outputs: dict of what the model gives.
            targets: float32 tensor `(n, num_classes)`, each row adds up to 1.

        Returns:
            float32 scalar.
        """
        raise NotImplementedError

    def compute_loss(
        self,
        x: KerasTensor = None,
        y: KerasTensor = None,
        y_pred: dict[str, KerasTensor] | None = None,
        sample_weight: KerasTensor = None,
        training: bool = True,
    ) -> KerasTensor:
        """What Keras asks for the loss of a batch.

        Args:
            x, sample_weight, training: as Keras passes them; not needed here.
            y: float32 tensor `(n, num_classes)`, each row adds up to 1.
            y_pred: dict of what the model gives.

        Returns:
            float32 scalar.
        """
        assert y_pred is not None
        return self.loss_of(y_pred, y)


class HashTraining(Training):
    """A functional model to `{"u", "logits"}`.

    Attributes:
        learned_by: the `HashLoss`.
    """

    learned_by: HashLoss

    def loss_of(self, outputs: dict[str, KerasTensor], targets: KerasTensor) -> KerasTensor:
        """The loss of a batch.

        Args:
            outputs: dict of `u`, float32 `(n, num_bits)`, and `logits`, float32
                `(n, num_classes)`.
            targets: float32 tensor `(n, num_classes)`, each row adds up to 1.

        Returns:
            float32 scalar.
        """
        return self.learned_by(outputs["u"], outputs["logits"], targets)


def make_head(feature_dim: int, num_bits: int, num_classes: int, loss: HashLoss) -> HashTraining:
    """H and F8 as they learn: from features `(n, feature_dim)` to `{"u", "logits"}`.

    Features have length 1; H's initial weights are made for inputs whose squares are 1 on
    average. So features are multiplied by sqrt(feature_dim) first.

    Args:
        feature_dim: int.
        num_bits: int.
        num_classes: int.
        loss: a `HashLoss`.

    Returns:
        `HashTraining`.
    """
    feature = keras.Input((feature_dim,), name="feature")
    x = layers.Rescaling(float(np.sqrt(feature_dim)), dtype="float32", name="gain")(feature)
    hash_layer = layers.Dense(num_bits, use_bias=not loss.normalised, dtype="float32", name="hash")
    u = hash_layer(x)  # (n, num_bits)
    if loss.normalised:
        norm = layers.BatchNormalization(momentum=0.9, epsilon=1e-5, dtype="float32", name="norm")
        u = norm(u)
    seen = SeenByF8(loss.f8_sees, loss.steepness, dtype="float32", name="seen")(u)
    logits = layers.Dense(num_classes, dtype="float32", name="classes")(seen)
    head = HashTraining(feature, {"u": u, "logits": logits}, name="head")
    head.learned_by = loss
    return head


def make_whole(network: keras.Model, head: Training, config: "TrainConfig") -> Training:
    """The network from images to what the head gives, with augmentation; layers are shared.

    Args:
        network: `keras.Model` of `model.build`.
        head: `HashTraining` of `make_head`, or `FeatureTraining` of `embedding.make_head`.
        config: `TrainConfig`.

    Returns:
        A `Training` of the head's class, from uint8 images `(n, image_size, image_size, 3)`, RGB.
    """
    size = network.input.shape[1]
    image = keras.Input((size, size, 3), dtype="uint8", name="pixels")
    x = layers.Rescaling(1.0, dtype="float32", name="to_float")(image)
    if config.flip or config.zoom or config.shift:
        x = RandomView(config)(x)
    features = feature_part(network)
    if config.freeze_bn:
        features = fold_norms(features)
    outputs = head(features(x))
    whole = type(head)(image, outputs, name="whole")
    whole.learned_by = head.learned_by
    return whole


class RandomView(layers.Layer):
    """Each image mirrored, enlarged and shifted at random, while training, and only then.

    All in one step, interpolated once between the four nearest pixels; what lies beyond an edge
    is reflected.

    Args:
        config: `TrainConfig`, for `flip`, `zoom`, `shift` and `seed`.
    """

    def __init__(self, config: "TrainConfig") -> None:
        super().__init__(dtype="float32", name="view")
        self.flip, self.zoom, self.shift = config.flip, config.zoom, config.shift
        (seed,) = np.random.SeedSequence((config.seed, 0xA06)).generate_state(1).tolist()
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, images: KerasTensor, training: bool = False) -> KerasTensor:
        """What Keras asks for the output.

        Args:
            images: float32 tensor `(n, height, width, 3)`, RGB in 0..255.
            training: bool.

        Returns:
            float32 tensor of the same shape.
        """
        if not training:
            return images
        count, height, width, _ = ops.shape(images)

        def draw(low: float, high: float) -> KerasTensor:
            return keras.random.uniform((count,), low, high, seed=self.seed_generator)

        across, down = draw(1 - self.zoom, 1), draw(1 - self.zoom, 1)
        right, below = (draw(-self.shift, self.shift) * side for side in (width, height))
        if self.flip:
            across = ops.where(draw(-1, 1) < 0, -across, across)
        # Where pixel (x, y) comes from: the middle stays, but for the shift.
        right = right + (width - 1) / 2 * (1 - across)
        below = below + (height - 1) / 2 * (1 - down)
        none = ops.zeros_like(across)
        where = ops.stack([across, none, right, none, down, below, none, none], axis=1)
        return ops.image.affine_transform(
            images, where, interpolation="bilinear", fill_mode="reflect"
        )


def feature_part(network: keras.Model) -> keras.Model:
    """The network from images to features, float32 of length 1.

    Args:
        network: `keras.Model` of `model.build`.

    Returns:
        `keras.Model`; layers are shared.
    """
    return keras.Model(network.input, network.output["feature"], name="features")


def freeze_batch_norm(model: keras.Model) -> None:
    """Let the backbone's batch normalisation work as it does when encoding, and learn nothing.

    The statistics it was pretrained with then hold throughout. With those of each batch, the
    features that phase 1 learned from change at once, and a short training does not recover.

    Args:
        model: `keras.Model`, changed in place, models inside it included.
    """
    _freeze(model, layers.BatchNormalization)


def freeze_depthwise(model: keras.Model) -> None:
    """Let the kernels of depthwise convolutions learn nothing.

    Args:
        model: `keras.Model`, changed in place, models inside it included.
    """
    _freeze(model, layers.DepthwiseConv2D)


def _freeze(model: keras.Model, kind: Any) -> None:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            _freeze(layer, kind)
        elif isinstance(layer, kind):
            layer.trainable = False


def freeze_before(network: keras.Model, name: str) -> None:
    """Let the layers before one learn nothing.

    Args:
        network: `keras.Model` of `model.build`, changed in place.
        name: str. The first layer that learns.

    Raises:
        UnknownNameError: the network has no such layer.
    """
    names = [layer.name for layer in network.layers]
    if name not in names:
        raise UnknownNameError("layer", name, names)
    for layer in network.layers[: names.index(name)]:
        layer.trainable = False


def fold(head: HashTraining, network: keras.Model) -> None:
    """Write the trained head into the hash network's H and F8.

    latent = sigmoid(steepness * u) is plain Dense and sigmoid again: gain, batch normalisation
    and steepness are all linear and go into H's kernel and bias.

    Args:
        head: `HashTraining` of `make_head`.
        network: `keras.Model` of `model.build`, changed in place.
    """
    gain = np.sqrt(network.output["feature"].shape[-1])
    hash_layer = head.get_layer("hash")
    kernel = ops.convert_to_numpy(hash_layer.kernel).astype("float64") * gain
    if head.learned_by.normalised:
        norm = head.get_layer("norm")
        gamma, beta, mean, variance = (
            ops.convert_to_numpy(part).astype("float64")
            for part in (norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance)
        )
        slope = gamma / np.sqrt(variance + norm.epsilon)
        kernel, bias = kernel * slope, beta - mean * slope
    else:
        bias = ops.convert_to_numpy(hash_layer.bias).astype("float64")
    steepness = head.learned_by.steepness
    network.get_layer("latent").set_weights(
        [(kernel * steepness).astype("float32"), (bias * steepness).astype("float32")]
    )
    network.get_layer("scores").set_weights(head.get_layer("classes").get_weights())


def copy_backbone(source: keras.Model, target: keras.Model) -> None:
    """Copy the backbone's weights from one hash network to another of the same backbone.

    Args:
        source: `keras.Model` of `model.build`.
        target: `keras.Model` of the same backbone, changed in place.
    """
    for layer in _backbone_layers(target):
        layer.set_weights(source.get_layer(layer.name).get_weights())


def mix_backbone(source: keras.Model, target: keras.Model, share: float) -> None:
    """Move the backbone's weights of one hash network towards those of another.

    Between the weights before and after fine-tuning lie networks that keep more of what the
    pretrained one can do than the tuned one does, and much of what it has learned.

    Args:
        source: `keras.Model` of `model.build`.
        target: `keras.Model` of the same backbone, changed in place.
        share: float, 0 to 1. Of the source's weights in the mean.

    Reference:
        Wortsman et al., "Robust Fine-Tuning of Zero-Shot Models", CVPR 2022.
    """
    for layer in _backbone_layers(target):
        pairs = zip(source.get_layer(layer.name).get_weights(), layer.get_weights(), strict=True)
        layer.set_weights([share * before + (1 - share) * after for before, after in pairs])


def _backbone_layers(network: keras.Model) -> list[layers.Layer]:
    own = ("latent", "scores", "embedding")
    return [layer for layer in network.layers if layer.weights and layer.name not in own]
