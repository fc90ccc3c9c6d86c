"""How fast is exact Hamming search, beside FAISS and USearch? Same codes, threads and questions.

    pip install ".[bench]"
    python -m tests.bench.hamming [--rows 100000 1000000 10000000] [--bits 48 64 128 256]

Every answer is compared with FAISS's before a time counts. Two kinds of codes: `random`, where
nothing repeats, and `learned`, which repeat as those of a supervised network do. Codes, the padded
copies of those that fill no whole words, and FAISS's copy are in memory at one time: 100,000,000
rows of 64 bits take 2 GB.
"""

import argparse
import itertools
import statistics
import sys
import time

import faiss
import numba
import numpy as np
import usearch.index

from hashnet.retrieval.search.coarse import mih
from hashnet.retrieval.search.coarse.hamming import CodeIndex
from tests.bench import figures

DISTINCT = 2000
K = 100
WORD_BITS = 64
# A random code lies under the threshold with about this probability.
SELECTIVITY = 1e-5
CHUNK = 1 << 22
TURN_SECONDS = 0.04
MULTIHASH_MOST_ROWS = 1_000_000
NUM_BATCH = 64
# Its exact search holds every distance of every query at one time.
USEARCH_MOST_PAIRS = 10_000_000


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10**5, 10**6, 10**7])
    parser.add_argument("--bits", type=int, nargs="+", default=[48, 64, 128, 256])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--cell-seconds", type=float, default=4.0)
    parser.add_argument("--name", default="hamming", help="of the file of results")
    options = parser.parse_args()
    rows, bandwidths = [], [read_bandwidth()]
    for kind in ("random", "learned"):
        for size in options.rows:
            for bits in options.bits:
                rows += measured(kind, size, bits, options)
                bandwidths.append(read_bandwidth())
    report = {
        "question": "How fast is exact Hamming search beside FAISS and USearch?",
        "protocol": "Milliseconds for all queries of a cell, medians of interleaved repeats, each "
        f"of {1000 * TURN_SECONDS:.0f} ms of calls after as many untimed ones. range: all rows in "
        f"fewer than `threshold` bits; nearest: the {K} nearest. `scan` compares with every code; "
        "`auto` is what an index does by itself once it has been searched often. Answers were "
        "equal: the same rows with the same bits (range), the same bits apart (nearest). random: "
        f"uniform bits. learned: {DISTINCT} distinct codes near 10 codewords, drawn by Zipf's law.",
        "seed": 0,
        "repeats": options.repeats,
        "read_gigabytes_per_second_one_thread": statistics.median(bandwidths),
        "rows": rows,
        "summary": summary(rows, statistics.median(bandwidths)),
    }
    figures.write(options.name, report)
    print(report["summary"])


def measured(kind, size, bits, options):
    """Yield the rows of one set of codes."""
    rng = np.random.default_rng((0, size, bits))
    codes, queries, threshold = made(kind, size, bits, rng)
    flat = faiss.IndexBinaryFlat(bits)
    flat.add(codes)
    multihash = None
    if kind == "random" and size <= MULTIHASH_MOST_ROWS and bits == WORD_BITS:
        multihash = tables(codes, bits, threshold)
    for threads in options.threads:
        ours = {"scan": CodeIndex(codes, num_threads=threads, method="scan")}
        ours["auto"] = CodeIndex(codes, num_threads=threads)
        ours["scan"].prepare()
        ours["auto"].prepare(threshold)
        for num_queries in (1, NUM_BATCH):
            asked = queries[:num_queries]
            contestants = {
                "scan": lambda i=ours["scan"], q=asked: i.within_batch(q, threshold),
                "auto": lambda i=ours["auto"], q=asked: i.within_batch(q, threshold),
                "faiss_flat": lambda q=asked: flat.range_search(q, threshold),
            }
            if multihash is not None:
                contestants["faiss_multihash"] = lambda q=asked: multihash.range_search(
                    q, threshold
                )
            about = {"codes": kind, "rows": size, "bits": bits, "queries": num_queries}
            about["threads"] = threads
            faiss.omp_set_num_threads(threads)
            answers = {name: within_of(call()) for name, call in contestants.items()}
            check_range(answers)
            pools = [len(rows) for rows, _ in answers["scan"]]
            yield {
                **about,
                "task": "range",
                "threshold": threshold,
                "mean_pool": float(np.mean(pools)),
                **timed(contestants, options),
            }
            contestants = {
                "scan": lambda i=ours["scan"], q=asked: i.nearest_batch(q, K),
                "auto": lambda i=ours["auto"], q=asked: i.nearest_batch(q, K),
                "faiss_flat": lambda q=asked: flat.search(q, K),
            }
            if size * num_queries <= USEARCH_MOST_PAIRS:
                contestants["usearch"] = lambda q=asked, t=threads: usearch.index.search(
                    codes, q, K, "hamming", exact=True, threads=t, dtype="b1"
                )
            check_nearest({name: nearest_of(call()) for name, call in contestants.items()})
            yield {**about, "task": "nearest", "k": K, **timed(contestants, options)}


# --- Codes ----------------------------------------------------------------------------------------


def made(kind, size, bits, rng):
    """Codes, queries and a threshold."""
    if kind == "random":
        codes = rng.integers(0, 256, (size, bits // 8), dtype=np.uint8)
        near = codes[rng.integers(0, size, NUM_BATCH)]
        return codes, flipped(near, 0.1, rng), threshold_for(bits)
    words = rng.integers(0, 256, (10, bits // 8), dtype=np.uint8)
    distinct = flipped(words[rng.integers(0, 10, DISTINCT)], 0.05, rng)
    weights = 1 / np.arange(1, DISTINCT + 1)
    codes = np.empty((size, bits // 8), np.uint8)
    for first in range(0, size, CHUNK):
        part = codes[first : first + CHUNK]
        part[:] = distinct[rng.choice(DISTINCT, len(part), p=weights / weights.sum())]
    return codes, distinct[rng.integers(0, DISTINCT, NUM_BATCH)], max(2, bits // 32)


def flipped(codes, share, rng):
    bits = np.unpackbits(codes, axis=1)
    bits ^= (rng.random(bits.shape) < share).astype(np.uint8)
    return np.packbits(bits, axis=1)


def threshold_for(bits):
    """The largest threshold under which a random code lies with at most SELECTIVITY."""
    share, ways, apart = 0.0, 1.0, 0
    while share + ways / 2**bits <= SELECTIVITY:
        share += ways / 2**bits
        ways *= (bits - apart) / (apart + 1)
        apart += 1
    return apart


def tables(codes, bits, threshold):
    """FAISS's tables, with as many flips a table as make them exact for the threshold."""
    widths = mih.substring_widths(len(codes), bits)
    index = faiss.IndexBinaryMultiHash(bits, len(widths), bits // len(widths))
    if bits % len(widths):
        return None
    index.nflip = (threshold - 1) // len(widths)
    index.add(codes)
    return index


# --- Answers --------------------------------------------------------------------------------------


def within_of(answer):
    """list of (rows ascending, bits) of each query."""
    if isinstance(answer, list):
        return answer
    borders, bits, rows = answer
    parts = [slice(a, b) for a, b in itertools.pairwise(borders)]
    orders = [np.argsort(rows[part]) for part in parts]
    return [
        (rows[part][order], bits[part][order]) for part, order in zip(parts, orders, strict=True)
    ]


def check_range(answers):
    for name, answer in answers.items():
        for ours, theirs in zip(answers["scan"], answer, strict=True):
            for a, b in zip(ours, theirs, strict=True):
                np.testing.assert_array_equal(a, b.astype(a.dtype), err_msg=name)


def nearest_of(answer):
    """Bits apart, `(num_queries, K)`."""
    if isinstance(answer, tuple):
        bits = answer[1] if answer[1].dtype == np.int32 else answer[0]
    else:
        bits = answer.distances
    return np.asarray(bits).reshape(-1, K)


def check_nearest(answers):
    for name, bits in answers.items():
        np.testing.assert_array_equal(answers["scan"], bits.astype(np.int32), err_msg=name)


# --- Time -----------------------------------------------------------------------------------------


def timed(contestants, options):
    """Median, least and largest milliseconds of each contestant, in turns."""
    took = {name: [] for name in contestants}
    began = time.perf_counter()
    for repeat in range(options.repeats):
        for name, call in contestants.items():
            # Untimed: the contestant before this one leaves its codes in the cache, and its threads
            # spin for some milliseconds more in case it is asked again; while they do, threads of
            # this one share a core, and stay there until the system spreads them.
            seconds(call, TURN_SECONDS)
            took[name].append(1000 * seconds(call, TURN_SECONDS))
        if repeat >= 2 and time.perf_counter() - began > options.cell_seconds:
            break
    return {
        "milliseconds": {
            name: {
                "median": statistics.median(values),
                "least": min(values),
                "most": max(values),
                "repeats": len(values),
            }
            for name, values in took.items()
        }
    }


def seconds(call, at_least):
    """How long a call takes, on average over so many seconds, one call at least."""
    began, calls = time.perf_counter(), 0
    while True:
        call()
        calls += 1
        elapsed = time.perf_counter() - began
        if elapsed >= at_least:
            return elapsed / calls


@numba.njit(nogil=True)
def _total(words):
    total = np.uint64(0)
    for word in words:
        total += word
    return total


def read_bandwidth():
    """Gigabytes a second that one thread reads from memory, the best of five."""
    words = np.ones(1 << 24, np.uint64)
    _total(words)
    return words.nbytes / min(seconds(lambda: _total(words), 0) for _ in range(5)) / 1e9


def summary(rows, bandwidth):
    """The few numbers that the goals are about."""
    found = {}
    for kind, way in (("random", "scan"), ("random", "auto"), ("learned", "auto")):
        for task in ("range", "nearest"):
            ratios = [
                row["milliseconds"]["faiss_flat"]["median"] / row["milliseconds"][way]["median"]
                for row in rows
                if (row["codes"], row["task"]) == (kind, task)
            ]
            if ratios:
                found[f"{way} beside faiss_flat, {kind}, {task}"] = {
                    "geometric_mean": float(np.exp(np.mean(np.log(ratios)))),
                    "least": min(ratios),
                    "most": max(ratios),
                    "cells": len(ratios),
                }
    for row in rows:
        if (row["codes"], row["task"], row["queries"], row["threads"]) == ("random", "range", 1, 1):
            read = row["rows"] * row["bits"] / 8 / 1e9
            share = read / (row["milliseconds"]["scan"]["median"] / 1000) / bandwidth
            found[f"share of read bandwidth, {row['rows']} x {row['bits']}"] = share
    return found


if __name__ == "__main__":
    sys.exit(main())
