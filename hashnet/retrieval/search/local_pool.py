"""The local pool: images that have parts of a query, found by signatures of local features.

The words of the query name lists of images that have them too, each with its signature of the
word. Only those lists are read. Two signatures that differ in less than half of their bits agree,
and the more the fewer they differ in; the agreements of an image are added up.

Reference:
    Tolias, Avrithis and Jegou, "Image search with selective match kernels: aggregation across
    single and multiple images", IJCV 2016: the binary aggregated selective match kernel, ASMK*.
"""

import itertools
from collections.abc import Sequence

import numpy as np

from hashnet import threads
from hashnet.errors import ShapeError
from hashnet.local.codebook import DESCRIPTORS_A_WORD, LEAST_WORDS
from hashnet.retrieval.search import compiled
from hashnet.retrieval.search.coarse.scan import read_only
from hashnet.retrieval.store.word_lists import WordLists

# Whatever agrees in more than half of its bits counts. The paper's exponent is 3: of features that
# vary as much as DELF's, too few agree as well as that would have it.
ALPHA = 1.5
# Agreements are whole multiples of 1 / STEPS, so that float32 adds them up exactly, in any order.
STEPS = 4096
# What an image has many words for counts less, but not as much less as the cosine of the paper
# (0.5) would have it: small pictures with few words that happen to agree came before the right one.
BY_LENGTH = 0.25
# Nearest words that each descriptor of a query falls to; one of an image falls to one.
ASSIGNMENTS = 8
# An index of more images has a codebook, if so many descriptors make its words means of several; in
# a smaller one every image is a candidate.
LEAST_IMAGES = 100
LEAST_DESCRIPTORS = DESCRIPTORS_A_WORD * LEAST_WORDS
# Rows worth a thread of their own.
LEAST_ROWS = 4096
# NumPy looks at so many entries of lists at one time, or at those of one word, and takes as long
# for an entry as to move so many bytes.
ENTRIES_AT_ONCE = 1 << 18
NUMPY_BYTES = 64


def is_due(num_images: int, num_descriptors: int) -> bool:
    """Whether an index has enough to fit a codebook to.

    Args:
        num_images, num_descriptors: int, of the index.

    Returns:
        bool.

    Example:
        >>> is_due(100, 10**6), is_due(10**6, 100), is_due(1000, 10**6)
        (False, False, True)
    """
    return num_images > LEAST_IMAGES and num_descriptors >= LEAST_DESCRIPTORS


def steps_of(num_bits: int) -> np.ndarray:
    """What two signatures of one word count, by the bits in which they differ.

    Args:
        num_bits: int, of a signature.

    Returns:
        int64 `(num_bits + 1,)`, in steps of 1 / `STEPS`: (1 - 2 * bits apart / bits) ** `ALPHA`, 0
        where more than half of the bits differ.

    Example:
        >>> steps_of(32)[[0, 8, 16, 32]].tolist()
        [4096, 1448, 0, 0]
    """
    agreement = np.maximum(1 - 2 * np.arange(num_bits + 1) / num_bits, 0)
    return np.rint(agreement**ALPHA * STEPS).astype(np.int64)


def similarities(
    runs: Sequence[WordLists],
    num_rows: int,
    words: np.ndarray,
    signatures: np.ndarray,
    *,
    num_threads: int = 1,
) -> np.ndarray:
    """How alike the rows of an index are to a query, by the signatures of words they share.

    For each word that a row shares with the query, what `steps_of` says; their sum, divided by the
    number of words of the row to the power of `BY_LENGTH`.

    Args:
        runs: sequence of `WordLists`. Rows that are in none have similarity 0.
        num_rows: int.
        words, signatures: of the query, as `Codebook.signatures` gives them.
        num_threads: int. The answer does not depend on it.

    Returns:
        float32 `(num_rows,)`; 0 where nothing is shared.

    Raises:
        ShapeError: the signatures of the query and of the lists have different bits.
    """
    found = np.zeros(num_rows, np.float32)
    selectivity = (steps_of(8 * signatures.dtype.itemsize) / STEPS).astype(np.float32)
    for run in runs:
        if run.signatures.dtype != signatures.dtype:
            raise ShapeError(
                "Signatures that are compared have the same number of bits.",
                f"{signatures.dtype} and {run.signatures.dtype}",
                "Were both made by one codebook?",
            )
        places = np.searchsorted(run.words, words)
        asked = np.flatnonzero(places < len(run.words))
        asked = asked[run.words[places[asked]] == words[asked]]
        places = places[asked]
        lasts = run.ends[places].astype(np.int64)
        firsts = np.where(places > 0, run.ends[places - 1], 0).astype(np.int64)
        scores = found[run.first_row : run.first_row + len(run.lengths)]
        _add_agreements(run, firsts, lasts, signatures[asked], selectivity, scores, num_threads)
        # Powers of float64, rounded, are the same everywhere.
        scores /= (np.maximum(run.lengths, 1).astype(np.float64) ** BY_LENGTH).astype(np.float32)
    return found


def _add_agreements(
    run: WordLists,
    firsts: np.ndarray,
    lasts: np.ndarray,
    signatures: np.ndarray,
    selectivity: np.ndarray,
    scores: np.ndarray,
    num_threads: int,
) -> None:
    """Add to each row's score what the words that it shares with the query say."""
    kernels = compiled.kernels(NUMPY_BYTES * int((lasts - firsts).sum()))
    if kernels is None:
        _add_in_numpy(run, firsts, lasts, signatures, selectivity, scores)
        return

    lists = run.signatures, run.rows, firsts, lasts
    arrays = [read_only(array) for array in (*lists, signatures, selectivity)]

    def count(first_row: int, last_row: int) -> None:
        kernels.add_shared(*arrays, scores, first_row, last_row)

    threads.in_parts(count, len(scores), num_threads, LEAST_ROWS)


def _add_in_numpy(
    run: WordLists,
    firsts: np.ndarray,
    lasts: np.ndarray,
    signatures: np.ndarray,
    selectivity: np.ndarray,
    scores: np.ndarray,
) -> None:
    """As `kernels.add_shared`, and with the same answer: lists of so many entries at one time."""
    counts = lasts - firsts
    borders = np.concatenate([[0], np.cumsum(counts)])
    parts = np.searchsorted(borders, np.arange(0, borders[-1], ENTRIES_AT_ONCE), "right") - 1
    for first, last in itertools.pairwise([*np.unique(parts).tolist(), len(counts)]):
        some = counts[first:last]
        shift = firsts[first:last] - (borders[first:last] - borders[first])
        entries = np.arange(borders[last] - borders[first]) + np.repeat(shift, some)
        apart = np.bitwise_count(run.signatures[entries] ^ np.repeat(signatures[first:last], some))
        np.add.at(scores, run.rows[entries], selectivity[apart])


def joined(
    by_hash: np.ndarray, by_local: np.ndarray, most: int, by_text: np.ndarray | None = None
) -> np.ndarray:
    """The candidates of the pools: in turn, two of the hash pool and one of each of the others.

    The local pool has what it finds among its first few. Further down it has images that share
    plain walls or cloth with a query, of which geometry believes too many: where a class is sought,
    as many of one pool as of the other harm (tests/bench/local_pool.py; chosen with all of its
    queries in view).

    Args:
        by_hash: int64 `(h,)`, rows of the hash pool, nearest first.
        by_local: int64 `(l,)`, rows of the local pool, best first.
        most: int. Candidates wanted.
        by_text: int64 `(t,)`, rows of images in which the same is written, best first; or None.

    Returns:
        int64, at most `most`, each once.

    Example:
        >>> joined(np.array([4, 5, 6]), np.array([5, 9]), 4).tolist()
        [4, 5, 6, 9]
    """
    pools = [by_hash[::2], by_hash[1::2], by_local, *([] if by_text is None else [by_text])]
    turns = itertools.zip_longest(*(pool.tolist() for pool in pools))
    in_turn = [row for turn in turns for row in turn if row is not None]
    return np.array(list(dict.fromkeys(in_turn))[:most], np.int64)
