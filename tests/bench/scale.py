"""A plan on paper to ten billion images, from what was measured on one machine:

    python -m tests.bench.scale

writes the tables of docs/scale.md from tests/bench/results/*.json. What was measured is read from
there; what is assumed stands in `ASSUMED`, and the plan shows it.
"""

import math
import pathlib

from hashnet import codes
from hashnet.network import backbones
from hashnet.network.model import HashNetConfig
from hashnet.retrieval.store.folder import records
from tests.bench import figures

DOCUMENT = pathlib.Path(__file__).resolve().parents[2] / "docs" / "scale.md"
BEGIN, END = "<!-- plan -->\n", "<!-- end of plan -->"
SIZES = (10**8, 10**9, 10**10)

# Nothing here is measured: change it to your machines and prices.
ASSUMED = {
    "bits": (64, "bits of a code"),
    "id_bytes": (100, "bytes of an id, which tells the path, too"),
    "cores": (32, "cores of a node, each as fast as the one measured"),
    "memory_gb": (128, "GB of memory of a node"),
    "disk_gb": (4000, "GB of disk of a node"),
    "fill": (0.7, "share of memory and disk that may be filled"),
    "replicas": (2, "copies of each shard"),
    "pool": (100_000, "images of the pool, over all shards"),
    "seconds": (0.25, "seconds that the coarse stage of one query may take"),
    "price": (1.0, "price of a node for an hour, in any currency"),
}
A = {name: value for name, (value, _) in ASSUMED.items()}
FEATURE_DIM = backbones.known(HashNetConfig.backbone).feature_dim
# A pool of a least size takes two looks at the codes: a histogram, then the rows.
SCANS = 2


def measured():
    """dict of the figures that the plan rests on."""
    hamming = figures.read("hamming")
    rows = [
        row
        for row in hamming["rows"]
        if (row["codes"], row["bits"], row["threads"], row["task"])
        == ("random", A["bits"], 1, "nearest")
    ]
    largest = max(row["rows"] for row in rows)
    scans = {
        row["queries"]: row["milliseconds"]["scan"]["median"] / 1000 / row["rows"] / row["queries"]
        for row in rows
        if row["rows"] == largest
    }
    ranked = [
        (row["mean_pool"], row["milliseconds_fine"] / 1000 / row["mean_pool"] / dimensions)
        for name, dimensions in coarse_fines()
        for row in figures.read(name)["rows"]
        if row["method"].startswith("coarse_to_fine") and row["threads"] == 1
    ]
    # The plan's pool is larger than all of them: what every query costs anyway is lost in it.
    _, fine = max(ranked)
    return {
        "rows": largest,
        "batch": max(scans),
        "seconds_a_code_alone": scans[1],
        "seconds_a_code_in_batch": scans[max(scans)],
        "bytes_a_second": hamming["read_gigabytes_per_second_one_thread"] * 1e9,
        "seconds_a_number_of_a_feature": fine,
        "images_a_second_a_core": figures.read("extract")["images_per_second"]["parquet_1"][
            "median"
        ],
        "machine": hamming["machine"],
    }


def coarse_fines():
    """(name, feature_dim) of the results on synthetic features, whose name says both."""
    for path in sorted(figures.FOLDER.glob("coarse_fine_*x*.json")):
        yield path.stem, int(path.stem.rsplit("x")[-1])


def bytes_an_image():
    """(bytes in memory, bytes on disk) of one image, of the default network."""
    code = codes.code_bytes(A["bits"])
    feature, lookups = 2 * FEATURE_DIM, 8 + 4 + 4  # hash of an id, and its row in two orders
    items = records.ITEM.itemsize + records.FILE.itemsize + records.TEXTS.itemsize
    return code, code + feature + items + A["id_bytes"] + lookups


def plan(images, facts):
    """dict of what it takes to search so many images."""
    memory, disk = bytes_an_image()
    room = {
        "memory": math.ceil(images * memory / (A["fill"] * A["memory_gb"] * 1e9)),
        "disk": math.ceil(images * disk / (A["fill"] * A["disk_gb"] * 1e9)),
        "time": math.ceil(
            images * SCANS * facts["seconds_a_code_alone"] / (A["cores"] * A["seconds"])
        ),
    }
    shards = max(room.values())
    bound = max(room, key=room.get)
    scanning = SCANS * images * facts["seconds_a_code_in_batch"]
    ranking = A["pool"] * FEATURE_DIM * facts["seconds_a_number_of_a_feature"]
    nodes = shards * A["replicas"]
    rate = nodes * A["cores"] / (scanning + ranking)
    alone = SCANS * images / shards * facts["seconds_a_code_alone"] / A["cores"]
    return {
        "images": images,
        "shards": shards,
        "bound": bound,
        "nodes": nodes,
        "coarse_seconds": alone,
        "core_seconds_a_query": scanning + ranking,
        "queries_a_second": rate,
        "price_an_hour": nodes * A["price"],
        "price_a_million_queries": nodes * A["price"] / (rate * 3600) * 1e6,
        "encoding_core_hours": images / facts["images_a_second_a_core"] / 3600,
    }


def lines():
    """The plan as Markdown."""
    facts = measured()
    memory, disk = bytes_an_image()
    yield "### Measured"
    yield ""
    yield f"On one core ({facts['machine']['processor']}), {facts['rows']:,} codes:"
    yield ""
    yield "| | |"
    yield "|---|---|"
    alone, together = facts["seconds_a_code_alone"], facts["seconds_a_code_in_batch"]
    yield f"| scan, one query | {alone * 1e9:.2f} ns a code |"
    yield f"| scan, {facts['batch']} queries at once | {together * 1e9:.2f} ns a code and query |"
    yield f"| reading memory | {facts['bytes_a_second'] / 1e9:.1f} GB/s |"
    fine = facts["seconds_a_number_of_a_feature"]
    yield f"| ranking | {fine * 1e9:.2f} ns a number of a feature (the largest pool measured) |"
    encode = facts["images_a_second_a_core"]
    yield f"| extraction, from file to Parquet | {encode:.1f} images/s |"
    yield ""
    yield "### Assumed"
    yield ""
    yield "| | |"
    yield "|---|---|"
    for value, text in ASSUMED.values():
        yield f"| {text} | {value:,} |"
    yield ""
    yield "### Bytes an image"
    yield ""
    yield (
        f"{memory} in memory (the code) and {disk:,} on disk: the code, "
        f"{FEATURE_DIM:,} numbers of a feature as float16, records of {records.ITEM.itemsize} and "
        f"{records.FILE.itemsize} bytes, the id, and 16 bytes of look-ups."
    )
    yield ""
    yield "### Plan"
    yield ""
    plans = [plan(images, facts) for images in SIZES]
    rows = {
        "codes in memory": lambda one: f"{one['images'] * memory / 1e9:,.1f} GB",
        "all on disk, one copy": lambda one: f"{one['images'] * disk / 1e12:,.1f} TB",
        "shards, one a node": lambda one: f"{one['shards']:,} (set by {one['bound']})",
        "nodes, with copies": lambda one: f"{one['nodes']:,}",
        "coarse stage of a query alone": lambda one: f"{1000 * one['coarse_seconds']:.0f} ms",
        "core-seconds a query, in batches": lambda one: f"{one['core_seconds_a_query']:.2f}",
        "queries a second, all nodes": lambda one: f"{one['queries_a_second']:,.0f}",
        "price an hour": lambda one: f"{one['price_an_hour']:,.0f}",
        "price of a million queries": lambda one: f"{one['price_a_million_queries']:,.0f}",
        "core-hours of encoding": lambda one: f"{one['encoding_core_hours']:,.0f}",
    }
    yield f"| | {' | '.join(f'{images:,} images' for images in SIZES)} |"
    yield "|---|" + "---|" * len(SIZES)
    for name, show in rows.items():
        yield f"| {name} | {' | '.join(show(one) for one in plans)} |"


def renewed(text):
    """The document's text with the plan made anew."""
    head, rest = text.split(BEGIN)
    _, tail = rest.split(END)
    return head + BEGIN + "\n".join([*lines(), ""]) + END + tail


if __name__ == "__main__":
    DOCUMENT.write_text(renewed(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
