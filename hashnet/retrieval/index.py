"""An index: a store of codes and features, joined to the encoder that made them."""

import functools
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence

from hashnet.encode.encoder import Encoder
from hashnet.local import extractors
from hashnet.network import bundle as bundles
from hashnet.retrieval import carried
from hashnet.retrieval.ingest import Ingest, UpdateReport
from hashnet.retrieval.store.folder.store import Store
from hashnet.retrieval.store.items import check_regions_per_image


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
            networks = carried.export_networks(
                bundle, scratch, local=local, regions_too=bool(regions)
            )
            extractor = None if local is None else extractors.open(local, scratch)
            store = stores.create(
                folder,
                num_bits=bundle.config.num_bits,
                feature_dim=bundle.config.feature_dim,
                feature_dtype=feature_dtype or stores.FEATURE_DTYPE,
                fingerprint=bundle.fingerprint,
                encoder_files=bundle.files() | networks,
                extractor=local,
                descriptor_dim=None if extractor is None else extractor.descriptor_dim,
                regions_per_image=regions,
            )
        # From now on it is the index's own: the bundle may go.
        encoder.bundle = carried.bundle_of(store)
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
        encoder = Encoder(carried.bundle_of(store), runtime=runtime, num_threads=num_threads)
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
        return Index(store, self.encoder if known else Encoder(carried.bundle_of(store)))

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
        """What gives images their local features: see `extractors.open`.

        Raises:
            StoreError: this index has none.
            FingerprintError: the extractor gives other features than the index holds.
        """
        return carried.extractor_of(self.store)

    @functools.cached_property
    def proposer(self):
        """What proposes the regions of an image that is added, a `Proposer`.

        Raises:
            BundleError: this index has none, or it is damaged.
        """
        return carried.proposer_of(self.store)

    @property
    def _ingest(self):
        return Ingest(
            self.store,
            self.encoder,
            extractor=lambda: self.extractor,
            proposer=lambda: self.proposer,
        )

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
        return self._ingest.add(ids, sources, labels, progress)

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
        return self._ingest.update(
            paths,
            label_from_folder=label_from_folder,
            prune=prune,
            workers=workers,
            known_features=known_features,
            progress=progress,
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
        return self._ingest.add_parquet(folder, progress)

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


def _stores(place):
    """The class of stores that a place belongs to."""
    if isinstance(place, str) and "://" in place:
        from hashnet.retrieval.store import clickhouse

        return clickhouse.Store
    return Store
