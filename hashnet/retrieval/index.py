"""An index: a store of codes and features, joined to the encoder that made them."""

import functools
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from hashnet import codes, images
from hashnet.encode.encoder import Encoder
from hashnet.errors import ArgumentError, FingerprintError, ImageError, StoreError
from hashnet.local import extractors
from hashnet.local import regions as proposals
from hashnet.network import bundle as bundles
from hashnet.retrieval.extraction import parquet
from hashnet.retrieval.store.folder.store import Store
from hashnet.retrieval.store.items import Item, check_regions_per_image

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


class Index:
    """A searchable folder of codes and features that carries its encoder.

    Made by `create` or `open`.

    Attributes:
        store: the `Store`, or a database in its place.
        encoder: the `Encoder` that the store carries.

    Example:
        >>> index = Index.create("photos.index", bundle_folder)
        >>> index.add(["a", "b"], ["cat.png", "dog.png"], labels=["cat", "dog"]).added
        2
        >>> index.num_items
        2
    """

    def __init__(self, store: Store, encoder: Encoder):
        self.store = store
        self.encoder = encoder

    @classmethod
    def create(
        cls,
        folder,
        bundle_folder,
        *,
        feature_dtype=None,
        local: str | None = None,
        regions: int = 0,
        runtime="auto",
        num_threads=None,
    ) -> "Index":
        """Make an empty index that carries a copy of a bundle.

        Args:
            folder: str or path-like, where nothing is yet; or the URL of a table, as for
                `Store`.
            bundle_folder: str or path-like, or an index whose encoder is taken. Images and
                queries are encoded in this bundle's precision (`precision.convert`).
            feature_dtype: "float16" or "float32", or None. How features are stored; None means
                float16 in a folder, where half the bytes change neither mAP nor the ten nearest
                on clothing10 (tests/bench/feature_dtype.py), and float32, the only choice, in
                ClickHouse.
            local: "sift", "delf" or None. Also keep local features of every image, for
                verification. "delf" is the one that the bundle has of `train.attention`, or else
                that of its backbone's ImageNet weights.
            regions: int, 0 to 64. Also keep code and feature of up to so many parts of each image
                that stand out (see `hashnet.local.regions`), so that a small object in it is found.
            runtime, num_threads: as for `Encoder`.

        Returns:
            The opened `Index`.

        Raises:
            StoreError: something is there already, or the disk refuses.
            BundleError: the bundle is missing or damaged.
            ArgumentError: the backbone has no regions.
        """
        check_regions_per_image(regions)  # making their network takes a while
        bundle = bundles.load(bundle_folder)
        # An encoder that does not open must not leave an index behind.
        encoder = Encoder(bundle, runtime=runtime, num_threads=num_threads)
        stores = _stores(folder)
        with tempfile.TemporaryDirectory(prefix="hashnet-") as scratch:
            extractor, extractor_files = None, {}
            if local is not None:
                extractor, extractor_files = _new_extractor(local, bundle, scratch)
            region_files = {}
            if regions:
                region_files[proposals.FILE] = os.path.join(scratch, proposals.FILE)
                proposals.export(region_files[proposals.FILE], backbone=bundle.config.backbone)
            store = stores.create(
                folder,
                num_bits=bundle.config.num_bits,
                feature_dim=bundle.config.feature_dim,
                feature_dtype=feature_dtype or stores.FEATURE_DTYPE,
                fingerprint=bundle.fingerprint,
                encoder_files=bundle.files() | extractor_files | region_files,
                extractor=local,
                descriptor_dim=None if extractor is None else extractor.descriptor_dim,
                regions_per_image=regions,
            )
        # From now on it is the index's own: the bundle may go.
        encoder.bundle = _carried_bundle(store)
        return cls(store, encoder)

    @classmethod
    def open(cls, folder, *, runtime="auto", num_threads=None) -> "Index":
        """Open an index.

        Args:
            folder: str or path-like, or the URL of a table.
            runtime, num_threads: as for `Encoder`.

        Returns:
            The opened `Index`.

        Raises:
            StoreError: there is none, it is damaged, or a newer version made it.
            FingerprintError: its codes were made by another encoder than it carries.
        """
        store = _stores(folder).open(folder)
        encoder = Encoder(_carried_bundle(store), runtime=runtime, num_threads=num_threads)
        return cls(store, encoder)

    def reopened(self) -> "Index":
        """What is in this index's place now; networks are opened again only if they are others.

        Raises:
            StoreError, FingerprintError: as for `open`.
        """
        store = self.store.reopened()
        # The time tells an index from another that was made in its place, to the second only.
        facts = ("created", "fingerprint", "extractor", "regions_per_image")
        if all(getattr(store, fact) == getattr(self.store, fact) for fact in facts):
            return self
        known = store.fingerprint == self.store.fingerprint
        return Index(store, self.encoder if known else Encoder(_carried_bundle(store)))

    @staticmethod
    def is_there(folder) -> bool:
        """Whether something is at a place already, so that no new index can be made there.

        Args:
            folder: str or path-like, or the URL of a table.

        Returns:
            bool.

        Raises:
            BackendError: the place is in a database that does not answer.
        """
        return _stores(folder).is_there(folder)

    @functools.cached_property
    def extractor(self):
        """What gives images their local features: see `features.open`.

        Raises:
            StoreError: this index has none.
            FingerprintError: the extractor gives other features than the index holds.
        """
        if self.store.extractor is None:
            raise StoreError(
                "Geometry compares local features.",
                f"an index without any: {self.store.folder}",
                "Make an index with `hashnet index --local sift`.",
            )
        extractor = extractors.open(self.store.extractor, self.store.encoder_folder)
        if extractor.descriptor_dim != self.store.descriptor_dim:
            raise FingerprintError(
                "An index is searched with the extractor that made its local features.",
                f"descriptors of {self.store.descriptor_dim}, an extractor of "
                f"{extractor.descriptor_dim} numbers",
                "Restore the index's encoder folder, or build the index again.",
            )
        return extractor

    @functools.cached_property
    def proposer(self):
        """What proposes the regions of an image that is added, a `Proposer`.

        Raises:
            BundleError: this index has none, or it is damaged.
        """
        return proposals.Proposer.open(os.path.join(self.store.encoder_folder, proposals.FILE))

    @property
    def num_items(self) -> int:
        """int, images that can be found."""
        with self.store.snapshot() as snapshot:
            return snapshot.num_items

    def add(
        self,
        ids: Sequence[str],
        sources: Sequence,
        *,
        labels: Sequence[str | None] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> UpdateReport:
        """Encode images and add them under names of yours; a known id is replaced.

        Args:
            ids: str, each once.
            sources: as many, as for `Encoder.encode`. A path is kept with its
                id, so that hits can show it.
            labels: as many, or None.
            progress: called with the number of images done since the last call.

        Returns:
            An `UpdateReport`; unreadable images are in its `problems`.

        Raises:
            ArgumentError: the three differ in length, or an id comes twice.
            LockedError: another process is writing.
        """
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
        paths: Iterable,
        *,
        label_from_folder: bool = False,
        prune: bool = False,
        workers: int | None = None,
        known_features: Mapping | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> UpdateReport:
        """Make the index follow files and folders; only new and changed files are encoded.

        A file's id is its absolute path. It counts as changed when its size or its time of
        last change differ. Work is committed every thousand images (a hundred with local
        features or regions) or ten seconds, so that a later run finishes what an interrupted one
        began.

        Args:
            paths: files and folders, searched as `images.find` does.
            label_from_folder: bool. Label each image with the first folder below its root.
            prune: bool. Also drop the images under `paths` whose files have vanished.
            workers: int or None. Decoding threads.
            known_features: dict of (absolute path, size, mtime_ns) to feature, float32
                `(feature_dim,)`, or None. Features that this index's network has given these
                very files before, and need not give again.
            progress: called with images done and images to do, in this run.

        Returns:
            An `UpdateReport`.

        Raises:
            LockedError: another process is writing.

        Example:
            >>> index = Index.create("photos.index", bundle_folder)
            >>> index.update(["cat.png", "dog.png"]).added
            2
            >>> index.update(["cat.png", "dog.png"]).unchanged
            2
        """
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
        self, folder, *, progress: Callable[[int, int], None] | None = None
    ) -> UpdateReport:
        """Add what `hashnet extract` has made; nothing is read or encoded again.

        An image that is there already, from a file of the same size and time, stays as it is,
        but takes the label that the extraction may give it. One shard is a commit: a later run
        finishes what an interrupted one began.

        Args:
            folder: str or path-like. A finished extraction.
            progress: called with rows done and rows in all.

        Returns:
            An `UpdateReport`; images that could not be read are in none of its counts.

        Raises:
            FingerprintError: another network made the codes.
            ArgumentError: the index keeps local features or regions; or its features are
                float32 because that was asked for, and the extraction's are float16.
            StoreError: the extraction is unfinished or damaged. What came before is kept.
            LockedError: another process is writing.

        Example:
            >>> from hashnet.retrieval.extraction.extract import extract
            >>> _ = extract(["cat.png", "dog.png"], "pets", bundle_folder)
            >>> Index.create("photos.index", "pets").add_parquet("pets").added
            2
        """
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

    def remove(self, ids: Iterable[str]) -> list:
        """Remove images.

        Args:
            ids: iterable of str.

        Returns:
            list of str: the ids that were there, in the order given.

        Raises:
            LockedError: another process or thread is writing.
            StoreError: the disk refuses; the index is as it was.

        Example:
            >>> Index.open(index_folder).remove(["cat", "cow"])
            ['cat']
        """
        with self.store.writer() as writer:
            return writer.remove(list(ids))

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
                    local.append(self.extractor.extract(image))
                if regions is not None:
                    regions.append(self.proposer.propose(image, store.regions_per_image))
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

    def info(self) -> dict:
        """What the index holds, as `hashnet info --json` prints it."""
        with self.store.snapshot() as snapshot:
            labels = snapshot.label_counts()
            num_items, num_rows = snapshot.num_items, snapshot.num_rows
            num_regions = snapshot.num_regions
        config = self.encoder.config
        return {
            "folder": str(self.store.folder),
            "images": num_items,
            "regions": num_regions,
            "rows": num_rows,
            "bits": config.num_bits,
            "feature_dim": config.feature_dim,
            "feature_dtype": self.store.feature_dtype,
            "local": self.store.extractor,
            "regions_per_image": self.store.regions_per_image,
            "backbone": config.backbone,
            "image_size": config.image_size,
            "classes": len(config.classes),
            "labels": labels,
            "bytes": self.store.num_bytes(),
            "created": self.store.created,
            "format_version": self.store.format_version,
            "precision": self.encoder.precision,
            "fingerprint": self.store.fingerprint,
            "origin": self.encoder.bundle.origin,
        }


def _new_extractor(name, bundle, scratch):
    """An extractor for a new index of `bundle`, and its files that the index is to carry."""
    files = {}
    if name == "delf":
        from hashnet.local import delf

        trained = bundle.folder / delf.FILE
        files[delf.FILE] = os.path.join(scratch, delf.FILE)
        if trained.is_file():
            shutil.copyfile(trained, files[delf.FILE])
        else:
            delf.export(files[delf.FILE], backbone=bundle.config.backbone)
    return extractors.open(name, scratch), files


def _stores(place):
    """The class of stores that a place belongs to."""
    if isinstance(place, str) and "://" in place:
        from hashnet.retrieval.store import clickhouse

        return clickhouse.Store
    return Store


def _version(item):
    """What tells a file apart from the same file before it was changed."""
    return item.path, item.size, item.mtime_ns


def _carried_bundle(store):
    if store.encoder_folder is None:
        raise StoreError("An index carries its encoder.", f"none in {store.folder}")
    bundle = bundles.load(store.encoder_folder)
    if bundle.fingerprint != store.fingerprint:
        raise FingerprintError(
            "An index is searched with the encoder that made its codes.",
            f"codes of {store.fingerprint[:12]}, an encoder of {bundle.fingerprint[:12]}",
            "Restore the index's encoder folder, or build the index again.",
        )
    return bundle


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
