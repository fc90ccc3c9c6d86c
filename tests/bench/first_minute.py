"""What does a newcomer wait for? The core alone, installed, then a first index and a cold search.

    python -m tests.bench.first_minute

Makes an environment with what `pip install hashnet` brings and nothing else (from a wheel of this
checkout; other packages are fetched), indexes 12 photos with no bundle, and searches an index of
100,000 rows, each time in a new process. Writes tests/bench/results/first_minute.json.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
import venv

import numpy as np

from hashnet import images
from hashnet.retrieval.index import Index
from hashnet.retrieval.store.items import Item
from hashnet.samples import fashion_mnist
from tests.bench import figures

ROOT = pathlib.Path(__file__).resolve().parents[2]
PHOTOS, ROWS, AT_ONCE = 12, 100_000, 4096
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        hashnet = installed(folder / "env", folder / "wheel")
        size = megabytes(folder / "env")
        photos = written(folder / "photos")
        first = measured(
            options.repeats,
            lambda n: [hashnet, "index", folder / f"{n}.index", photos],
        )
        large = grown(folder / "0.index", folder / "large.index")
        search = measured(
            options.repeats,
            lambda _: [hashnet, "search", large, photos / "0.png", "--json"],
        )
        helped = measured(options.repeats, lambda _: [hashnet, "--help"])
        packages = listed(hashnet.with_name("python"))
    report = {
        "question": "What does a newcomer wait for?",
        "protocol": f"An environment with the core alone; {PHOTOS} photos of {side(0)} to "
        f"{side(PHOTOS - 1)} pixels a side indexed without a bundle; one query of {ROWS:,} rows of "
        f"128 bits and 1280 float16; each in a process of its own, medians of {options.repeats}.",
        "seed": 0,
        "environment_megabytes": round(size),
        "packages": packages,
        "first_index": first,
        "cold_search": search,
        "help": helped,
    }
    figures.write("first_minute", report)
    print(json.dumps({name: report[name] for name in report if name != "packages"}, indent=1))


def installed(env, wheels):
    """The command `hashnet` of a new environment."""
    venv.create(env, with_pip=True)
    python = env / "bin" / "python"
    pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", wheels, ROOT], check=True, env=CLEAN)
    [wheel] = wheels.glob("hashnet-*.whl")
    subprocess.run([*pip, "install", wheel], check=True, env=CLEAN)
    return env / "bin" / "hashnet"


def megabytes(folder):
    """What a folder takes, in 10^6 bytes on the disk."""
    files = (path.lstat() for path in folder.rglob("*") if not path.is_dir())
    return sum(512 * file.st_blocks for file in files) / 1e6


def side(number):
    return 400 + 100 * number


def written(folder):
    """Pictures of clothes as large as photos are, each another."""
    folder.mkdir()
    for number, pixels in enumerate(fashion_mnist()["test_images"][:PHOTOS]):
        grey = images.resize(pixels[..., None].repeat(3, axis=2), (side(number), side(number)))
        images.write(folder / f"{number}.png", grey)
    return folder


def grown(small, large):
    """An index of `ROWS` made-up rows with the network of a small one."""
    index = Index.create(large, small)
    config, rng = index.encoder.config, np.random.default_rng(0)
    with index.store.writer() as writer:
        for start in range(0, ROWS, AT_ONCE):
            rows = range(start, min(start + AT_ONCE, ROWS))
            items = [Item(f"/photos/{n}.jpg", f"/photos/{n}.jpg", None, n, n) for n in rows]
            codes = rng.integers(0, 256, (len(items), config.num_bits // 8), dtype=np.uint8)
            features = rng.standard_normal((len(items), config.feature_dim), np.float32)
            features /= np.linalg.norm(features, axis=1, keepdims=True)
            writer.add(items, codes, features.astype(np.float16))
    return large


def measured(repeats, command):
    """Wall and processor time, and the most memory, of a command in new processes."""
    wall, processor, most = [], [], 0
    for number in range(repeats):
        began = time.perf_counter()
        child = subprocess.Popen(
            list(map(str, command(number))),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=CLEAN,
            cwd=tempfile.gettempdir(),
        )
        said = child.stderr.read()
        _, status, usage = os.wait4(child.pid, 0)
        wall.append(time.perf_counter() - began)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            sys.exit(said.decode())
        processor.append(usage.ru_utime + usage.ru_stime)
        most = max(most, usage.ru_maxrss)
    return {
        "seconds_median": round(statistics.median(wall), 3),
        "seconds_least": round(min(wall), 3),
        "seconds_most": round(max(wall), 3),
        "processor_seconds_median": round(statistics.median(processor), 3),
        "megabytes_most": round(most * 1024 / 1e6),
    }


def listed(python):
    run = subprocess.run(
        [python, "-m", "pip", "list", "--format", "json"],
        capture_output=True,
        check=True,
        env=CLEAN,
    )
    return {one["name"]: one["version"] for one in json.loads(run.stdout)}


if __name__ == "__main__":
    main()
