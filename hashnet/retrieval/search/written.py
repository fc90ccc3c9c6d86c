"""What is written in a query and in images: how it finds them, and how it agrees with inliers."""

from typing import NamedTuple

import numpy as np

# What has as much of what was read in a query, by weight, is found by it.
LEAST_SHARE = 0.3


class Written(NamedTuple):
    """Images in which something was read that was read in a query too.

    Attributes:
        rows: int64 `(n,)`, of whole images, ascending.
        shares: float64 `(n,)`, above 0 to 1: how much of what was read in the query; see
            `Lookup.shared`.
    """

    rows: np.ndarray
    shares: np.ndarray

    def best(self, most: int) -> np.ndarray:
        """The images that have the most of it, and enough to be found.

        Args:
            most: int. Images wanted.

        Returns:
            int64 `(m,)`, rows by (largest share, row).

        Example:
            >>> Written(np.array([3, 5, 7]), np.array([0.5, 0.1, 0.9])).best(2).tolist()
            [7, 3]
        """
        order = np.lexsort((self.rows, -self.shares))
        return self.rows[order[self.shares[order] >= LEAST_SHARE]][:most]

    def of(self, rows: np.ndarray) -> np.ndarray:
        """The shares of some images.

        Args:
            rows: int64 `(n,)`, in any order.

        Returns:
            float64 `(n,)`, 0 for those in which nothing of it was read.

        Example:
            >>> Written(np.array([3, 5]), np.array([0.5, 0.1])).of(np.array([5, 4])).tolist()
            [0.1, 0.0]
        """
        if not len(self.rows):
            return np.zeros(len(rows))
        places = np.minimum(np.searchsorted(self.rows, rows), len(self.rows) - 1)
        return np.where(self.rows[places] == rows, self.shares[places], 0.0)


def joined(strengths: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """The images that show the same thing or have the same written in them, best first.

    By the sum of two shares: of the most strength that any image has, and of what was read. Neither
    weighs more. Labels of one maker have most of a picture in common, and not their names; a photo
    whose letters cannot be read still has its inliers.

    Args:
        strengths: float64 `(n,)`, as of a `Verification`: inliers as a multiple of those that are
            asked for; 0 of images that do not show the same thing.
        shares: float64 `(n,)`.

    Returns:
        int64 `(m,)`, places: of those with inliers, or `LEAST_SHARE` of the text. Equal ones stay
        as they were.

    Reference:
        Fox and Shaw, "Combination of multiple searches", TREC-2 1994: CombSUM.

    Example:
        >>> joined(np.array([0, 5.0, 4.5, 0]), np.array([0.4, 0.3, 0.9, 0.1])).tolist()
        [2, 1, 0]
    """
    scores = strengths / max(strengths.max(initial=0), 1.0) + shares
    order = np.argsort(-scores, kind="stable")
    first: np.ndarray = order[((strengths > 0) | (shares >= LEAST_SHARE))[order]]
    return first
