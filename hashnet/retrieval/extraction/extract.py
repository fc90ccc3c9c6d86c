"""From images to Parquet shards, on one machine, on several that share nothing, or on Ray.

The list of images is cut by id into shards of a fixed size. Whoever makes a shard makes the same
one, so that an extraction does not depend on how many work on it, or which; a shard is the unit
that a kill can lose.
"""

import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hashnet import extras
from hashnet.encode.encoder import Encoder
from hashnet.errors import ArgumentError, HashnetError
from hashnet.images import Exclusion, Problem, passed_over_in_words
from hashnet.retrieval.extraction import parquet, sources
from hashnet.retrieval.store.items import Item

StrPath = str | os.PathLike[str]

RAY = "Extraction on a cluster needs Ray."


@dataclass(frozen=True)
class ExtractReport:
    """What `extract` did, in its part of the shards.

    Attributes:
        extracted: int. Images that were encoded now.
        kept: int. Images that an earlier run had encoded.
        problems: list of `images.Problem`. What could not be read, now or earlier.
        left_out: dict of reason to number of files, as `images.Exclusion.left_out`.
        passed_over: dict of str to int. Files in the folders that are no pictures, by suffix.
    """

    extracted: int = 0
    kept: int = 0
    problems: list[Problem] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    passed_over: dict[str, int] = field(default_factory=dict)


def extract(
    names: Iterable[StrPath],
    out: StrPath,
    bundle_folder: StrPath,
    *,
    label_from_folder: bool = False,
    exclude: str | Iterable[str] = (),
    default_excludes: bool = True,
    part: tuple[int, int] = (1, 1),
    workers: int | None = None,
    ray: str | None = None,
    runtime: str = "auto",
    feature_dtype: str = "float16",
    shard_rows: int = parquet.SHARD_ROWS,
    progress: Callable[[int, int], None] | None = None,
) -> ExtractReport:
    """Encode images into a folder of Parquet shards, or finish one.

    Shards that are there, whole, and made from the same images are kept.

    Args:
        names: files, folders, URIs and lists of them: see `sources.listed`.
        out: str or path-like. The folder; on Ray and with parts, one that all machines see.
        bundle_folder: str or path-like. The network.
        label_from_folder: bool. Label each image with the first folder below its root.
        exclude, default_excludes: what is left out, as for `Index.update`.
        part: (i, n), 1 <= i <= n. Make every n-th shard, from the i-th on; n processes with
            the same other arguments make all.
        workers: int or None. Threads, or on Ray actors; None means one for each core.
        ray: str or None. Address of a Ray cluster; "local" starts one here.
        runtime: as for `Encoder`.
        feature_dtype, shard_rows: as for `Extraction.begin`.
        progress: called with images done and images to do, in this run.

    Returns:
        An `ExtractReport`.

    Raises:
        ArgumentError: there is no such part, or `exclude` holds no pattern.
        HashnetError: there is no image, or Ray or pyarrow is not installed.
        StoreError, FingerprintError, BundleError: as for `Extraction.begin`.

    Example:
        >>> report = extract(["cat.png", "dog.png"], "pets", bundle_folder)
        >>> report.extracted, extract(["cat.png", "dog.png"], "pets", bundle_folder).kept
        (2, 2)
    """
    first, step = part
    if not 1 <= first <= step:
        raise ArgumentError("Part i of n has 1 <= i <= n.", f"{first}/{step}")
    names = list(names)
    exclusion = Exclusion(exclude, defaults=default_excludes)
    items, problems, passed_over = sources.listed(
        names, label_from_folder=label_from_folder, exclusion=exclusion
    )
    if not items:
        reasons = "".join(f"; {problem.path}: {problem.reason}" for problem in problems[:3])
        if passed_over:
            reasons += f"; {passed_over_in_words(passed_over)}"
        raise HashnetError(
            "An extraction needs at least one image.",
            f"none in {' '.join(map(str, names))}{reasons}",
        )
    extraction = parquet.Extraction.begin(
        out, bundle_folder, items, feature_dtype=feature_dtype, shard_rows=shard_rows
    )
    mine = range(first - 1, len(extraction.listings), step)
    todo = [number for number in mine if not extraction.is_done(number)]
    kept = sum(extraction.num_rows(number) for number in set(mine) - set(todo))
    listings = {number: items[number * shard_rows : (number + 1) * shard_rows] for number in todo}
    run = _with_threads if ray is None else _with_ray
    num_done, total = 0, sum(map(len, listings.values()))
    for number in run(extraction, listings, workers, runtime, ray):
        num_done += number
        if progress:
            progress(num_done, total)
    for number in mine:
        problems += extraction.problems(number)
    extracted = sum(extraction.num_rows(number) for number in todo)
    return ExtractReport(extracted, kept, problems, exclusion.left_out, passed_over)


def _with_threads(
    extraction: parquet.Extraction,
    listings: dict[int, list[Item]],
    workers: int | None,
    runtime: str,
    _: str | None,
) -> Iterator[int]:
    """Make shards one after another; yields the images of each batch that is done."""
    if not listings:
        return
    encoder = Encoder(extraction.bundle, runtime=runtime)
    for number, items in listings.items():
        yield from _make_shard(extraction, encoder, number, items, workers)


def _make_shard(
    extraction: parquet.Extraction,
    encoder: Encoder,
    number: int,
    items: list[Item],
    workers: int | None = None,
) -> Iterator[int]:
    done, parts, problems = [], [], []
    files = map(sources.opened, items)
    position = 0
    for encoded in encoder.stream(files, workers=workers):
        count = len(encoded) + len(encoded.problems)
        failed = sorted(set(range(position, position + count)) - set(encoded.positions.tolist()))
        problems += [
            Problem(items[place].path or items[place].id, problem.reason)
            for place, problem in zip(failed, encoded.problems, strict=True)
        ]
        done += [items[place] for place in encoded.positions]
        parts.append((encoded.codes, encoded.features.astype(extraction.feature_dtype)))
        position += count
        yield count
    codes, features = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    extraction.write(number, done, codes, features, problems)


# --- Ray --------------------------------------------------------------------------------------


class _Actor:
    """Makes shards on a worker of Ray; its network opens once."""

    def __init__(self, folder: str, runtime: str) -> None:
        self.extraction = parquet.Extraction.open(folder)
        self.encoder = Encoder(self.extraction.bundle, runtime=runtime, num_threads=1)

    def __call__(self, batch: dict[str, Any]) -> dict[str, np.ndarray]:
        counts = []
        for number, listing in zip(batch["number"], batch["listing"], strict=True):
            items = [Item(*fields) for fields in json.loads(listing)]
            counts.append(sum(_make_shard(self.extraction, self.encoder, int(number), items)))
        return {"images": np.array(counts)}


def _with_ray(
    extraction: parquet.Extraction,
    listings: dict[int, list[Item]],
    workers: int | None,
    runtime: str,
    address: str | None,
) -> Iterator[int]:
    """Make shards in actors; yields the images of each shard that is done."""
    extras.load("ray.data", "ray", RAY)
    ray = extras.load("ray", "ray", RAY)
    if not listings:
        return
    started = not ray.is_initialized()
    if started:
        # Nothing is said about a user's machine to anyone, and shards' lists need little room.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        own = {"num_cpus": workers, "include_dashboard": False, "object_store_memory": 1 << 28}
        own = own if address == "local" else {}
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        try:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR", **own)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            raise HashnetError(
                "Ray must run at the address given.", f"{address} ({error})"
            ) from error
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        most = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        rows = [
            {"number": number, "listing": json.dumps(items)} for number, items in listings.items()
        ]
        shards = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            _Actor,
            fn_constructor_args=(str(extraction.folder), runtime),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=min(most, len(rows))),
            num_cpus=1,
        )
        for row in shards.iter_rows():
            yield int(row["images"])
    except ray.exceptions.RayError as error:
        raise HashnetError(
            "An extraction on Ray goes on while its actors do.",
            " ".join(str(error).split())[-500:],
            "Finished shards are kept: run it again.",
        ) from error
    finally:
        if started:
            ray.shutdown()
