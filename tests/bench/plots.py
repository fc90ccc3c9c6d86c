"""Draw the plots of docs/benchmarks.md from tests/bench/results/*.json:

pip install ".[bench]"
python -m tests.bench.plots [--out docs]
"""

import argparse
import pathlib
import sys

import matplotlib
import numpy as np

from tests.bench import figures

matplotlib.use("Agg")
from matplotlib import pyplot

DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs"
BITS = 64
# Colours that stay apart for the colour-blind (Okabe and Ito, "Color Universal Design", 2008).
WAYS = {
    "auto": ("ours", "#0072B2", "o"),
    "scan": ("ours, plain scan", "#56B4E9", "s"),
    "faiss_flat": ("FAISS flat", "#D55E00", "^"),
    "usearch": ("USearch", "#999999", "v"),
}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=DOCS)
    out = parser.parse_args(arguments).out
    save(hamming(figures.read("hamming")), out / "hamming.png")
    for path in sorted(figures.FOLDER.glob("coarse_fine_*.json")):
        save(coarse_fine(figures.read(path.stem)), out / f"{path.stem}.png")


def hamming(results):
    """Milliseconds by rows, for random and learned codes: one query, one thread, 64 bits."""
    figure, axes = pyplot.subplots(2, 2, figsize=(9, 7), sharex=True, layout="constrained")
    for row, task in zip(axes, ("range", "nearest"), strict=True):
        for axis, codes in zip(row, ("random", "learned"), strict=True):
            for way, (label, colour, marker) in WAYS.items():
                points = sorted(
                    (cell["rows"], cell["milliseconds"][way]["median"])
                    for cell in results["rows"]
                    if (cell["codes"], cell["task"], cell["bits"]) == (codes, task, BITS)
                    and (cell["queries"], cell["threads"]) == (1, 1)
                    and way in cell["milliseconds"]
                )
                if points:
                    axis.loglog(
                        *zip(*points, strict=True), color=colour, marker=marker, label=label
                    )
            axis.set_title(f"{codes} codes, {task}")
            axis.grid(alpha=0.3)
        row[0].set_ylabel("milliseconds a query")
    for axis in axes[1]:
        axis.set_xlabel(f"codes of {BITS} bits")
    axes[1, 0].legend()
    figure.suptitle("Exact Hamming search, one query, one thread")
    return figure


def coarse_fine(results):
    """Recall and mAP by milliseconds a query, with the fewest threads and hits measured."""
    threads, k = min((row["threads"], row["k"]) for row in results["rows"])
    rows = [row for row in results["rows"] if (row["threads"], row["k"]) == (threads, k)]
    scores = {
        name: label
        for name, label in (("recall_at_10", "recall of the exact 10"), ("map_at_k", "mAP"))
        if name in rows[0]
    }
    figure, axes = pyplot.subplots(
        1, len(scores), figsize=(4.5 * len(scores), 4), squeeze=False, layout="constrained"
    )
    colours = pyplot.get_cmap("tab10")(np.arange(10))
    for axis, (score, label) in zip(axes[0], scores.items(), strict=True):
        ours = sorted(
            (row["milliseconds"], row[score])
            for row in rows
            if row["method"].startswith("coarse_to_fine")
        )
        axis.plot(*zip(*ours, strict=True), color="#0072B2", linewidth=1, zorder=0)
        for number, row in enumerate(rows):
            mine = row["method"].startswith("coarse_to_fine")
            axis.scatter(
                row["milliseconds"],
                row[score],
                color="#0072B2" if mine else colours[number % 10],
                marker="o" if mine else "^",
                label=row["method"].replace("_", " "),
            )
        axis.set_xscale("log")
        axis.set_ylim(0, 1.05)
        axis.set_xlabel("milliseconds a query")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
    axes[0, -1].legend(fontsize=8)
    figure.suptitle(f"Coarse to fine, {k} hits, {threads} thread{'s' if threads > 1 else ''}")
    return figure


def save(figure, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    # No software version in it: the same figures make the same file.
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)
    print(f"wrote {path}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
