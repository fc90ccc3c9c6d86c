"""Filling an index: from images to committed rows, piece by piece."""

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hashnet import codes, images
from hashnet.encode.encoder import Encoder
from hashnet.errors import ArgumentError, FingerprintError, ImageError
from hashnet.local.extractors import Extractor
from hashnet.local.regions import Proposer
from hashnet.retrieval.extraction import parquet
from hashnet.retrieval.store.items import Item

# What a kill can lose: the work since the last commit.
COMMIT_ITEMS = 1024
COMMIT_SECONDS = 10.0
# With local features a hundred times the bytes wait, with regions several times the work.
COMMIT_ITEMS_DETAILED = 128


@dataclass(frozen=True)
class UpdateReport:
    """What `Index.update` did.

    Attributes:
        added, changed, unchanged: int. Images that are new, encoded again, or as they were.
        removed: list of str. Ids that were dropped because their files have vanished.
        problems: list of `images.Problem`. What could not be read, by path and reason.
    """

    added: int = 0
    changed: int = 0
    unchanged: int = 0
    removed: list = field(default_factory=list)
    problems: list = field(default_factory=list)


@dataclass(frozen=True)
class _Details:
    """What only the pixels of an image tell, of those of some sources that can be read again.

    Attributes:
        places: list of int, which of the sources.
        local: list of `LocalFeatures`, as many; None where the index keeps none.
        regions: list of int `(r, 4)`, as many; None where the index keeps none.
        codes, features: of all regions, in their order.
        problems: list of `images.Problem`.
    """

    places: list
    local: list | None
    regions: list | None
    codes: np.ndarray | None
    features: np.ndarray | None
    problems: list


class Ingest:
    """Fills one index.

    Args:
        store: the `Store` that takes the rows.
        encoder: the `Encoder` that the store carries.
        extractor: function that gives the `Extractor`, called where the store keeps local features.
        proposer: function that gives the `Proposer`, called where the store keeps regions.
    """

    def __init__(
        self,
        store: Any,
        encoder: Encoder,
        *,
        extractor: Callable[[], Extractor],
        proposer: Callable[[], Proposer],
    ) -> None:
        self.store = store
        self.encoder = encoder
        self._extractor, self._proposer = extractor, proposer

    def add(
        self,
        ids: Sequence[str],
        sources: Sequence[images.Source | np.ndarray],
        labels: Sequence[str | None] | None,
        progress: Callable[[int], None] | None,
    ) -> UpdateReport:
        """As `Index.add` says."""
        ids, sources = list(ids), list(sources)
        labels = [None] * len(ids) if labels is None else list(labels)
        if not len(ids) == len(sources) == len(labels):
            raise ArgumentError(
                "Every image has one id, and one label if there are labels.",
                f"{len(ids)} ids, {len(sources)} images, {len(labels)} labels",
            )
        if len(set(ids)) != len(ids):
            raise ArgumentError("An id names one image.", "an id that comes twice")
        items = [
            Item(id, os.path.abspath(os.fsdecode(source)), label)
            if isinstance(source, str | os.PathLike)
            else Item(id, None, label)
            for id, source, label in zip(ids, sources, labels, strict=True)
        ]
        with self.store.writer() as writer, self.store.snapshot() as snapshot:
            known = int((snapshot.rows(ids) >= 0).sum()) if ids else 0
            done, problems = self._encode_into(writer, items, sources, None, progress)
        return UpdateReport(added=max(done - known, 0), changed=min(known, done), problems=problems)

    def update(
        self,
        paths: Iterable[str | os.PathLike[str]],
        *,
        label_from_folder: bool,
        prune: bool,
        workers: int | None,
        known_features: Mapping[tuple[Any, ...], np.ndarray] | None,
        progress: Callable[[int, int], None] | None,
    ) -> UpdateReport:
        """As `Index.update` says."""
        paths = [os.fsdecode(path) for path in paths]
        found, problems = images.find(paths)
        items = {}
        for file in found:
            path = os.path.abspath(file.path)
            label = file.folder if label_from_folder else None
            items.setdefault(path, Item(path, path, label, file.size, file.mtime_ns))
        with self.store.writer() as writer:
            with self.store.snapshot() as snapshot:
                stats = snapshot.stats()
                todo = [
                    item
                    for item in items.values()
                    if stats.get(item.id) != (item.size, item.mtime_ns)
                ]
                todo_ids = {item.id for item in todo}
                same = [item for item in items.values() if item.id not in todo_ids]
                if label_from_folder:
                    writer.update(_relabelled(snapshot, same))
            removed = writer.remove(_vanished(stats, paths, items)) if prune else []
            changed = {item.id for item in todo if item.id in stats}
            num_done = 0

            def step(number):
                nonlocal num_done
                num_done += number
                if progress:
                    progress(num_done, len(todo))

            known_features = known_features or {}
            known = [item for item in todo if _version(item) in known_features]
            unreadable = self._add_known(writer, known, known_features, step)
            rest = [item for item in todo if _version(item) not in known_features]
            sources = [item.path for item in rest]
            unreadable += self._encode_into(writer, rest, sources, workers, step)[1]
            failed = {problem.path for problem in unreadable}
            # What was a good image once and is none now must not be found any more.
            writer.remove(changed & failed)
        return UpdateReport(
            added=len(todo_ids - changed - failed),
            changed=len(changed - failed),
            unchanged=len(same),
            removed=sorted(removed),
            problems=[*problems, *unreadable],
        )

    def add_parquet(
        self, folder: str | os.PathLike[str], progress: Callable[[int, int], None] | None
    ) -> UpdateReport:
        """As `Index.add_parquet` says."""
        extraction = parquet.Extraction.open(folder)
        if extraction.bundle.fingerprint != self.store.fingerprint:
            raise FingerprintError(
                "An index takes codes of its own encoder.",
                f"{folder} of {extraction.bundle.fingerprint[:12]} for "
                f"{self.store.fingerprint[:12]}",
                "Make another index of it, or extract again with this index as bundle.",
            )
        if self._has_details:
            raise ArgumentError(
                "An index with local features or regions needs them of every image.",
                f"{folder}, which has none",
                "Make another index of it, or index the images themselves.",
            )
        asked_for_float32 = self.store.feature_dtype == "float32" != self.store.FEATURE_DTYPE
        if asked_for_float32 and extraction.feature_dtype == "float16":
            raise ArgumentError(
                "An index of float32 features takes no shorter ones.",
                f"{folder} of float16",
                "Make another index of it, or extract again as float32.",
            )
        added = changed = unchanged = 0
        total = extraction.num_images  # also sees whether every shard is there
        with self.store.writer() as writer, self.store.snapshot() as snapshot:
            for batch in extraction.batches():
                rows = snapshot.rows([item.id for item in batch.items])
                same, held = self._held_already(snapshot, batch, rows)
                new = np.flatnonzero(~same)
                items = [batch.items[place] for place in new]
                self._store_rows(writer, items, batch.codes[new], batch.features[new])
                writer.update(
                    item
                    for item, old in zip(batch.items, held, strict=True)
                    if old is not None and item.label not in (None, old.label)
                )
                added += int((rows[new] < 0).sum())
                changed += int((rows[new] >= 0).sum())
                unchanged += int(same.sum())
                if progress:
                    progress(added + changed + unchanged, total)
        return UpdateReport(added=added, changed=changed, unchanged=unchanged)

    def _held_already(self, snapshot, batch, rows):
        """bool `(n,)`, whether each item is there as it is; and the items there, None if not."""
        same, held = np.zeros(len(batch), bool), [None] * len(batch)
        known, unsure = np.flatnonzero(rows >= 0), []
        for place, old in zip(known.tolist(), snapshot.items(rows[known]), strict=True):
            item = batch.items[place]
            if (item.size, item.mtime_ns) == (old.size, old.mtime_ns):
                same[place], held[place] = True, old
                if item.size is None or item.mtime_ns is None:
                    unsure.append(place)
        if unsure:
            # Nothing tells the file's versions apart but what the network made of them.
            wanted = batch.features[unsure].astype(self.store.feature_dtype, copy=False)
            codes_as_held = (snapshot.codes[rows[unsure]] == batch.codes[unsure]).all(axis=1)
            as_held = codes_as_held & (snapshot.features(rows[unsure]) == wanted).all(axis=1)
            for place in np.array(unsure)[~as_held].tolist():
                same[place], held[place] = False, None
        return same, held

    def _add_known(self, writer, items, known_features, progress):
        """Commit items whose features are known, with the codes that H gives for them."""
        problems, at_once = [], self._items_at_once
        for start in range(0, len(items), at_once):
            part = items[start : start + at_once]
            features = np.stack([known_features[_version(item)] for item in part])
            latents = self.encoder.from_features("latent", features)
            details = self._details([item.path for item in part])
            self._store_rows(writer, part, codes.from_latent(latents), features, details)
            problems += details.problems if details else []
            progress(len(part))
        return problems

    @property
    def _has_details(self):
        return self.store.extractor is not None or bool(self.store.regions_per_image)

    @property
    def _items_at_once(self):
        return COMMIT_ITEMS_DETAILED if self._has_details else COMMIT_ITEMS

    def _details(self, sources):
        """The `_Details` of some sources; None for an index that keeps none."""
        if not self._has_details:
            return None
        store, places, problems = self.store, [], []
        local = None if store.extractor is None else []
        regions = [] if store.regions_per_image else None

        def crops():
            for place, source in enumerate(sources):
                try:
                    image = source if isinstance(source, np.ndarray) else images.read(source)
                except ImageError as error:  # it was one a moment ago, when it was encoded
                    named = isinstance(source, str | os.PathLike)
                    name = os.fsdecode(source) if named else f"image {place}"
                    problems.append(images.Problem(name, str(error)))
                    continue
                places.append(place)
                if local is not None:
                    local.append(self._extractor().extract(image))
                if regions is not None:
                    regions.append(self._proposer().propose(image, store.regions_per_image))
                    for top, left, bottom, right in regions[-1]:
                        yield np.ascontiguousarray(image[top:bottom, left:right])

        encoded = self.encoder.encode(crops())
        return _Details(places, local, regions, encoded.codes, encoded.features, problems)

    def _store_rows(self, writer, items, codes, features, details=None):
        """Commit items, but for those whose details could not be had."""
        local = regions = None
        if details is not None:
            places, local, regions = details.places, details.local, details.regions
            items = [items[place] for place in places]
            codes, features = codes[places], features[places]
        if regions is not None:
            # Each image stands before the first of its regions.
            counts = [len(of_image) for of_image in regions]
            firsts = np.cumsum([0, *counts])[:-1]
            codes = np.insert(details.codes, firsts, codes, axis=0)
            features = np.insert(details.features, firsts, features, axis=0)
        features = features.astype(self.store.feature_dtype, copy=False)
        writer.add(items, codes, features, local, regions)
        return len(items)

    def _encode_into(self, writer, items, sources, workers, progress):
        """Encode `sources` and commit them piece by piece; returns (number done, problems)."""
        if self._has_details:
            # What is read twice must be there twice.
            sources = [
                bytes(source.read()) if hasattr(source, "read") else source for source in sources
            ]
        waiting, num_done, problems = [], 0, []
        last_commit = time.monotonic()

        def commit():
            nonlocal last_commit, num_done, problems
            places = [position for part in waiting for position in part.positions]
            if places:
                details = self._details([sources[place] for place in places])
                problems += details.problems if details else []
                num_done += self._store_rows(
                    writer,
                    [items[place] for place in places],
                    np.concatenate([part.codes for part in waiting]),
                    np.concatenate([part.features for part in waiting]),
                    details,
                )
            waiting.clear()
            last_commit = time.monotonic()

        for part in self.encoder.stream(sources, workers=workers):
            waiting.append(part)
            problems += part.problems
            full = sum(map(len, waiting)) >= self._items_at_once
            if full or time.monotonic() - last_commit > COMMIT_SECONDS:
                commit()
            if progress:
                progress(len(part) + len(part.problems))
        commit()
        return num_done, problems


def _version(item):
    """What tells a file apart from the same file before it was changed."""
    return item.path, item.size, item.mtime_ns


def _relabelled(snapshot, items: Sequence[Item]) -> list:
    """Those of `items` whose label in the snapshot is another."""
    rows = snapshot.rows([item.id for item in items]) if items else []
    held = snapshot.items(rows)
    return [item for item, old in zip(items, held, strict=True) if item.label != old.label]


def _vanished(stats: Mapping, paths: Sequence[str], items: Mapping) -> list:
    """Known ids below `paths` that are no files any more.

    A path that is gone itself vouches for nothing below it: a disk that is not mounted must
    not empty an index.
    """
    roots = [os.path.abspath(path) for path in paths if os.path.isdir(path)]
    prefixes = tuple(os.path.join(root, "") for root in roots)
    candidates = [id for id in stats if id not in items and id.startswith(prefixes)]
    return [id for id in candidates if not os.path.lexists(id)]
