"""How far an index has gone from what its codes were fitted to."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from hashnet.network import bundle as bundles

_GROWTH = 2  # so many times the images that codes were fitted to
_LEAST_BALANCE = 0.95
_LEAST_IMAGES = 50  # to which codes of a training are fitted again (tests/bench/unseen.py)
_SAMPLE = 10_000  # a fit takes no more, and no more are looked at


@dataclass(frozen=True)
class Drift:
    """How far an index has gone from what its codes were fitted to.

    Attributes:
        fitted_to: int. Images that they were fitted to; 0 if these were of a training.
        num_images: int. Images that the index holds.
        balance: float, 0 to 1: the mean entropy of a bit in the index. 1 where every bit tells half
            of the images from the other half; what a code tells shrinks with it.
    """

    fitted_to: int
    num_images: int
    balance: float

    @property
    def is_outgrown(self) -> bool:
        """Whether codes fitted again would serve the index better (tests/bench/refit.py)."""
        if self.num_images == self.fitted_to:  # the same fit again, of few images ill balanced, too
            return False
        if not self.fitted_to:
            return self.num_images >= _LEAST_IMAGES
        grown = self.num_images >= _GROWTH * self.fitted_to
        return (grown and self.fitted_to < _SAMPLE) or self.balance < _LEAST_BALANCE


def drift(snapshot: Any, bundle: bundles.Bundle) -> Drift | None:
    """Measure how far an index has gone from what its codes were fitted to.

    Args:
        snapshot: a `Snapshot`.
        bundle: the `Bundle` that the index carries.

    Returns:
        A `Drift`; None where codes were not fitted to features, or there is no image.
    """
    fitted_to = bundle.origin.get("fitted_to", 0 if bundle.config.embedding else None)
    if not (bundle.fits_codes and isinstance(fitted_to, int) and snapshot.num_items):
        return None
    share = snapshot.bit_shares(_SAMPLE)
    # Zero times the logarithm of zero is zero.
    parts = np.stack([share, 1 - share])
    entropy = -(parts * np.log2(np.where(parts > 0, parts, 1))).sum(axis=0)
    return Drift(fitted_to, snapshot.num_items, round(float(entropy.mean()), 4))
