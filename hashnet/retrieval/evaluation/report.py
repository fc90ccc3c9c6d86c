"""The report folder of an evaluation: figures, plots, and a page that any browser opens.

    report/
      report.json     `EvaluationReport.to_dict`
      index.html      the same for people: protocol, tables, plots, best and worst queries
      plots/*.png
      pictures/*.jpg  thumbnails of queries and hits, numbered

How pages are made, and their folders, `page` knows.
"""

import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from hashnet import metrics
from hashnet.retrieval.evaluation import page
from hashnet.retrieval.evaluation.results import COARSE, FINE, EvaluationReport, Example, Stages

# The content of another report's `report.json`.
Others = dict[str, Any]
# Draws one plot into a figure.
Draw = Callable[[Any, EvaluationReport, Mapping[str, Others]], None]


def write(
    folder: str | os.PathLike[str],
    report: EvaluationReport,
    *,
    others: Mapping[str, Others] | None = None,
) -> None:
    """Write the report folder, in place of the report that may be there.

    Args:
        folder: path of the report.
        report: what `evaluate.evaluate` returned.
        others: dict of name to the content of another report's `report.json`, such as those of
            other code lengths: more points in the plot of mAP by bits.

    Raises:
        ArgumentError: something that is no report is there.
        HashnetError: matplotlib is not installed, or the disk refuses.
    """

    def fill(beside: pathlib.Path) -> Iterator[str]:
        plots = _draw_plots(beside, report, others or {})
        return _page(report, plots, page.Thumbnails(beside))

    page.write(folder, report.to_dict(), fill)


# --- Plots ----------------------------------------------------------------------------------------


def _draw_plots(
    folder: pathlib.Path, report: EvaluationReport, others: Mapping[str, Others]
) -> list[tuple[str, str]]:
    """Draw all plots; list of (file name, caption)."""
    plots: list[tuple[str, str, Draw]] = [
        ("precision_at_k", "Precision among the first k", _precision_at_k),
        ("precision_recall", "Precision and recall, rank by rank", _precision_recall),
        ("bits_apart", "Hamming distances of queries and images", _bits_apart),
        ("bit_balance", "How often each bit is one, and how bits agree", _bit_balance),
    ]
    if sum(len(points) for points in _map_by_bits(report, others).values()) > 1:
        plots.append(("map_by_bits", "mAP by code length", _map_by_bits_plot))
    drawn = []
    for name, caption, draw in plots:
        figure = page.figure(wide=draw is _bit_balance)
        draw(figure, report, others)
        drawn.append((page.save_plot(folder, name, figure), caption))
    return drawn


def _measured(report: EvaluationReport) -> dict[str, metrics.Evaluation]:
    return {name: row.evaluation for name, row in report.rows.items() if row.evaluation}


def _legend(axes: Any, place: str) -> None:
    # The best place is sought among all bars and points, which takes seconds.
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc=place)


def _precision_at_k(figure: Any, report: EvaluationReport, _: Mapping[str, Others]) -> None:
    axes = figure.subplots()
    ks = [k for k in report.curve_ks if k <= 1000]
    for name, evaluation in _measured(report).items():
        values = [evaluation.precision_at[k] for k in ks]
        axes.plot(ks, values, label=page.plain(name), linewidth=_weight(name))
    axes.set(xscale="log", xlabel="k", ylabel="precision at k", ylim=(0, 1.02))
    _legend(axes, "lower left")


def _precision_recall(figure: Any, report: EvaluationReport, _: Mapping[str, Others]) -> None:
    axes = figure.subplots()
    for name, evaluation in _measured(report).items():
        recall = [evaluation.recall_at[k] for k in report.curve_ks]
        precision = [evaluation.precision_at[k] for k in report.curve_ks]
        axes.plot(recall, precision, label=page.plain(name), linewidth=_weight(name))
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.02))
    _legend(axes, "lower left")


def _weight(name: str) -> float:
    return 2.2 if name in (COARSE, FINE) else 1.0


def _bits_apart(figure: Any, report: EvaluationReport, _: Mapping[str, Others]) -> None:
    axes = figure.subplots()
    evaluation = report.coarse.measured
    assert isinstance(evaluation, metrics.CodeEvaluation)
    right = evaluation.relevant_at_distance
    wrong = evaluation.items_at_distance - right
    apart = np.arange(len(right))
    for counts, name in ((right, "relevant"), (wrong, "not relevant")):
        axes.bar(apart, counts / max(1, counts.sum()), width=1, alpha=0.55, label=name)
    axes.set(xlabel="Hamming distance", ylabel="share of the pairs")
    _legend(axes, "upper right")


def _bit_balance(figure: Any, report: EvaluationReport, _: Mapping[str, Others]) -> None:
    left, right = figure.subplots(1, 2)
    left.bar(np.arange(len(report.bit_share)), report.bit_share, width=1)
    left.axhline(0.5, color="black", linewidth=0.8)
    left.set(xlabel="bit", ylabel="share of ones in the database", ylim=(0, 1))
    picture = right.imshow(report.bit_correlation, cmap="RdBu", vmin=-1, vmax=1)
    right.set(xlabel="bit", ylabel="bit", title="correlation")
    figure.colorbar(picture, ax=right, shrink=0.8)


def _map_by_bits(
    report: EvaluationReport, others: Mapping[str, Others]
) -> dict[str, dict[int, float]]:
    """dict of name to dict of bits to mAP, this report's and those of the others."""
    points = {name: dict(known) for name, known in report.map_by_bits.items() if known}
    for name, other in others.items():
        points.setdefault(name, {})[int(other["bits"])] = float(other["map_all"])
    return points


def _map_by_bits_plot(figure: Any, report: EvaluationReport, others: Mapping[str, Others]) -> None:
    axes = figure.subplots()
    for name, points in _map_by_bits(report, others).items():
        lengths = sorted(points)
        values = [points[bits] for bits in lengths]
        axes.plot(
            lengths, values, "o-", label=page.plain(name), markersize=8 if name == "index" else 4
        )
    axes.set(xscale="log", xlabel="bits", ylabel="mAP, tie-aware, whole database")
    ticks = sorted({bits for points in _map_by_bits(report, others).values() for bits in points})
    axes.set_xticks(ticks, labels=[str(bits) for bits in ticks])
    axes.minorticks_off()
    _legend(axes, "lower right")


# --- The page -------------------------------------------------------------------------------------


def _page(
    report: EvaluationReport, plots: Sequence[tuple[str, str]], thumbnails: page.Thumbnails
) -> Iterator[str]:
    yield page.head("Evaluation")
    yield f"<h2>Protocol</h2>\n<p>{page.escaped(report.protocol)}</p>\n"
    yield "<h2>Figures</h2>\n"
    yield from _figures_table(report)
    if report.stages:
        yield from _stages_table(report.stages)
    for file, caption in plots:
        yield page.plot(file, caption)
    if report.map_by_label:
        yield "<h2>Labels, the hardest first</h2>\n"
        ranked = sorted(report.map_by_label.items(), key=lambda pair: pair[1])
        yield from page.table(["label", "mAP of the codes"], [[n, f"{v:.4f}"] for n, v in ranked])
    for title, examples in (("Worst queries", report.worst), ("Best queries", report.best)):
        yield f"<h2>{title}</h2>\n<p>Query in blue; relevant hits in green, others in red.</p>\n"
        for example in examples:
            yield from _example(example, thumbnails)
    yield from page.problems(report.problems)
    yield page.END


def _figures_table(report: EvaluationReport) -> Iterator[str]:
    at = report.coarse.measured.at
    names = ["", "bits", "mAP", "worst to best order of ties", f"mAP@{at}", f"@{at} of relevant"]
    names += [f"found at {k}" for k in metrics.FOUND_KS] + ["R-precision", "MAP@R"]
    names += [f"precision at {k}" for k in report.ks] + ["pool", "ms a query"]
    rows: list[Sequence[object]] = []
    for name, row in report.rows.items():
        if row.evaluation is None:
            rows.append([name, f"not measured: {row.not_measured}"])
            continue
        one = row.evaluation
        cells: list[object] = [name, row.bits or "none", f"{one.map_all.expected:.4f}"]
        cells.append(f"{one.map_all.worst:.4f} to {one.map_all.best:.4f}")
        cells += [f"{one.map_at:.4f}", f"{one.map_at_of_relevant:.4f}"]
        cells += [f"{value:.4f}" for value in one.found_at.values()]
        cells += [f"{one.r_precision:.4f}", f"{one.map_at_r:.4f}"]
        cells += [f"{one.precision_at[k]:.4f}" for k in report.ks]
        cells.append(f"{row.pool['mean']:.0f}" if row.pool else one.database)
        spent = row.milliseconds.get("total", row.milliseconds.get("coarse"))
        cells.append("" if spent is None else f"{spent:.2f}")
        rows.append(cells)
    yield from page.table(names, rows)


def _stages_table(stages: Stages) -> Iterator[str]:
    yield f"<h2>Stages, {stages.queries} queries</h2>\n"
    rows = [
        [
            name,
            *(f"{figures[key]:.4f}" for key in ("found_at_1", "found_at_5", "map_all")),
            f"{figures['milliseconds']:.2f}",
        ]
        for name, figures in stages.figures.items()
    ]
    yield from page.table(["", "R@1", "R@5", "mAP", "ms a query"], rows)


def _example(example: Example, thumbnails: page.Thumbnails) -> Iterator[str]:
    yield '<div class="example">\n'
    label = "" if example.label is None else f"{example.label}, "
    caption = f"{label}average precision {example.average_precision:.3f}, {example.query}"
    yield page.picture("query", thumbnails.of(example.query), caption)
    for hit, right in zip(example.hits, example.relevant, strict=True):
        caption = f"{hit.label or hit.id}, {hit.bits_apart} bits, {hit.distance:.3f}"
        yield page.picture("right" if right else "wrong", thumbnails.of(hit.path), caption)
    yield "</div>\n"
