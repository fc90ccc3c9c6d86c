"""How a feature is learned: a linear layer on F7, by losses that compare images.

    image -> augmentation -> backbone -> F7 -> embedding -> feature -> loss
                                                               |
                                                               +-> cosines to the proxies of classes

The embedding starts as the principal components of F7 over the training images, about their mean,
scaled towards equal variance; each proxy starts as the mean feature of its class. So learning
departs from what was pretrained, and from nothing else.

References:
    Jegou and Chum, "Negative Evidences and Co-occurences in Image Retrieval: The Benefit of PCA
    and Whitening", ECCV 2012.
    Mensink, Verbeek, Perronnin, Csurka, "Distance-Based Image Classification: Generalizing to New
    Classes at Near-Zero Cost", TPAMI 2013: the classifier of class means.
"""

from typing import Any

import keras
import numpy as np
from keras import KerasTensor, layers, ops

from hashnet import threads
from hashnet.train import unsupervised, unsupervised_codes
from hashnet.train.metric_losses import MetricLoss
from hashnet.train.network import Training

# Variances of components are raised to minus half of this: 0 for none, 1 for all equal.
WHITENING = 0.5
# Added to each variance, as a part of their mean: components of noise are not blown up.
RIDGE = 0.1
# Length of proxies that may have any at the beginning.
FREE_PROXY = 16.0


class FeatureTraining(Training):
    """A functional model to `{"feature"}`, and `{"cosines"}` where there are proxies.

    Attributes:
        learned_by: the `MetricLoss`.
    """

    def loss_of(self, outputs: dict[str, KerasTensor], targets: KerasTensor) -> KerasTensor:
        """The loss of a batch.

        Args:
            outputs: dict of `feature`, float32 `(n, embedding)`, and `cosines`, float32
                `(n, num_classes)`.
            targets: float32 `(n, num_classes)`, each row adds up to 1.

        Returns:
            float32 scalar.
        """
        return self.learned_by(outputs["feature"], outputs.get("cosines"), targets)


@keras.saving.register_keras_serializable("hashnet")
class Proxies(keras.layers.Layer):
    """Inner products with a learned vector of each class.

    Args:
        num_classes: int.
        unit: bool. Whether vectors are scaled to length 1, which makes the products cosines.
    """

    def __init__(self, num_classes: int, unit: bool, **options: Any) -> None:
        super().__init__(**options)
        self.num_classes, self.unit = num_classes, unit

    def build(self, shape: tuple[int | None, ...]) -> None:
        """What Keras asks for before the first call.

        Args:
            shape: of the features, `(None, embedding)`.
        """
        self.vectors = self.add_weight(name="vectors", shape=(self.num_classes, shape[-1]))

    def call(self, features: KerasTensor) -> KerasTensor:
        """Apply the layer.

        Args:
            features: float32 `(n, embedding)`, of length 1.

        Returns:
            float32 `(n, num_classes)`.
        """
        vectors = ops.normalize(self.vectors, axis=1) if self.unit else self.vectors
        return ops.matmul(features, ops.transpose(vectors))


def make_head(
    feature_dim: int, embedding: int, num_classes: int, loss: MetricLoss
) -> FeatureTraining:
    """The embedding and the proxies as they learn, from F7 of length 1.

    Args:
        feature_dim: int, length of F7.
        embedding: int, length of the feature.
        num_classes: int.
        loss: a `MetricLoss`.

    Returns:
        `FeatureTraining`.
    """
    f7 = keras.Input((feature_dim,), name="f7")
    x = layers.Dense(embedding, dtype="float32", name="embedding")(f7)
    feature = layers.UnitNormalization(dtype="float32", name="feature")(x)
    outputs = {"feature": feature}
    if loss.proxies != "none":
        unit = loss.proxies == "unit"
        outputs["cosines"] = Proxies(num_classes, unit, dtype="float32", name="proxies")(feature)
    head = FeatureTraining(f7, outputs, name="head")
    head.learned_by = loss
    return head


def start(head: FeatureTraining, f7: np.ndarray, targets: np.ndarray) -> None:
    """Give a head the weights to begin with.

    Args:
        head: from `make_head`, changed in place.
        f7: float32 `(n, feature_dim)`, of length 1, of the training images.
        targets: float32 `(n, num_classes)`, each row adds up to 1.
    """
    dense = head.get_layer("embedding")
    kernel, bias = whitened(f7, dense.units)
    dense.set_weights([kernel, bias])
    if head.learned_by.proxies == "none":
        return
    features = f7 @ kernel + bias
    features /= np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    means = targets.T @ features
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    scale = FREE_PROXY if head.learned_by.proxies == "free" else 1.0
    head.get_layer("proxies").set_weights([(means * scale).astype("float32")])


def whitened(f7: np.ndarray, embedding: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights that make principal components of F7, scaled towards equal variance.

    Args:
        f7: float array `(n, feature_dim)`.
        embedding: int, at most `feature_dim`. How many components.

    Returns:
        kernel: float32 `(feature_dim, embedding)`.
        bias: float32 `(embedding,)`, so that the mean of f7 becomes zero.

    Example:
        >>> kernel, bias = whitened(np.array([[0.0, 2.0], [0.0, 4.0]]), 1)
        >>> np.abs(np.array([[0.0, 3.0]]) @ kernel + bias) < 1e-6
        array([[ True]])
    """
    wide = np.asarray(f7, np.float64)
    mean = wide.mean(axis=0)
    with threads.blas_threads(1):  # sums in another order would give another network
        variances, axes = np.linalg.eigh((wide - mean).T @ (wide - mean) / len(wide))
    variances, axes = variances[::-1][:embedding], axes[:, ::-1][:, :embedding]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    floor = max(RIDGE * float(variances.mean()), 1e-12)
    kernel = axes * (np.maximum(variances, 0) + floor) ** (-WHITENING / 2)
    return kernel.astype(np.float32), (-mean @ kernel).astype(np.float32)


def with_components(
    kernel: np.ndarray, bias: np.ndarray, f7: np.ndarray, components: int
) -> tuple[np.ndarray, np.ndarray]:
    """Weights of a learned embedding, and of principal components of F7 beside it.

    Both parts have the same mean square over the images, and so the same say in a distance.

    Args:
        kernel: float32 `(feature_dim, embedding)`, that was learned.
        bias: float32 `(embedding,)`.
        f7: float32 `(n, feature_dim)`, of length 1, of the training images by the trained backbone.
        components: int, 1 to `feature_dim`.

    Returns:
        kernel: float32 `(feature_dim, embedding + components)`.
        bias: float32 `(embedding + components,)`.

    Example:
        >>> f7 = np.array([[0.6, 0.8], [1.0, 0.0], [0.8, 0.6]], "float32")
        >>> kernel, bias = with_components(np.eye(2, 1, dtype="float32"), np.zeros(1), f7, 1)
        >>> np.square(f7 @ kernel + bias).mean(axis=0).astype(float).round(4).tolist()
        [0.6667, 0.6667]
    """
    further, offset = whitened(f7, components)
    learned, beside = (np.square(f7 @ k + b).sum() for k, b in ((kernel, bias), (further, offset)))
    scale = np.sqrt(learned / max(float(beside), 1e-12))
    joined = np.concatenate([kernel, further * scale], axis=1)
    return joined.astype("float32"), np.concatenate([bias, offset * scale]).astype("float32")


def finish(network: keras.Model, features: np.ndarray, targets: np.ndarray, seed: int) -> None:
    """Fit H to the feature that was learned, and F8 to H.

    H is fitted as without labels, so that it does not look at classes; but to the photos of the
    training, which have no others. F8 takes the class whose mean latent is nearest.

    Args:
        network: `keras.Model` of `model.build` with the embedding in it, changed in place.
        features: float32 `(n, embedding)`, of the training images.
        targets: float32 `(n, num_classes)`, each row adds up to 1.
        seed: int.
    """
    hash_layer = network.get_layer("latent")
    chosen = unsupervised.sample(len(features), seed)
    fitted = unsupervised_codes.fit(features[chosen], hash_layer.units, seed=seed)
    hash_layer.set_weights([fitted.kernel, fitted.bias])
    network.get_layer("scores").set_weights(nearest_mean(fitted.latents(features), targets))


def nearest_mean(latents: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights of F8 that score a class by the distance of its mean latent.

    A class is a ball of one spread for all: log p(class) = -|latent - mean|^2 / (2 variance) but
    for what all classes share.

    Args:
        latents: float `(n, num_bits)`.
        targets: float `(n, num_classes)`; each class has an image.

    Returns:
        kernel: float32 `(num_bits, num_classes)`.
        bias: float32 `(num_classes,)`.

    Example:
        >>> latents = np.array([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8]])
        >>> kernel, bias = nearest_mean(latents, np.array([[1, 0], [1, 0], [0, 1]]))
        >>> (latents @ kernel + bias).argmax(axis=1).tolist()
        [0, 0, 1]
    """
    shares = targets / targets.sum(axis=0)
    means = shares.T @ latents  # (num_classes, num_bits)
    spread = float(np.mean(np.square(latents - targets @ means)))
    sharpness = 1 / max(spread, 1e-4)
    bias = -np.square(means).sum(axis=1) / 2
    return (sharpness * means.T).astype(np.float32), (sharpness * bias).astype(np.float32)
