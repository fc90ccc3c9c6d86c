"""Make the tables of docs/benchmarks.md from tests/bench/results/*.json:

python -m tests.bench.tables
"""

import pathlib
import statistics

from hashnet.local import learned
from tests.bench import figures

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "benchmarks.md"
BEGIN, END = "<!-- tables -->\n", "<!-- end of tables -->"


LABEL_FREE = {
    "fit": "**ours**",
    "itq": "ITQ",
    "pca_sign": "PCA-sign",
    "lsh": "LSH",
    "before": "ours, before",
}


def label_free(results):
    """Codes without labels beside the usual ways to make them, on every kind of search."""
    yield "## Codes without labels"
    yield ""
    yield results["protocol"]
    yield ""
    rows = results["rows"]
    methods = [name for name in LABEL_FREE if any(row["method"] == name for row in rows)]
    cells = {(row["set"], row["method"], row.get("bits")): row for row in rows}
    lengths = sorted({row["bits"] for row in rows if "bits" in row})
    yield f"| kind | set | F7 | bits | {' | '.join(LABEL_FREE[name] for name in methods)} |"
    yield "|---|---|---|---|" + "---|" * len(methods)
    names = dict.fromkeys(row["set"] for row in rows)
    for name in names:
        exact = cells[name, "features", None]
        for bits in lengths:
            texts = []
            for method in methods:
                row = cells[name, method, bits]
                recall = " ".join(f"{share:.2f}" for share in row["recall"])
                texts.append(f"{row['map']:.3f} ({recall})")
            head = f"| {exact['kind']} | {name} | {exact['map']:.3f} | {bits} "
            yield f"{head}| {' | '.join(texts)} |"
    for bits in lengths:
        of_all = {
            method: [cells[name, method, bits]["map"] for name in names] for method in methods
        }
        usual = [of_all[method] for method in ("itq", "pca_sign", "lsh")]
        best = [max(values) for values in zip(*usual, strict=True)]
        texts = []
        for method in methods:
            worst = min(own - other for own, other in zip(of_all[method], best, strict=True))
            texts.append(f"{statistics.mean(of_all[method]):.3f} ({worst:+.3f})")
        yield f"| mean | | | {bits} | {' | '.join(texts)} |"
    yield ""
    yield (
        "The last lines: mean mAP and, in brackets, mAP in the worst case less that of the best of "
        "ITQ, PCA-sign and LSH there."
    )


def code_views(results):
    """What views of photos would teach codes without labels."""
    yield "## Codes taught by views"
    yield ""
    yield results["protocol"]
    yield ""
    now = {
        (row["set"], row["bits"]): row
        for row in figures.read("label_free_codes")["rows"]
        if row["method"] == "fit"
    }
    yield "| set | bits | as it is | taught by views |"
    yield "|---|---|---|---|"
    pairs = [
        (f"{row['set']} | {row['bits']}", now[row["set"], row["bits"]], row)
        for row in results["rows"]
    ]
    for name, *pair in [*pairs, ("mean | ", results["now"], results["views"])]:
        texts = []
        for row in pair:
            recall = " ".join(f"{share:.3f}" for share in row["recall"])
            texts.append(f"{row['map']:.3f} ({recall})")
        yield f"| {name} | {' | '.join(texts)} |"


RANKINGS = {
    "codes": "codes",
    "features": "features",
    "about_mean": "features about the mean",
    "both": "**both**",
}


def ranking(results):
    """What the fine stage could rank by."""
    yield "## What to rank by"
    yield ""
    yield results["protocol"]
    yield ""
    yield (
        "mAP and, in brackets, precision at 10. Held out: some classes were kept from the "
        "training, and queries are of the others (seen) or of these (unseen). By clothes: a "
        "network that was trained on clothes, where other things are searched."
    )
    yield ""
    yield f"| set | bits | {' | '.join(RANKINGS.values())} |"
    yield "|---|---|" + "---|" * len(RANKINGS)
    for row in results["rows"]:
        cells = [
            f"{row[way]['map_all']:.3f} ({row[way]['precision_at_10']:.3f})" for way in RANKINGS
        ]
        name = row["set"].replace("_", " ")
        yield f"| {name} | {row['bits']} | {' | '.join(cells)} |"
    for kind in ("mean", "worst"):
        cells = [
            " ".join(
                (
                    f"{results['against_the_better']['map_all'][way][kind]:+.3f}",
                    f"({results['against_the_better']['precision_at_10'][way][kind]:+.3f})",
                )
            )
            for way in RANKINGS
        ]
        yield f"| {kind}, against the better of codes and features | | {' | '.join(cells)} |"


RERANKED = {
    "fine": "as it is",
    "aqe": "AQE",
    "alpha_qe": "alpha-QE",
    "dba": "DBA",
    "k_reciprocal": "k-reciprocal",
    "diffusion": "diffusion",
}


def reranking(results):
    """What ranking again finds and costs."""
    yield "## Ranking again"
    yield ""
    yield results["protocol"]
    yield ""
    yield "mAP and, in brackets, the share of queries whose first hit is relevant."
    yield ""
    yield f"| set | relevant | {' | '.join(RERANKED.values())} |"
    yield "|---|---|" + "---|" * len(RERANKED)
    for row in results["rows"]:
        cells = [f"{row[way]['map_all']:.3f} ({row[way]['found_at_1']:.3f})" for way in RERANKED]
        name = row["set"].replace("_", " ")
        yield f"| {name} | {row['relevant']:g} | {' | '.join(cells)} |"
    ways = list(RERANKED)[1:]
    for kind in ("mean", "worst"):
        cells = [f"{results['against_fine'][way][kind]:+.3f}" for way in ways]
        yield f"| {kind}, against as it is | | | {' | '.join(cells)} |"
    for top, taken in results["milliseconds"].items():
        cells = [f"{taken[way]:.1f} ms" for way in ways]
        yield f"| time, {top} images | | | {' | '.join(cells)} |"
    cells = [str(results["neighbours"][way]) for way in ways]
    yield f"| neighbours | | | {' | '.join(cells)} |"


def features(results):
    """Features and their codes, as `hashnet compare` has them, and local features made vectors."""
    sets, names = results["sets"], [name.replace("_", " ") for name in results["sets"]]
    local = {name: figures.read(f"features_local_{name}") for name in sets}
    of_set = [one["methods"] + _local_methods(name, one, local) for name, one in sets.items()]
    yield "## Features side by side"
    yield ""
    yield results["protocol"]
    yield ""
    yield (
        "By `hashnet compare`: mAP and, in brackets, its difference to f7 and p where p is below "
        ".05. `map_` stands for the map of stride 16, `sift:` for local features made one vector, "
        "which come of runs of their own on the same images. **Bold**: within .02 of the best of "
        "its column."
    )
    yield ""
    heads = [
        f"{name}, {one['queries']} queries" for name, one in zip(names, sets.values(), strict=True)
    ]
    yield f"| ranked by | bytes an image | {' | '.join(heads)} |"
    yield "|---|---|" + "---|" * len(sets)
    best = [max(row["map"] for row in rows) for rows in of_set]
    for rows in zip(*of_set, strict=True):
        cells = []
        for row, most in zip(rows, best, strict=True):
            tells = f" ({row['difference']:+.3f}, {row['p']:.3f})" if row.get("p", 1) < 0.05 else ""
            value = f"{row['map']:.3f}"
            cells.append((f"**{value}**" if row["map"] >= most - 0.02 else value) + tells)
        yield f"| {rows[0]['method']} | {rows[0]['bytes_per_image']} | {' | '.join(cells)} |"
    for one in {run["command"]: run for run in local.values()}.values():
        yield ""
        yield _origin(one)


def _local_methods(name, compared, local):
    """Rows of local features on the same images, which f7 of both runs says they are."""
    rows = {row["method"]: row for row in local[name]["sets"][name]["methods"]}
    [f7] = (row for row in compared["methods"] if row["method"] == "f7")
    assert f7["map"] == rows["f7"]["map"], f"other images, or another network: {name}"
    return [row for method, row in rows.items() if not method.startswith("f7")]


def likeness_line(results):
    """What is called alike, by our grades and by simpler lines."""
    yield "## Where likeness ends"
    yield ""
    yield results["protocol"]
    yield ""
    lines = list(results["rows"][0]["lines"])
    yield f"| set | all of the first ten | {' | '.join(lines)} |"
    yield "|---|---|" + "---|" * len(lines)
    for row in results["rows"]:
        cells = []
        for line in lines:
            of_line = row["lines"][line]
            precision = "-" if of_line["precision"] is None else f"{of_line['precision']:.2f}"
            wrong = f"{of_line['left_out_any']:.2f}, {of_line['left_out_wrong']:.1f}"
            cells.append(f"{precision} {of_line['found']:.2f} ({wrong})")
        name = row["set"].replace("_", " ") + (", chosen on" if row["chosen_on"] else "")
        yield f"| {name} | {row['precision_of_all_shown']:.2f} | {' | '.join(cells)} |"
    yield ""
    yield (
        "Precision of what is called alike, and the share of the relevant that is; in brackets, of "
        "the queries of a class that was left out, how many have any hit called alike among the "
        "first ten, and how many hits that are on average. Lines with a number to choose call as "
        "many of those alike as the grades do on the sets that were chosen on."
    )
    yield ""
    yield (
        "| set | graded a copy: precision | copies found | other queries with one "
        "| 12 images: precision, found | 50 images |"
    )
    yield "|---|---|---|---|---|---|"
    for row in results["rows"]:
        copied = row["copies"]
        small = [
            f"{'-' if one['precision'] is None else format(one['precision'], '.2f')}, "
            f"{one['found']:.2f}"
            for one in row["small"].values()
        ]
        shares = [copied[key] for key in ("precision", "found", "others_with_one")]
        cells = [*(f"{share:.3f}" for share in shares), *small]
        yield f"| {row['set'].replace('_', ' ')} | {' | '.join(cells)} |"
    yield ""
    ones = "; ".join(
        f"{row['class']}, {row['alike']:.2f} and {row['alike_to_others']:.2f}"
        for row in results["one_class"]
    )
    yield (
        "In an index of one class of clothes alone, the share of the first ten that are called "
        f"alike for queries of that class, and for all others: {ones}. Grading ten hits takes "
        f"{results['milliseconds']:.2f} ms, on one thread and however large the index is; drawing "
        "the sample of a million images, once, "
        f"{results['milliseconds_to_draw_of_a_million']:.0f} ms."
    )


def certainty(results):
    """Pools by the certainty of bits beside those by Hamming distance, and peers."""
    rows = {row["pool"]: row for row in results["rows"] if row["method"] == "hamming"}
    yield f"## Pools by the certainty of bits, {results['num_rows']:,} rows"
    yield ""
    yield results["protocol"]
    yield ""
    yield (
        f"| method | pool | ms | times the time of hamming, {max(rows)} "
        "| recall of the exact ten | MB |"
    )
    yield "|---|---|---|---|---|---|"
    for row in results["rows"]:
        cells = [f"{row['milliseconds']:.1f}", f"{row['times_hamming']:.2f}"]
        cells += [f"{row['recall_at_10']:.3f}", f"{row['megabytes']:,.0f}"]
        yield f"| {row['method']} | {row['pool']} | {' | '.join(cells)} |"
    yield ""
    built = ", ".join(f"{name} {took:,.0f}" for name, took in results["build_seconds"].items())
    yield f"Seconds of building: {built}."


LARGE = 1000


def estimates(results):
    """Pools of equal size by several estimates of the distance."""
    yield "## By which estimate to take a pool"
    yield ""
    yield results["protocol"]
    yield ""
    named = list(dict.fromkeys(row["estimate"] for row in results["rows"]))
    yield f"| set | codes | {' | '.join(named)} |"
    yield "|---|---|" + "---|" * len(named)
    groups = {}
    for row in results["rows"]:
        key = row["set"], f"{row['codes']}, {row['bits']} bits"
        groups.setdefault(key, {})[row["estimate"]] = row
    gained = []
    for key, of in groups.items():
        cells = [" / ".join(f"{each:.3f}" for each in row["recall"]) for row in of.values()]
        yield f"| {' | '.join(key)} | {' | '.join(cells)} |"
        if of["factors"]["database"] >= LARGE:
            gained.append(of["factors"]["recall"][-1] - of["certainty"]["recall"][-1])
    yield ""
    yield (
        "Search takes pools by certainty. In databases of a thousand images or more, factors would "
        f"change the recall in 1 % by {min(gained):+.3f} to {max(gained):+.3f}, for a number a row."
    )


def larger(results):
    """What a larger backbone buys."""
    yield "## Backbones"
    yield ""
    yield results["protocol"]
    yield ""
    yield (
        "| backbone | pixels | weights | mAP, features | first is right | mAP, codes "
        "| ms, one image | images/s, many |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    for row in results["rows"]:
        yield (
            f"| {row['backbone']} | {row['pixels']} | {row['weights'] / 1e6:.1f} M "
            f"| {row['map_features']:.3f} | {row['first_is_right']:.3f} | {row['map_codes']:.3f} "
            f"| {row['milliseconds_of_one']:.1f} | {row['images_per_second']:.0f} |"
        )


def trained(runs):
    """Networks trained on labels, by the protocol of the paper."""
    yield "## Codes from labels"
    yield ""
    yield (
        "Test images as queries, training images as database, codes alone. The paper reaches "
        "mAP@1000 .897 and SSDH mAP .913 on CIFAR-10 with 48 bits. A database that was trained on "
        "rewards memorising, so the class the network names, taken as a code, stands beside. "
        "Two views are an image and its mirror image."
    )
    yield ""
    yield (
        "| recipe | bits | pixels | views | minutes | mAP, tie-aware | mAP@1000 | class id as code "
        "| right class |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    for name, run in runs.items():
        settings = run["training"]
        yield (
            f"| {name} | {run['bits']} | {settings['image_size'] or 'as 48 bits'} "
            f"| {2 if settings.get('mirror') else 1} | {run['training_minutes']:.0f} "
            f"| {run['map_all']:.3f} | {run['map_at_1000']:.3f} "
            f"| {run['baselines']['class_id_as_code']:.3f} | {run['class_accuracy']:.3f} |"
        )


def held_out(results):
    """Classes that no training has seen, beside those it has."""
    yield "## Classes that training never saw"
    yield ""
    yield results["protocol"]
    yield ""
    yield "| network | classes of the queries | queries | mAP, codes | mAP, features |"
    yield "|---|---|---|---|---|"
    for row in results["rows"]:
        yield (
            f"| {row['network']} | {row['classes']} | {row['queries']} "
            f"| {row['map_codes']:.3f} | {row['map_features']:.3f} |"
        )


def unseen(results):
    """Losses of features, judged by classes that the training never saw."""
    yield f"## Losses of features, {results['rows'][0]['set']}"
    yield ""
    yield results["protocol"]
    yield ""
    ks = [*results["rows"][0]["found_at"]]
    yield (
        f"| set | database | network | {' | '.join(f'R@{k}' for k in ks)} | R-precision | MAP@R "
        "| mAP, features | mAP, codes | processor minutes |"
    )
    yield "|---|---|---|" + "---|" * (len(ks) + 5)
    for row in results["rows"]:
        found = " | ".join(f"{row['found_at'][k]:.3f}" for k in ks)
        others = ("r_precision", "map_at_r", "map_features")
        codes = ", ".join(f"{value:.3f} {how}".strip() for how, value in row["map_codes"].items())
        whose = {"held out": "classes held out", "all": "all classes"}[row["database"]]
        kind = f"{row['images']} of {whose}"
        yield (
            f"| {row['set']} | {kind} | {row['network']} | {found} "
            f"| {' | '.join(f'{row[name]:.3f}' for name in others)} | {codes} "
            f"| {row['processor_minutes'] or ''} |"
        )
    if few := results.get("few"):
        yield ""
        yield (
            f"mAP of codes where the database is a few photos of all classes, "
            f"{results['settings']['loss']}, embedding alone, means of {few[0]['draws']} draws:"
        )
        yield ""
        hows = [*few[0]["map_codes"]]
        yield f"| photos | {' | '.join(hows)} |"
        yield "|---|" + "---|" * len(hows)
        for row in few:
            cells = (f"{row['map_codes'][how]:.3f}" for how in hows)
            yield f"| {row['images']} | {' | '.join(cells)} |"


def losses(results):
    """The five losses, everything else equal."""
    yield "## Five losses"
    yield ""
    yield f"{results['protocol']}"
    yield ""
    lengths = sorted({row["bits"] for row in results["rows"]})
    yield f"| loss | {' | '.join(f'{bits} bits' for bits in lengths)} |"
    yield "|---|" + "---|" * len(lengths)
    cells = {(row["loss"], row["bits"]): row["map_all_median"] for row in results["rows"]}
    for loss in dict.fromkeys(row["loss"] for row in results["rows"]):
        yield f"| {loss} | {' | '.join(f'{cells[loss, bits]:.3f}' for bits in lengths)} |"


def encoding(results):
    """Images a second: the network alone and what a user gets of it."""
    yield f"## Encoding on {results['machine']['processor']}"
    yield ""
    yield (
        f"{results['network_of']['backbone']} at {results['network_of']['pixels']} pixels, "
        f"float32, images/s, medians of {results['rounds']} rounds. *one*: all cores "
        "on one image; *many*: an image on each core, as encoding many photos does it; both take "
        "the images of a batch singly."
    )
    yield ""
    batches = {name: row for name, row in results["network"].items() if "images_per_second" in row}
    yield f"| network alone | {' | '.join(name.replace('_', ' ') for name in batches)} |"
    yield "|---|" + "---|" * len(batches)
    for contender in next(iter(batches.values()))["images_per_second"]:
        rates = [row["images_per_second"][contender]["median"] for row in batches.values()]
        yield f"| {contender.replace('_', ' ')} | {' | '.join(f'{rate:.0f}' for rate in rates)} |"
    yield ""
    times = [
        f"{row['ratios']['openvino_many / keras_predict']:.1f} times keras.predict and "
        f"{row['ratios']['openvino_many / benchmark_app_throughput']:.0%} of benchmark_app with "
        f"{name.replace('_', ' ')}"
        for name, row in batches.items()
    ]
    yield f"OpenVINO on many images, medians of the rounds' ratios: {', '.join(times)}."
    whole, query, cold = (results[name] for name in ("photos_to_index", "query", "cold_search"))
    yield ""
    yield (
        f"From {results['photos']} JPEG files to a committed index: "
        f"{whole['images_per_second']['photos_to_index']['median']:.0f} images/s, "
        f"{whole['share_of_the_network_alone']:.0%} of the network alone. One query from file to "
        f"ranked ids on {query['rows']:,} images: {query['milliseconds_median']:.1f} ms median, "
        f"{query['milliseconds_p99']:.1f} ms p99. The whole process `hashnet search` on "
        f"{cold['rows']:,} images: {cold['milliseconds']['median']:.0f} ms median."
    )


def precision(results):
    """What other precisions than float32 cost and give."""
    yield "## Precisions"
    yield ""
    yield (
        f"{results['network_of']['backbone']} at {results['network_of']['pixels']} pixels, "
        f"{results['bits']} bits; {results['queries']} queries, {results['database']} images. "
        "Queries and database in the same precision, but for *mixed*: queries in float32, which "
        "an index refuses. mAP is tie-aware, over the whole database."
    )
    yield ""
    yield (
        "| precision | runtime | bits that flip | mAP, codes | mixed | mAP, features | images/s "
        "| file |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    for row in results["rows"]:
        yield (
            f"| {row['precision']} | {row['runtime']} | {row['bits_that_flip']:.2%} "
            f"| {row['map_codes']:.4f} | {row['map_codes_queries_in_float32']:.4f} "
            f"| {row['map_features']:.4f} | {row['images_per_second']:.0f} "
            f"| {row['file_bytes'] / 1e6:.1f} MB |"
        )
    for name in results["refused_by_this_machine"]:
        yield f"| {name} | refused: this processor does not compute in it | | | | | | |"


def hamming(results):
    """Exact Hamming search beside FAISS's and USearch's."""
    yield "## Exact Hamming search"
    yield ""
    yield results["protocol"]
    yield ""
    yield (
        f"One thread reads {results['read_gigabytes_per_second_one_thread']:.1f} GB/s from memory "
        "here. Milliseconds on one thread, 64-bit codes:"
    )
    yield ""
    yield "| codes | rows | queries | task | scan | auto | FAISS flat | USearch |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in results["rows"]:
        if (row["bits"], row["threads"]) != (64, 1):
            continue
        took = {name: times["median"] for name, times in row["milliseconds"].items()}
        cells = [
            f"{took[name]:.3g}" if name in took else ""
            for name in ("scan", "auto", "faiss_flat", "usearch")
        ]
        yield (
            f"| {row['codes']} | {row['rows']:,} | {row['queries']} | {row['task']} "
            f"| {' | '.join(cells)} |"
        )
    yield ""
    yield "How many times faster than FAISS flat, over all lengths, sizes, queries and threads:"
    yield ""
    yield "| | geometric mean | least | most | cells |"
    yield "|---|---|---|---|---|"
    for name, ratio in results["summary"].items():
        if isinstance(ratio, dict):
            yield (
                f"| {name} | {ratio['geometric_mean']:.1f} | {ratio['least']:.2f} "
                f"| {ratio['most']:.0f} | {ratio['cells']} |"
            )


def without_numba(results):
    """What the extra `fast` brings."""
    yield "## Without Numba"
    yield ""
    yield (
        f"Codes of {results['bits']} bits, features of {results['feature_dim']} "
        f"{results['feature_dtype']}, in memory. {results['protocol']}"
    )
    yield ""
    yield (
        "| rows | pool | coarse, NumPy | coarse, Numba | fine, NumPy | fine, Numba | Numba saves |"
    )
    yield "|---|---|---|---|---|---|---|"
    for row in results["rows"]:
        numpy, numba = (row["milliseconds"][way] for way in ("numpy", "compiled"))
        times = [way[stage] for stage in ("coarse", "fine") for way in (numpy, numba)]
        saved = sum(numpy.values()) - sum(numba.values())
        yield (
            f"| {row['rows']:,} | {row['pool']:,.0f} "
            f"| {' | '.join(f'{time:.1f}' for time in times)} | {saved:.0f} ms |"
        )


def coarse_fine(results):
    """Coarse to fine beside vector search, or from disk with nothing beside it."""
    alone = all(row["method"].startswith("coarse") for row in results["rows"])
    yield "## Coarse to fine, features on disk" if alone else "## Coarse to fine"
    yield ""
    yield results["protocol"]
    yield ""
    yield "| method | threads | k | ms | p99 | as fast as flat | exact 10 found | mAP@k | memory |"
    yield "|---|---|---|---|---|---|---|---|---|"
    first = [results["rows"][0][name] for name in ("threads", "k")]
    for row in results["rows"]:
        # Opened a second time, an index finds room that the process has taken already.
        memory = row["memory_bytes"] if [row["threads"], row["k"]] == first else None
        times = row.get("times_as_fast_as_flat")
        yield (
            f"| {row['method']} | {row['threads']} | {row['k']} | {row['milliseconds']:.3g} "
            f"| {row['milliseconds_p99']:.3g} | {f'{times:.3g} times' if times else ''} "
            f"| {row['recall_at_10']:.3f} | {row['map_at_k']:.3f} "
            f"| {f'{memory / 1e6:,.0f} MB' if memory else ''} |"
        )
    if not alone:
        yield ""
        yield from coarse_stage(results["rows"])


def coarse_stage(rows):
    """What the coarse stage by itself gains, as the paper counts it: of the first pool."""
    milliseconds = {(row["method"], row["threads"], row["k"]): row["milliseconds"] for row in rows}
    method, k = (rows[0][name] for name in ("method", "k"))
    for row in rows:
        if (row["method"], row["k"]) == (method, k):
            threads, coarse = row["threads"], row["milliseconds_coarse"]
            times = milliseconds["faiss_flat", threads, k] / coarse
            yield (
                f"The coarse stage alone, {method.split(', ')[1]}, threads {threads}: "
                f"{coarse:.3g} ms, {times:.0f} times as fast as faiss_flat."
            )
    yield "Lin et al. 2015 say 971 times of theirs."


def pool_size(results):
    """How large a pool must be."""
    yield "## How large a pool must be"
    yield ""
    yield results["protocol"]
    yield ""
    recalls = list(results["rows"][0]["pool_for"])
    wanted = " | ".join(f"pool that holds {float(recall):.0%}" for recall in recalls)
    yield f"| rows | bits | {wanted} | default pool | held by it |"
    yield "|---|---|---|---|" + "---|" * len(recalls)
    for row in results["rows"]:
        pools = " | ".join(f"{row['pool_for'][recall]:,}" for recall in recalls)
        yield (
            f"| {row['rows']:,} | {row['bits']} | {pools} | {row['default_pool']:,} "
            f"| {row['recall_in_default_pool']:.2%} |"
        )


def feature_dtype(results):
    """Features in half the bytes."""
    yield "## Features in half the bytes"
    yield ""
    yield results["protocol"]
    yield ""
    yield "| set | queries | database | mAP, float32 | mAP, float16 | the same ten nearest |"
    yield "|---|---|---|---|---|---|"
    for row in results["rows"]:
        yield (
            f"| {row['set']} | {row['queries']} | {row['database']} "
            f"| {row['map_all_float32']:.5f} | {row['map_all_float16']:.5f} "
            f"| {row['same_top_10']:.4f} |"
        )


def serving(results):
    """Many clients at once, and what HTTP adds."""
    yield "## Service"
    yield ""
    yield results["protocol"]
    yield ""
    yield "| who asks | requests/s | ms, median | ms, p99 | errors |"
    yield "|---|---|---|---|---|"
    clients = f"{results['clients']} clients"
    named = {"one_client": "one client", "by_id": f"{clients}, by id"}
    for name, who in (named | {"by_upload": f"{clients}, by upload"}).items():
        row = results[name]
        yield (
            f"| {who} | {row['per_second']:.0f} | {row['p50']:.1f} | {row['p99']:.1f} "
            f"| {sum(row['errors'].values())} |"
        )
    yield ""
    yield (
        f"The engine alone takes {results['engine_alone_milliseconds']['p50']:.1f} ms for the "
        f"same; HTTP adds {results['overhead_milliseconds_median']:.1f} ms."
    )


def hostile(results):
    """What hostile pictures cost, and what others get while they come."""
    yield "## Hostile pictures"
    yield ""
    yield results["protocol"]
    yield ""
    yield "| kind | files | read | refused | stopped | seconds, most | MB, most |"
    yield "|---|---|---|---|---|---|---|"
    for kind, row in results["kinds"].items():
        ends = " | ".join(str(row[name]) for name in ("files", "read", "refused", "stopped"))
        yield f"| {kind} | {ends} | {row['seconds']:.2f} | {row['megabytes']:.0f} |"
    yield ""
    yield "| asked | hostile uploads/s | asked | failed | ms, median | ms, p95 |"
    yield "|---|---|---|---|---|---|"
    for what, name in (("search by a photo", "search"), ("/healthz", "health")):
        for rate, during in ((0, "quiet"), (results["rate"], "flooded")):
            row = results[during][name]
            times = f"{row['p50']:.0f} | {row['p95']:.0f}"
            yield f"| {what} | {rate:g} | {row['asked']} | {row['failed']} | {times} |"


def largest(results):
    """What the largest and slowest pictures cost."""
    yield "## The largest pictures"
    yield ""
    yield results["protocol"]
    yield ""
    yield "| kind | MB | squashed | s | MB here | MB apart | whole | s | MB here | MB apart |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for row in results["rows"]:
        cells = [row["kind"], f"{row['megabytes']:.1f}"]
        for name in ("squashed", "whole"):
            one = row[name]
            cells += [one["end"], f"{one['seconds']:.2f}"]
            cells += [str(one["megabytes"]), str(one["megabytes_apart"])]
        yield f"| {' | '.join(cells)} |"


def verified_rows(results):
    """What the look at checksums costs a warm query."""
    yield "## Verified rows"
    yield ""
    yield results["protocol"]
    yield ""
    yield "| pool | ms a query | ms without the look | share |"
    yield "|---|---|---|---|"
    for row in results["rows"]:
        times = f"{row['milliseconds']:.2f} | {row['milliseconds_without']:.2f}"
        yield f"| {row['pool']:,} | {times} | {100 * row['share']:.1f} % |"


def databases(results):
    """A folder beside ClickHouse."""
    sizes = dict.fromkeys(f"{row['size'] // 10**6} million" for row in results["rows"])
    yield f"## A folder and ClickHouse, {' and '.join(sizes)} rows"
    yield ""
    yield results["protocol"]
    yield ""
    searches = {"search_1": "threshold 1", "search_5": "threshold 5", "search_pool": "pool of 1000"}
    heads = " | ".join(f"{name}, ms (pool)" for name in searches.values())
    yield f"| index | rows | rows inserted/s | {heads} | disk | memory |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in results["rows"]:
        texts = [f"{row[name]['milliseconds']:.1f} ({row[name]['pool']:.0f})" for name in searches]
        yield (
            f"| {row['kind']} | {row['size']:,} | {row['inserts_per_second']:,} "
            f"| {' | '.join(texts)} | {row['bytes_on_disk'] / 1e6:,.0f} MB "
            f"| {row['peak_bytes'] / 1e6:,.0f} MB |"
        )


def feedback(results):
    """mAP by rounds of marks: the engine's way beside means."""
    yield "## Marks, round by round"
    yield ""
    yield results["protocol"]
    yield ""
    ways = {
        "least squares (ours)": results["reported"],
        "means (Rocchio)": results["reported_means"],
    }
    rounds = range(len(results["reported"]["frozen"]))
    yield f"| query moved by | scored | {' | '.join(f'round {number}' for number in rounds)} |"
    yield "|---|---|" + "---|" * len(rounds)
    for scored in ("frozen", "control", "precision"):
        for name, way in ways.items():
            yield f"| {name} | {scored} | {' | '.join(f'{value:.3f}' for value in way[scored])} |"


def words_shown(results):
    """What words find of what photos show, with and without the sentence network."""
    yield "## What photos show, in words"
    yield ""
    yield results["protocol"]
    yield ""
    clothing, grocery = results["clothing"], results["grocery"]
    yield "| asked for by | a name | a synonym | a phrase |"
    yield "|---|---|---|---|"
    for way, name in (("nouns", "nouns alone"), ("sentences", "with the sentence network")):
        mean = clothing[way]["mean"]
        yield f"| {name} | {mean['label']:.2f} | {mean['synonym']:.2f} | {mean['phrase']:.2f} |"
    yield ""
    labels = clothing["sentences"]["labels"]["label"]
    none = ", ".join(name for name, share in labels.items() if not share)
    yield f"With it, by name, no photo of {none} is among the first ten."
    yield ""
    yield "| word | classes below | share of the photos | first 10 | first 10, if all are scored |"
    yield "|---|---|---|---|---|"
    for row in results["above_classes"]:
        yield (
            f"| {row['word']} | {row['classes']} | {row['share']:.3f} "
            f"| {row['precision_at_10']:.2f} | {row['all_images']:.2f} |"
        )
    whole, large = results["all_images"], results["large"]
    yield ""
    yield (
        f"To score all {whole['images']:,} images in all classes takes "
        f"{whole['processor_seconds']:.2f} seconds of a processor. In an index of "
        f"{large['images']:,} images, words take, from the few that their pools hold:"
    )
    yield ""
    yield f"| images | {' | '.join(large['processor_ms'])} |"
    yield f"|---|{'---|' * len(large['processor_ms'])}"
    milliseconds = (f"{value} ms" for value in large["processor_ms"].values())
    yield f"| {large['images']:,} | {' | '.join(milliseconds)} |"
    yield ""
    yield "| groceries, asked for by their descriptions | captions | first 10 | chance |"
    yield "|---|---|---|---|"
    unseen = grocery["unseen"]
    yield f"| all, by classes | 0 | {grocery['descriptions']:.2f} | {grocery['chance']:.3f} |"
    yield f"| unseen, by classes | 0 | {unseen['descriptions']:.2f} | {unseen['chance']:.3f} |"
    for row in grocery["learned"]:
        number = row["captions"]
        yield f"| taught, learned | {number} | {row['taught']:.2f} | {grocery['chance']:.3f} |"
        yield f"| unseen, learned | {number} | {row['unseen']:.2f} | {unseen['chance']:.3f} |"
    yield ""
    low, middle, high = results["length_of_f7"]["5, 50 and 95 %"]
    yield (
        f"The length of F7, which no index keeps, is {low:.1f} to {high:.1f} of nine photos "
        f"in ten, {middle:.1f} in the middle. Words find much the same whichever stands for all:"
    )
    yield ""
    yield "| length that stands for all | a name | a synonym | a phrase |"
    yield "|---|---|---|---|"
    for length, mean in results["length_of_f7"]["precision_at_10"].items():
        means = (f"{mean[kind]:.2f}" for kind in ("label", "synonym", "phrase"))
        yield f"| {length} | {' | '.join(means)} |"


def regions(results):
    """Small objects in large scenes: parts of photos beside whole photos."""
    yield "## Parts of photos"
    yield ""
    yield results["protocol"]
    yield ""
    yield (
        "| set | proposals | regions | queries | first | first 5 | first 10 | first 10, pool "
        "| bytes an image | seconds an image |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|"
    costs = {(row["set"], row["proposals"], row["regions"]): row for row in results["costs"]}
    for row in results["rows"]:
        cost = costs.get((row["set"], row["proposals"], row["regions"]))
        spent = f"{cost['bytes_per_image']:,} | {cost['seconds_per_image']:.2f}" if cost else " | "
        found = " | ".join(f"{row['recall_at'][k]:.3f}" for k in ("1", "5", "10"))
        yield (
            f"| {row['set']} | {row['proposals'].replace('_', ' ')} | {row['regions']} "
            f"| {row['queries']} | {found} | {row['recall_in_pool']['10']:.3f} | {spent} |"
        )


def local_pool(results):
    """The right image among the candidates that geometry verifies, by pool."""
    yield f"## The local pool, {results['local'].upper()}"
    yield ""
    book, made = results["codebook"], results["scale"]
    yield (
        "Photos of bottles and cans ask for the label they show, one right answer each, among "
        f"{results['database']:,} images; boxes: the middle of each photo asks alone. hash pool: "
        "the 1000 nearest by code, ranked by F7; local pool: signatures of local features, each "
        f"of the query at {results['assignments']} words; both: two of the hash pool and one of "
        "the local, by turns. Geometry verifies "
        f"the first {results['verified']}. Quality of all queries and, in brackets, without the "
        "quarter on which settings were chosen. Milliseconds a query, without its extraction."
    )
    yield ""
    yield (
        "| asked | candidates | R@1 | right one among them | R@1, verified | ms to find "
        "| ms to verify |"
    )
    yield "|---|---|---|---|---|---|---|"
    for row in results["rows"]:
        found = (
            f"{row['all'][one]:.3f} ({row['rest'][one]:.3f})"
            for one in ("recall_at_1", "among_candidates", "recall_at_1_verified")
        )
        spent = row.get("milliseconds_to_verify", {}).get("median", "")
        yield (
            f"| {row['asked']} | {row['candidates']} | {' | '.join(found)} "
            f"| {row['milliseconds']['median']:,.0f} | {spent} |"
        )
    part = results["exact"]
    for row in part["rows"]:
        yield (
            f"| {part['queries']} photos, {part['images']:,} images | {row['candidates']} "
            f"| {row['recall_at_1']:.3f} | {row['among_candidates']:.3f} | "
            f"| {row['milliseconds']['median']:,.0f} | |"
        )
    yield ""
    yield (
        f"{results['features_an_image']:.0f} features an image, {book['words']:,} words of "
        f"{book['bits']} bits, fitted to those of {book['images']:,} images in "
        f"{book['seconds']:.0f} seconds, {book['bytes'] / 1e6:.0f} MB; "
        f"{results['processor_milliseconds_an_image']:.1f} ms of processor time and "
        f"{results['bytes_an_image']:,} bytes an image, at most "
        f"{results['most_bytes_of_an_image']:,}. {made['images']:,} made images, in words as "
        f"frequent, {made['signatures'] / made['images']:.0f} each, lists mapped from a file of "
        f"{made['bytes_an_image']:,} bytes an image: {made['milliseconds']['warm']['median']:.0f} "
        f"ms a query, {made['milliseconds']['cold']['median']:.0f} ms when the system has "
        f"forgotten the file; {made['entries_a_query']:,} entries of lists."
    )
    yield ""
    yield "Verification where a class is sought, mAP:"
    yield ""
    yield "| set | database | queries | before | candidates of the hash pool | of both |"
    yield "|---|---|---|---|---|---|"
    for name, one in results["categories"].items():
        found = (f"{one['map'][way]:.4f}" for way in ("before", "hash pool", "both"))
        yield f"| {name} | {one['database']} | {one['queries']} | {' | '.join(found)} |"
    yield ""
    yield (
        f"Settings: the share of queries whose label is among the first so many of the local pool, "
        f"for the quarter on which settings were chosen, among {part['images']:,} images; then for "
        f"all queries and images, with words of {results['grown']['images']} of these and with "
        "those of all."
    )
    yield ""
    yield (
        "| words | bits | most features | words a feature of the query | bytes an image | 1 | 10 "
        "| 50 | 100 |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    for row in results["settings"]:
        yield (
            f"| {row['words']:,} | {row['bits']} | {row['most_features']} | {row['assignments']} "
            f"| {row['bytes_an_image']:,} | {_among_first(row['found_among_first'])} |"
        )
    grown = results["grown"]
    for way, words in (("grown", grown["words"]), ("fitted to all", book["words"])):
        yield (
            f"| {words:,}, {way} | {book['bits']} | 1000 | {results['assignments']} | "
            f"| {_among_first(grown['found_among_first'][way])} |"
        )


def _among_first(found):
    return " | ".join(f"{found[k]:.3f}" for k in ("1", "10", "50", "100"))


def column_types(results):
    """What ClickHouse's columns cost, by their types."""
    yield "## Column types in ClickHouse"
    yield ""
    yield results["protocol"]
    yield ""
    yield "| code | feature | threshold | ms | bytes of features | same |"
    yield "|---|---|---|---|---|---|"
    sizes = {(table["code"], table["feature"]): table for table in results["tables"]}
    for row in results["rows"]:
        size = sizes[row["code"], row["feature"]]["feature_bytes"]
        yield (
            f"| {row['code']} | {row['feature']} | {row['threshold']} "
            f"| {row['milliseconds']:.1f} | {size / 1e6:,.0f} MB | {row['same']:.3f} |"
        )


def extraction(results):
    """Extraction on threads and on Ray."""
    yield "## Extraction"
    yield ""
    yield (
        f"{results['photos']} JPEG files, shards of {results['shard_rows']} rows, images/s from "
        f"file to disk, medians of {results['rounds']} rounds. Ray's cluster runs already; its "
        "actors start anew each time, which so few photos feel. All write the same files."
    )
    yield ""
    names = {"index": "into an index", "parquet": "into Parquet", "ray": "into Parquet, on Ray"}
    rates = {name: value["median"] for name, value in results["images_per_second"].items()}
    workers = sorted({name.rpartition("_")[2] for name in rates if "_" in name}, key=int)
    yield f"| | {' | '.join(f'workers: {count}' for count in workers)} |"
    yield "|---|" + "---|" * len(workers)
    for key, name in names.items():
        texts = [f"{rates[f'{key}_{count}']:.0f}" for count in workers]
        yield f"| {name} | {' | '.join(texts)} |"
    yield ""
    yield f"From the shards to a committed index: {rates['load']:,.0f} images/s."


def verification(results):
    """What the first hits cost to verify."""
    yield "## Verifying the first hits"
    yield ""
    found = results["extractors"]
    candidates = max(row["candidates"] for row in found.values())
    yield (
        f"{candidates} candidates of a query, stored; {results['queries']} queries, medians. "
        "plain: one product and one geometry after another, on one thread."
    )
    yield ""
    yield "| local features | features an image | | ms | ms of processor time |"
    yield "|---|---|---|---|---|"
    names = {"plain": "plain", "1": "ours, one thread", "2": "ours, two threads"}
    for extractor, row in found.items():
        for key, name in names.items():
            took, spent = (row[unit][key] for unit in ("milliseconds", "processor_milliseconds"))
            yield (
                f"| {extractor} | {row['features_a_candidate']:.0f} | {name} "
                f"| {took['median']:.0f} | {spent['median']:.0f} |"
            )


def verified_categories(results):
    """What verification does to rankings by category."""
    yield "## Verification where categories are sought"
    yield ""
    yield results["protocol"]
    yield ""
    yield (
        "| set | queries | local features | mAP before | mAP after | change "
        "| first is right, before | after | relevant that pass | others that pass |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for dataset, kinds in results["sets"].items():
        for kind, row in kinds.items():
            before, after = row["coarse_to_fine"], row["verified"]
            yield (
                f"| {dataset} | {row['queries']} | {kind.upper()} "
                f"| {before['map_all']:.4f} | {after['map_all']:.4f} "
                f"| {row['map_change']:+.2%} | {before['found_at_1']:.3f} "
                f"| {after['found_at_1']:.3f} | {row['relevant_verified']:.2%} "
                f"| {row['non_relevant_verified']:.2%} |"
            )


def local(results):
    """Local features alone, and after the global one."""
    whole = results["part"] == "all"
    methods = {name for found in results["sets"].values() for name in found["methods"]}
    names = sorted(methods & {"delf", *learned.NETWORKS})
    what = f"Local features of {', '.join(names)}" if names else "Local features"
    yield f"## {what}, all queries" if whole else f"## {what}"
    yield ""
    yield (
        "global: the feature F7 of the pretrained network; a kind of local features alone: all "
        "pairs verified, those that pass by inliers, the others by matches; global, then: the "
        "nearest 100 by feature verified. Pairs that pass: at the number of inliers asked for. A "
        "query is left out of its own ranking."
    )
    if whole:
        yield "Settings were chosen on a quarter of these queries."
    yield ""
    yield (
        "| set | queries | database | method | R@1 | R@5 | mAP | relevant that pass "
        "| others that pass | ms a pair | ms to extract |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    for dataset, found in results["sets"].items():
        for name, row in found["methods"].items():
            cells = [f"{row[key]:.3f}" for key in ("recall_at_1", "recall_at_5", "map")]
            if "min_inliers" in row:
                passed = row["verified_at_inliers"][str(row["min_inliers"])]
                cells += [f"{passed[kind]:.2%}" for kind in ("relevant", "others")]
                cells += [f"{row['milliseconds_a_candidate']['median']:.2f}"]
                extracting = row["milliseconds_to_extract"]
                cells += ["" if extracting is None else f"{extracting:.0f}"]
            else:
                cells += [""] * 4
            yield (
                f"| {dataset} | {found['queries']} | {found['database']} | {name} "
                f"| {' | '.join(cells)} |"
            )


def matched(results):
    """The first hits, matched once more by a network."""
    sets = ", ".join(results["sets"])
    yield f"## A learned matcher over the first hits: {sets}"
    yield ""
    yield (
        f"All pairs are compared by nearest features; the {results['top']} that a search puts "
        "first once more by LightGlue, whose matches come first then. Pass: the share of all "
        "relevant and of all other pairs, before and after. Of the first: those that LightGlue "
        "looked at. "
        "Seconds of a processor for a pair, on one thread."
    )
    yield ""
    yield (
        "| set | queries | features | R@1 | mAP | relevant that pass | others that pass "
        "| relevant of the first | others of the first | seconds, relevant | seconds, other |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    for dataset, of_set in results["sets"].items():
        for name, row in of_set.items():
            before, after = row["pass"]["nearest"], row["pass"]["lightglue"]
            cells = [
                f"{row['nearest'][key]:.3f} to {row['lightglue'][key]:.3f}"
                for key in ("recall_at_1", "map")
            ]
            cells += [
                f"{before[kind]:.2%} to {after[kind]:.2%}"
                for kind in ("relevant", "others", "relevant_of_the_first", "others_of_the_first")
            ]
            took = row["processor_milliseconds_a_pair"]
            cells += [f"{took[kind] / 1000:.2f}" for kind in ("relevant", "other")]
            yield f"| {dataset} | {row['queries']} | {name} | {' | '.join(cells)} |"


def several(results):
    """Extractors alone and together, in one index each."""
    yield "## Several extractors in one index" + (
        ": LightGlue" if "lightglue" in results["command"] else ""
    )
    yield ""
    yield (
        "Each index holds the photos of a set, and its codes are fitted to them. `--local auto` is "
        "aliked,sift, or delf,sift where ALIKED's weights are not installed. First by: which "
        "extractor has confirmed the first hits. Milliseconds of a search without extraction, on "
        f"{results['threads']} threads of a machine that was busy: to be compared with each other. "
        "Bytes of the index for each photo."
    )
    if results["every"] > 1:
        yield f"Every {_ORDINALS[results['every']]} query of a set."
    yield ""
    yield "| set | queries | photos | local features | search | R@1 | R@5 | first by | ms | bytes |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for dataset, found in results["sets"].items():
        for choice, row in found["choices"].items():
            for way, figures_of in row.items():
                if way == "bytes_an_image":
                    continue
                by = ", ".join(f"{n} {k}" for k, n in figures_of["first_confirmed_by"].items())
                yield (
                    f"| {dataset} | {found['queries']} | {found['database']} | {choice} "
                    f"| {_WAYS[way]} | {figures_of['recall_at_1']:.3f} "
                    f"| {figures_of['recall_at_5']:.3f} | {by} "
                    f"| {figures_of['milliseconds']:.0f} | {row['bytes_an_image']:,} |"
                )


_ORDINALS = {2: "second", 3: "third", 4: "fourth"}
_WAYS = {
    "verify": "`--verify`",
    "same_object": "`--same-object`",
    "lightglue": "`--verify --matcher lightglue`",
}


def extractor_times(results):
    """What the extraction of a photo takes."""
    yield "## Time of local features"
    yield ""
    yield (
        f"{results['photos']} photos by turns on one thread, milliseconds of a processor; networks "
        f"take them at {results['side']} pixels, SIFT at 1024 at most."
    )
    yield ""
    yield "| features | median | quartiles | features a photo |"
    yield "|---|---|---|---|"
    for name, row in results["extractors"].items():
        took = row["processor_milliseconds"]
        low, high = took["quartiles"]
        yield (
            f"| {name} | {took['median']:.0f} | {low:.0f} to {high:.0f} "
            f"| {row['features_an_image']:.0f} |"
        )


def beside_authors(results):
    """The networks beside their authors' code."""
    yield "## Networks beside their authors' code"
    yield ""
    yield (
        f"{results['photos']} photos. In common: features within a thousandth of a pixel. Apart: "
        "the largest difference of any number of their descriptors, at the 99.9th percentile and "
        "at most. Milliseconds of a processor, ours and in PyTorch."
    )
    yield ""
    yield (
        "| network | features | in common | descriptors within 0.0001 | 99.9 % apart | most "
        "| ours | theirs |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    for name, row in results["extractors"].items():
        apart, (ours, theirs) = row["descriptors_apart"], row["processor_milliseconds"]
        yield (
            f"| {name} | {row['their_features']:,} | {row['in_common']:,} "
            f"| {row['descriptors_within_1e-4']:,} | {apart['quantile_0.999']:.1e} "
            f"| {apart['most']:.1e} | {ours:.0f} | {theirs:.0f} |"
        )
    for name, row in results["lightglue"].items():
        yield ""
        yield (
            f"LightGlue for {name}: {row['their_matches']:,} matches by its authors' code, "
            f"{row['matches']:,} by ours, {row['in_common']:,} in common."
        )


def known_geometry(results):
    """Local features where it is known which place is which."""
    yield "## Local features where the geometry is known"
    yield ""
    yield (
        "graf: photos of one wall, 1 to 3 seen from another side, 1 to 6 from the far end. "
        f"synthetic: {results['photos']} photos that no training saw, each beside a random "
        "homography of itself; means. At most 1000 features; a match: each other's nearest; right: "
        "within 5 pixels of the truth. Repeatability: share of the features whose place has any "
        "feature in the other photo, matching score: that has a right match. Corners: how far "
        "RANSAC's homography puts them from the truth, mean; for synthetic ones, the share of "
        "photos within 5 pixels."
    )
    yield ""
    yield "| pair | features | matches | right | repeatability | matching score | corners |"
    yield "|---|---|---|---|---|---|---|"
    for name, pairs in results["extractors"].items():
        for pair, row in pairs.items():
            right, corners = row.get("right_within_5_px"), row.get("corner_error_px")
            right = f"{row['right_share']:.0%}" if right is None else right
            if "corner_error_under_5_px" in row:
                corners = f"{row['corner_error_under_5_px']:.0%}"
            else:
                corners = "none found" if corners is None else f"{corners:.1f} px"
            yield (
                f"| {pair} | {name} | {row['mutual_matches']:.0f} | {right} "
                f"| {row['repeatability']:.3f} | {row['matching_score']:.3f} | {corners} |"
            )
    yield ""
    taken = ", ".join(
        f"{name} {row['median']:.2f}" for name, row in results["seconds_of_800x600"].items()
    )
    yield f"Seconds for a photo of 800 x 600 pixels: {taken}."


def first_minute(results):
    """What a newcomer waits for."""
    yield "## The first minute"
    yield ""
    yield results["protocol"] + (
        f" The environment takes {results['environment_megabytes']} MB of disk, Python's own pip "
        "included."
    )
    yield ""
    yield "| command | seconds | of a processor | MB of memory |"
    yield "|---|---|---|---|"
    for name, what in (("first_index", "hashnet index"), ("cold_search", "hashnet search")):
        row = results[name]
        yield (
            f"| {what} | {row['seconds_median']:.2f} | {row['processor_seconds_median']:.2f} "
            f"| {row['megabytes_most']} |"
        )


def refitted(results):
    """Codes of an index that outgrew them, before and after they were fitted again."""
    yield "## Codes that are fitted again"
    yield ""
    kept, precision = results["fitted_to_all"]
    yield (
        f"{results['protocol']} Share of the ten nearest by feature in the tenth nearest by code, "
        f"and mAP by code; fitted to all from the start: {kept:.3f} and {precision:.3f}."
    )
    yield ""
    yield "| fitted to | balance | ten nearest | mAP | after `refit` | mAP | processor seconds |"
    yield "|---|---|---|---|---|---|---|"
    for row in results["rows"]:
        (kept, precision), (kept_after, precision_after) = row["before"], row["after"]
        yield (
            f"| {row['began_with']} | {row['balance']:.2f} | {kept:.3f} | {precision:.3f} "
            f"| {kept_after:.3f} | {precision_after:.3f} | {row['processor_seconds']:.1f} |"
        )


def reading(results):
    """What it takes to look into files, and to read very large photos."""
    yield "## Finding and reading"
    yield ""
    find = results["find"]
    yield (
        f"Listing a folder of {find['files']:,} files on a local disk, and looking at the content "
        f"of three quarters of them: {find['seconds']:.2f} s, median of {find['repeats']}. JPEG "
        "photos read at 224 x 224 pixels, each in a process of its own, medians of 3:"
    )
    yield ""
    yield "| megapixels | MiB of file | seconds | MiB of memory |"
    yield "|---|---|---|---|"
    for row in results["large"]:
        yield (
            f"| {row['megapixels']} | {row['mebibytes_of_file']:.1f} | {row['seconds']:.2f} "
            f"| {row['mebibytes_grown']} |"
        )


def copies_of_photos(results):
    """Copies that are found, by what was done to them, beside others who find copies."""
    yield "## Copies of photos"
    yield ""
    yield results["protocol"]
    yield ""
    methods = list(dict.fromkeys(row["method"] for row in results["rows"]))
    cells = {(row["method"], row["edit"]): row for row in results["rows"]}
    edits = list(dict.fromkeys(row["edit"] for row in results["rows"]))
    yield f"| recall | {' | '.join(methods)} |"
    yield "|---|" + "---|" * len(methods)
    for edit in edits:
        recalls = [f"{cells[method, edit]['recall']:.3f}" for method in methods]
        yield f"| {edit} | {' | '.join(recalls)} |"
    of_method = {method: [cells[method, edit] for edit in edits] for method in methods}
    for name, field, of_all in (
        ("mean recall", "recall", statistics.mean),
        ("least precision", "precision", min),
    ):
        values = [of_all(row[field] for row in of_method[method]) for method in methods]
        yield f"| {name} | {' | '.join(f'{value:.3f}' for value in values)} |"
    yield ""
    clothing = results["clothing10"]
    yield (
        f"Among the {clothing['photos']:,} photos of clothing10 it finds "
        f"{len(clothing['groups'])} groups, in {clothing['seconds']:.0f} seconds: "
        f"{clothing['looked_at']}."
    )


def copies_among_many(results):
    """Copies among very many images: what was found, in what time and memory."""
    where = "a table of chDB" if results["kind"] == "chdb" else "a folder"
    yield f"## Copies among {results['rows']:,} images of {where}, {results['about']}"
    yield ""
    yield results["protocol"]
    yield ""
    yield "| stage | seconds | processor seconds |"
    yield "|---|---|---|"
    for stage, took in results["stages"].items():
        yield f"| {stage} | {took['seconds']:,.0f} | {took['processor_seconds']:,.0f} |"
    yield ""
    mebibytes = [f"{results[f'{name}_bytes'] / 2**20:,.0f} MiB" for name in ("memory", "resident")]
    yield (
        f"Of {results['planted_groups']:,} planted groups (one of {results['largest_planted']:,} "
        f"equal images, the others of 2 to 5) it finds {results['groups']:,}: recall "
        f"{results['recall']:.4f}, precision {results['precision']:.4f}. Memory: {mebibytes[0]}, "
        f"with mapped files {mebibytes[1]}; {results['threads']} threads. Other work took its "
        "share of the machine meanwhile: processor seconds are what the stages cost."
    )


def in_words(results):
    """How often words find the right photo, and what reading and looking up cost."""
    typed, looked_up = results["typed"], results["looked_up"]
    yield "## Words"
    yield ""
    yield (
        f"The text in {typed['read']} photos of bottles and labels is read (`index --ocr`), in "
        f"{typed['seconds_a_photo']:.2f} processor seconds each. The names of {typed['names']} "
        "breweries are typed, as the names of the files have them, and searched by what was read "
        f"alone: among the photos a right one comes first for {typed['right_photo_first']:.2f} of "
        f"them, among the labels for {typed['right_label_first']:.2f}."
    )
    yield ""
    yield (
        f"Of {looked_up['texts']:,} texts of six made-up words, two of one are searched by, in "
        "every other query with a letter changed: the text is among the first ten for "
        f"{looked_up['found_among_ten']:.2f} of {looked_up['queries']} queries. Processor time:"
    )
    yield ""
    yield "| what | |"
    yield "|---|---|"
    yield f"| a search, median | {looked_up['milliseconds']:.1f} ms |"
    yield f"| the slowest but the first | {looked_up['milliseconds_of_slowest']:.1f} ms |"
    yield (
        f"| the command, which opens the index for it | {looked_up['cold_command_seconds']:.2f} s |"
    )
    yield f"| making what they are looked up by | {looked_up['seconds_to_settle']:.1f} s |"
    yield f"| its size | {looked_up['bytes'] / 2**20:.0f} MiB |"


def words_in_tables(results):
    """What a search in words costs in a table, beside a folder."""
    yield "## Words in a folder and in ClickHouse"
    yield ""
    yield (
        "Images with a caption and a line that was read, each of six made-up words; two words are "
        f"searched by, in every other of {results['queries']} queries with a letter changed, among "
        "names, captions and what was read. All answers of a table are the folder's. A table reads "
        "the columns of texts of all images for some words at a time: its time grows with their "
        "number, and nothing is made ready. Processor time, the database's own included:"
    )
    yield ""
    yield "| images | where | a search, median | the slowest but the first | adding all |"
    yield "|---|---|---|---|---|"
    for row in results["rows"]:
        for name in ("folder", "table"):
            spent = row[name]
            yield (
                f"| {row['texts']:,} | {name} | {spent['milliseconds']:.0f} ms | "
                f"{spent['milliseconds_of_slowest']:.0f} ms | {spent['seconds_to_add']:.1f} s |"
            )


def by_what_is_written(results):
    """How often a photo finds its label by text, by local features, and by both."""
    kinds = results["kinds"]
    first = {name: found["found_at_1"] for name, found in kinds.items()}
    yield "## Labels by what is written"
    yield ""
    yield (
        f"Each of {results['photos']} photos of bottles and cans searches {results['labels']} "
        "labels, one of which is right. By what was read in both alone (`search --written`) it "
        f"comes first for {first['written']:.3f} of them, by SIFT (`--verify`) for "
        f"{first['verified']:.3f}, by both for {first['both']:.3f}; it is among the first five for "
        f"{kinds['written']['found_at_5']:.3f}, {kinds['verified']['found_at_5']:.3f} and "
        f"{kinds['both']['found_at_5']:.3f}. To read a photo takes "
        f"{results['seconds_to_read']:.2f} processor seconds, median. Rules that join the two were "
        "compared on these very photos: reciprocal ranks, which do not know how much more one "
        "label has than the next, lost about as many as they gained. The sum of shares has no "
        "weight to choose, and its least share of text is that of a search in words."
    )


def _origin(results):
    machine = results["machine"]
    return f"(`{results['command']}`, {machine['processor']}, {machine['cores']} cores.)"


def renewed(text):
    """The page's text with the tables made anew."""
    head, rest = text.split(BEGIN)
    _, tail = rest.split(END)
    lines = []
    paths = sorted(figures.FOLDER.glob("train_*.json"))
    runs = {path.stem.removeprefix("train_"): figures.read(path.stem) for path in paths}
    runs = {name: run for name, run in runs.items() if "training_minutes" in run}
    lines += [*trained(runs), "", _origin(next(iter(runs.values()))), ""]
    named = {"train_losses": losses, "label_free_codes": label_free}
    named |= {"code_views": code_views, "refit": refitted}
    named |= {"backbones": larger, "feature_dtype": feature_dtype, "first_minute": first_minute}
    named |= {
        "ranking": ranking,
        "reranking": reranking,
        "likeness_line": likeness_line,
        "certainty": certainty,
    }
    named |= {path.stem: certainty for path in sorted(figures.FOLDER.glob("certainty_*"))}
    named |= {"estimates": estimates, "features": features}
    named |= {"held_out": held_out}
    named |= {path.stem: unseen for path in sorted(figures.FOLDER.glob("unseen_*"))}
    named |= {"serve": serving, "hostile": hostile}
    named |= {"largest": largest, "verified_rows": verified_rows}
    named |= {"extract": extraction}
    named |= {"clickhouse": databases, "clickhouse_10m": databases}
    named |= {"clickhouse_types": column_types}
    named |= {path.stem: encoding for path in sorted(figures.FOLDER.glob("encode*"))}
    named |= {"precision": precision, "hamming": hamming, "plain": without_numba}
    named |= {path.stem: coarse_fine for path in sorted(figures.FOLDER.glob("coarse_fine_*"))}
    named |= {
        "pool_size": pool_size,
        "feedback": feedback,
        "words_shown": words_shown,
        "regions": regions,
        "verify_top": verification,
    }
    named |= {path.stem: local for path in sorted(figures.FOLDER.glob("local_*"))}
    named |= {path.stem: matched for path in sorted(figures.FOLDER.glob("matcher_*"))}
    named |= {path.stem: several for path in sorted(figures.FOLDER.glob("several_*"))}
    named |= {"extractors": extractor_times, "reference": beside_authors}
    named |= {path.stem: local_pool for path in sorted(figures.FOLDER.glob("local_pool_*"))}
    named |= {"duplicates": copies_of_photos}
    many = sorted(figures.FOLDER.glob("many_duplicates_*"))
    named |= {path.stem: copies_among_many for path in many}
    named |= {"delf": known_geometry, "verify_categories": verified_categories}
    named |= {"reading": reading, "words": in_words, "written": by_what_is_written}
    named |= {"table_words": words_in_tables}
    for name, table in named.items():
        if not (figures.FOLDER / f"{name}.json").is_file():
            continue  # not measured yet
        results = figures.read(name)
        lines += [*table(results), "", _origin(results), ""]
    return head + BEGIN + "\n".join(lines) + END + tail


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
