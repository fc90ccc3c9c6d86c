"""What makes a feature good for classes never seen: seven losses from the literature, one face.

Throughout, B is the images of a batch, D the numbers of a feature, C the classes;

    z        (B, D)  features, of length 1
    w        (C, D)  a learned vector of each class, of length 1 but for `softmax`: its proxy
    cosines  (B, C)  z w^T
    targets  (B, C)  a row adds up to 1: 1 for the class, or 1/m for each of m classes

Two images are of one class if they share any; an image is never its own pair. A batch holds
several images of each of its classes; see `batches.ClassBatches`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from keras import KerasTensor, ops

from hashnet.errors import UnknownNameError

PROXY_ANCHOR_SCALE, PROXY_ANCHOR_MARGIN = 32.0, 0.1
ARCFACE_SCALE, ARCFACE_MARGIN = 64.0, 0.5
MULTI_SIMILARITY_POSITIVE, MULTI_SIMILARITY_NEGATIVE = 2.0, 40.0
MULTI_SIMILARITY_THRESHOLD, MULTI_SIMILARITY_MINING = 0.5, 0.1
TRIPLET_MARGIN = 0.2
SUPCON_TEMPERATURE = 0.1
_FAR = 1e9


@dataclass(frozen=True)
class MetricLoss:
    """A loss of features.

    Attributes:
        name: str.
        source: str, the paper.
        proxies: `"none"`; `"unit"`, a vector of length 1 for each class; or `"free"`, a vector of
            any length.
        function: function of (z, cosines, targets) to a scalar.
    """

    name: str
    source: str
    proxies: str
    function: Callable[[KerasTensor, KerasTensor, KerasTensor], KerasTensor]

    def __call__(self, z: KerasTensor, cosines: KerasTensor, targets: KerasTensor) -> KerasTensor:
        """The loss, a float32 scalar."""
        return self.function(z, cosines, targets)


def create(name: str) -> MetricLoss:
    """Look up one of the losses.

    Args:
        name: str, one of `METRIC_LOSSES`.

    Returns:
        `MetricLoss`.

    Raises:
        UnknownNameError: there is no such loss.

    Example:
        >>> create("supcon").proxies
        'none'
    """
    if name not in _LOSSES:
        raise UnknownNameError("loss", name, _LOSSES)
    return _LOSSES[name]


# --- Losses of proxies ------------------------------------------------------------------------


def softmax(z: KerasTensor, products: KerasTensor, targets: KerasTensor) -> KerasTensor:
    """Classification: -1/B sum_b sum_c targets_bc log softmax(z_b w^T)_c, w of any length.

    Args:
        z: float32 tensor `(B, D)`; not needed here.
        products: float32 tensor `(B, C)`, z w^T.
        targets: float32 tensor `(B, C)`.

    Returns:
        float32 scalar, nats.

    Example:
        >>> loss = softmax(None, np.zeros((1, 2), "float32"), np.array([[1, 0]], "float32"))
        >>> round(float(loss), 4)
        0.6931
    """
    return -ops.mean(ops.sum(targets * ops.log_softmax(products), axis=-1))


def arcface(z: KerasTensor, cosines: KerasTensor, targets: KerasTensor) -> KerasTensor:
    """Classification by angles, with a margin on that to the image's own class:

    -1/B sum_b sum_c targets_bc log softmax_c( s cos(theta_bc + m [targets_bc > 0]) )

    with s = 64 and m = .5. Where theta + m would pass pi the cosine goes on falling in a straight
    line, cos(theta) - m sin(m), as in the paper's released code.

    Args:
        z: float32 tensor `(B, D)`; not needed here.
        cosines: float32 tensor `(B, C)`.
        targets: float32 tensor `(B, C)`.

    Returns:
        float32 scalar, nats.

    Example:
        The class that an image points at costs nothing if the other is far.

        >>> cosines = np.array([[1, -1]], "float32")
        >>> right, wrong = (arcface(None, cosines, row[None]) for row in np.eye(2, dtype="float32"))
        >>> bool(right < 1e-3 < 64 < wrong)
        True

    Reference:
        Deng, Guo, Xue, Zafeiriou, "ArcFace: Additive Angular Margin Loss for Deep Face
        Recognition", CVPR 2019.
    """
    m = ARCFACE_MARGIN
    cos_m, sin_m = float(np.cos(m)), float(np.sin(m))
    sines = ops.sqrt(ops.maximum(1 - ops.square(cosines), 1e-7))
    past = cosines < -cos_m  # theta > pi - m
    moved = ops.where(past, cosines - m * sin_m, cosines * cos_m - sines * sin_m)
    logits = ARCFACE_SCALE * ops.where(targets > 0, moved, cosines)
    return softmax(z, logits, targets)


def proxy_anchor(z: KerasTensor, cosines: KerasTensor, targets: KerasTensor) -> KerasTensor:
    """Each proxy is an anchor, to which all images of the batch are positive or negative:

    1/|P+| sum_(p in P+) log(1 + sum_(b of p) exp(-a (cos_bp - d)))
      + 1/|P| sum_p log(1 + sum_(b not of p) exp(a (cos_bp + d)))

    with a = 32, d = .1, and P+ the proxies whose class is in the batch. The sums weigh the images
    that are hardest for a proxy most: that is all of its mining.

    Args:
        z: float32 tensor `(B, D)`; not needed here.
        cosines: float32 tensor `(B, C)`.
        targets: float32 tensor `(B, C)`.

    Returns:
        float32 scalar.

    Example:
        >>> near, far = np.eye(2, dtype="float32"), 1 - np.eye(2, dtype="float32")
        >>> bool(proxy_anchor(None, near, near) < proxy_anchor(None, far, near))
        True

    Reference:
        Kim, Kim, Cho, Kwak, "Proxy Anchor Loss for Deep Metric Learning", CVPR 2020.
    """
    a, d = PROXY_ANCHOR_SCALE, PROXY_ANCHOR_MARGIN
    own = targets > 0
    pull = _log_one_plus_sum(-a * (cosines - d), own)  # (C,)
    push = _log_one_plus_sum(a * (cosines + d), ops.logical_not(own))  # (C,)
    present = ops.cast(ops.any(own, axis=0), "float32")
    return ops.sum(pull * present) / ops.maximum(ops.sum(present), 1) + ops.mean(push)


def _log_one_plus_sum(x: KerasTensor, chosen: KerasTensor) -> KerasTensor:
    """log(1 + sum of exp(x) over the rows that are chosen), of each column; exact for any x."""
    x = ops.where(chosen, x, -_FAR)
    zero = ops.zeros_like(x[:1])
    return ops.logsumexp(ops.concatenate([zero, x], axis=0), axis=0)


# --- Losses of pairs --------------------------------------------------------------------------


def supcon(z: KerasTensor, cosines: KerasTensor, targets: KerasTensor) -> KerasTensor:
    """Each image picks those of its class among all others, chances by similarity:

    -1/B' sum_b 1/|P(b)| sum_(p in P(b)) log( exp(z_b z_p / t) / sum_(a != b) exp(z_b z_a / t) )

    with t = .1, over the B' images that have others of their class, P(b), in the batch.

    Args:
        z: float32 tensor `(B, D)`.
        cosines: not needed here.
        targets: float32 tensor `(B, C)`.

    Returns:
        float32 scalar, nats.

    Example:
        >>> z = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], "float32")
        >>> classes = np.eye(2, dtype="float32")
        >>> right, wrong = classes[[0, 0, 1, 1]], classes[[0, 1, 0, 1]]
        >>> bool(supcon(z, None, right) < .001 < 9 < supcon(z, None, wrong))
        True

    Reference:
        Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020, equation 2.
    """
    same, other = _pairs(targets)
    similarity = ops.matmul(z, ops.transpose(z)) / SUPCON_TEMPERATURE
    everyone = ops.logical_or(same, other)
    normaliser = ops.logsumexp(ops.where(everyone, similarity, -_FAR), axis=1, keepdims=True)
    chosen = ops.cast(same, "float32")
    count = ops.sum(chosen, axis=1)
    own = ops.sum(chosen * (similarity - normaliser), axis=1) / ops.maximum(count, 1)
    return -_mean_where(own, count > 0)


def supcon_softmax(z: KerasTensor, products: KerasTensor, targets: KerasTensor) -> KerasTensor:
    """Half of `supcon` and half of `softmax`.

    The one draws the images of a class together, the other keeps more of what tells classes apart.

    Args:
        z: float32 tensor `(B, D)`.
        products: float32 tensor `(B, C)`, z w^T.
        targets: float32 tensor `(B, C)`.

    Returns:
        float32 scalar, nats.

    Example:
        >>> z = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], "float32")
        >>> targets = np.eye(2, dtype="float32")[[0, 0, 1, 1]]
        >>> bool(supcon_softmax(z, 9 * z, targets) < .001 < 4 < supcon_softmax(z, -9 * z, targets))
        True

    Reference:
        Gunel et al., "Supervised Contrastive Learning for Pre-trained Language Model Fine-tuning",
        ICLR 2021, equation 1, with lambda = .5.
    """
    return (supcon(z, products, targets) + softmax(z, products, targets)) / 2


def multi_similarity(z: KerasTensor, cosines: KerasTensor, targets: KerasTensor) -> KerasTensor:
    """Pairs weighed by their own similarity and by that of the others, after mining:

    1/B sum_b [ 1/a log(1 + sum_p exp(-a (S_bp - l))) + 1/b log(1 + sum_n exp(b (S_bn - l))) ]

    with a = 2, b = 40, l = .5 as in the paper's released code, and S = z z^T. Mining keeps the
    negatives that are more similar than the least similar positive less .1, and the positives that
    are less similar than the most similar negative and .1.

    Args:
        z: float32 tensor `(B, D)`.
        cosines: not needed here.
        targets: float32 tensor `(B, C)`.

    Returns:
        float32 scalar.

    Example:
        Positives that are more similar than all negatives are left alone.

        >>> z = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], "float32")
        >>> float(multi_similarity(z, None, np.eye(2, dtype="float32")[[0, 0, 1, 1]]))
        0.0

    Reference:
        Wang, Han, Huang, Dong, Scott, "Multi-Similarity Loss with General Pair Weighting for
        Deep Metric Learning", CVPR 2019.
    """
    a, b = MULTI_SIMILARITY_POSITIVE, MULTI_SIMILARITY_NEGATIVE
    threshold, slack = MULTI_SIMILARITY_THRESHOLD, MULTI_SIMILARITY_MINING
    same, other = _pairs(targets)
    similarity = ops.matmul(z, ops.transpose(z))
    least = ops.min(ops.where(same, similarity, _FAR), axis=1, keepdims=True)
    most = ops.max(ops.where(other, similarity, -_FAR), axis=1, keepdims=True)
    positives = ops.logical_and(same, similarity < most + slack)
    negatives = ops.logical_and(other, similarity > least - slack)
    pull = _log_one_plus_sum(ops.transpose(-a * (similarity - threshold)), ops.transpose(positives))
    push = _log_one_plus_sum(ops.transpose(b * (similarity - threshold)), ops.transpose(negatives))
    return ops.mean(pull / a + push / b)


def triplet(z: KerasTensor, cosines: KerasTensor, targets: KerasTensor) -> KerasTensor:
    """An image of the same class is nearer than one of another, by a margin:

    1/N sum_(b, p) max(0, d_bp - d_bn + .2),   d = |z - z'|^2

    over the N ordered pairs (b, p) of one class. The negative n is semi-hard: the nearest that is
    farther than the positive, or where none is, the farthest.

    Args:
        z: float32 tensor `(B, D)`.
        cosines: not needed here.
        targets: float32 tensor `(B, C)`.

    Returns:
        float32 scalar.

    Example:
        >>> z = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], "float32")
        >>> float(triplet(z, None, np.eye(2, dtype="float32")[[0, 0, 1, 1]]))
        0.0

    Reference:
        Schroff, Kalenichenko, Philbin, "FaceNet: A Unified Embedding for Face Recognition and
        Clustering", CVPR 2015.
    """
    same, other = _pairs(targets)
    distance = 2 - 2 * ops.matmul(z, ops.transpose(z))  # (B, B)
    positive = distance[:, :, None]  # of (b, p)
    negative = distance[:, None, :]  # of (b, n)
    farther = ops.logical_and(other[:, None, :], negative > positive)  # (B, B, B)
    nearest_farther = ops.min(ops.where(farther, negative, _FAR), axis=2)
    farthest = ops.max(ops.where(other, distance, -_FAR), axis=1, keepdims=True)
    chosen = ops.where(ops.any(farther, axis=2), nearest_farther, farthest)
    hinge = ops.maximum(distance - chosen + TRIPLET_MARGIN, 0)
    has_negative = ops.any(other, axis=1, keepdims=True)
    return _mean_where(hinge, ops.logical_and(same, has_negative))


def _pairs(targets: KerasTensor) -> tuple[KerasTensor, KerasTensor]:
    """Which pairs of the batch share a class, and which do not, bool `(B, B)`; none with itself."""
    share = ops.matmul(targets, ops.transpose(targets)) > 0
    itself = ops.eye(ops.shape(targets)[0], dtype="bool")
    return ops.logical_and(share, ops.logical_not(itself)), ops.logical_not(
        ops.logical_or(share, itself)
    )


def _mean_where(x: KerasTensor, chosen: KerasTensor) -> KerasTensor:
    """The mean of some numbers; 0 of none."""
    count = ops.sum(ops.cast(chosen, "float32"))
    return ops.sum(ops.where(chosen, x, 0.0)) / ops.maximum(count, 1)


_LOSSES = {
    loss.name: loss
    for loss in (
        MetricLoss(
            "proxy_anchor",
            "Kim et al., Proxy Anchor Loss for Deep Metric Learning, CVPR 2020",
            "unit",
            proxy_anchor,
        ),
        MetricLoss("arcface", "Deng et al., ArcFace, CVPR 2019", "unit", arcface),
        MetricLoss(
            "multi_similarity",
            "Wang et al., Multi-Similarity Loss, CVPR 2019",
            "none",
            multi_similarity,
        ),
        MetricLoss("triplet", "Schroff et al., FaceNet, CVPR 2015", "none", triplet),
        MetricLoss(
            "supcon", "Khosla et al., Supervised Contrastive Learning, NeurIPS 2020", "none", supcon
        ),
        MetricLoss(
            "supcon_softmax",
            "Gunel et al., Supervised Contrastive Learning for Fine-tuning, ICLR 2021",
            "free",
            supcon_softmax,
        ),
        MetricLoss("softmax", "classification, the baseline of all of them", "free", softmax),
    )
}
