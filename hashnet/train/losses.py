"""What makes a code good: five losses from the literature, with one face.

Throughout, B is the images of a batch, K the bits, C the classes;

    u        (B, K)  what H gives before the sigmoid; bit k is one where u >= 0
    latent   (B, K)  sigmoid(steepness * u), 0..1: what F8 sees, and what the network gives
    logits   (B, C)  what F8 gives before the softmax
    targets  (B, C)  a row adds up to 1: 1 for the class, or 1/m for each of m classes

F8 learns beside H in every case, so that every network can name classes. Where the loss does not
come from F8 itself (`csq`, `orthohash`), F8's gradient stops at the latent and leaves the code
alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import KerasTensor, ops

from hashnet.errors import UnknownNameError

ORTHOHASH_MARGIN = 0.2
CSQ_QUANTISATION = 1e-4
GREEDYHASH_ALPHA = 0.1


@dataclass(frozen=True)
class HashLoss:
    """A loss and what it asks of the layers around H.

    Attributes:
        name: str.
        source: str, the paper.
        normalised: bool. Whether batch normalisation stands between H and u.
        steepness: float. Of the sigmoid that makes latents of u; it moves no bit.
        f8_sees: `"latent"`; `"bits"`, the latent cut at one half, whose gradient goes straight
            through; or `"stopped"`, the latent without a way back for the gradient.
        code_loss: function of (u, targets) to a scalar: the part that does not come from F8.
    """

    name: str
    source: str
    normalised: bool
    steepness: float
    f8_sees: str
    code_loss: Callable[[KerasTensor, KerasTensor], KerasTensor]

    def __call__(self, u: KerasTensor, logits: KerasTensor, targets: KerasTensor) -> KerasTensor:
        """The whole loss, a scalar: cross-entropy of F8, plus the part of the code."""
        return class_cross_entropy(logits, targets) + self.code_loss(u, targets)


def create(name: str, num_bits: int, num_classes: int, seed: int = 0) -> HashLoss:
    """Make one of the five losses.

    Args:
        name: str, one of `LOSSES`.
        num_bits: int, K.
        num_classes: int, C.
        seed: int. Of the codewords of `csq` and `orthohash`.

    Returns:
        `HashLoss`.

    Raises:
        UnknownNameError: there is no such loss.

    Example:
        >>> create("orthohash", 48, 10).normalised
        True
    """
    if name not in _MAKERS:
        raise UnknownNameError("loss", name, _MAKERS)
    return _MAKERS[name](num_bits, num_classes, seed)


def class_cross_entropy(logits: KerasTensor, targets: KerasTensor) -> KerasTensor:
    """-(1/B) sum_b sum_c targets_bc log softmax(logits_b)_c.

    Args:
        logits: float32 tensor `(B, C)`.
        targets: float32 tensor `(B, C)`.

    Returns:
        float32 scalar, nats.

    Example:
        Two classes that look alike: the loss is ln 2.

        >>> loss = class_cross_entropy(np.zeros((1, 2), "float32"), np.array([[1, 0]], "float32"))
        >>> round(float(loss), 4)
        0.6931
    """
    return -ops.mean(ops.sum(targets * ops.log_softmax(logits), axis=-1))


# --- paper, ssdh: the code is learned through F8 ----------------------------------------------


def _paper(_num_bits: int, _num_classes: int, _seed: int) -> HashLoss:
    """Cross-entropy alone; the sigmoid between H and F8 is all that pushes latents to 0 or 1."""
    source = "Lin et al., Deep Learning of Binary Hash Codes, CVPR Workshops 2015"
    return HashLoss("paper", source, False, 1.0, "latent", lambda u, targets: 0.0)


def _ssdh(_num_bits: int, _num_classes: int, _seed: int) -> HashLoss:
    source = "Yang, Lin, Chen, Supervised Learning of Semantics-Preserving Hash, TPAMI 2018"
    return HashLoss("ssdh", source, False, 1.0, "latent", ssdh_terms)


def ssdh_terms(u: KerasTensor, targets: KerasTensor) -> KerasTensor:
    """K1 + K2 of SSDH, with a = sigmoid(u):

    K1 = -1/(2BK) sum_bk (a_bk - .5)^2      pushes latents to 0 and 1
    K2 = +1/(2B) sum_b (mean_k a_bk - .5)^2   half of an image's bits are one

    Args:
        u: float32 tensor `(B, K)`.
        targets: float32 tensor `(B, C)`; not needed here.

    Returns:
        float32 scalar.

    Example:
        >>> sure_and_even = np.array([[-90, 90]], "float32")
        >>> round(float(ssdh_terms(sure_and_even, None)), 4)
        -0.125

    Reference:
        Yang, Lin, Chen, "Supervised Learning of Semantics-Preserving Hash", TPAMI 2018.
    """
    a = ops.sigmoid(u)
    push = -ops.mean(ops.square(a - 0.5)) / 2
    balance = ops.mean(ops.square(ops.mean(a, axis=-1) - 0.5)) / 2
    return push + balance


# --- greedyhash: F8 on the bits themselves ----------------------------------------------------


def _greedyhash(_num_bits: int, _num_classes: int, _seed: int) -> HashLoss:
    source = "Su et al., Greedy Hash, NeurIPS 2018"
    return HashLoss("greedyhash", source, False, 4.0, "bits", greedyhash_term)


def greedyhash_term(u: KerasTensor, targets: KerasTensor) -> KerasTensor:
    """alpha/(BK) sum_bk | |u_bk| - 1 |^3, beside F8's cross-entropy on sign(u).

    Args:
        u: float32 tensor `(B, K)`.
        targets: float32 tensor `(B, C)`; not needed here.

    Returns:
        float32 scalar.

    Example:
        >>> float(greedyhash_term(np.array([[-1, 1]], "float32"), None))
        0.0

    Reference:
        Su et al., "Greedy Hash", NeurIPS 2018.
    """
    return GREEDYHASH_ALPHA * ops.mean(ops.abs(ops.abs(u) - 1) ** 3)


# --- csq, orthohash: fixed codewords ----------------------------------------------------------


def _csq(num_bits: int, num_classes: int, seed: int) -> HashLoss:
    centres = codewords(num_bits, num_classes, seed)
    source = "Yuan et al., Central Similarity Quantization, CVPR 2020"
    return HashLoss(
        "csq", source, False, 2.0, "stopped", lambda u, targets: csq_loss(u, targets, centres)
    )


def csq_loss(u: KerasTensor, targets: KerasTensor, centres: np.ndarray) -> KerasTensor:
    """Binary cross-entropy of p = (tanh(u) + 1)/2 to the centre of the class, and quantisation:

    -1/(BK) sum_bk [c log p + (1-c) log(1-p)] + lambda/(BK) sum_bk (|tanh u_bk| - 1)^2

    where c_bk is (h_k + 1)/2 of the class's codeword h; with several classes, of the sign of the
    sum of their codewords.

    Args:
        u: float32 tensor `(B, K)`.
        targets: float32 tensor `(B, C)`.
        centres: float32 `(C, K)`, +1 and -1.

    Returns:
        float32 scalar.

    Example:
        >>> words = np.array([[1, 1], [-1, -1]], "float32")
        >>> first = np.array([[1, 0]], "float32")
        >>> near, far = (csq_loss(np.full((1, 2), u, "float32"), first, words) for u in (9, -9))
        >>> bool(near < 1e-3 < 17 < far)
        True

    Reference:
        Yuan et al., "Central Similarity Quantization", CVPR 2020.
    """
    total = ops.matmul(targets, centres)  # (B, K)
    ones = ops.cast(total >= 0, "float32")
    # p = sigmoid(2u), so log p = -softplus(-2u) and log(1-p) = -softplus(2u): exact for any u.
    cross_entropy = ops.mean(ones * ops.softplus(-2 * u) + (1 - ones) * ops.softplus(2 * u))
    quantisation = ops.mean(ops.square(ops.abs(ops.tanh(u)) - 1))
    return cross_entropy + CSQ_QUANTISATION * quantisation


def _orthohash(num_bits: int, num_classes: int, seed: int) -> HashLoss:
    words = codewords(num_bits, num_classes, seed)
    source = "Hoe et al., One Loss for All: Deep Hashing, NeurIPS 2021"
    return HashLoss(
        "orthohash",
        source,
        True,
        4.0,
        "stopped",
        lambda u, targets: orthohash_loss(u, targets, words),
    )


def orthohash_loss(u: KerasTensor, targets: KerasTensor, words: np.ndarray) -> KerasTensor:
    """Cross-entropy of scaled cosines to the codewords, with a margin for the image's own:

    -1/B sum_b sum_c targets_bc log softmax_c( s (cos(u_b, h_c) - .2 [targets_bc > 0]) )

    The scale s = sqrt(2) ln(C - 1), and at least 4: the choice that the paper's supplement found
    best or nearly so for every C. It does not depend on K, as cosines do not.

    Args:
        u: float32 tensor `(B, K)`.
        targets: float32 tensor `(B, C)`.
        words: float32 `(C, K)`, +1 and -1.

    Returns:
        float32 scalar, nats.

    Example:
        >>> words = np.array([[1, 1], [1, -1]], "float32")
        >>> first = np.array([[1, 0]], "float32")
        >>> near, far = (orthohash_loss(np.array([u], "float32"), first, words) for u in words)
        >>> bool(near < far)
        True

    Reference:
        Hoe et al., "One Loss for All: Deep Hashing", NeurIPS 2021.
    """
    num_classes, num_bits = words.shape
    scale = max(4.0, float(np.sqrt(2) * np.log(max(num_classes - 1, 1))))
    unit = u / ops.maximum(ops.norm(u, axis=-1, keepdims=True), 1e-6)
    cosine = ops.matmul(unit, words.T / np.sqrt(num_bits).astype("float32"))  # (B, C)
    own = ops.cast(targets > 0, "float32")
    return class_cross_entropy(scale * (cosine - ORTHOHASH_MARGIN * own), targets)


_MAKERS = {
    "paper": _paper,
    "ssdh": _ssdh,
    "csq": _csq,
    "orthohash": _orthohash,
    "greedyhash": _greedyhash,
}


def codewords(num_bits: int, num_classes: int, seed: int = 0) -> np.ndarray:
    """Choose words far apart, one for each class, with as many ones as zeros in each bit.

    Rows of a Hadamard matrix differ in half of their bits, and stay so when rows are negated.
    Where one of this order can be built and has rows enough, some are drawn; else all bits are.
    Of many draws the one wins whose two nearest words are farthest apart, and among equals the
    one whose bits are best balanced over the classes.

    Args:
        num_bits: int, K.
        num_classes: int, C.
        seed: int.

    Returns:
        float32 array `(C, K)`, +1 and -1.

    Example:
        >>> words = codewords(12, 10)
        >>> (words @ words.T - 12 * np.eye(10)).any()
        np.False_
    """
    random = np.random.default_rng((seed, num_bits, num_classes))
    square = _hadamard(num_bits)
    best = np.empty(0)
    best_rank: tuple[float, float] | None = None
    for _ in range(500 if num_classes <= 100 else 20):
        if square is not None and num_classes <= num_bits:
            signs = random.choice([-1, 1], (num_classes, 1))
            words = square[random.permutation(num_bits)[:num_classes]] * signs
        else:
            words = random.permuted(np.resize([-1, 1], (num_bits, num_classes)), axis=1).T
        cosine = words @ words.T - 2 * num_bits * np.eye(num_classes)
        rank = (float(cosine.max()), float(np.square(words.sum(axis=0)).sum()))
        if best_rank is None or rank < best_rank:
            best, best_rank = words, rank
    return best.astype("float32")


def _hadamard(order: int) -> np.ndarray | None:
    """Hadamard matrix by Sylvester's doubling and Paley's first construction, or None."""
    if order in (1, 2):
        return np.array([[1, 1], [1, -1]])[:order, :order]
    if order % 4:
        return None
    if _is_prime(order - 1):
        q = order - 1  # q = 3 mod 4
        squares = {i * i % q for i in range(1, q)}
        character = np.array([0] + [1 if i in squares else -1 for i in range(1, q)])
        jacobsthal = character[(np.arange(q)[:, None] - np.arange(q)) % q]
        matrix = np.ones((order, order), int)
        matrix[1:, 0] = -1
        matrix[1:, 1:] = jacobsthal + np.eye(q, dtype=int)
        return matrix
    half = _hadamard(order // 2)
    return None if half is None else np.block([[half, half], [half, -half]])


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % i for i in range(2, int(number**0.5) + 1))


@keras.saving.register_keras_serializable("hashnet")
class SeenByF8(keras.layers.Layer):
    """Turns u into what F8 learns from.

    Args:
        f8_sees: str; see `HashLoss`.
        steepness: float, of the sigmoid.
    """

    def __init__(self, f8_sees: str, steepness: float, **options: Any) -> None:
        super().__init__(**options)
        self.f8_sees = f8_sees
        self.steepness = steepness

    def call(self, u: KerasTensor) -> KerasTensor:
        """Apply the layer.

        Args:
            u: float32 tensor `(B, K)`.

        Returns:
            float32 tensor `(B, K)`, 0..1.
        """
        latent = ops.sigmoid(self.steepness * u)
        if self.f8_sees == "stopped":
            return ops.stop_gradient(latent)
        if self.f8_sees == "latent":
            return latent
        bits = ops.cast(u >= 0, u.dtype)
        # The bits on the way there; on the way back the gradient of u/2, as of (sign(u) + 1)/2.
        return u / 2 + ops.stop_gradient(bits - u / 2)
