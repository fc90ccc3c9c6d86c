"""An index: a store of codes and features, joined to the encoder that made them."""

import dataclasses
import functools
import os
import threading
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, Self, overload

import numpy as np

from hashnet import files, images
from hashnet.checks import checked_ids
from hashnet.encode.encoder import Encoder
from hashnet.errors import ArgumentError, HashnetError, StoreError, UnknownIdError
from hashnet.images.sources import content_of, name_of, refusals
from hashnet.local import extractors
from hashnet.local.features import Extractor
from hashnet.network import bundle as bundles
from hashnet.ocr import reader
from hashnet.retrieval import captions as captions_module
from hashnet.retrieval import carried
from hashnet.retrieval.captions import CaptionReport
from hashnet.retrieval.ingest import Ingest, KnownPhoto, UpdateReport
from hashnet.retrieval.search import notebook
from hashnet.retrieval.search.duplicates import DuplicateGroup
from hashnet.retrieval.search.engine import Engine
from hashnet.retrieval.search.hits import Hit, SearchResult
from hashnet.retrieval.search.query import Query
from hashnet.retrieval.search.sharded import ShardedEngine
from hashnet.retrieval.store.items import Item, check_regions_per_image, no_texts
from hashnet.retrieval.store.kinds import kind_of
from hashnet.retrieval.store.protocol import Store
from hashnet.retrieval.store.roots import ids_named, starts_named
from hashnet.retrieval.words import ways
from hashnet.retrieval.words.beside import WordEngine
from hashnet.retrieval.words.box import WordBox
from hashnet.retrieval.words.results import TextResult

if TYPE_CHECKING:
    from hashnet.local.regions import Proposer
    from hashnet.ocr.reader import Reader
    from hashnet.retrieval.drift import Drift
    from hashnet.retrieval.vectors import Vectors

StrPath = str | os.PathLike[str]
Searchable = images.Source | Item | Hit  # what an index is searched by; a str may be an id too

_ITEMS_AT_ONCE = 4096  # held in memory while all are walked through


class Index:
    """Photos that can be searched by example, with the network that encodes them.

    It is a folder, or a table of a database, made by `of_photos` or `create` and opened by `open`.
    To Python it is a mapping of ids to `Item`s: `len(index)`, `id in index`, `index[id]`,
    `for id in index`. It always shows what is committed, by whatever process. It is safe to use
    from several threads, can be pickled (by its place: whoever unpickles opens it there), and
    closes its files at the end of a `with` block.

    Attributes:
        store: the `Store`, or a database in its place.
        encoder: the `Encoder` that the store carries.
        report: `UpdateReport` of what was last added through this object, or None.

    Example:
        >>> index = Index.create("photos.index", bundle_folder)
        >>> index.add(["cat.png", "dog.png"], ids=["a", "b"], labels=["cat", "dog"]).added
        2
        >>> len(index), index["b"].label, index.search("cat.png", k=1)[0].id
        (2, 'dog', 'a')
    """

    def __init__(self, store: Store, encoder: Encoder) -> None:
        self.store = store
        self.encoder = encoder
        self.report: UpdateReport | None = None
        self._encoder_options: dict[str, Any] = {}
        self._lock = threading.RLock()
        self._current: tuple[tuple[Any, ...], WordEngine] | None = None
        self._is_closed = False

    @classmethod
    def create(
        cls,
        folder: StrPath,
        bundle_folder: StrPath,
        *,
        feature_dtype: str | None = None,
        local: str | None = None,
        regions: int = 0,
        exif: bool = False,
        ocr: bool = False,
        runtime: str = "auto",
        num_threads: int | None = None,
    ) -> Self:
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
            local: str, one or several of `extractors.NAMES` with commas between, or None. Also keep
                local features of every image, for verification; of several extractors, a hit is
                what those of any show. "delf" is the one that the bundle has of
                `train.attention`, or else that of its backbone's ImageNet weights; "aliked",
                "disk" and "xfeat" take their weights from packages (`local.packaged`).
            regions: int, 0 to 64. Also keep code and feature of up to so many parts of each image
                that stand out (see `hashnet.local.regions`), so that a small object in it is found.
            exif: bool. Also keep when, where and by which camera each photo was taken.
            ocr: bool. Also read the text in each image, by which `search_text` then finds it: see
                `hashnet.ocr.reader`.
            runtime, num_threads: as for `Encoder`.

        Returns:
            The opened `Index`.

        Raises:
            StoreError: something is there already, or the disk refuses.
            BundleError: the bundle is missing or damaged.
            ArgumentError: the backbone has no regions.
            UnknownNameError: there is no such extractor.
            WeightsError: the extractor's weights, or those that read text, are not installed.
        """
        check_regions_per_image(regions)  # making their network takes a while
        local = ",".join(extractors.names_of(local)) or None
        if ocr:
            reader.require()
        bundle = bundles.load(bundle_folder)
        # An encoder that does not open must not leave an index behind.
        encoder = Encoder(bundle, runtime=runtime, num_threads=num_threads)
        stores = kind_of(folder)
        with files.scratch_folder() as scratch:
            networks = carried.export_networks(
                bundle, scratch, local=local, regions_too=bool(regions)
            )
            extractor = None
            if local is not None:
                extractor = extractors.open(local, scratch, encoder=bundle.encoder_file)
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
                exif=exif,
                ocr=reader.NAME if ocr else None,
            )
        # From now on it is the index's own: the bundle may go.
        folder = store.encoder_folder or bundle.folder
        encoder.bundle = dataclasses.replace(bundle, folder=folder)
        index = cls(store, encoder)
        index._encoder_options = {"runtime": runtime, "num_threads": num_threads}
        return index

    @classmethod
    def open(
        cls, folder: StrPath, *, runtime: str = "auto", num_threads: int | None = None
    ) -> Self:
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
        store = kind_of(folder).open(folder)
        encoder = Encoder(carried.bundle_of(store), runtime=runtime, num_threads=num_threads)
        index = cls(store, encoder)
        index._encoder_options = {"runtime": runtime, "num_threads": num_threads}
        return index

    def reopened(self) -> Self:
        """What is in this index's place now; networks are opened again only if they are others.

        Raises:
            StoreError, FingerprintError: as for `open`.
        """
        store = self.store.reopened()
        # A table's roots are those that were last read.
        facts = ("made", "extractor", "regions_per_image", "roots")
        if all(getattr(store, fact, None) == getattr(self.store, fact, None) for fact in facts):
            return self
        known = store.fingerprint == self.store.fingerprint
        options = self._encoder_options
        index = type(self)(
            store, self.encoder if known else Encoder(carried.bundle_of(store), **options)
        )
        index._encoder_options = options
        return index

    @staticmethod
    def is_there(folder: StrPath) -> bool:
        """Whether something is at a place already, so that no new index can be made there.

        Args:
            folder: str or path-like, or the URL of a table.

        Returns:
            bool.

        Raises:
            BackendError: the place is in a database that does not answer.
        """
        return kind_of(folder).is_there(folder)

    @functools.cached_property
    def extractor(self) -> Extractor:
        """What gives images their local features: see `extractors.open`.

        Raises:
            StoreError: this index has none.
            FingerprintError: the extractor gives other features than the index holds.
        """
        return carried.extractor_of(self.store)

    @functools.cached_property
    def proposer(self) -> "Proposer":
        """What proposes the regions of an image that is added, a `Proposer`.

        Raises:
            BundleError: this index has none, or it is damaged.
        """
        return carried.proposer_of(self.store)

    @functools.cached_property
    def reader(self) -> "Reader":
        """What reads the text in an image that is added, a `Reader`.

        Raises:
            StoreError: this index has none, or one that this version does not know.
            WeightsError: its networks are not installed.
        """
        if self.store.ocr != reader.NAME:
            raise StoreError(
                f"What reads text in images is {reader.NAME}.",
                f"an index with {self.store.ocr or 'none'}: {self.store.folder}",
                "Make an index with `hashnet index --ocr`.",
            )
        return reader.Reader.open()

    @property
    def _ingest(self) -> Ingest:
        self._follow()
        return Ingest(
            self.store,
            self.encoder,
            extractor=lambda: self.extractor,
            proposer=lambda: self.proposer,
            reader=lambda: self.reader,
        )

    # --- What is committed now ---

    @property
    def engine(self) -> WordEngine:
        """The `WordEngine` of what is committed now; it is kept until that changes.

        Raises:
            StoreError: the index was closed, is gone, or is damaged.
        """
        with self._lock:
            if self._is_closed:
                raise StoreError(
                    "An index is used while it is open.",
                    f"{self.store.folder}, which was closed",
                    "Open it again, or search inside the `with` block.",
                )
            # Asked before the engine is made: what is committed meanwhile is looked at once more.
            version = self.store.version()
            if self._current is None or self._current[0] != version:
                self._follow()
                older = None if self._current is None else self._current[1]
                engine = WordEngine(self, num_threads=self._num_threads, after=older)
                self._current = version, engine
            return self._current[1]

    @property
    def _num_threads(self) -> int | None:
        number: int | None = self._encoder_options.get("num_threads")
        return number

    def _follow(self) -> None:
        """Become the index that is in this one's place now, if another was made there."""
        with self._lock:
            index = self.reopened()
            if index is not self:
                self.store, self.encoder = index.store, index.encoder
                for cached in ("extractor", "proposer", "reader"):
                    self.__dict__.pop(cached, None)

    def close(self) -> None:
        """Let go of the files; a `with` block does it at its end. Searching is then refused."""
        with self._lock:
            if self._current is not None:
                self._current[1].snapshot.close()
            self._current, self._is_closed = None, True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _opened, (type(self), str(self.store.folder), self._encoder_options)

    def __repr__(self) -> str:
        try:
            what = f"{len(self)} images, {self.store.num_bits} bits"
        except HashnetError as error:
            what = str(error)
        return f"<{type(self).__name__} {self.store.folder}: {what}>"

    def _repr_html_(self) -> str:
        """What a notebook shows: how many images there are, and the first of them."""
        engine = self.engine
        items = engine.snapshot.items(engine.finder.rows(limit=notebook.MOST))
        return notebook.of_index(repr(self), items, engine.snapshot.num_items)

    # --- A mapping of ids to items ---

    def __len__(self) -> int:
        return self.engine.snapshot.num_items

    def __contains__(self, id: object) -> bool:
        return isinstance(id, str) and bool(self.engine.snapshot.rows([id])[0] >= 0)

    def __getitem__(self, id: str) -> Item:
        """What the index keeps of an image: an `Item` with path, label, size and time.

        Raises:
            UnknownIdError: the index holds no image of this id; it is a KeyError too.
        """
        snapshot = self.engine.snapshot
        return snapshot.items(_rows(snapshot, [id]))[0]

    def __iter__(self) -> Iterator[str]:
        return self.keys()

    def keys(self) -> Iterator[str]:
        """The ids, in the order in which the images were added."""
        return (item.id for item in self.values())

    def values(self) -> Iterator[Item]:
        """An `Item` for each image, in the order in which they were added."""
        engine = self.engine
        rows = engine.finder.rows()
        for start in range(0, len(rows), _ITEMS_AT_ONCE):
            yield from engine.snapshot.items(rows[start : start + _ITEMS_AT_ONCE])

    def items(self) -> Iterator[tuple[str, Item]]:
        """Each id with its `Item`, in the order in which the images were added."""
        return ((item.id, item) for item in self.values())

    @property
    def labels(self) -> dict[str, int]:
        """dict of each label to the number of images that have it."""
        return self.engine.snapshot.label_counts()

    def codes(self, ids: Iterable[str] | None = None) -> np.ndarray:
        """The codes of some images, or of all.

        Args:
            ids: iterable of str, or None for all, in the order of `list(index)`.

        Returns:
            uint8 `(n, code_bytes)`; `hashnet.codes` unpacks and compares them.

        Raises:
            UnknownIdError: the index holds no image of one of these ids.

        Example:
            >>> Index.open(index_folder).codes(["dog", "cat"]).shape
            (2, 4)
        """
        engine = self.engine
        rows = engine.finder.rows() if ids is None else _rows(engine.snapshot, ids)
        return np.array(engine.snapshot.codes[rows])

    def features(self, ids: Iterable[str] | None = None) -> np.ndarray:
        """The features of some images, or of all.

        Args:
            ids: iterable of str, or None for all, in the order of `list(index)`.

        Returns:
            float32 `(n, feature_dim)`, each of length 1, compared with their checksums. Of all
            images of a large index: think of the memory.

        Raises:
            UnknownIdError: the index holds no image of one of these ids.
            StoreError: they are damaged.

        Example:
            >>> features = Index.open(index_folder).features(["dog", "cat"])
            >>> len(features), round(float(features[0] @ features[0]), 2)
            (2, 1.0)
        """
        engine = self.engine
        rows = engine.finder.rows() if ids is None else _rows(engine.snapshot, ids)
        return engine.snapshot.features(rows).astype(np.float32)

    # --- Searching ---

    @overload
    def search(
        self, image: Searchable, query: Query | None = None, /, **fields: Any
    ) -> SearchResult: ...
    @overload
    def search(
        self,
        image: list[Searchable] | tuple[Searchable, ...] | Iterator[Searchable],
        query: Query | None = None,
        /,
        **fields: Any,
    ) -> list[SearchResult]: ...
    def search(
        self, image: Any, query: Query | None = None, /, **fields: Any
    ) -> SearchResult | list[SearchResult]:
        """Find the images most like one, or those most like each of several.

        Args:
            image: the path of a file (str or path-like), its content (bytes), a binary file, a PIL
                image, or an array: grey `(height, width)`, RGB `(..., 3)` or RGBA `(..., 4)`,
                uint8 or float within 0..1. Or an image of the index, which is then left out of the
                hits: its id, its `Item` or a `Hit`. Or several of these: a list, a tuple, an
                iterator or an array `(n, height, width, 3)`.
                Or a vector, float `(feature_dim,)`, that the index's network has given elsewhere.
                A str is a path where there is such a file, else an id, or the path of a file that
                the index knows; `index[id]` is always the image of the index.
            query: a `Query`, or None. What is wanted, where no fields are given.
            **fields: of a `Query`, such as `k=5`, `labels="cat"` or `verify=True`.

        Returns:
            A `SearchResult`, or a list of them for several queries.

        Raises:
            ImageError: a query is no image that can be read, or nothing of the above.
            UnknownIdError: a str is neither a file nor an id of the index.
            ArgumentError: a field is none of the `Query`'s or out of its range, or there are both a
                `Query` and fields.
            StoreError: the index is gone or damaged.

        Example:
            >>> index = Index.open(index_folder)
            >>> index.search("cat.png", k=1)[0].id, index.search("cat", k=1)[0].id
            ('cat', 'dog')
            >>> [result[0].label for result in index.search(["cat.png", "dog.png"], labels="dog")]
            ['dog', 'dog']
        """
        asked = _asked(query, fields)
        if not _is_several(image):
            return self._search_one(image, asked)
        results = []
        for place, one in enumerate(image):
            try:
                results.append(self._search_one(one, asked))
            except HashnetError as error:
                error.add_note(f"in query {place} of several, counted from 0")
                raise
        return results

    def search_text(self, text: str, query: Query | None = None, /, **fields: Any) -> TextResult:
        """Find the images that a text means: by labels, and all other ways that the index has.

        What the ways find is put into one order by reciprocal ranks: see `words.fusion`.

        Args:
            text: str, 1 to 1,000 letters, taken literally.
            query: a `Query`, or None. How many hits are wanted, and among which images.
            **fields: of a `Query`: `k`, `labels`, `ids`, `after`, `before`, `under`.

        Returns:
            A `TextResult`: its hits say which ways have found them, and it says which ways the
            index lacks, and why.

        Raises:
            ArgumentError: the text is empty or too long; or a field is none of these, or out of
                its range.
            HashnetError: the index has no way at all.

        Example:
            >>> result = Index.open(index_folder).search_text("Dog")
            >>> [(hit.id, hit.ways[0]) for hit in result]
            [('dog', 'label')]
        """
        return self.words.search(text, _asked(query, fields))

    @property
    def words(self) -> WordBox:
        """The `WordBox` of what is committed now: the ways in which it is searched in words."""
        return self.engine.words

    def _search_one(self, query: Any, asked: Query) -> SearchResult:
        engine = self.engine
        if isinstance(query, Item | Hit):
            return replace(engine.search_id(query.id, asked), source=query.path)
        if isinstance(query, str) and not os.path.lexists(query):
            [id] = engine.ids_of([query])
            try:
                return replace(engine.search_id(id, asked), source=engine.path(id))
            except UnknownIdError as error:
                if id in self:  # another id of the query is unknown
                    raise
                raise UnknownIdError(
                    "A query that is a str names a file or an image of the index.",
                    f"{query!r}, which is neither a file here nor an id there",
                    "Give the path of an image, or an id as `list(index)` and hits show them.",
                ) from error
        if isinstance(query, np.ndarray) and query.ndim == 1:
            return engine.search_vector(query, asked)
        if hasattr(query, "read"):
            with refusals(name_of(query)):  # read once, and shown with what was found
                query = content_of(query)
        return replace(engine.search(query, asked), source=query)

    def duplicates(
        self,
        threshold: int | None = None,
        *,
        turned: bool = False,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> Iterator[DuplicateGroup]:
        """Groups of images that are copies of each other, with a suggestion which to keep.

        Found are copies that were recompressed, scaled, bordered, captioned, cut or turned a
        little, or have other colours. The pixels of the files decide, which are read again; where
        a file is away, only copies whose features are nearly equal are found.

        Args:
            threshold: int, 1 or more, or None. Pairs whose codes differ in strictly fewer bits are
                looked at, besides those that their pixels tell; one bit in sixteen if None.
            turned: bool. Also find copies that lie on a side, on their head, or are mirrored.
            progress: called with the stage, images done and images to do; or None.

        Returns:
            Iterator of `DuplicateGroup`, in the order in which their first image was added.

        Raises:
            ArgumentError: the threshold is no such integer.

        Example:
            >>> index = Index.create("photos.index", bundle_folder)
            >>> index.add(["cat.png", "cat.png", "dog.png"], ids=["a", "b", "c"]).added
            3
            >>> [(group.keep.id, group.copies[0].id) for group in index.duplicates()]
            [('a', 'b')]
        """
        return self.engine.duplicates(
            self.duplicates_threshold if threshold is None else threshold,
            turned=turned,
            progress=progress,
        )

    @property
    def duplicates_threshold(self) -> int:
        """The threshold of `duplicates` where none is given: one bit in sixteen."""
        return max(1, self.store.num_bits // 16)

    # --- Filling ---

    def add(
        self,
        images: Any,
        *,
        ids: str | Sequence[str] | None = None,
        labels: str | Sequence[str | None] | None = None,
        workers: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> UpdateReport:
        """Add images: files and folders by their paths alone, or anything under ids of yours.

        Without ids, images are paths of files and folders; an image's id is what `update` makes of
        its path, and files that are there unchanged are not encoded again. With ids, an image of a
        known id is replaced.

        Args:
            images: an image or several: paths; with ids also all that `search` takes as an image.
            ids: str, one an image, each once; or None.
            labels: str, one an image, None where it has none; or None. Without ids, every image
                is then a file.
            workers: int or None. Decoding threads.
            progress: called with images done and images to do.

        Returns:
            An `UpdateReport`; images that cannot be read are in its `problems`.

        Raises:
            ArgumentError: the three differ in length, an id comes twice, or an image that is no
                file has no id.
            LockedError: another process is writing.

        Example:
            >>> index = Index.create("photos.index", bundle_folder)
            >>> index.add(["cat.png", "dog.png"]).added
            2
            >>> pixels = np.zeros((40, 50, 3), "uint8")
            >>> index.add([pixels], ids=["black"], labels=["dark"]).added, len(index)
            (1, 3)
        """
        self.encoder.refuse_pictures("images")
        sources = list(images) if _is_several(images) else [images]
        ids = [ids] if isinstance(ids, str) else ids
        labels = [labels] if isinstance(labels, str) else labels
        if ids is None:
            return self._add_files(sources, labels, workers, progress)
        num_done = 0

        def step(number: int) -> None:
            nonlocal num_done
            num_done += number
            if progress:
                progress(num_done, len(sources))

        self.report = self._ingest.add(ids, sources, labels, workers, step)
        return self.report

    def _add_files(
        self,
        paths: list[Any],
        labels: Sequence[str | None] | None,
        workers: int | None,
        progress: Callable[[int, int], None] | None,
    ) -> UpdateReport:
        for path in paths:
            if not isinstance(path, str | os.PathLike):
                raise ArgumentError(
                    "An image that is not a file needs an id from you.",
                    f"{type(path).__name__} without ids",
                    "Give ids=[...], one an image.",
                )
        if labels is None:
            return self.update(paths, workers=workers, progress=progress)
        wanted = dict(zip(map(os.path.abspath, map(os.fsdecode, paths)), labels, strict=False))
        folders = [path for path in wanted if os.path.isdir(path)]
        if len(paths) != len(labels) or folders:
            raise ArgumentError(
                "There is one label for each file.",
                f"{len(labels)} labels for {len(paths)} paths, {len(folders)} of them folders",
                "Name the files, or label by folder: update(..., label_from_folder=True).",
            )
        report = self.update(paths, workers=workers, progress=progress)
        with self.store.writer() as writer, self.store.snapshot() as snapshot:
            label_of = {snapshot.roots.id_of(path): label for path, label in wanted.items()}
            rows = snapshot.rows([id for id in label_of if id is not None])
            held = snapshot.items(rows[rows >= 0])
            writer.update(item._replace(label=label_of[item.id]) for item in held)
        return report

    def update(
        self,
        paths: StrPath | Iterable[StrPath],
        *,
        label_from_folder: bool = False,
        relabel: bool = False,
        prune: bool | Literal["all"] = False,
        rehash: bool = False,
        exclude: str | Iterable[str] = (),
        default_excludes: bool = True,
        workers: int | None = None,
        known_features: Mapping[tuple[Any, ...], KnownPhoto] | None = None,
        progress: Callable[[int, int], None] | None = None,
        listing: Callable[[int, int], None] | None = None,
    ) -> UpdateReport:
        """Make the index follow files and folders; only new and changed files are encoded.

        The index remembers the folders that it was given as its *roots*. A file's id is the name of
        the nearest root above it and its path below that, as `photos/2026/cat.jpg`; of several
        paths that lead to one file by hard or symbolic links, one. When a root is found to have
        moved, its images stay as they are. A file counts as changed when its content does, which is
        read again where size, times or inode differ. Files that were renamed or moved, and copies
        of those that are there, are not encoded again. (An index of format version 4 or older has
        absolute paths for ids, and goes by size and time alone.)

        Work is committed every thousand images (a hundred with local features or regions) or ten
        seconds, so that a later run finishes what an interrupted one began.

        Args:
            paths: one or more files and folders, searched as `images.find` does.
            label_from_folder: bool. Label each image with the first folder below its root. One that
                has the label of a folder further up keeps it.
            relabel: bool. Then it does not.
            prune: bool or "all". Also drop the images under `paths` whose files are gone from where
                their folder, or the one that it was in, still is; and those that are left out
                now. Nothing is dropped that may come back: see `UpdateReport.away`. If this
                concerns several images and more than a tenth of the index, only "all" drops them.
            rehash: bool. Read and encode unchanged files too, and take over those that give
                another code or feature.
            exclude: str, one or several patterns, as in a `.gitignore`: files below folders of
                `paths` that are left out. So is what a `.hashnetignore` in such a folder names.
            default_excludes: bool. Also leave out thumbnails, deleted files and the like
                (`images.DEFAULT_EXCLUDES`), and names that begin with a dot.
            workers: int or None. Decoding threads.
            known_features: dict of (absolute path, size, mtime_ns) to `KnownPhoto`, or None. What
                this index's network has given for these very files before.
            progress: called with images done and images to do, in this run.
            listing: called with rows done and rows in all where a codebook was fitted in the end,
                by whose visual words all images are then listed: see `vocabulary`.

        Returns:
            An `UpdateReport`.

        Raises:
            ArgumentError: `exclude` holds no pattern, or `prune` is something else.
            LockedError: another process is writing.

        Example:
            >>> index = Index.create("photos.index", bundle_folder)
            >>> index.update(["cat.png", "dog.png"]).added
            2
            >>> index.update(["cat.png", "dog.png"]).unchanged
            2
        """
        self.encoder.refuse_pictures("images")
        self.report = self._ingest.update(
            [paths] if isinstance(paths, str | os.PathLike) else paths,
            label_from_folder=label_from_folder,
            relabel=relabel,
            prune=prune,
            rehash=rehash,
            exclude=exclude,
            default_excludes=default_excludes,
            workers=workers,
            known_features=known_features,
            progress=progress,
            listing=listing,
        )
        return self.report

    def add_parquet(
        self, folder: StrPath, *, progress: Callable[[int, int], None] | None = None
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
        self.report = self._ingest.add_parquet(folder, progress)
        return self.report

    def add_vectors(
        self,
        vectors: "np.ndarray | StrPath | Vectors",
        *,
        ids: Sequence[str] | None = None,
        labels: Sequence[str | None] | None = None,
        paths: Sequence[StrPath | None] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> UpdateReport:
        """Add features that the network of this index, or the one it stands for, gave elsewhere.

        They are kept scaled to length 1: what is compared are angles. A vector of a known id
        replaces what is there, unless it is the same. Work is committed every few thousand.

        Args:
            vectors, ids, labels, paths: as for `hashnet.retrieval.vectors.Vectors.of`.
            progress: called with vectors done and vectors in all.

        Returns:
            An `UpdateReport`.

        Raises:
            ArgumentError, ShapeError: as for `Vectors.of`; or they are of another width than the
                index's; or it keeps local features or regions. Nothing is written then.
            LockedError: another process is writing.

        Example:
            >>> index = Index.open(index_folder)
            >>> index.add_vectors(np.ones((1, 64)), ids=["elsewhere"]).added
            1
        """
        from hashnet.retrieval.vectors import Vectors

        found = Vectors.of(vectors, ids=ids, labels=labels, paths=paths)
        self.report = self._ingest.add_vectors(found, progress)
        return self.report

    def caption(self, captions: StrPath | Mapping[str, str]) -> CaptionReport:
        """Give images captions of yours, by which `search_text` finds them, in one commit.

        They stay whatever becomes of the files; each takes the place of the one given before.

        Args:
            captions: dict of an id or the path of a file to its caption, a str, "" to take it away;
                or str or path-like, a file of such lines: see `captions.read`. Its paths may begin
                at its own folder.

        Returns:
            A `CaptionReport`.

        Raises:
            ArgumentError: a caption is too long, or the file has another form or encoding.
            StoreError: the index keeps no captions.
            LockedError: another process is writing.

        Example:
            >>> index = Index.create("photos.index", bundle_folder)
            >>> index.add(["cat.png", "dog.png"]).added
            2
            >>> index.caption({"cat.png": "Rex, asleep", "cow.png": "a cow"})
            CaptionReport(captioned=1, unchanged=0, unknown=['cow.png'])
            >>> [hit.ways for hit in index.search_text("asleep")]
            [('caption',)]
        """
        folder: StrPath = "."
        if not isinstance(captions, Mapping):
            folder = os.path.dirname(os.path.abspath(captions))
            captions = captions_module.read(captions)
        self._follow()
        if not self.store.texts:
            raise no_texts(self.store.folder)
        with self.store.writer() as writer:
            with self.store.snapshot() as snapshot:
                report = captions_module.give(writer, snapshot, captions, folder)
            with self.store.snapshot() as snapshot:
                ways.settle(snapshot)
        return report

    def remove(
        self,
        ids: str | Iterable[str] = (),
        *,
        folders: StrPath | Iterable[StrPath] = (),
        patterns: str | Iterable[str] = (),
        labels: str | Iterable[str] | None = None,
        dry_run: bool = False,
    ) -> list[str]:
        """Remove images: those of some ids, below some folders, or that patterns name.

        Args:
            ids: str, one or more; or the path of a file, where it is no id.
            folders: str or path-like, one or more, there or not. All images of files below them;
                of a str that is no such path, all whose ids begin so, as "photos/2019".
            patterns: str, one or more, as in a `.gitignore`: all images that they name, by id or
                by the path of their file.
            labels: str, one or more, or None. Of all these only the images that have one of these
                labels; if nothing else is given, all that have.
            dry_run: bool. Remove nothing.

        Returns:
            list of str: the ids that were there, those of `ids` in the order given, then the
            others in the order in which they were added.

        Raises:
            ArgumentError: a pattern is none.
            LockedError: another process or thread is writing.
            StoreError: the disk refuses; the index is as it was.

        Example:
            >>> index = Index.open(index_folder)
            >>> index.remove(patterns="?o*", dry_run=True), index.remove(labels="dog")
            (['dog'], ['dog'])
            >>> index.remove(["cat", "cow"])
            ['cat']
        """
        wanted = [ids] if isinstance(ids, str) else checked_ids(ids)
        places = [folders] if isinstance(folders, str | os.PathLike) else list(folders)
        given = [patterns] if isinstance(patterns, str) else patterns
        matchers = [images.matcher(pattern) for pattern in given]
        if labels is not None:
            labels = [labels] if isinstance(labels, str) else checked_ids(labels)
        self._follow()
        with self.store.snapshot() as snapshot:
            prefixes = [
                start
                for place in places
                for start in starts_named(snapshot, os.fsdecode(place), path_first=True)
            ]
            wanted = ids_named(snapshot, wanted)
            chosen = _chosen(snapshot, wanted, prefixes if places else None, matchers, labels)
        if dry_run:
            return chosen
        with self.store.writer() as writer:
            return writer.remove(chosen)

    def move_root(self, old: StrPath, new: StrPath) -> None:
        """Say that a folder of photos is somewhere else now: all ids stay, and nothing is read.

        Args:
            old: str or path-like. Where it was: a root of the index, or a folder above some.
            new: str or path-like. Where it is.

        Raises:
            ArgumentError: there was no root, or the index is of format version 4 or older.
            LockedError: another process is writing.

        Example:
            >>> index = Index.create("photos.index", bundle_folder)
            >>> index.add("cat.png").added
            1
            >>> [id] = index
            >>> index.move_root(".", "/photos")
            >>> index[id].path
            '/photos/cat.png'
        """
        self._follow()
        with self.store.writer() as writer:
            places = (os.path.abspath(os.fsdecode(place)) for place in (old, new))
            writer.set_roots(writer.roots.moved(*places))

    def info(self) -> dict[str, Any]:
        """What the index holds, as `hashnet info --json` prints it."""
        self._follow()
        with self.store.snapshot() as snapshot:
            labels = snapshot.label_counts()
            num_items, num_rows = snapshot.num_items, snapshot.num_rows
            num_regions = snapshot.num_regions
            codebook, bytes_of_pool = snapshot.codebook, snapshot.local_pool_bytes()
            # Places and descriptors.
            bytes_of_local = snapshot.num_local_features * (
                8 + 2 * (self.store.descriptor_dim or 0)
            )
            roots = snapshot.roots.all
            drift = self.drift()  # while what was read for the snapshot is held
        config = self.encoder.config
        words = self.words
        return {
            "folder": str(self.store.folder),
            "images": num_items,
            "regions": num_regions,
            "rows": num_rows,
            "bits": config.num_bits,
            "feature_dim": config.feature_dim,
            "feature_dtype": self.store.feature_dtype,
            "local": self.store.extractor,
            "local_bytes": bytes_of_local + bytes_of_pool,
            "visual_words": None if codebook is None else codebook.num_words,
            "local_pool_bytes": bytes_of_pool,
            "regions_per_image": self.store.regions_per_image,
            "exif": self.store.exif,
            "ocr": self.store.ocr,
            "ways": [way.name for way in words.ways],
            "ways_missing": words.missing,
            "roots": None if roots is None else {root.name: root.path for root in roots},
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
            "fitted_to": None if drift is None else drift.fitted_to,
            "balance": None if drift is None else drift.balance,
            "outgrown": drift is not None and drift.is_outgrown,
        }

    def drift(self) -> "Drift | None":
        """How far the index has gone from what its codes were fitted to.

        Returns:
            A `Drift`, whose `is_outgrown` says whether `refit` would serve; None for codes that
            were made otherwise, and for an index without images.

        Raises:
            StoreError: the index is gone or damaged.
        """
        from hashnet.retrieval import drift

        self._follow()
        with self.store.snapshot() as snapshot:
            return drift.drift(snapshot, self.encoder.bundle)


def open_sharded(
    places: Sequence[StrPath], *, runtime: str = "auto", num_threads: int | None = None
) -> ShardedEngine:
    """Open several indexes, to be searched as one; only the first one's network is opened.

    Args:
        places: one or more, each a folder or the URL of a table. Their order is that of the rows.
        runtime, num_threads: as for `Encoder`.

    Returns:
        A `ShardedEngine`.

    Raises:
        StoreError: there is no index at one of them, or it is damaged.
        FingerprintError: they are not of one encoder.
        ArgumentError: no place is given, or an index twice.

    Example:
        >>> more = Index.create("more.index", bundle_folder)
        >>> more.add(["dog.png"], ids=["cow"]).added
        1
        >>> [hit.id for hit in open_sharded([index_folder, "more.index"]).search("dog.png").hits]
        ['dog', 'cow', 'cat']
    """
    if isinstance(places, str | os.PathLike) or not places:
        raise ArgumentError("Several indexes are given as a list of places.", repr(places))
    first = Index.open(places[0], runtime=runtime, num_threads=num_threads)
    stores = [first.store, *(kind_of(place).open(place) for place in places[1:])]
    folders = [str(store.folder) for store in stores]
    for folder in folders:
        if folders.count(folder) > 1:
            raise ArgumentError("Each index is searched once.", f"{folder} twice")
    engines = [Engine(first, num_threads=num_threads)]
    engines += [
        Engine(types.SimpleNamespace(store=store), num_threads=num_threads) for store in stores[1:]
    ]
    return ShardedEngine(engines)


def _opened(kind: type[Index], place: str, options: dict[str, Any]) -> Index:
    """What a pickled index becomes."""
    return kind.open(place, **options)


def _asked(query: Query | None, fields: dict[str, Any]) -> Query:
    """The `Query` that was given, or that of the fields."""
    if query is not None and not isinstance(query, Query):
        raise ArgumentError(
            "The second argument of a search is a Query.", repr(query), "Name a field: k=5."
        )
    if query is not None and fields:
        raise ArgumentError(
            "A search takes a Query or its fields.",
            f"both, with {', '.join(fields)}",
            "dataclasses.replace(query, ...) changes fields of a Query.",
        )
    known = [field.name for field in dataclasses.fields(Query)]
    if unknown := [name for name in fields if name not in known]:
        raise ArgumentError(
            "A search takes the fields of a Query.",
            ", ".join(unknown),
            f"Known ones: {', '.join(known)}.",
        )
    return query or Query(**fields)


def _is_several(given: object) -> bool:
    """Whether these are several images: in a list or the like, or in an array of four axes."""
    if isinstance(given, np.ndarray):
        return given.ndim == 4
    if isinstance(given, Item | Hit):  # which are tuples
        return False
    return isinstance(given, list | tuple | set | frozenset) or (
        isinstance(given, Iterator) and not hasattr(given, "read")  # a file iterates over lines
    )


def _chosen(
    snapshot: Any,
    ids: Sequence[str],
    prefixes: Sequence[str] | None,
    matchers: Sequence[Callable[[str], bool]],
    labels: Sequence[str] | None,
) -> list[str]:
    """Ids that `Index.remove` is to remove; `prefixes` is None where no folder is named."""
    below = [
        row for start in prefixes or () for row in snapshot.rows_beginning_with(start).tolist()
    ]
    named = []
    for id in snapshot.ids() if matchers else ():
        names = (id, snapshot.roots.path_of(id) or id)
        if any(is_it(name) for is_it in matchers for name in names):
            named.append(id)
    more = sorted({*below, *snapshot.rows(named).tolist()})
    # A dict, for the order in which the ids were given.
    rows = dict.fromkeys([*snapshot.rows(ids).tolist(), *more])
    if labels is not None:
        labelled = {row for label in labels for row in snapshot.rows_of_label(label).tolist()}
        nothing_else = prefixes is None and not (ids or matchers)
        rows = dict.fromkeys(
            sorted(labelled) if nothing_else else filter(labelled.__contains__, rows)
        )
    return [item.id for item in snapshot.items([row for row in rows if row >= 0])]


def _rows(snapshot: Any, ids: Iterable[str]) -> np.ndarray:
    if isinstance(ids, str):
        raise ArgumentError("ids are several str.", repr(ids), "Give [id].")
    ids = list(ids)
    for id in ids:
        if not isinstance(id, str):
            raise ArgumentError("An id is a str.", f"{id!r}, of type {type(id).__name__}")
    rows: np.ndarray = snapshot.rows(ids)
    unknown = [id for id, row in zip(ids, rows, strict=True) if row < 0]
    if unknown:
        raise UnknownIdError(
            "An image is named by the id that the index has for it.",
            ", ".join(map(repr, unknown[:3])) + (", ..." if len(unknown) > 3 else ""),
            "`list(index)` gives the ids; so do hits.",
        )
    return rows
