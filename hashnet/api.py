"""What Python users call: each does what the command of its name does."""

import dataclasses
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

import numpy as np

from hashnet import files, images
from hashnet.checks import checked_integer
from hashnet.encode import precision as precisions
from hashnet.errors import (
    ArgumentError,
    FingerprintError,
    HashnetError,
    ShapeError,
    SkippedWarning,
)
from hashnet.local import extractors, features
from hashnet.network import bundle as bundles
from hashnet.network import own_backbones
from hashnet.network.backbones import Backbone
from hashnet.ocr import reader
from hashnet.retrieval import index as indexes
from hashnet.retrieval import vocabulary
from hashnet.retrieval.extraction.parquet import Extraction
from hashnet.retrieval.ingest import KnownPhoto
from hashnet.retrieval.search.query import Query

if TYPE_CHECKING:
    from hashnet.retrieval.evaluation.results import EvaluationReport
    from hashnet.retrieval.vectors import Vectors

StrPath = str | os.PathLike[str]
Progress = Callable[[str, int, int], None]

# What an index of Parquet files takes from them, or cannot have.
_NOT_OF_PARQUET = (
    "photos",
    "bits",
    "backbone",
    "weights",
    "precision",
    "label_from_folder",
    "relabel",
    "prune",
    "rehash",
    "exclude",
    "workers",
    "local",
    "regions",
    "exif",
    "ocr",
)


class _Options(NamedTuple):
    """What `Index.of_photos` was asked for; None, False and () where it was not."""

    photos: tuple[str, ...]
    bundle: StrPath | None
    bits: int | None
    backbone: str | Backbone | None
    weights: StrPath | None
    precision: str | None
    label_from_folder: bool
    relabel: bool
    prune: bool | Literal["all"]
    rehash: bool
    exclude: tuple[str, ...]
    default_excludes: bool
    workers: int | None
    local: str | None
    regions: int | None
    exif: bool | None
    ocr: bool | None
    runtime: str
    progress: Progress


class Index(indexes.Index):
    """Photos that can be searched by example, and how one is made of them.

    For all that an index does, see `hashnet.retrieval.index.Index`.
    """

    @classmethod
    def of_photos(
        cls,
        place: StrPath,
        photos: StrPath | Iterable[StrPath] = (),
        *,
        bundle: StrPath | None = None,
        bits: int | None = None,
        backbone: "str | Backbone | None" = None,
        weights: StrPath | None = None,
        precision: str | None = None,
        label_from_folder: bool = False,
        relabel: bool = False,
        prune: bool | Literal["all"] = False,
        rehash: bool = False,
        exclude: str | Iterable[str] = (),
        default_excludes: bool = True,
        workers: int | None = None,
        local: str | None = None,
        regions: int | None = None,
        exif: bool = False,
        ocr: bool = False,
        from_parquet: StrPath | None = None,
        runtime: str = "auto",
        progress: Progress | None = None,
    ) -> Self:
        """Make an index of photos, or let the one that is there follow them.

        Only new and changed files are encoded. An image's id is the name of its folder and its path
        below it; see `update`.
        Without a bundle, a new index gets a network that is fitted to the photos, without labels.
        Photos that cannot be read are skipped with a warning; `report.problems` of the index
        names them.

        Args:
            place: str or path-like, the folder of the index; or the URL of a table, `clickhouse://`
                or `chdb://`.
            photos: one or more files and folders, which are searched with all below them.
            bundle: str or path-like. Network of a new index: a bundle, or an index that has one.
            bits: int, 1 to 1024. Code length where no bundle is given; 128 if None.
            backbone: str or `Backbone`. Pretrained network where no bundle is given: a name, or a
                network of yours, see `own_backbones.Backbone`; `"efficientnet_lite0"` if None.
            weights: str or path-like. A file of weights for that backbone, in place of its own.
            precision: `"float32"`, `"bfloat16"` or `"int8"`. What a new index encodes in, images
                and queries; the bundle's if None.
            label_from_folder: bool. Label each image with the first folder below the one given; one
                that has the label of a folder further up keeps it.
            relabel: bool. Then it does not.
            prune: bool or "all". Drop images under `photos` whose files are gone, or left out now,
                and will not come back with a disk; more than a tenth of the index at once
                only with "all". See `update`.
            rehash: bool. Read and encode unchanged files too.
            exclude: str, one or several patterns, as in a `.gitignore`: photos in folders of
                `photos` that are left out. So is what a `.hashnetignore` in such a folder names.
            default_excludes: bool. Also leave out thumbnails, deleted files and the like
                (`hashnet.images.DEFAULT_EXCLUDES`), and names that begin with a dot.
            workers: int or None. Decoding threads.
            local: str, of `hashnet.local.extractors.NAMES`, such as `"sift"`, or several with
                commas between; or `"auto"` for those of `extractors.chosen`. Keep local features in
                a new index, for `search(..., verify=True)` and `same_object=True`.
            regions: int, 1 to 64. Keep up to so many parts of each image in a new index, so that
                small objects in it are found.
            exif: bool. Keep in a new index when, where and by which camera a photo was taken, to
                search by date.
            ocr: bool. Read the text in each photo of a new index, for `search_text`; it takes the
                package that the message names where it is missing.
            from_parquet: str or path-like. Instead of photos: what `hashnet extract` has made.
            runtime: str, as for `Encoder`.
            progress: called with what is being done, how many images, or steps of a fit, are done,
                and how many there are; 0 of 0 in a stage that is not counted.

        Returns:
            The opened `Index`; its `report` says what was added, changed, removed and skipped.

        Raises:
            ArgumentError: options exclude each other or are out of range.
            FingerprintError: an option asks an index that is there for another network.
            HashnetError: there is no photo to make an index of.
            LockedError: another process is writing.
            StoreError: the index is damaged, or the disk refuses.

        Example:
            >>> photos = ["cat.png", "dog.png"]
            >>> index = Index.of_photos("photos.index", photos, bundle=bundle_folder)
            >>> len(index), index.report.added
            (2, 2)
            >>> Index.of_photos("photos.index", photos).report.unchanged
            2
        """
        given = [photos] if isinstance(photos, str | os.PathLike) else photos
        options = _Options(
            photos=tuple(os.fsdecode(path) for path in given),
            bundle=bundle,
            bits=bits,
            backbone=backbone,
            weights=weights,
            precision=precision,
            label_from_folder=label_from_folder,
            relabel=relabel,
            prune=prune,
            rehash=rehash,
            exclude=(exclude,) if isinstance(exclude, str) else tuple(exclude),
            default_excludes=default_excludes,
            workers=workers,
            local=local,
            regions=regions,
            exif=exif or None,
            ocr=ocr or None,
            runtime=runtime,
            progress=progress or (lambda stage, done, total: None),
        )
        if workers is not None:
            checked_integer(workers, 1, "workers")
        images.Exclusion(options.exclude)  # a bad pattern must not leave an index behind
        if options.local != extractors.AUTO:
            extractors.names_of(options.local)  # nor is a network fitted for a name there is not
        for option, what in (
            ("bits", "code length"),
            ("backbone", "backbone"),
            ("weights", "weights"),
        ):
            if bundle and getattr(options, option):
                raise ArgumentError(f"A bundle has its own {what}.", f"bundle and {option}")
        if from_parquet is not None:
            index: Self = _of_parquet(cls, place, from_parquet, options)
        elif options.photos:
            index = _of_photos(cls, place, options)
        else:
            raise ArgumentError(
                "An index is made of photos.",
                "none",
                "Name files or folders, or what `hashnet extract` has made.",
            )
        if index.report and (problems := index.report.problems):
            warnings.warn(
                f"{len(problems)} {'image was' if len(problems) == 1 else 'images were'} skipped, "
                f"the first: {problems[0].path}: {problems[0].reason.rstrip('.')}. "
                "The index's report.problems names all.",
                SkippedWarning,
                stacklevel=2,
            )
        return index

    @classmethod
    def of_vectors(
        cls,
        place: StrPath,
        vectors: "np.ndarray | StrPath",
        *,
        ids: Sequence[str] | None = None,
        labels: Sequence[str | None] | None = None,
        paths: Sequence[StrPath | None] | None = None,
        bundle: StrPath | None = None,
        bits: int | None = None,
        backbone: "str | Backbone | None" = None,
        runtime: str = "auto",
        progress: Progress | None = None,
    ) -> Self:
        """Make an index of features that some network gave elsewhere, or add to the one there.

        Codes of a new index are fitted to the vectors, without labels. It is searched by vectors
        and by ids; by pictures where `backbone` or `bundle` names the network that the vectors are
        of.

        Args:
            place: as for `of_photos`.
            vectors: float array `(n, d)`, or the path of a file: `.npy` or `.parquet`, see
                `hashnet.retrieval.vectors`. Scaled to length 1: what is compared are angles.
            ids: str, one a vector, each once; None for their places, counted from 0.
            labels: str, one a vector, None where it has none; or None.
            paths: str or path-like, one a vector, of the file that it was made of; or None.
            bundle: str or path-like. A bundle, or an index that has one: its network gave the
                vectors, and its codes are taken.
            bits: int, 1 to 1024. Code length where no bundle is given; 128 if None.
            backbone: str or `Backbone`. The network that gave the vectors; codes are fitted.
            runtime, progress: as for `of_photos`.

        Returns:
            The opened `Index`; its `report` says what was added and changed.

        Raises:
            ArgumentError, ShapeError: as for `add_vectors`; nothing is made then.
            FingerprintError: an option asks an index that is there for another network.
            LockedError: another process is writing.
            StoreError: the index is damaged, or the disk refuses.

        Example:
            >>> vectors = np.random.default_rng(0).normal(size=(20, 16))
            >>> index = Index.of_vectors("vectors.index", vectors, labels=["x"] * 20, bits=16)
            >>> len(index), index.search(vectors[3], k=1)[0].id, index.search("3", k=1)[0].label
            (20, '3', 'x')
        """
        from hashnet.retrieval.vectors import Vectors
        from hashnet.train import unsupervised

        if bundle and (bits or backbone):
            raise ArgumentError(
                "A bundle has its own code length and backbone.", "bundle and bits or backbone"
            )
        found = Vectors.of(vectors, ids=ids, labels=labels, paths=paths)
        tell = progress or (lambda stage, done, total: None)
        with files.scratch_folder() as scratch:
            if cls.is_there(place):
                index = cls.open(place, runtime=runtime)
                _refuse_another(index, bits=bits, backbone=backbone, bundle=bundle)
            else:
                if bundle is None:
                    network = own_backbones.of_vectors(found.feature_dim)
                    network = network if backbone is None else own_backbones.opened(backbone)
                    _refuse_another_width(found, network.feature_dim)
                    unsupervised.fit_vectors(
                        scratch,
                        found.at,
                        len(found),
                        backbone=network,
                        num_bits=bits or unsupervised.NUM_BITS,
                        origin={"command": "hashnet index --from-vectors"},
                        progress=tell,
                    )
                else:
                    _refuse_another_width(found, bundles.load(bundle).config.feature_dim)
                index = cls.create(place, bundle or scratch, runtime=runtime)
        index.add_vectors(found, progress=lambda done, total: tell("loading", done, total))
        return index

    def refit(
        self, *, seed: int = 0, progress: Callable[[str, int, int], None] | None = None
    ) -> int:
        """Fit codes without labels again, to all that the index holds now; no photo is read.

        The index then carries the new network, and all rows the codes that it gives, in one
        commit: who searches meanwhile finds what was there before, and who opens the index or
        follows it, what is there after. Before that, the local pool is listed by a codebook that is
        fitted to it again, in a commit of its own.

        Codes of a network that learned an embedding are without labels, too; at first those of the
        photos that it learned from. Its F8, which told their classes by these, is left out.

        Args:
            seed: int. Of the sample of a large index, and of the fit.
            progress: called with what is being done, how many steps or rows are done, and how many
                there are.

        Returns:
            int. Images.

        Raises:
            ArgumentError: the codes were learned from labels, or are of bfloat16; or there is no
                image.
            StoreError: the index is damaged, the disk or the server refuses, or another process
                has fitted the codes of a table again meanwhile.
            LockedError: another process is writing in the folder.

        Example:
            >>> Index.open(index_folder).refit()
            Traceback (most recent call last):
            hashnet.errors.ArgumentError: Codes without labels, in float32 or int8, are fitted ...
        """
        from hashnet import refitting

        self._follow()
        num_images = refitting.refit(self.store, self.encoder.bundle, seed=seed, progress=progress)
        self._follow()
        return num_images


def open(place: StrPath, *, runtime: str = "auto", num_threads: int | None = None) -> Index:
    """Open an index.

    Args:
        place: str or path-like, the folder of the index; or the URL of a table,
            `clickhouse://HOST:PORT/DATABASE/TABLE` or `chdb:///FOLDER/DATABASE/TABLE`.
        runtime, num_threads: as for `Encoder`.

    Returns:
        The opened `Index`.

    Raises:
        StoreError: there is none, it is damaged, or a newer version made it.
        FingerprintError: its codes were made by another encoder than it carries.

    Example:
        >>> len(open(index_folder))
        2
    """
    return Index.open(place, runtime=runtime, num_threads=num_threads)


def evaluate(
    index: indexes.Index | StrPath,
    queries: StrPath | Iterable[StrPath],
    *,
    ground_truth: StrPath | None = None,
    report: StrPath | None = None,
    **options: Any,
) -> "EvaluationReport":
    """Search an index by queries whose answers are known, and score what is found.

    The codes are measured beside three plainer ones: random projections (`lsh`), signs of
    principal components (`pca_sign`) and iterative quantisation (`itq`).

    Args:
        index: an `Index`, or where one is.
        queries: paths of class folders; or of images and folders of them, with a ground truth.
        ground_truth: path of a JSON file `{query: [relevant, ...]}`, or None: an image of the
            index is then relevant if its label is the query's first folder below the path given.
        report: str or path-like. Folder for a report with plots and pictures; None for none.
        **options: fields of `Query`, such as `verify=True`, and all else that
            `hashnet.retrieval.evaluation.evaluate.evaluate` takes.

    Returns:
        An `EvaluationReport`: figures of every stage, and the protocol in words.

    Raises:
        ArgumentError: an option is out of its range, labels are missing, or no query has any
            relevant image.
        StoreError: images are to be verified, and the index has no local features.

    Example:
        >>> import os, shutil
        >>> os.makedirs("queries/cat")
        >>> _ = shutil.copy("cat.png", "queries/cat")
        >>> evaluate(index_folder, "queries").to_dict()["map_all"]
        1.0
    """
    from hashnet.retrieval.evaluation import evaluate as evaluation
    from hashnet.retrieval.evaluation import page
    from hashnet.retrieval.evaluation import report as reports
    from hashnet.train import unsupervised_codes

    opened = index if isinstance(index, indexes.Index) else open(index)
    wanted = {field.name for field in dataclasses.fields(Query)} & set(options)
    if wanted:
        options["query"] = Query(**{name: options.pop(name) for name in wanted})
    if report is not None:
        page.require_plots()
        page.check_place(report)
    options.setdefault(
        "baselines",
        {
            "lsh": unsupervised_codes.lsh,
            "pca_sign": unsupervised_codes.pca_sign,
            "itq": unsupervised_codes.itq,
        },
    )
    # The report draws how mAP grows with the length of codes.
    options.setdefault("baseline_bits", (12, 24, 64, 128) if report is not None else ())
    figures = evaluation.evaluate(opened, queries, ground_truth=ground_truth, **options)
    if report is not None:
        reports.write(report, figures)
    return figures


def _of_photos(cls: type[Index], place: StrPath, options: _Options) -> Any:
    known_features: dict[tuple[str, int, int], KnownPhoto] = {}
    if cls.is_there(place):
        index = cls.open(place, runtime=options.runtime)
        _refuse_another_network(index, options)
    elif options.bundle:
        index = _created(cls, place, options.bundle, options)
    else:
        index, known_features = _fitted(cls, place, options)
    options.progress("looking for images", 0, 0)
    stage = "encoding" if index.store.ocr is None else "encoding and reading text"
    index.update(
        options.photos,
        label_from_folder=options.label_from_folder,
        relabel=options.relabel,
        prune=options.prune,
        rehash=options.rehash,
        exclude=options.exclude,
        default_excludes=options.default_excludes,
        workers=options.workers,
        known_features=known_features,
        progress=lambda done, total: options.progress(stage, done, total),
        listing=lambda done, total: options.progress(vocabulary.LISTING, done, total),
    )
    return index


def _fitted(
    cls: type[Index], place: StrPath, options: _Options
) -> tuple[Index, dict[tuple[str, int, int], KnownPhoto]]:
    """An empty index with a network fitted to the photos, and the features known from that."""
    options.progress("looking for images", 0, 0)
    exclusion = images.Exclusion(options.exclude, defaults=options.default_excludes)
    listed, problems, passed_over = images.find(options.photos, exclusion=exclusion)
    found = images.distinct(listed)  # as an update takes them
    if not found:
        reasons = [f"{one.path}: {one.reason}" for one in problems[:3]]
        received = f"none in {' '.join(options.photos)}"
        if passed_over:
            received += f" ({images.passed_over_in_words(passed_over)})"
        raise HashnetError("A new index needs at least one image.", "; ".join([received, *reasons]))
    if options.local:
        features.opencv()  # if it is missing, better now than when the codes have been fitted
    if options.ocr:
        reader.require()
    from hashnet.train import unsupervised

    asked: dict[str, Any] = {
        "num_bits": options.bits,
        "backbone": options.backbone,
        "weights": None if options.weights is None else os.fsdecode(options.weights),
    }
    with files.scratch_folder() as scratch:
        fitted = unsupervised.fit_bundle(
            scratch,
            [file.path for file in found],
            **{name: value for name, value in asked.items() if value is not None},
            origin={"command": "hashnet index"},
            also=lambda photo: (
                photo.content_hash,
                photo.exif if options.exif else None,
                photo.description,
            ),
            progress=options.progress,
        )
        index = _created(cls, place, scratch, options)
    if index.encoder.precision != "float32":
        return index, {}  # the features are float32's
    read = [found[position] for position in fitted.positions]
    versions = [(os.path.abspath(file.path), file.size, file.mtime_ns) for file in read]
    known = [
        KnownPhoto(feature, *described)
        for feature, described in zip(fitted.features, fitted.extras, strict=True)
    ]
    return index, dict(zip(versions, known, strict=True))


def _created(cls: type[Index], place: StrPath, bundle: StrPath, options: _Options) -> Any:
    """A new index in the precision that is asked for, and no trace of it where that fails."""
    source = bundles.load(bundle)
    kept: dict[str, Any] = {
        "local": extractors.chosen() if options.local == extractors.AUTO else options.local,
        "regions": options.regions or 0,
        "exif": bool(options.exif),
        "ocr": bool(options.ocr),
        "runtime": options.runtime,
    }
    if options.precision in (None, source.precision):
        return cls.create(place, bundle, **kept)
    with files.scratch_folder() as scratch:
        converted = precisions.convert(
            source, scratch, options.precision, images_from=list(options.photos)
        )
        return cls.create(place, converted.folder, **kept)


def _of_parquet(cls: type[Index], place: StrPath, folder: StrPath, options: _Options) -> Any:
    given = [name for name in _NOT_OF_PARQUET if getattr(options, name)]
    given += [] if options.default_excludes else ["default_excludes"]
    if given:
        raise ArgumentError(
            "Parquet files hold codes, features and labels, and nothing else.",
            f"from_parquet and {', '.join(given)}",
        )
    # Seen before there is an index, which would have to stay empty.
    extraction = Extraction.open(folder)
    total = extraction.num_images
    if options.bundle:
        fingerprint = bundles.load(options.bundle).fingerprint
        if fingerprint != extraction.bundle.fingerprint:
            raise FingerprintError(
                "Codes are searched with the network that made them.",
                f"{options.bundle} ({fingerprint[:12]}) for {extraction.bundle.fingerprint[:12]}",
                "Leave the bundle out: the Parquet files carry theirs.",
            )
    if cls.is_there(place):
        index = cls.open(place, runtime=options.runtime)
    else:
        index = cls.create(
            place,
            extraction.bundle.folder,
            # Else what such an index stores by itself, which holds float16 exactly.
            feature_dtype="float32" if extraction.feature_dtype == "float32" else None,
            runtime=options.runtime,
        )
    options.progress("loading", 0, total)
    index.add_parquet(folder, progress=lambda done, total: options.progress("loading", done, total))
    return index


def _refuse_another_width(vectors: "Vectors", feature_dim: int) -> None:
    if vectors.feature_dim != feature_dim:
        raise ShapeError(
            f"The network that vectors are of gives {feature_dim} numbers.",
            f"vectors of {vectors.feature_dim} in {vectors.name}",
            "Name the network that made them, or none.",
        )


def _refuse_another_network(index: Index, options: _Options) -> None:
    _refuse_another(
        index,
        **{
            name: getattr(options, name)
            for name in (
                "bits",
                "backbone",
                "local",
                "regions",
                "precision",
                "exif",
                "ocr",
                "bundle",
            )
        },
    )
    if options.weights:
        raise FingerprintError(
            "An index keeps its weights.",
            f"weights {os.fsdecode(options.weights)} for an index that is there",
            "Leave the option out to add to this index, or make another index.",
        )


def _refuse_another(index: Index, **asked: Any) -> None:
    """Refuse what an index that is there has otherwise; None is not asked for."""
    way_out = "Leave the option out to add to this index, or make another index."
    store, config = index.store, index.encoder.config
    if asked.get("bits") is not None:
        checked_integer(asked["bits"], 1, "bits")
    if (local := asked.get("local")) is not None:
        named = ",".join(extractors.names_of(local)) if local != extractors.AUTO else None
        asked["local"] = named or store.extractor or f"{local} ({extractors.chosen()})"
    held = {
        "bits": (config.num_bits, "code length", f"{config.num_bits} bits"),
        "local": (
            store.extractor,
            "local features",
            store.extractor or "an index without any",
        ),
        "regions": (
            store.regions_per_image,
            "number of regions",
            store.regions_per_image or "none",
        ),
        "precision": (index.encoder.precision, "precision", index.encoder.precision),
        "exif": (store.exif, "fields", "an index without dates, places and cameras"),
        "ocr": (store.ocr is not None, "texts", "an index that reads none in its images"),
    }
    for option, (kept, what, shown) in held.items():
        given = asked.get(option)
        if given not in (None, kept):
            raise FingerprintError(
                f"An index keeps its {what}.", f"{option} {given} for {shown}", way_out
            )
    if (backbone := asked.get("backbone")) is not None:
        opened = own_backbones.opened(backbone)
        if (opened.name, opened.own) != (config.backbone, config.own):
            raise FingerprintError(
                "An index keeps its backbone.",
                f"backbone {opened.name} for {config.backbone}",
                way_out,
            )
    if bundle := asked.get("bundle"):
        fingerprint = bundles.load(bundle).fingerprint
        if fingerprint != index.encoder.fingerprint:
            raise FingerprintError(
                "An index keeps its network.",
                f"{bundle} ({fingerprint[:12]}) for {index.encoder.fingerprint[:12]}",
                way_out,
            )
