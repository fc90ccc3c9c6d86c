"""How fast is encoding? The network alone, from JPEG files to an index, and one query.

Run from the root of the repository, on an otherwise idle machine:

    python -m tests.bench.encode BUNDLE PHOTOS [--rows 1000000] [--cold-rows 100000]

BUNDLE is a bundle or an index, PHOTOS a folder of JPEG files, of which `--photos-most` are taken
evenly. It takes about ten minutes on two cores and 4 GB of disk. Four questions, each with all its
contenders in turn, round after round, so that what disturbs one disturbs all; ratios are taken
within a round:

- `network`: images/s from pixels in memory to outputs, of 1 and of 32 images: our runtimes as they
  encode many images (one on each core) and as they answer one query (all cores on it), beside
  OpenVINO's benchmark_app, bare calls of ONNX Runtime, and keras.predict; with the largest
  difference of a feature from Keras's, and the bits that differ beyond 1e-4 of one half;
- `photos_to_index`: images/s from files to a committed index, as a share of the network alone;
- `query`: milliseconds from a file to ranked ids in a warm process, on an index of `--rows`;
- `cold_search`: milliseconds of the whole process `hashnet search INDEX QUERY` on an index of
  `--cold-rows`, and what it spends them on.

The large indexes hold the photos' features again and again with a little noise. Writes
tests/bench/results/encode.json, or another that `--result` names: ratios differ with the machine.
"""

import argparse
import concurrent.futures
import importlib.util
import json
import multiprocessing
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

from hashnet import codes, images
from hashnet.encode.encoder import BATCH, Encoder
from hashnet.network import bundle as bundles
from hashnet.network import runtimes
from hashnet.retrieval.index import Index
from hashnet.retrieval.search.engine import Engine
from hashnet.retrieval.store.items import Item
from tests.bench import figures

BATCHES = (1, 32)
ROWS_AT_ONCE = 10_000

COLD_SEARCH = """
import json, sys, time
began = time.perf_counter()
marks = {}
def mark(name):
    global began
    marks[name] = 1000 * (time.perf_counter() - began)
    began = time.perf_counter()
import numpy
mark("import numpy")
from hashnet import cli, images
from hashnet.encode import encoder
from hashnet.network import runtimes
from hashnet.retrieval.search.engine import Engine
from hashnet.retrieval.index import Index
mark("import hashnet")
import onnxruntime
mark("import onnxruntime")
index = Index.open(sys.argv[1], runtime="soonest")
mark("open the index and its encoder")
engine = Engine(index)
mark("open the engine")
engine.search(sys.argv[2])
mark("search")
print(json.dumps(marks))
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle")
    parser.add_argument("photos")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--cold-rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each contender in a round")
    parser.add_argument("--photos-most", type=int, default=1000)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--result", default="encode", help="name of the file of results")
    options = parser.parse_args()
    report = measure(
        options.bundle,
        options.photos,
        rows=options.rows,
        cold_rows=options.cold_rows,
        rounds=options.rounds,
        seconds=options.seconds,
        photos_most=options.photos_most,
        queries=options.queries,
    )
    figures.write(options.result, report)


def measure(bundle_folder, photos, *, rows, cold_rows, rounds, seconds, photos_most, queries):
    """The whole report, as a dict for JSON."""
    bundle = bundles.load(bundle_folder)
    found, *_ = images.find([photos])
    places = np.linspace(0, len(found) - 1, min(len(found), photos_most)).astype(int)
    paths = [found[place].path for place in places]
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        report = {
            "question": "How fast is encoding, and what of it does a user get?",
            "network_of": {"backbone": bundle.config.backbone, "pixels": bundle.config.image_size},
            "photos": len(paths),
            "rounds": rounds,
            "seconds": seconds,
            "network": network(bundle, paths, rounds, seconds),
            "photos_to_index": photos_to_index(bundle, paths, rounds, seconds, scratch),
        }
        encoded = Encoder(bundle).encode(paths)
        warm = grown(bundle, encoded, rows, scratch / "warm")
        # In a process of its own: the other runtimes' threads and memory stay behind.
        with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as one:
            asked = one.submit(query, warm, paths, queries).result()
        report["query"] = {"rows": rows, **asked}
        cold = grown(bundle, encoded, cold_rows, scratch / "cold")
        report["cold_search"] = {"rows": cold_rows, **cold_search(cold, paths, rounds)}
    return report


# --- The network alone ------------------------------------------------------------------------


def network(bundle, paths, rounds, seconds):
    """dict of batch to figures of each contender."""
    size = bundle.config.image_size
    sample = np.stack([images.read_resized(path, (size, size)) for path in paths[:64]])
    keras_model = bundle.load_model()
    file = bundle.encoder_file
    installed = [name for name in runtimes.FASTEST if importlib.util.find_spec(name)]
    opened = {
        (name, many): runtimes.open_file(file, name, concurrent=many, one_by_one=True)
        for name in installed
        for many in (False, True)
    }
    expected = {name: np.asarray(value) for name, value in keras_model.predict(sample).items()}
    answers = {}
    for batch in BATCHES:
        pixels = np.resize(sample, (batch, size, size, 3))
        contenders = {
            "keras_predict": lambda pixels=pixels: rate(
                lambda: keras_model.predict(pixels, verbose=0), len(pixels), seconds
            ),
            "onnxruntime_bare": lambda pixels=pixels: bare_onnxruntime(file, pixels, seconds),
        }
        for (name, many), one in opened.items():
            way = "many" if many else "one"
            contenders[f"{name}_{way}"] = lambda one=one, many=many, pixels=pixels: ours(
                one, pixels, seconds, Encoder(bundle).num_threads if many else 1
            )
        if "openvino" in installed:
            for hint in ("latency", "throughput"):
                contenders[f"benchmark_app_{hint}"] = lambda hint=hint, batch=batch: benchmark_app(
                    file, size, batch, hint, seconds
                )
        measured = in_turn(contenders, rounds)
        answers[f"batch_{batch}"] = {
            "images_per_second": {name: spread(rates) for name, rates in measured.items()},
            "ratios": ratios(measured),
        }
    answers["differences_from_keras"] = {
        name: differences(opened[name, True], sample, expected) for name in installed
    }
    return answers


def in_turn(contenders, rounds):
    """dict of name to the rates of each round."""
    measured = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            measured[name].append(run())
    return measured


def ratios(measured):
    """Medians over rounds of what our ways reach, over each of the others."""
    ours_of = [name for name in measured if name.endswith(("_one", "_many"))]
    return {
        f"{mine} / {other}": statistics.median(
            a / b for a, b in zip(measured[mine], measured[other], strict=True)
        )
        for mine in ours_of
        for other in measured
        if other not in ours_of
    }


def rate(call, count, seconds):
    """Images a second of calls of `count` images each, after one that does not count."""
    call()
    calls, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        call()
        calls += 1
    return calls * count / (time.perf_counter() - began)


def ours(opened, pixels, seconds, num_threads):
    """Images a second of `num_threads` threads that call the runtime as the encoder does."""
    outputs = ["latent", "feature", "scores"]

    def one(_):
        return rate(lambda: opened.run(outputs, {"image": pixels}), len(pixels), seconds)

    with concurrent.futures.ThreadPoolExecutor(num_threads) as pool:
        return sum(pool.map(one, range(num_threads)))


def bare_onnxruntime(file, pixels, seconds):
    """ONNX Runtime as its own examples use it: default options, one call after another."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return rate(lambda: session.run(None, {"image": pixels}), len(pixels), seconds)


def benchmark_app(file, size, batch, hint, seconds):
    """What OpenVINO's own tool says, in float32."""
    program = pathlib.Path(sys.executable).with_name("benchmark_app")
    options = ["-m", file, "-d", "CPU", "-infer_precision", "f32", "-hint", hint]
    options += ["-shape", f"image[{batch},{size},{size},3]", "-t", str(max(1, round(seconds)))]
    run = subprocess.run([program, *options], capture_output=True, text=True)
    found = re.search(r"Throughput:\s+([\d.]+) FPS", run.stdout)
    if found is None:
        raise RuntimeError(f"benchmark_app gave no throughput: {run.stdout[-500:]} {run.stderr}")
    return float(found[1])


def differences(opened, pixels, expected):
    """How far a runtime is from Keras on the sample: speed without quality says nothing."""
    latent, feature = opened.run(["latent", "feature"], {"image": pixels})
    differs = (latent >= 0.5) != (expected["latent"] >= 0.5)
    far = np.abs(expected["latent"] - 0.5) > 1e-4
    return {
        "largest_difference_of_a_feature": float(np.abs(feature - expected["feature"]).max()),
        "bits": differs.size,
        "bits_that_differ": int(differs.sum()),
        "bits_that_differ_far_from_half": int((differs & far).sum()),
    }


# --- From files to an index -------------------------------------------------------------------


def photos_to_index(bundle, paths, rounds, seconds, scratch):
    """Images a second into a fresh index, beside the network alone in the same rounds."""
    encoder = Encoder(bundle)
    size = bundle.config.image_size
    pixels = np.zeros((BATCH, size, size, 3), np.uint8)
    opened = runtimes.open_file(
        bundle.encoder_file, encoder.runtime, concurrent=True, one_by_one=True
    )
    places = iter(range(rounds))

    def whole():
        index = Index.create(scratch / f"index-{next(places)}", bundle.folder)
        began = time.perf_counter()
        report = index.update(paths)
        assert report.added == len(paths) - len(report.problems)
        return report.added / (time.perf_counter() - began)

    contenders = {
        "network_alone": lambda: ours(opened, pixels, seconds, encoder.num_threads),
        "photos_to_index": whole,
    }
    measured = in_turn(contenders, rounds)
    pairs = zip(measured["photos_to_index"], measured["network_alone"], strict=True)
    return {
        "runtime": encoder.runtime,
        "threads": encoder.num_threads,
        "images_per_second": {name: spread(rates) for name, rates in measured.items()},
        "share_of_the_network_alone": statistics.median(a / b for a, b in pairs),
    }


# --- Queries ----------------------------------------------------------------------------------


def grown(bundle, encoded, rows, folder):
    """An index of `rows` rows: the photos' features over and over, with noise of a tenth."""
    index = Index.create(folder, bundle.folder)
    rng = np.random.default_rng(0)
    dim = encoded.features.shape[1]
    with index.store.writer() as writer:
        for start in range(0, rows, ROWS_AT_ONCE):
            numbers = np.arange(start, min(start + ROWS_AT_ONCE, rows))
            noise = rng.normal(0, 0.1 / dim**0.5, (len(numbers), dim)).astype(np.float32)
            features = encoded.features[numbers % len(encoded)] + noise
            features /= np.linalg.norm(features, axis=1, keepdims=True)
            latents = index.encoder.from_features("latent", features)
            items = [Item(f"photo {number}", None, None) for number in numbers]
            kept = features.astype(index.store.feature_dtype)
            writer.add(items, codes.from_latent(latents), kept)
    return folder


def query(folder, paths, count):
    """Milliseconds of one query after another, each photo a file that is decoded."""
    # What was just written goes to the disk meanwhile, and slows every page that is read.
    os.sync()
    engine = Engine(Index.open(folder))
    for path in np.resize(paths, count):
        engine.search(str(path))
    taken, stages = [], []
    for path in np.resize(paths, count):
        began = time.perf_counter()
        result = engine.search(str(path))
        taken.append(1000 * (time.perf_counter() - began))
        stages.append(result.milliseconds)
    return {
        "queries": count,
        "milliseconds_median": float(np.median(taken)),
        "milliseconds_p99": float(np.percentile(taken, 99)),
        "milliseconds_of_stages_median": {
            name: float(np.median([one[name] for one in stages]))
            for name in stages[0]
            if stages[0][name] is not None
        },
    }


def cold_search(folder, paths, rounds):
    """Milliseconds of the whole process, and of its parts in a process that tells them."""
    command = "import sys; from hashnet.cli import main; sys.exit(main())"

    def process(*arguments):
        began = time.perf_counter()
        run = subprocess.run(
            [sys.executable, "-c", *map(str, arguments)], capture_output=True, text=True, check=True
        )
        return 1000 * (time.perf_counter() - began), run.stdout

    whole, bare, parts = [], [], []
    for number in range(rounds + 1):
        path = paths[number % len(paths)]
        whole.append(process(command, "search", folder, path, "--json")[0])
        bare.append(process("pass")[0])
        parts.append(json.loads(process(COLD_SEARCH, folder, path)[1]))
    # The first round finds the files of the libraries on the disk.
    del whole[0], bare[0], parts[0]
    return {
        "milliseconds": spread(whole),
        "milliseconds_of_python_alone_median": statistics.median(bare),
        "milliseconds_of_parts_median": {
            name: statistics.median(part[name] for part in parts) for name in parts[0]
        },
    }


def spread(numbers):
    """dict of median, least and greatest."""
    return {
        "median": statistics.median(numbers),
        "least": min(numbers),
        "greatest": max(numbers),
    }


if __name__ == "__main__":
    main()
