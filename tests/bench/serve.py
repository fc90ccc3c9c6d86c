"""How does the service bear up? Many clients at once on a synthetic index.

    python -m tests.bench.serve BUNDLE PHOTO

The index holds random codes and features, so that its size is what is measured. Clients ask by
id, which costs the engine a search and no encoding; a smaller run uploads PHOTO.
"""

import argparse
import concurrent.futures
import http.client
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse

import numpy as np

from hashnet.retrieval.index import Index
from hashnet.retrieval.search.engine import Engine
from hashnet.retrieval.search.query import Query
from hashnet.retrieval.store.items import Item
from tests.bench import figures

PART = 10_000
# What does not count: an index that has just been opened compiles and arranges what it will need.
WARM_UP = 200


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle")
    parser.add_argument("photo", type=pathlib.Path)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--requests", type=int, default=2_000)
    parser.add_argument("--uploads", type=int, default=500)
    parser.add_argument("--name", default="serve", help="of the result (%(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch) / "synthetic.index"
        make(folder, options.bundle, options.images)
        content = options.photo.read_bytes()
        alone = engine_alone(folder)
        with served(folder) as url:
            size, clients = options.images, options.clients
            load(url, 1, WARM_UP, size, None)
            report = {
                "one_client": load(url, 1, 500, size, None),
                "by_id": load(url, clients, options.requests, size, None),
                "by_upload": load(url, clients, options.uploads, size, content),
            }
    figures.write(
        options.name,
        {
            "question": "What do many clients at once get, and what does HTTP add to a search?",
            "protocol": f"{options.images} random codes and features; {options.clients} clients, "
            "each asking again once it is answered, on the machine of the service; k = 50; after "
            f"{WARM_UP} questions that do not count. "
            "Milliseconds as a client sees them. overhead: median of one client by id, less the "
            "median of the engine in its own process for the same ids, with the histogram.",
            "seed": 0,
            "images": options.images,
            "clients": options.clients,
            "engine_alone_milliseconds": alone,
            "overhead_milliseconds_median": round(report["one_client"]["p50"] - alone["p50"], 3),
            **report,
        },
    )


def make(folder, bundle, num_images):
    rng = np.random.default_rng(0)
    index = Index.create(folder, bundle)
    config = index.encoder.config
    with index.store.writer() as writer:
        for start in range(0, num_images, PART):
            ids = range(start, min(start + PART, num_images))
            features = np.abs(rng.normal(size=(len(ids), config.feature_dim)))
            features /= np.linalg.norm(features, axis=1, keepdims=True)
            latents = rng.random((len(ids), config.num_bits))
            writer.add(
                [Item(str(id)) for id in ids],
                np.packbits(latents >= 0.5, axis=1),
                features.astype(index.store.feature_dtype),
            )


def engine_alone(folder):
    engine = Engine(Index.open(folder))
    for id in asked(WARM_UP, engine.snapshot.num_items):
        engine.search_id(id, Query(k=50, histogram=True))
    times = []
    for id in asked(500, engine.snapshot.num_items):
        start = time.perf_counter()
        engine.search_id(id, Query(k=50, histogram=True))
        times.append((time.perf_counter() - start) * 1000)
    return spread(times)


def asked(number, num_images):
    return [str(id) for id in np.random.default_rng(1).integers(0, num_images, number)]


class served:
    """`hashnet serve` as a process of its own; gives its URL."""

    def __init__(self, folder):
        code = "import sys; from hashnet import cli; sys.exit(cli.main(sys.argv[1:]))"
        self._command = [sys.executable, "-c", code, "serve", str(folder), "--port", "0"]

    def __enter__(self):
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        line = self._process.stdout.readline()
        return next(word for word in line.split() if word.startswith("http")).rstrip("/")

    def __exit__(self, *_):
        self._process.terminate()
        self._process.wait()


def load(url, num_clients, number, num_images, content):
    """What clients get, each on a connection of its own; they are bare, as they share the cores."""
    ids, lock = iter(asked(number, num_images)), threading.Lock()
    times, errors = [], []

    def client(_number):
        connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=60)
        while (id := following()) is not None:
            start = time.perf_counter()
            if content is None:
                connection.request("GET", f"/api/search?id={id}&k=50")
            else:
                connection.request("POST", "/api/search", *multipart(content))
            answer = connection.getresponse()
            answer.read()
            times.append((time.perf_counter() - start) * 1000)
            if answer.status != 200:
                errors.append(answer.status)
        connection.close()

    def following():
        with lock:
            return next(ids, None)

    start = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(num_clients) as clients:
        list(clients.map(client, range(num_clients)))
    seconds = time.perf_counter() - start
    return {
        "requests": len(times),
        "errors": {str(code): errors.count(code) for code in sorted(set(errors))},
        "per_second": round(len(times) / seconds, 1),
        **spread(times),
    }


def multipart(content):
    """Body and headers of an upload."""
    head = b'--part\r\nContent-Disposition: form-data; name="image"; filename="image"\r\n\r\n'
    body = head + content + b"\r\n--part--\r\n"
    return body, {"Content-Type": "multipart/form-data; boundary=part"}


def spread(times):
    p50, p99 = np.percentile(times, [50, 99])
    return {"p50": round(float(p50), 3), "p99": round(float(p99), 3)}


if __name__ == "__main__":
    main()
