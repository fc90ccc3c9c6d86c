"""Filling an index: from images to committed rows, piece by piece."""

import collections
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from hashnet import codes, images
from hashnet.checks import checked_ids
from hashnet.encode.encoder import Encoded, Encoder, Source
from hashnet.errors import ArgumentError, FingerprintError, ImageError, ShapeError
from hashnet.local.features import Extractor, LocalFeatures
from hashnet.retrieval import vocabulary
from hashnet.retrieval.changes import Changes, by_content, compare, moved_roots
from hashnet.retrieval.missing import Judge, is_below, missing
from hashnet.retrieval.store.items import Item
from hashnet.retrieval.store.roots import Roots
from hashnet.retrieval.store.texts import Line, Texts
from hashnet.retrieval.words import ways

if TYPE_CHECKING:
    from hashnet.local.regions import Proposer
    from hashnet.ocr.reader import Reader
    from hashnet.retrieval.extraction.parquet import Batch
    from hashnet.retrieval.vectors import Vectors

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
        moved: int. Images whose files were found under another name, which are not encoded again.
        removed: list of str. Ids that were dropped because their files are gone or left out now.
        problems: list of `images.Problem`. What could not be read, by path and reason.
        prunable: list of str. Ids that could have been dropped for this and were not: `prune` was
            not asked for, or they are more than a tenth of the index.
        away: dict of folder to number of images that stay because it is away: it cannot be
            reached or listed, or is empty, or its disk is not mounted.
        labels_kept: int. Images that kept the label of a folder above the one that was given now.
        left_out: dict of reason to number of files, as `images.Exclusion.left_out`.
        passed_over: dict of str to int. Files in the folders that are no pictures, by suffix.
        roots_moved: dict of folder to folder: where a whole folder of the index has moved.
    """

    added: int = 0
    changed: int = 0
    unchanged: int = 0
    moved: int = 0
    removed: list[str] = field(default_factory=list)
    problems: list[images.Problem] = field(default_factory=list)
    prunable: list[str] = field(default_factory=list)
    away: dict[str, int] = field(default_factory=dict)
    labels_kept: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    passed_over: dict[str, int] = field(default_factory=dict)
    roots_moved: dict[str, str] = field(default_factory=dict)


class KnownPhoto(NamedTuple):
    """What is known of a file already, which need not be read and encoded for it again.

    Attributes:
        feature: float32 `(feature_dim,)`.
        content: bytes, its `images.content_hash`.
        exif: `images.Exif`, or None where the index keeps none.
        description: str or None, `images.Photo.description`.
    """

    feature: np.ndarray
    content: bytes | None
    exif: images.Exif | None
    description: str | None = None


@dataclass(frozen=True)
class _Details:
    """What an index keeps of one image besides its own code and feature.

    Attributes:
        content: bytes, its hash; None of pixels.
        exif: `images.Exif`, or None where the index keeps none.
        description: str or None, `images.Photo.description` where the index keeps texts.
        lines: tuple of `Line`, or None where the index keeps none.
        local: `LocalFeatures`, or None where the index keeps none.
        regions: int `(r, 4)`, or None where the index keeps none.
        codes, features: of the regions, in their order; None where the index keeps none.
    """

    content: bytes | None
    exif: images.Exif | None
    description: str | None = None
    lines: tuple[Line, ...] | None = None
    local: LocalFeatures | None = None
    regions: np.ndarray | None = None
    codes: np.ndarray | None = None
    features: np.ndarray | None = None


class Ingest:
    """Fills one index.

    Args:
        store: the `Store` that takes the rows.
        encoder: the `Encoder` that the store carries.
        extractor: function that gives the `Extractor`, called where the store keeps local features.
        proposer: function that gives the `Proposer`, called where the store keeps regions.
        reader: function that gives the `Reader`, called where the store keeps what it reads.
    """

    def __init__(
        self,
        store: Any,
        encoder: Encoder,
        *,
        extractor: Callable[[], Extractor],
        proposer: "Callable[[], Proposer]",
        reader: "Callable[[], Reader]",
    ) -> None:
        self.store = store
        self.encoder = encoder
        self._extractor, self._proposer, self._reader = extractor, proposer, reader
        # Networks for local features take gigabytes for a large image, so one image at a time.
        self._details_lock = threading.Lock()

    def add(
        self,
        ids: Sequence[str],
        sources: Sequence[Source],
        labels: Sequence[str | None] | None,
        workers: int | None,
        progress: Callable[[int], None] | None,
    ) -> UpdateReport:
        """Add images under ids of the caller's; a known id is replaced. See `Index.add`.

        Args:
            ids: str, each once.
            sources: as many images, as for `images.Photo`.
            labels: str or None, as many; or None.
            workers: int or None. Decoding threads.
            progress: called with the number of images done since the last call.

        Returns:
            An `UpdateReport`.

        Raises:
            ArgumentError: the three differ in length, or an id comes twice.
        """
        ids, sources = checked_ids(ids), list(sources)
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
            rows = snapshot.rows(ids)
            known = {id for id, row in zip(ids, rows, strict=True) if row >= 0}
            done, problems = self._encode_into(writer, items, sources, workers, progress)
            self._settle_local_pool(writer)
            self._settle_texts()
        return UpdateReport(added=len(done - known), changed=len(done & known), problems=problems)

    def update(
        self,
        paths: Iterable[str | os.PathLike[str]],
        *,
        label_from_folder: bool,
        relabel: bool,
        prune: bool | Literal["all"],
        rehash: bool,
        exclude: str | Iterable[str],
        default_excludes: bool,
        workers: int | None,
        known_features: "Mapping[tuple[Any, ...], KnownPhoto] | None",
        progress: Callable[[int, int], None] | None,
        listing: Callable[[int, int], None] | None,
    ) -> UpdateReport:
        """As `Index.update` says."""
        if prune not in (False, True, "all"):
            raise ArgumentError('prune is False, True or "all".', repr(prune))
        given = [os.fsdecode(path) for path in paths]
        places = [os.path.abspath(path) for path in given]
        exclusion = images.Exclusion(exclude, defaults=default_excludes)
        found, problems, passed_over = images.find(given, exclusion=exclusion)
        # The later snapshot takes over what the earlier one, which is open still, has verified.
        with self.store.writer() as writer, self.store.snapshot() as before:
            roots_before = writer.roots
            self._settle_roots(writer, before, found, places)
            with self.store.snapshot() as snapshot:
                sidecars = images.Sidecars() if self.store.texts else None
                items, files = _items_of(snapshot, found, label_from_folder, sidecars)
                if sidecars is not None:
                    problems = [*problems, *sidecars.problems]
                    passed_over = _without(passed_over, sidecars.files, places)
                changes = compare(
                    snapshot,
                    items,
                    places,
                    relabel=relabel if label_from_folder else None,
                    rehash=rehash,
                )
                total = len(changes.todo) + len(changes.again)
                num_done = 0

                def step(number: int) -> None:
                    nonlocal num_done
                    num_done += number
                    if progress:
                        progress(num_done, total)

                judge = Judge()
                by_content(snapshot, changes, judge, workers or self.encoder.num_threads, step)
                self._settle_known(writer, changes)
                lost = missing(changes.lost.values(), given, files, exclusion, judge)
                id_of = {path: id for id, path in changes.lost.items()}
                prunable = sorted(id_of[path] for path in lost.prunable)
                removed = _pruned(writer, prunable, snapshot.num_items, prune)
                if removed:
                    gone = [changes.lost[id] for id in removed]
                    problems = [one for one in problems if not _is_pruned(one.path, gone)]
                known_features = known_features or {}
                known = [item for item in changes.todo if _version(item) in known_features]
                unreadable = self._add_known(writer, known, known_features, step)
                rest = [item for item in changes.todo if _version(item) not in known_features]
                unreadable += self._encode_files(writer, rest, workers, step)
                as_before: set[str] = set()
                store = partial(self._store_changed, snapshot, changes.before, as_before)
                unreadable += self._encode_files(writer, changes.again, workers, step, store)
                failed = {problem.path for problem in unreadable}
                done = {item.id for item in (*changes.todo, *changes.again)} - as_before
                done |= {item.id for item, _ in changes.taken_over}
                done -= {*changes.moved.values()}
                in_vain = {id for id in done if items[id].path in failed}
                # What was a good image once and is none now must not be found any more.
                writer.remove(in_vain & set(changes.before))
            self._settle_local_pool(writer, listing)
            self._settle_texts()
            roots_moved = _moved(roots_before, writer.roots)
        done -= in_vain
        as_it_was = changes.unchanged + len(changes.relabelled) + len(changes.touched)
        return UpdateReport(
            added=len(done - set(changes.before)),
            changed=len(done & set(changes.before)),
            unchanged=as_it_was + len(as_before),
            moved=len(changes.moved),
            removed=sorted(removed),
            problems=[*problems, *unreadable],
            prunable=[] if removed else prunable,
            away=lost.away,
            labels_kept=changes.labels_kept,
            left_out=exclusion.left_out,
            passed_over=passed_over,
            roots_moved=roots_moved,
        )

    def _settle_roots(
        self, writer: Any, snapshot: Any, found: Sequence[images.Found], places: Sequence[str]
    ) -> None:
        """Let roots follow folders that have moved, and add those of what was found elsewhere."""
        if writer.roots.all is None or not found:
            return
        folders = {os.path.dirname(os.path.abspath(one.path)) for one in found}
        tops = [place for place in places if os.path.isdir(place)]
        # A folder that was named is a root as a whole; of a file that was, its folder is.
        full = [top for top in tops if any(is_below(folder, top) for folder in folders)]
        lone = [folder for folder in folders if not any(is_below(folder, top) for top in tops)]
        _add_folders(writer, snapshot, moved_roots(snapshot, found, places), [*full, *lone])

    def _settle_local_pool(
        self, writer: Any, listing: Callable[[int, int], None] | None = None
    ) -> None:
        """Fit the codebook of the local pool, if one is due."""
        if self.store.extractor is not None:
            with self.store.snapshot() as snapshot:
                vocabulary.settle(
                    writer, snapshot, num_threads=self.encoder.num_threads, progress=listing
                )

    def _settle_texts(self) -> None:
        """Let texts be looked up that were committed by now: see `ways.settle`."""
        with self.store.snapshot() as snapshot:
            ways.settle(snapshot)

    def _settle_known(self, writer: Any, changes: Changes) -> None:
        """Commit what is another and needs no network."""
        if changes.taken_over:
            items, ids = zip(*changes.taken_over, strict=True)
            writer.copy(items, ids, changes.moved)
        writer.update([*changes.touched, *changes.relabelled])

    def add_parquet(
        self, folder: str | os.PathLike[str], progress: Callable[[int, int], None] | None
    ) -> UpdateReport:
        """As `Index.add_parquet` says."""
        from hashnet.retrieval.extraction import parquet

        extraction = parquet.Extraction.open(folder)
        if extraction.bundle.fingerprint != self.store.fingerprint:
            raise FingerprintError(
                "An index takes codes of its own encoder.",
                f"{folder} of {extraction.bundle.fingerprint[:12]} for "
                f"{self.store.fingerprint[:12]}",
                "Make another index of it, or extract again with this index as bundle.",
            )
        self._refuse_details(folder)
        asked_for_float32 = self.store.feature_dtype == "float32" != self.store.FEATURE_DTYPE
        if asked_for_float32 and extraction.feature_dtype == "float16":
            raise ArgumentError(
                "An index of float32 features takes no shorter ones.",
                f"{folder} of float16",
                "Make another index of it, or extract again as float32.",
            )
        total = extraction.num_images  # also sees whether every shard is there
        with self.store.writer() as writer, self.store.snapshot() as snapshot:

            def by_root(batch: "Batch") -> "Batch":
                batch.items[:] = self._by_root(writer, snapshot, batch.items)
                return batch

            batches = map(by_root, extraction.batches())
            return self._add_encoded(writer, snapshot, batches, total, progress)

    def add_vectors(
        self, vectors: "Vectors", progress: Callable[[int, int], None] | None
    ) -> UpdateReport:
        """As `Index.add_vectors` says."""
        from hashnet.retrieval.extraction.parquet import Batch

        if vectors.feature_dim != self.store.feature_dim:
            raise ShapeError(
                f"The features of this index have {self.store.feature_dim} numbers.",
                f"vectors of {vectors.feature_dim} in {vectors.name}",
                "An index holds vectors of one network.",
            )
        self._refuse_details(vectors.name)
        batches = (
            Batch(items, *self.encoder.encode_vectors(block)) for items, block in vectors.blocks()
        )
        with self.store.writer() as writer, self.store.snapshot() as snapshot:
            return self._add_encoded(writer, snapshot, batches, len(vectors), progress)

    def _refuse_details(self, name: object) -> None:
        if self._has_details:
            raise ArgumentError(
                "An index with local features, regions or what it reads needs them of every image.",
                f"{name}, which has none",
                "Make another index of it, or index the images themselves.",
            )

    def _add_encoded(
        self,
        writer: Any,
        snapshot: Any,
        batches: Iterable["Batch"],
        total: int,
        progress: Callable[[int, int], None] | None,
    ) -> UpdateReport:
        """Commit what was encoded elsewhere, batch by batch; what is there already stays."""
        added = changed = unchanged = 0
        for batch in batches:
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
        self._settle_texts()
        return UpdateReport(added=added, changed=changed, unchanged=unchanged)

    def _by_root(self, writer: Any, snapshot: Any, items: Sequence[Item]) -> list[Item]:
        """Items of files under the ids that an update gives them; all others as they are."""
        places = {
            item.id: os.path.dirname(item.id)
            for item in items
            if item.id == item.path and os.path.isabs(item.id)
        }
        if writer.roots.all is None or not places:
            return list(items)
        shared = {os.path.commonpath(places.values())} if len({*places.values()}) > 1 else {}
        folders = shared or set(places.values())
        _add_folders(writer, snapshot, writer.roots, folders)
        return [
            item._replace(id=writer.roots.id_of(item.id) or item.id) if item.id in places else item
            for item in items
        ]

    def _held_already(
        self, snapshot: Any, batch: "Batch", rows: np.ndarray
    ) -> tuple[np.ndarray, list[Item | None]]:
        """bool `(n,)`, whether each item is there as it is; and the items there, None if not."""
        same = np.zeros(len(batch), bool)
        held: list[Item | None] = [None] * len(batch)
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

    def _add_known(
        self,
        writer: Any,
        items: Sequence[Item],
        known_features: Mapping[tuple[Any, ...], "KnownPhoto"],
        progress: Callable[[int], None],
    ) -> list[images.Problem]:
        """Commit items whose features are known, with the codes that H gives for them."""
        problems: list[images.Problem] = []
        at_once = self._items_at_once
        for start in range(0, len(items), at_once):
            readable, details = [], []
            part = items[start : start + at_once]
            for item in part:
                try:
                    of_image = None
                    if self._has_details:
                        of_image = self._details(images.Photo(item.path or ""))
                        details.append(of_image)
                    known = known_features[_version(item)]
                    described = known.description if self.store.texts else None
                    lines = None if of_image is None else of_image.lines
                    known_item = _with_texts(item, described, lines)
                    readable.append(known_item._replace(content=known.content, exif=known.exif))
                except ImageError as error:
                    problems.append(images.Problem(item.path or item.id, str(error)))
            if readable:
                features = np.stack([known_features[_version(item)].feature for item in readable])
                latents = self.encoder.from_features("latent", features)
                self._store_rows(writer, readable, codes.from_latent(latents), features, details)
            progress(len(part))
        return problems

    def _encode_into(
        self,
        writer: Any,
        items: Sequence[Item],
        sources: Sequence[Source],
        workers: int | None,
        progress: Callable[[int], None] | None,
        store_rows: Callable[..., None] | None = None,
    ) -> tuple[set[str], list[images.Problem]]:
        """Encode `sources` and commit them piece by piece; returns (ids that are in, problems).

        `store_rows` commits a piece, if it is not `_store_rows`.
        """
        waiting: list[Encoded] = []
        done: set[str] = set()
        problems: list[images.Problem] = []
        last_commit = time.monotonic()

        def commit() -> None:
            nonlocal last_commit
            part = [items[position] for encoded in waiting for position in encoded.positions]
            if part:
                details = [details for encoded in waiting for details in encoded.extras]
                (store_rows or self._store_rows)(
                    writer,
                    self._with_details(part, details),
                    np.concatenate([encoded.codes for encoded in waiting]),
                    np.concatenate([encoded.features for encoded in waiting]),
                    details,
                )
                done.update(item.id for item in part)
            waiting.clear()
            last_commit = time.monotonic()

        for encoded in self.encoder.stream(sources, workers=workers, also=self._details):
            waiting.append(encoded)
            problems += encoded.problems
            full = sum(map(len, waiting)) >= self._items_at_once
            if full or time.monotonic() - last_commit > COMMIT_SECONDS:
                commit()
            if progress:
                progress(len(encoded) + len(encoded.problems))
        commit()
        return done, problems

    def _encode_files(
        self,
        writer: Any,
        items: Sequence[Item],
        workers: int | None,
        step: Callable[[int], None],
        store_rows: Callable[..., None] | None = None,
    ) -> list[images.Problem]:
        """Encode the files of items; returns those that cannot be read."""
        sources = [item.path or "" for item in items]
        return self._encode_into(writer, items, sources, workers, step, store_rows)[1]

    @property
    def _has_details(self) -> bool:
        store = self.store
        return store.extractor is not None or bool(store.regions_per_image) or bool(store.ocr)

    @property
    def _items_at_once(self) -> int:
        return COMMIT_ITEMS_DETAILED if self._has_details else COMMIT_ITEMS

    def _details(self, photo: images.Photo) -> _Details:
        plain = _Details(
            photo.content_hash,
            photo.exif if self.store.exif else None,
            photo.description if self.store.texts else None,
        )
        if not self._has_details:
            return plain
        image, store = photo.full(), self.store
        local = boxes = None
        if store.ocr is not None:
            lines = self._reader().read(image)
            plain = replace(plain, lines=tuple(Line(*line) for line in lines))
        if not (store.extractor or store.regions_per_image):
            return plain
        with self._details_lock:
            if store.extractor is not None:
                local = self._extractor().extract(image)
            if store.regions_per_image:
                boxes = self._proposer().propose(image, store.regions_per_image)
        if boxes is None:
            return replace(plain, local=local)
        encoded = self.encoder.encode_here(
            [image[top:bottom, left:right] for top, left, bottom, right in boxes]
        )
        return replace(
            plain, local=local, regions=boxes, codes=encoded.codes, features=encoded.features
        )

    @staticmethod
    def _with_details(items: Sequence[Item], details: Sequence[_Details]) -> list[Item]:
        return [
            _with_texts(item, of_image.description, of_image.lines)._replace(
                content=of_image.content, exif=of_image.exif
            )
            for item, of_image in zip(items, details, strict=True)
        ]

    def _store_rows(
        self,
        writer: Any,
        items: Sequence[Item],
        codes: np.ndarray,
        features: np.ndarray,
        details: Sequence[_Details] = (),
    ) -> None:
        """Commit items with their rows; `details` of each, where the index keeps any."""
        local = regions = None
        if self.store.extractor is not None:
            local = [of_image.local for of_image in details]
        if self.store.regions_per_image:
            regions = [of_image.regions for of_image in details]
            # Each image stands before the first of its regions.
            codes = _interleaved(codes, [of_image.codes for of_image in details])
            features = _interleaved(features, [of_image.features for of_image in details])
        features = features.astype(self.store.feature_dtype, copy=False)
        writer.add(items, codes, features, local, regions)

    def _store_changed(
        self,
        snapshot: Any,
        held: Mapping[str, Item],
        as_before: set[str],
        writer: Any,
        items: Sequence[Item],
        codes: np.ndarray,
        features: np.ndarray,
        details: Sequence[_Details],
    ) -> None:
        """Commit those items of which the network makes something else than before.

        The ids of the others are put into `as_before`.
        """
        rows = snapshot.rows([item.id for item in items])
        same = rows >= 0
        known = np.flatnonzero(same)
        as_stored = features[known].astype(self.store.feature_dtype, copy=False)
        same[known] = (snapshot.codes[rows[known]] == codes[known]).all(axis=1)
        same[known] &= (snapshot.features(rows[known]) == as_stored).all(axis=1)
        kept = [item for item, is_same in zip(items, same, strict=True) if is_same]
        is_old = snapshot.roots.all is None
        writer.update(item for item in kept if _is_more(item, held[item.id], is_old=is_old))
        as_before.update(item.id for item in kept)
        new = np.flatnonzero(~same)
        if len(new):
            others = [items[place] for place in new.tolist()]
            of_others = [details[place] for place in new.tolist()] if details else ()
            self._store_rows(writer, others, codes[new], features[new], of_others)


def _is_more(item: Item, held: Item, *, is_old: bool) -> bool:
    """Whether something is known of an image that the index does not hold, and can."""
    if is_old:
        held = held._replace(
            ctime_ns=item.ctime_ns, inode=item.inode, content=item.content, exif=item.exif
        )
    return item != held


def _with_texts(item: Item, description: str | None, lines: tuple[Line, ...] | None) -> Item:
    """An item with what its file says, and what its pixels do; what they said before goes."""
    texts = (item.texts or Texts())._replace(inside=description, lines=lines)
    return item._replace(texts=None if texts == Texts() else texts)


def _interleaved(of_images: np.ndarray, of_regions: Sequence[np.ndarray | None]) -> np.ndarray:
    """The row of each image, followed by those of its regions."""
    parts = [
        part
        for image, regions in zip(of_images, of_regions, strict=True)
        for part in (image[None], regions)
        if part is not None
    ]
    return np.concatenate([of_images[:0], *parts])


def _version(item: Item) -> tuple[Any, ...]:
    """What tells a file apart from the same file before it was changed."""
    return item.path, item.size, item.mtime_ns


def _add_folders(writer: Any, snapshot: Any, roots: Roots, folders: Iterable[str]) -> None:
    """Give the index these roots, and as many more as the files of some folders need."""
    writer.set_roots(roots.with_folders(folders, lambda start: snapshot.id_ends(start) is not None))


def _items_of(
    snapshot: Any,
    found: Sequence[images.Found],
    label_from_folder: bool,
    sidecars: images.Sidecars | None,
) -> tuple[dict[str, Item], dict[tuple[int, int], str]]:
    """What was found, by id, each file once; and the path of each by device and inode."""
    roots = snapshot.roots
    items: dict[str, Item] = {}
    files: dict[tuple[int, int], str] = {}
    for one in images.distinct(found, _Paths(snapshot)):
        path = os.path.abspath(one.path)
        beside = None if sidecars is None else sidecars.of(path)
        item = Item(
            roots.id_of(path),
            path,
            one.folder if label_from_folder else None,
            one.size,
            one.mtime_ns,
            one.ctime_ns,
            None if one.file is None else one.file[1],
            texts=None if beside is None else Texts(beside=beside),
        )
        items.setdefault(item.id, item)
        if one.file is not None:
            files[one.file] = path
    return items, files


class _Paths:
    """The paths of the files of an index, as a container."""

    def __init__(self, snapshot: Any) -> None:
        self._snapshot = snapshot

    def __contains__(self, path: object) -> bool:
        id = self._snapshot.roots.id_of(path)
        return id is not None and bool(self._snapshot.rows([id])[0] >= 0)


def _moved(before: Roots, after: Roots) -> dict[str, str]:
    """Where roots have moved: their old paths and the new ones."""
    places = dict(after.all or ())
    return {
        root.path: places[root.name] for root in before.all or () if places[root.name] != root.path
    }


def _pruned(
    writer: Any, prunable: Sequence[str], num_items: int, prune: bool | Literal["all"]
) -> list[str]:
    """Drop images from the index, if it is asked for; returns the ids of those dropped.

    Many at once are more likely a disk that is away in a way nobody has thought of.
    """
    if not prune or (prune != "all" and len(prunable) > max(1, num_items / 10)):
        return []
    removed: list[str] = writer.remove(prunable)
    return removed


def _without(
    passed_over: dict[str, int], files: Iterable[str], places: Iterable[str]
) -> dict[str, int]:
    """What was passed over, but for captions beside photos that lie in folders of those places."""
    inside = [os.path.join(place, "") for place in places]
    beside = collections.Counter(
        os.path.splitext(file)[1].lower()
        for file in files
        if os.path.abspath(file).startswith(tuple(inside))
    )
    return dict(collections.Counter(passed_over) - beside)


def _is_pruned(path: str, removed: Sequence[str]) -> bool:
    """Whether a path that was given is gone, and so is now what the index held of it."""
    place = os.path.abspath(path) if "\0" not in path else path
    return not os.path.lexists(path) and any(is_below(id, place) for id in removed)
