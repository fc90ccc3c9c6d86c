"""How far a mean over queries can be trusted, and a difference of two.

Reference:
    Efron, "Bootstrap Methods: Another Look at the Jackknife", Annals of Statistics 1979: intervals.
    Smucker, Allan, Carterette, "A Comparison of Statistical Significance Tests for Information
    Retrieval Evaluation", CIKM 2007: the randomisation test, of the queries' own differences.
    Holm, "A Simple Sequentially Rejective Multiple Test Procedure", Scandinavian Journal of
    Statistics 1979: of several differences at once.
"""

from collections.abc import Iterator, Sequence

import numpy as np

RESAMPLES = 10_000
LEVEL = 0.95
_AT_ONCE = 500  # resamples that are in memory


def interval(values: np.ndarray, *, seed: int) -> tuple[float, float]:
    """Where the mean would lie with other queries like these: a percentile bootstrap.

    Args:
        values: float `(q,)`, one a query, q at least 1.
        seed: int.

    Returns:
        The ends of the interval that holds `LEVEL` of the means of resamples.

    Example:
        >>> low, high = interval(np.array([0.0, 1.0] * 50), seed=0)
        >>> round(low, 1), round(high, 1)
        (0.4, 0.6)
    """
    rng, number = np.random.default_rng(seed), len(values)
    means = np.concatenate(
        [values[rng.integers(0, number, (part, number))].mean(axis=1) for part in _parts()]
    )
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def randomisation(differences: np.ndarray, *, seed: int) -> float:
    """The chance of a mean difference as large as this, if it made no difference which is which.

    Args:
        differences: float `(q,)`, of one query each, q at least 1.
        seed: int.

    Returns:
        float, two-sided; above 0, as the order that was seen is one of those counted.

    Example:
        >>> randomisation(np.zeros(9), seed=0), randomisation(np.ones(30), seed=0) < 0.001
        (1.0, True)
    """
    rng, seen = np.random.default_rng(seed), abs(float(differences.sum()))
    as_large = 0
    for part in _parts():
        signs = rng.integers(0, 2, (part, len(differences)), dtype=np.int8) * 2 - 1
        sums = np.abs((signs * differences).sum(axis=1))
        as_large += int(np.count_nonzero(sums >= seen * (1 - 1e-12)))
    return (1 + as_large) / (1 + RESAMPLES)


def of_several(chances: Sequence[float]) -> list[float]:
    """Chances of several tests, each raised as Holm says, so that one in twenty stays that.

    Args:
        chances: floats, one a test.

    Returns:
        list of float, in the same order, none above 1.

    Example:
        >>> of_several([0.01, 0.04, 0.02])
        [0.03, 0.04, 0.04]
    """
    raised, least = [0.0] * len(chances), 0.0
    for rank, place in enumerate(np.argsort(chances, kind="stable").tolist()):
        least = max(least, min(1.0, (len(chances) - rank) * chances[place]))
        raised[place] = least
    return raised


def _parts() -> Iterator[int]:
    yield from [_AT_ONCE] * (RESAMPLES // _AT_ONCE)
