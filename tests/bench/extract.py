"""How fast is extraction to Parquet, on threads and on Ray, beside the plain way into an index?

    pip install ".[ray]"
    python -m tests.bench.extract BUNDLE PHOTOS [--rounds 3] [--workers 1 2]

Each contender makes the same from scratch, in turn, round after round: `index` encodes into a fresh
index; `parquet` into Parquet shards with so many threads; `ray` with so many actors of a cluster
that runs already, which `ray_start_seconds` tells the price of. Every extraction is compared with
the first, file by file, before its time counts. `load` is from shards to a committed index. Writes
tests/bench/results/extract.json.
"""

import argparse
import importlib.util
import pathlib
import tempfile
import time

from hashnet import images
from hashnet.retrieval.extraction.extract import extract
from hashnet.retrieval.index import Index
from tests.bench import figures
from tests.bench.encode import in_turn, spread


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle")
    parser.add_argument("photos")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--shard-rows", type=int, default=256)
    options = parser.parse_args()
    report = measure(
        options.bundle,
        options.photos,
        rounds=options.rounds,
        workers=options.workers,
        shard_rows=options.shard_rows,
    )
    figures.write("extract", report)


def measure(bundle, photos, *, rounds, workers, shard_rows):
    """The whole report, as a dict for JSON."""
    found, *_ = images.find([photos])
    started = None
    if importlib.util.find_spec("ray"):
        started = start_ray(max(workers))
    with tempfile.TemporaryDirectory() as scratch:
        places = (pathlib.Path(scratch) / str(number) for number in range(10**6))
        expected = {}

        def index(count):
            made = Index.create(next(places), bundle)
            began = time.perf_counter()
            report = made.update([photos], workers=count)
            return report.added / (time.perf_counter() - began)

        def parquet(count, ray=None):
            place = next(places)
            began = time.perf_counter()
            report = extract([photos], place, bundle, workers=count, ray=ray, shard_rows=shard_rows)
            took = time.perf_counter() - began
            files = {path.name: path.read_bytes() for path in (place / "shards").iterdir()}
            assert files == expected.setdefault("files", files)
            expected["place"] = place
            return report.extracted / took

        def load():
            made = Index.create(next(places), bundle)
            began = time.perf_counter()
            report = made.add_parquet(expected["place"])
            return report.added / (time.perf_counter() - began)

        contenders = {}
        for count in workers:
            contenders[f"index_{count}"] = lambda count=count: index(count)
            contenders[f"parquet_{count}"] = lambda count=count: parquet(count)
            if started is not None:
                contenders[f"ray_{count}"] = lambda count=count: parquet(count, "local")
        contenders["load"] = load
        measured = in_turn(contenders, rounds)
    if started is not None:
        import ray

        ray.shutdown()
    return {
        "question": "How fast is extraction, on threads and on Ray, beside the plain way?",
        "photos": len(found),
        "shard_rows": shard_rows,
        "rounds": rounds,
        "ray_start_seconds": started,
        "images_per_second": {name: spread(rates) for name, rates in measured.items()},
    }


def start_ray(num_cpus):
    """Seconds until a cluster runs here."""
    import ray

    began = time.perf_counter()
    ray.init(
        address="local",
        num_cpus=num_cpus,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=1 << 28,
    )
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
