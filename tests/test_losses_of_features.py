"""The losses of features against their formulas, written out as loops."""

import itertools
import math

import numpy as np
import pytest

from hashnet.errors import UnknownNameError
from hashnet.train import config
from tests.lazily import Lazily

pytestmark = pytest.mark.keras
losses = Lazily("hashnet.train.metric_losses")
B, D, C = 9, 4, 4


@pytest.fixture(params=[0, 1])
def batch(request):
    """Features and proxies of length 1, and targets: one image has two classes, one class none."""
    random = np.random.default_rng(request.param)
    z, proxies = random.normal(size=(B, D)), random.normal(size=(C, D))
    z[1] = z[0] + random.normal(0, 0.3, D)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    proxies /= np.linalg.norm(proxies, axis=1, keepdims=True)
    targets = np.eye(C)[[0, 0, 0, 1, 1, 2, 2, 2, 0]]
    targets[8] = [0.5, 0.5, 0, 0]
    return z.astype("float32"), (z @ proxies.T).astype("float32"), targets.astype("float32")


def loss_of(name, batch):
    z, cosines, targets = batch
    return float(losses.create(name)(z, cosines, targets))


def of_class(targets, c):
    return [b for b in range(len(targets)) if targets[b][c] > 0]


def positives(targets, b):
    return [
        other
        for other in range(len(targets))
        if other != b
        and any(x > 0 and y > 0 for x, y in zip(targets[b], targets[other], strict=True))
    ]


def negatives(targets, b):
    return sorted(set(range(len(targets))) - {b, *positives(targets, b)})


def inner(a, b):
    return sum(float(x) * float(y) for x, y in zip(a, b, strict=True))


def cross_entropy(logits, targets):
    total = 0.0
    for row, wanted in zip(logits, targets, strict=True):
        top = max(row)
        normaliser = top + math.log(sum(math.exp(value - top) for value in row))
        total -= sum(float(t) * (value - normaliser) for value, t in zip(row, wanted, strict=True))
    return total / len(logits)


def test_softmax_is_the_cross_entropy_of_the_class(batch):
    _, cosines, targets = batch
    expected = cross_entropy(cosines.tolist(), targets)
    assert loss_of("softmax", batch) == pytest.approx(expected, rel=1e-5)


def test_arcface_adds_a_margin_to_the_angle_of_the_class(batch):
    _, cosines, targets = batch
    cosines[0, 0] = -0.99  # an angle that the margin would take past pi
    logits = cosines.astype(float).tolist()
    for b, c in itertools.product(range(B), range(C)):
        if targets[b][c] > 0:
            angle = math.acos(logits[b][c])
            inside = angle + 0.5 <= math.pi
            logits[b][c] = math.cos(angle + 0.5) if inside else logits[b][c] - 0.5 * math.sin(0.5)
        logits[b][c] *= 64
    assert loss_of("arcface", batch) == pytest.approx(cross_entropy(logits, targets), rel=1e-4)


def test_proxy_anchor_pulls_and_pushes_about_each_proxy(batch):
    _, cosines, targets = batch
    present = [c for c in range(C) if of_class(targets, c)]
    assert len(present) == C - 1
    pull = push = 0.0
    for c in range(C):
        own = of_class(targets, c)
        others = [b for b in range(B) if b not in own]
        if own:
            pull += math.log(1 + sum(math.exp(-32 * (cosines[b][c] - 0.1)) for b in own))
        push += math.log(1 + sum(math.exp(32 * (cosines[b][c] + 0.1)) for b in others))
    expected = pull / len(present) + push / C
    assert loss_of("proxy_anchor", batch) == pytest.approx(expected, rel=1e-4)


def test_supcon_picks_those_of_the_class_among_all_others(batch):
    z, _, targets = batch
    total = 0.0
    for b in range(B):
        chances = {a: math.exp(inner(z[b], z[a]) / 0.1) for a in range(B) if a != b}
        own = positives(targets, b)
        total -= sum(math.log(chances[p] / sum(chances.values())) for p in own) / len(own)
    assert loss_of("supcon", batch) == pytest.approx(total / B, rel=1e-4)


def test_supcon_softmax_is_half_of_each(batch):
    expected = (loss_of("supcon", batch) + loss_of("softmax", batch)) / 2
    assert loss_of("supcon_softmax", batch) == pytest.approx(expected, rel=1e-6)


def test_multi_similarity_weighs_what_mining_keeps(batch):
    z, _, targets = batch
    total, kept = 0.0, 0
    for b in range(B):
        own, others = positives(targets, b), negatives(targets, b)
        least = min(inner(z[b], z[p]) for p in own)
        most = max(inner(z[b], z[n]) for n in others)
        hard_own = [p for p in own if inner(z[b], z[p]) < most + 0.1]
        hard_others = [n for n in others if inner(z[b], z[n]) > least - 0.1]
        kept += len(hard_own) + len(hard_others)
        total += math.log(1 + sum(math.exp(-2 * (inner(z[b], z[p]) - 0.5)) for p in hard_own)) / 2
        total += (
            math.log(1 + sum(math.exp(40 * (inner(z[b], z[n]) - 0.5)) for n in hard_others)) / 40
        )
    assert 0 < kept < B * (B - 1)  # mining leaves some out
    assert loss_of("multi_similarity", batch) == pytest.approx(total / B, rel=1e-4)


def test_triplet_takes_the_nearest_negative_beyond_the_positive(batch):
    z, _, targets = batch
    losses_of_pairs, fallbacks = [], 0

    def distance(a, b):
        return sum((float(x) - float(y)) ** 2 for x, y in zip(z[a], z[b], strict=True))

    for b in range(B):
        away = [distance(b, n) for n in negatives(targets, b)]
        for p in positives(targets, b):
            beyond = [d for d in away if d > distance(b, p)]
            fallbacks += not beyond
            chosen = min(beyond) if beyond else max(away)
            losses_of_pairs.append(max(0.0, distance(b, p) - chosen + 0.2))
    expected = sum(losses_of_pairs) / len(losses_of_pairs)
    assert loss_of("triplet", batch) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", config.METRIC_LOSSES)
def test_every_loss_falls_as_classes_come_apart_and_stays_finite(name):
    targets = np.eye(2, dtype="float32")[[0, 0, 1, 1]]
    values = []
    for angle in (0.0, 0.4, 1.2, np.pi / 2):
        apart = np.array([[1, 0], [1, 0], *[[math.cos(angle), math.sin(angle)]] * 2], "float32")
        values.append(loss_of(name, (apart, apart @ apart[[0, 2]].T, targets)))
    assert np.isfinite(values).all()
    assert values[0] > values[1] >= values[2] >= values[3]


@pytest.mark.parametrize("name", config.METRIC_LOSSES)
def test_a_batch_without_pairs_has_a_loss_all_the_same(name):
    z = np.eye(2, dtype="float32")
    assert np.isfinite(loss_of(name, (z, z, z)))
    assert np.isfinite(loss_of(name, (z[:1], z[:1], z[:1])))


def test_a_loss_of_another_name_is_refused_with_the_known_ones():
    with pytest.raises(UnknownNameError, match="arcface, multi_similarity"):
        losses.create("orthohash")
