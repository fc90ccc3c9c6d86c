"""Features and codes set side by side on a user's own photos: `hashnet.compare`."""

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hashnet import codes, files, images
from hashnet.checks import checked_integer
from hashnet.encode.encoder import Encoder
from hashnet.errors import ArgumentError
from hashnet.local import aggregation, extractors
from hashnet.network import backbones, bundle, onnx_graph, own_backbones, pooling, pretrained
from hashnet.retrieval import carried
from hashnet.retrieval.evaluation import comparison as comparisons
from hashnet.retrieval.evaluation import comparison_report, page, significance
from hashnet.retrieval.evaluation.comparison import Coded, Comparison, Described
from hashnet.retrieval.evaluation.ground_truth import Listed, QuerySet, answerable, query_set_of
from hashnet.retrieval.search.ranking import Ranking, ranking_about
from hashnet.retrieval.store.items import Item
from hashnet.system import cores
from hashnet.train import unsupervised, unsupervised_codes

StrPath = str | os.PathLike[str]
Tell = Callable[[str, int, int], object]

F7 = "f7"
MOST_QUERIES = 500
# Photos that times are measured on.
_TIMED = 9
_STORED_BYTES = 2  # of a number of a feature, as indexes keep it


@dataclass(frozen=True, eq=False)
class _Computed:
    """What one way to describe images made of some.

    Attributes:
        features: dict of name to float32 `(n, d)`, each of length 1, of those in `positions`.
        positions: int64, ascending. Which of the images could be read.
        problems: list of `images.Problem`.
        milliseconds: dict of name to float.
    """

    features: dict[str, np.ndarray]
    positions: np.ndarray
    problems: list[images.Problem]
    milliseconds: dict[str, float]


def compare(
    photos: StrPath | Iterable[StrPath],
    queries: StrPath | Iterable[StrPath] | None = None,
    *,
    ground_truth: StrPath | None = None,
    features: Sequence[str] = (F7,),
    bits: Sequence[int] = (unsupervised.NUM_BITS,),
    backbone: str = "efficientnet_lite0",
    most_queries: int = MOST_QUERIES,
    report: StrPath | None = None,
    seed: int = 0,
    progress: Tell | None = None,
) -> Comparison:
    """Rank photos by several features and codes, and say which finds more, at which cost.

    Every image of `photos` is ranked for each query by each feature, by codes that are fitted to it
    without labels, and by both as a search does. Intervals of means are bootstrapped over the
    queries, and differences to the first method are tested on the queries' own differences.

    Args:
        photos: paths, searched as `images.find` does: the database.
        queries: paths; None for the photos themselves, each left out of its own ranking.
        ground_truth: path of a JSON file `{query: [relevant, ...]}`, or None: an image is then
            relevant if its label, the first folder below the path given, is the query's.
        features: strs, each once. `"f7"`, what the backbone gives; a pooling of its maps, as
            `"gem"` or `"mean+map_rmac"` (see `network.pooling`); local features and how they are
            aggregated, as `"sift:vlad"` (see `local.aggregation`), by a codebook that is fitted to
            the database, whose local features are in memory meanwhile, a quarter of a megabyte an
            image; another backbone, as for `own_backbones.Backbone`; or the folder of a bundle,
            which stands for the feature that its network gives, with codes fitted anew. The first
            one is what the others are compared with.
        bits: ints, lengths of codes; none for features alone.
        backbone: str, as for `own_backbones.Backbone`.
        most_queries: int, 1 or more. Of more, chance chooses.
        report: str or path-like. Folder for a page with plots and pictures; None for none.
        seed: int. Of that choice, of fits, intervals and tests.
        progress: called with what is being done, how much is done, and how much there is.

    Returns:
        A `Comparison`.

    Raises:
        ArgumentError: an argument is out of its range, there are no labels, or no query has any
            relevant image.
        UnknownNameError: there is no such feature.
        HashnetError: a network cannot be had, or matplotlib is missing for a report.

    Example:
        >>> import os, shutil
        >>> for picture in ("cat.png", "dog.png"):
        ...     os.makedirs(f"photos/{picture[:3]}")
        ...     for number in (1, 2):
        ...         _ = shutil.copy(picture, f"photos/{picture[:3]}/{number}.png")
        >>> found = compare("photos", features=["f7", "gem"], bits=[])
        >>> [(one["method"], one["map"]) for one in found.figures()]
        [('f7', 1.0), ('gem', 1.0)]
    """
    networks = _checked(features, bits, most_queries, backbone)
    if report is not None:
        page.require_plots()
        page.check_place(report)
    tell = progress or (lambda stage, done, total: None)
    tell("looking for images", 0, 0)
    database, query_set = _found(photos, queries, ground_truth)
    query_set = _drawn(query_set, most_queries, seed)
    held = (str(item.path) for item in database.items)
    sources = list(dict.fromkeys([*held, *map(os.path.abspath, query_set.paths)]))
    computed = [_by_network(network, sources, tell) for network in networks]
    for extractor, names in _of_extractors(features).items():
        own = len(database.items)
        computed.append(_by_local(extractor, names, backbone, sources, own, seed, tell))
    database, query_set, rows, places = _readable(database, query_set, sources, computed)
    methods = []
    by_name = {name: one for one in computed for name in one.features}
    for name in features:
        one = by_name[name]
        of_all = np.zeros((len(sources), one.features[name].shape[1]), np.float32)
        of_all[one.positions] = one.features[name]
        described = Described(
            name,
            of_all[rows],
            of_all[places],
            one.milliseconds[name],
            _STORED_BYTES * of_all.shape[1],
        )
        prior = unsupervised.prior_of(backbone if name == F7 else name)
        coded = [_coded(described, length, prior, seed, tell) for length in bits]
        methods += comparisons.methods_of(
            described, coded, query_set, database, num_threads=cores(), tell=tell
        )
    found = Comparison(
        methods=methods,
        paths=[str(item.path) for item in database.items],
        queries=query_set.paths,
        relevant=[
            np.flatnonzero(query_set.relevant(query, database)) for query in range(len(query_set))
        ],
        protocol=_protocol(query_set, database, by_list=ground_truth is not None, seed=seed),
        problems=query_set.problems,
        seed=seed,
    )
    if report is not None:
        comparison_report.write(report, found)
    return found


@dataclass(frozen=True, eq=False)
class _Network:
    """A network, and the features that come of one pass through it.

    Attributes:
        backbone: a `Backbone`, or a `Bundle` that is there.
        parts: dict of the name of a feature to the poolings of which it is made, which are among
            those of `backbone`; or to none where it is what the backbone gives.
        alone: dict of the same names to what gives this feature alone.
    """

    backbone: backbones.Backbone | bundle.Bundle
    parts: dict[str, tuple[str, ...]]
    alone: dict[str, backbones.Backbone | bundle.Bundle]

    @property
    def name(self) -> str:
        """What it is called."""
        if isinstance(self.backbone, bundle.Bundle):
            return os.fsdecode(self.backbone.folder)
        return self.backbone.name

    def of(self, name: str, features: np.ndarray) -> np.ndarray:
        """One of the features, each of length 1.

        Args:
            name: str.
            features: float32 `(n, feature_dim)`, what the backbone gave.

        Returns:
            float32 `(n, d)`.
        """
        every = pooling.named(self.name.partition(":")[2]) if self.parts[name] else ()
        if len(every) < 2:
            return features
        base = backbones.known(self.name.partition(":")[0])
        widths = [
            base.map_channels if one.startswith(pooling.OF_MAP) else base.last_channels
            for one in every
        ]
        starts = dict(zip(every, np.cumsum([0, *widths[:-1]]).tolist(), strict=True))
        width = dict(zip(every, widths, strict=True))
        parts = [features[:, starts[one] : starts[one] + width[one]] for one in self.parts[name]]
        joined = np.concatenate(parts, axis=1)
        lengths = np.linalg.norm(joined, axis=1, keepdims=True)
        return np.divide(joined, lengths, out=np.zeros_like(joined), where=lengths > 0)


def _checked(
    features: Sequence[str], bits: Sequence[int], most_queries: int, backbone: str
) -> list[_Network]:
    """The networks that give the features."""
    checked_integer(most_queries, 1, "most_queries")
    for length in bits:
        codes.code_bytes(length)
    if isinstance(features, str) or not features or len(set(features)) != len(features):
        raise ArgumentError(
            "Features are compared that are named once each, one or more.", repr(features)
        )
    pooled = {name: pooling.named(name) for name in features if pooling.is_named(name)}
    networks = []
    if pooled:
        if not backbones.is_known(backbone) or ":" in backbone:
            raise ArgumentError(
                "Poolings are of the maps of a backbone that is known by name.",
                f"{next(iter(pooled))} of {backbone}",
                f"They are: {', '.join(backbones.BACKBONES)}.",
            )
        alone: dict[str, backbones.Backbone | bundle.Bundle] = {
            name: backbones.known(f"{backbone}:{name}") for name in pooled
        }
        if F7 in features and backbones.known(backbone).last_channels:
            pooled[F7], alone[F7] = ("mean",), backbones.known(backbone)
        every = "+".join(dict.fromkeys(one for parts in pooled.values() for one in parts))
        networks.append(_Network(backbones.known(f"{backbone}:{every}"), pooled, alone))
    for name in features:
        if os.path.isfile(os.path.join(name, bundle.DESCRIPTION)):
            trained = bundle.load(name)
            networks.append(_Network(trained, {name: ()}, {name: trained}))
        elif name not in pooled and not _is_local(name):
            opened = own_backbones.opened(backbone if name == F7 else name)
            if opened.takes != "image":
                raise ArgumentError("Features are compared that come of images.", name)
            networks.append(_Network(opened, {name: ()}, {name: opened}))
    return networks


def _is_local(name: str) -> bool:
    """Whether a feature is made of local features, as in `sift:vlad`."""
    extractor, _, kind = name.partition(":")
    return extractor in extractors.NAMES and kind in aggregation.KINDS


def _of_extractors(features: Sequence[str]) -> dict[str, list[str]]:
    """dict of the name of an extractor to the features that are made of its local features."""
    found: dict[str, list[str]] = {}
    for name in filter(_is_local, features):
        found.setdefault(name.partition(":")[0], []).append(name)
    return found


def _found(
    photos: StrPath | Iterable[StrPath],
    queries: StrPath | Iterable[StrPath] | None,
    ground_truth: StrPath | None,
) -> tuple[Listed, QuerySet]:
    """The photos that are ranked, and the queries with what is relevant to each."""
    given = [photos] if isinstance(photos, str | os.PathLike) else list(photos)
    listed, problems, passed_over = images.find(given)
    if not listed:
        over = images.passed_over_in_words(passed_over)
        reasons = "; ".join(f"{one.path}: {one.reason}" for one in problems[:3])
        raise ArgumentError(
            "Features are compared on one photo or more.",
            f"none in {' '.join(map(os.fsdecode, given))} {over or reasons}".strip(),
        )
    database = Listed([Item(file.path, os.path.abspath(file.path), file.folder) for file in listed])
    if ground_truth is None and not database.names:
        raise ArgumentError(
            "What is relevant is said by class folders, or by ground truth.",
            f"{len(listed)} photos, none in a folder below the one given",
            "Name the folder above the class folders, or give a ground truth.",
        )
    query_set = query_set_of(given if queries is None else queries, ground_truth, database)
    if query_set.vectors is not None:
        raise ArgumentError("Queries of a comparison are images.", "a file of vectors")
    unread = {one.path for one in query_set.problems}
    problems = query_set.problems + [one for one in problems if one.path not in unread]
    return database, replace(query_set, problems=problems)


def _drawn(query_set: QuerySet, most: int, seed: int) -> QuerySet:
    if len(query_set) <= most:
        return query_set
    chosen = np.random.default_rng(seed).choice(len(query_set), most, replace=False)
    return query_set.kept(np.sort(chosen))


def _by_network(network: _Network, sources: Sequence[str], tell: Tell) -> _Computed:
    """Features of all images that can be read, in one pass, and the time of each feature alone."""
    title = f"encoding by {network.name}"
    parts: list[Any] = []
    problems: list[images.Problem] = []
    done = 0
    with _Encoders() as encoders:
        for part in encoders.of(network.backbone).stream(sources):
            parts.append(part)
            problems += part.problems
            done += len(part) + len(part.problems)
            tell(title, done, len(sources))
        positions = np.concatenate([part.positions for part in parts])
        if not len(positions):
            raise ArgumentError(
                "Features are compared on photos that can be read.",
                f"{len(problems)} that cannot, the first: {problems[0].path}, {problems[0].reason}",
            )
        features = np.concatenate([part.features for part in parts])
        timed = [sources[place] for place in positions[:_TIMED]]
        milliseconds = {
            name: _milliseconds(encoders.of(alone), timed) for name, alone in network.alone.items()
        }
    return _Computed(
        {name: network.of(name, features) for name in network.parts},
        positions,
        problems,
        milliseconds,
    )


def _by_local(
    name: str,
    features: Sequence[str],
    backbone: str,
    sources: Sequence[str],
    own: int,
    seed: int,
    tell: Tell,
) -> _Computed:
    """Aggregated local features, by codebooks fitted to the first images, which are searched."""
    found: list[np.ndarray] = []
    positions: list[int] = []
    problems: list[images.Problem] = []
    with _Encoders() as encoders:
        encoder = encoders.of(own_backbones.opened(backbone))
        folder = encoder.bundle.folder
        carried.export_networks(encoder.bundle, folder, local=name, regions_too=False)
        extractor = extractors.open(name, folder, encoder=encoder.bundle.encoder_file)

        def described(photo: images.Photo) -> np.ndarray:
            return np.asarray(extractor.extract(photo.full()).descriptors, np.float16)

        for part in encoder.stream(sources, also=described):
            found += part.extras
            positions += part.positions.tolist()
            problems += part.problems
            tell(f"local features, {name}", len(found) + len(problems), len(sources))
        searched = [one for place, one in zip(positions, found, strict=True) if place < own]
        made = {}
        for feature in features:
            tell(f"fitting the codebook of {feature}", 0, 0)
            kind = feature.partition(":")[2]
            made[feature] = aggregation.Aggregation.fit(
                kind, searched, seed=seed, num_threads=cores()
            )
        spent: dict[str, list[float]] = {feature: [] for feature in features}
        for place in positions[:_TIMED]:
            photo = images.Photo(sources[place])
            photo.full()
            start = time.perf_counter()
            descriptors = described(photo)
            extracting = time.perf_counter() - start
            for feature, one in made.items():
                start = time.perf_counter()
                one.vector(descriptors)
                spent[feature].append(extracting + time.perf_counter() - start)
    return _Computed(
        {
            feature: np.stack([one.vector(descriptors) for descriptors in found])
            for feature, one in made.items()
        },
        np.array(positions, np.int64),
        problems,
        {feature: float(np.median(taken)) * 1000 for feature, taken in spent.items()},
    )


class _Encoders:
    """Encoders of backbones as they are, each in a folder that goes with the last."""

    def __enter__(self) -> "_Encoders":
        self._stack = contextlib.ExitStack()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def of(self, backbone: backbones.Backbone | bundle.Bundle) -> Encoder:
        """The encoder of a backbone, or of a bundle.

        Args:
            backbone: a `Backbone` or a `Bundle`.

        Returns:
            `Encoder`; the codes of a backbone say nothing.
        """
        if isinstance(backbone, bundle.Bundle):
            return Encoder(backbone)
        config = pretrained.config_of(backbone, num_bits=8)
        content = onnx_graph.content(pretrained.write(config, "imagenet", backbone))
        folder = self._stack.enter_context(files.scratch_folder())
        return Encoder(bundle.save_encoder(folder, content, config, origin={}))


def _milliseconds(encoder: Encoder, sources: Sequence[str]) -> float:
    """Of one image, the median of some, once the network is there."""
    spent = []
    encoder.encode_one(sources[0])
    for source in sources:
        start = time.perf_counter()
        encoder.encode_one(source)
        spent.append(time.perf_counter() - start)
    return float(np.median(spent)) * 1000


def _readable(
    database: Listed,
    query_set: QuerySet,
    sources: Sequence[str],
    computed: Sequence[_Computed],
) -> tuple[Listed, QuerySet, np.ndarray, np.ndarray]:
    """What every network could read; and where among the sources its images and queries are."""
    place_of = {path: place for place, path in enumerate(sources)}
    read = np.zeros(len(sources), np.int64)
    for one in computed:
        read[one.positions] += 1
    good = read == len(computed)
    rows = np.array([place_of[str(item.path)] for item in database.items], np.int64)
    kept = np.flatnonzero(good[rows])
    new_row = np.full(len(rows) + 1, -1, np.int64)  # the last, which -1 stands for, stays -1
    new_row[kept] = np.arange(len(kept))
    database = Listed([database.items[row] for row in kept.tolist()])
    places = np.array([place_of[os.path.abspath(path)] for path in query_set.paths], np.int64)
    asked = query_set.kept(np.flatnonzero(good[places]))
    names = asked.names
    labels = asked.labels
    if labels is not None:
        known = {name: place for place, name in enumerate(database.names)}
        places_of = [known.setdefault(names[label], len(known)) for label in labels.tolist()]
        labels, names = np.array(places_of, np.int32), list(known)
    listed = asked.listed
    if listed is not None:
        listed = [new_row[one][new_row[one] >= 0] for one in listed]
    broken = {one.path: one for part in computed for one in part.problems}
    asked = replace(
        asked,
        own=new_row[asked.own],
        labels=labels,
        names=names,
        listed=listed,
        problems=[*asked.problems, *broken.values()],
    )
    asked = answerable(asked, database)
    found = asked.answerable
    num_relevant = asked.num_relevant[found]
    asked = replace(asked.kept(found), num_relevant=num_relevant)
    places = np.array([place_of[os.path.abspath(path)] for path in asked.paths], np.int64)
    return database, asked, rows[kept], places


def _coded(
    described: Described, length: int, prior: np.ndarray | None, seed: int, tell: Tell
) -> Coded:
    """Codes that are fitted to a feature, without labels, and what a query is then ranked by."""
    tell(f"fitting codes to {described.name}", 0, 0)
    weights = unsupervised_codes.fit(described.database, length, prior=prior, seed=seed)
    mean = unsupervised_codes.mean_feature(described.database, prior)
    packed = codes.pack(weights.bits(described.queries))

    def ranking(query: int) -> Ranking:
        feature = described.queries[query]
        return ranking_about(mean, weights.latents(feature), packed[query], feature)

    return Coded(length, codes.pack(weights.bits(described.database)), packed, ranking)


def _protocol(query_set: QuerySet, database: Listed, *, by_list: bool, seed: int) -> str:
    own = int(np.count_nonzero(query_set.own >= 0))
    sentences = [
        f"Queries: {len(query_set)} images that have something to find.",
        f"Database: {len(database.items)} images.",
        f"{own} of the queries are among them, each left out of its own ranking." if own else "",
        "Relevant: the images that the ground truth lists."
        if by_list
        else "Relevant: images of the query's label, the first folder below the one given.",
        "All images are ranked for each query: by the Euclidean distance of a feature; by the "
        "Hamming distance of codes that are fitted to it without labels; or by the distance that "
        "joins both, as a search ranks its pool.",
        "mAP: mean average precision over all images, expected over every order of ties.",
        f"Intervals: of {significance.RESAMPLES} bootstrap resamples of the queries, "
        f"{significance.LEVEL:.0%} of the means lie within. p: two-sided randomisation test of "
        "the differences of the queries to the first method, raised by Holm's rule for as many "
        f"tests as there are. Seed {seed}.",
        "bytes an image: what an index keeps for it, features in float16. Milliseconds: medians, "
        "to encode one image, read and decoded, and to rank all images for one query.",
    ]
    return " ".join(filter(None, sentences))
