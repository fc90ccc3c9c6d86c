"""How long does it take to find all near-duplicates among a million codes, and in what memory?

    python -m tests.bench.code_pairs [--rows 1000000] [--thresholds 1 3 5]

Random codes of 64 bits hold next to no pairs by chance; pairs planted among them must all be found.
"""

import argparse
import sys
import time

import numpy as np

from hashnet.retrieval.search.coarse.hamming import CodeIndex
from tests.bench import figures
from tests.bench.disk_search import anonymous_bytes

CODE_BYTES = 8
SAMPLE = 200


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--planted", type=int, default=1000)
    parser.add_argument("--thresholds", type=int, nargs="+", default=[1, 3, 5])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    report = {
        "question": "How long does it take to find all near-duplicates, and in what memory?",
        "protocol": f"{options.rows} random codes of {8 * CODE_BYTES} bits, {options.planted} of "
        "them copies of others with fewer bits flipped than the threshold. Seconds for all pairs, "
        f"once, tables included. Every planted pair was found, every pair's bits were counted "
        f"again, and the pairs of {SAMPLE} rows were those of a plain scan. Memory: the most bytes "
        "that no file backs, gained at any block of pairs.",
        "seed": 0,
        "rows": [
            measured(options.rows, options.planted, threshold, threads)
            for threshold in options.thresholds
            for threads in options.threads
        ],
    }
    figures.write("code_pairs", report)


def measured(rows, planted, threshold, threads):
    """Find all pairs once, check them, and return what it took."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 256, (rows, CODE_BYTES), dtype=np.uint8)
    places = rng.permutation(rows)[: 2 * planted].reshape(2, -1)
    codes[places[1]] = codes[places[0]]
    for place in places[1]:
        for bit in rng.permutation(8 * CODE_BYTES)[: rng.integers(0, threshold)]:
            codes[place, bit // 8] ^= 1 << (bit % 8)
    index = CodeIndex(codes, num_threads=threads)
    found, before = [], anonymous_bytes()
    most, began = before, time.perf_counter()
    for pairs in index.pairs_within(threshold):
        found.append(pairs)
        most = max(most, anonymous_bytes())
    seconds = time.perf_counter() - began
    row_a, row_b, bits = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
    check(codes, places, threshold, row_a, row_b, bits)
    row = {
        "rows": rows,
        "threshold": threshold,
        "threads": threads,
        "seconds": seconds,
        "pairs": len(row_a),
        "planted": planted,
        "memory_bytes": most - before,
    }
    print(row, flush=True)
    return row


def check(codes, places, threshold, row_a, row_b, bits):
    """Raise AssertionError unless the pairs are right, hold all planted ones, and lack none."""
    apart = np.bitwise_count(codes[row_a] ^ codes[row_b]).sum(axis=1)
    np.testing.assert_array_equal(bits, apart)
    assert (row_a < row_b).all() and (bits < threshold).all()
    found = set(zip(row_a.tolist(), row_b.tolist(), strict=True))
    assert len(found) == len(row_a)
    assert {tuple(sorted(pair)) for pair in places.T.tolist()} <= found
    scan = CodeIndex(codes, method="scan")
    for row in np.random.default_rng(1).permutation(places.reshape(-1))[:SAMPLE].tolist():
        near, _ = scan.within(codes[row], threshold)
        pairs = {(min(row, other), max(row, other)) for other in near.tolist() if other != row}
        assert pairs == {pair for pair in found if row in pair}


if __name__ == "__main__":
    sys.exit(main())
