"""The report folder of a comparison: figures, plots, and queries for which the methods differ.

The folder is that of `page`: `report.json` is `Comparison.to_dict`.
"""

import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from hashnet.retrieval.evaluation import page
from hashnet.retrieval.evaluation.comparison import Comparison, Method
from hashnet.retrieval.evaluation.significance import LEVEL

EXAMPLES = 2  # queries that a method answers better than the first one, and as many worse


def write(folder: str | os.PathLike[str], comparison: Comparison) -> None:
    """Write the report folder, in place of the report that may be there.

    Args:
        folder: path of the report.
        comparison: a `Comparison`.

    Raises:
        ArgumentError: something that is no report is there.
        HashnetError: matplotlib is not installed, or the disk refuses.
    """
    figures = comparison.to_dict()

    def fill(beside: pathlib.Path) -> Iterator[str]:
        return _page(beside, comparison, figures)

    page.write(folder, figures, fill)


def _page(folder: pathlib.Path, comparison: Comparison, figures: dict[str, Any]) -> Iterator[str]:
    yield page.head("Comparison")
    yield f"<h2>Protocol</h2>\n<p>{page.escaped(comparison.protocol)}</p>\n"
    yield "<h2>Figures</h2>\n"
    yield from _table(figures)
    rows = figures["methods"]
    yield page.plot(
        page.save_plot(folder, "map", _intervals(rows)), f"mAP, with the {LEVEL:.0%} interval"
    )
    if len(rows) > 1:
        yield page.plot(
            page.save_plot(folder, "differences", _differences(rows)),
            f"Difference of mAP to {rows[0]['method']}, with the {LEVEL:.0%} interval",
        )
    yield page.plot(page.save_plot(folder, "cost", _costs(rows)), "mAP by bytes an image")
    thumbnails = page.Thumbnails(folder)
    for method in comparison.methods[1:]:
        yield from _examples(comparison, method, thumbnails)
    yield from page.problems(comparison.problems)
    yield page.END


def _table(figures: dict[str, Any]) -> Iterator[str]:
    level = f"{LEVEL:.0%} interval"
    names = ["method", "mAP", level, "first hit right", "bytes an image", "ms to encode"]
    names += ["ms to search", "difference", level, "p"]
    rows = []
    for one in figures["methods"]:
        cells = [one["method"], f"{one['map']:.4f}", _ends(one["map_interval"])]
        cells += [f"{one['found_at_1']:.4f}", one["bytes_per_image"]]
        cells += [f"{one['encode_milliseconds']:.1f}", f"{one['search_milliseconds']:.2f}"]
        if "difference" in one:
            cells += [f"{one['difference']:+.4f}", _ends(one["difference_interval"])]
            cells.append(f"{one['p']:.4f}")
        else:
            cells += ["", "", ""]
        rows.append(cells)
    yield from page.table(names, rows)


def _ends(interval: list[float]) -> str:
    return f"{interval[0]:.4f} to {interval[1]:.4f}"


def _bars(values: list[float], intervals: list[list[float]], names: list[str], xlabel: str) -> Any:
    figure = page.figure()
    axes = figure.subplots()
    places = np.arange(len(values))[::-1]
    ends = np.array(intervals)
    apart = np.abs(ends - np.array(values)[:, None]).T
    axes.errorbar(values, places, xerr=apart, fmt="o", capsize=3)
    axes.set_yticks(places, labels=[page.plain(name) for name in names], fontsize=8)
    axes.set(xlabel=xlabel, ylim=(-0.5, len(values) - 0.5))
    axes.grid(alpha=0.3)
    return figure


def _intervals(rows: list[dict[str, Any]]) -> Any:
    values, intervals = [row["map"] for row in rows], [row["map_interval"] for row in rows]
    return _bars(values, intervals, [row["method"] for row in rows], "mAP")


def _differences(rows: list[dict[str, Any]]) -> Any:
    others = rows[1:]
    figure = _bars(
        [row["difference"] for row in others],
        [row["difference_interval"] for row in others],
        [row["method"] for row in others],
        "difference of mAP",
    )
    figure.axes[0].axvline(0, color="black", linewidth=0.8)
    return figure


def _costs(rows: list[dict[str, Any]]) -> Any:
    figure = page.figure()
    axes = figure.subplots()
    for name in dict.fromkeys(row["feature"] for row in rows):
        points = sorted(
            (row["bytes_per_image"], row["map"]) for row in rows if row["feature"] == name
        )
        axes.plot(*zip(*points, strict=True), "o-", label=page.plain(name), linewidth=0.8)
    axes.set(xscale="log", xlabel="bytes an image", ylabel="mAP")
    axes.grid(alpha=0.3)
    figure.legend(fontsize=8, loc="outside right upper")
    return figure


def _examples(comparison: Comparison, method: Method, thumbnails: page.Thumbnails) -> Iterator[str]:
    """The queries for which a method differs most from the first one, both ways."""
    first = comparison.methods[0]
    apart = method.average_precision - first.average_precision
    order = np.argsort(-apart, kind="stable").tolist()
    better = [query for query in order[:EXAMPLES] if apart[query] > 0]
    worse = [query for query in order[::-1][:EXAMPLES] if apart[query] < 0]
    if not better and not worse:
        return
    yield f"<h2>{page.escaped(method.name)} beside {page.escaped(first.name)}</h2>\n"
    yield "<p>Query in blue; relevant hits in green, others in red.</p>\n"
    for query in (*better, *worse):
        for one in (method, first):
            yield '<div class="example">\n'
            caption = f"{one.name}: average precision {one.average_precision[query]:.3f}, "
            path = comparison.queries[query]
            yield page.picture("query", thumbnails.of(path), caption + path)
            for row in one.hits[query].tolist():
                kind = "right" if row in comparison.relevant[query] else "wrong"
                shown = comparison.paths[row]
                yield page.picture(kind, thumbnails.of(shown), shown)
            yield "</div>\n"
