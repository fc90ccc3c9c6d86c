"""Make the tables of README.md from tests/bench/results/*.json:

python -m tests.bench.tables
"""

import pathlib

from tests.bench import figures

README = pathlib.Path(__file__).resolve().parents[2] / "README.md"
BEGIN, END = "<!-- tables -->\n", "<!-- end of tables -->"


def label_free(results):
    """Codes without labels beside the usual ways to make them."""
    yield "### Codes without labels"
    yield ""
    yield (
        "mAP (tie-aware, whole database) and, in brackets, the share of the exact ten nearest by "
        "feature that lie in a 5 % pool; classes are used for scoring only."
    )
    yield ""
    lengths = sorted({row["bits"] for row in results["rows"] if "bits" in row})
    names = {"fit": "**ours**", "itq": "ITQ", "pca_sign": "PCA-sign", "lsh": "LSH"}
    yield f"| set | codes | {' | '.join(f'{bits} bits' for bits in lengths)} |"
    yield "|---|---|" + "---|" * len(lengths)
    cells = {(row["set"], row["method"], row.get("bits")): row for row in results["rows"]}
    for dataset in dict.fromkeys(row["set"] for row in results["rows"]):
        exact = cells[dataset, "features", None]["map_all"]
        yield f"| {dataset} | exact feature, no code: {exact:.3f} |" + " |" * len(lengths)
        for method, name in names.items():
            scored = [cells[dataset, method, bits] for bits in lengths]
            texts = [f"{row['map_all']:.3f} ({row['recall_at_10_in_pool']:.2f})" for row in scored]
            yield f"| {dataset} | {name} | {' | '.join(texts)} |"


TABLES = {"label_free": label_free}


def renewed(text):
    """README's text with the tables made anew."""
    head, rest = text.split(BEGIN)
    _, tail = rest.split(END)
    parts = []
    for name, table in TABLES.items():
        if not (figures.FOLDER / f"{name}.json").exists():
            continue
        results = figures.read(name)
        machine = results["machine"]
        origin = f"`{results['command']}`, {machine['processor']}, {machine['cores']} cores"
        parts += [*table(results), "", f"({origin}.)", ""]
    return head + BEGIN + "\n".join(parts) + END + tail


if __name__ == "__main__":
    README.write_text(renewed(README.read_text(encoding="utf-8")), encoding="utf-8")
