"""The codebook of an index's local pool: fitted to what it holds, and again when that has grown."""

from collections.abc import Callable
from typing import Any

import numpy as np

from hashnet.local import codebook as codebooks
from hashnet.local.codebook import Codebook
from hashnet.retrieval.search import local_pool

LISTING = "listing by visual words"


def settle(
    writer: Any,
    snapshot: Any,
    *,
    num_threads: int,
    progress: Callable[[int, int], None] | None = None,
) -> bool:
    """Fit a codebook to an index that has enough for one and has none, or has outgrown it.

    Args:
        writer: `Writer` of the index.
        snapshot: `Snapshot`, of its last commit.
        num_threads: int. The codebook does not depend on it.
        progress: as for `Writer.set_codebook`.

    Returns:
        bool. Whether the index has another codebook now.
    """
    if not snapshot.keeps_words:
        return False
    known, number = snapshot.codebook, snapshot.num_local_features
    if known is None:
        if not local_pool.is_due(snapshot.num_items, number):
            return False
        return fit(writer, snapshot, num_threads=num_threads, progress=progress)
    if not known.is_outgrown(number):
        return False
    return fit(writer, snapshot, num_threads=num_threads, progress=progress)


def fit(
    writer: Any,
    snapshot: Any,
    *,
    seed: int = 0,
    num_threads: int,
    progress: Callable[[int, int], None] | None = None,
) -> bool:
    """Fit a codebook to the local features that an index holds, and list its images by it.

    Args:
        writer: `Writer` of the index.
        snapshot: `Snapshot`, of its last commit.
        seed: int. Of the sample and the fit.
        num_threads: int. The codebook does not depend on it.
        progress: as for `Writer.set_codebook`.

    Returns:
        bool. False where the index keeps no local pool, or no image has local features.
    """
    if not snapshot.keeps_words:
        return False
    rows, counts = snapshot.local_counts()
    chosen = rows[codebooks.sample(counts, seed=seed)]
    if not len(chosen):
        return False
    descriptors = [one.descriptors for one in snapshot.local_features(chosen)]
    codebook = Codebook.fit(np.concatenate(descriptors), seed=seed, num_threads=num_threads)
    del descriptors
    writer.set_codebook(codebook, progress)
    return True
