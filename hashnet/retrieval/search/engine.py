"""The order of the stages: a code finds a pool, the feature ranks it, local features verify it.

Only this file knows it; everything that searches goes through here.
"""

import functools
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from hashnet import deadline, images, system
from hashnet.codes import code_bytes
from hashnet.encode.encoder import Encoder
from hashnet.errors import ArgumentError, RegionError, UnknownIdError, UnknownNameError
from hashnet.local import extractors, several
from hashnet.local.features import Extractor
from hashnet.network.bundle import Bundle
from hashnet.ocr.reader import Reader
from hashnet.retrieval.search import duplicates, feedback, grading, local_pool, reranking
from hashnet.retrieval.search import verify as verification
from hashnet.retrieval.search.duplicates import DuplicateGroup, Progress
from hashnet.retrieval.search.finder import Finder, Found, threshold_of
from hashnet.retrieval.search.finders import finder_of
from hashnet.retrieval.search.grading import Background, Graded, Sample, drawn
from hashnet.retrieval.search.hits import SearchResult, hits_of
from hashnet.retrieval.search.query import Query
from hashnet.retrieval.search.ranking import Ranking, ranking_of
from hashnet.retrieval.search.verify import Features, Matcher, Verification
from hashnet.retrieval.search.written import LEAST_SHARE, Written, joined
from hashnet.retrieval.store.items import no_codebook, no_local_pool
from hashnet.retrieval.store.protocol import Store
from hashnet.retrieval.store.roots import ids_named

# The smallest pool that is asked for by default, per hit wanted, and per root of the index's size:
# tests/bench/pool_size.py measures how the pool that holds the nearest grows with the index.
POOL = 1000
POOL_PER_HIT = 10
POOL_PER_ROOT = 5
POOL_PER_ROOT_BY_CERTAINTY = 3
CANDIDATES_AT_ONCE = 64
# Ids that a refusal names.
IDS_SHOWN = 3

DEFAULT = Query()


class Searchable(Protocol):
    """What an engine needs of an index: see `Index`."""

    @property
    def store(self) -> Store:
        """The `Store`."""

    @property
    def encoder(self) -> Encoder:
        """What gives a query its code and feature."""

    @property
    def extractor(self) -> Extractor:
        """What gives a query its local features."""

    @property
    def reader(self) -> Reader:
        """What reads the text in a query."""


@dataclass(frozen=True, eq=False)
class _QueryImage:
    """The image that is searched by, and what is known of it.

    Attributes:
        name: str. What the answer calls it.
        code: uint8 `(code_bytes,)`.
        feature: float32 `(feature_dim,)`.
        local: function that gives its local features, or None where they are not asked for.
        lines: function that gives the lines of text in it, or None where they are not asked for.
        corner: (row, column) in pixels of the image, where the part that is searched by begins.
        without: str or None. The id of the image that is left out of the hits.
        row: int. The row of that image, -1 for none.
        encode_seconds: float or None.
    """

    name: str
    code: np.ndarray
    feature: np.ndarray
    local: Callable[[], Features] | None = None
    lines: Callable[[], list[str]] | None = None
    corner: tuple[int, int] = (0, 0)
    without: str | None = None
    row: int = -1
    encode_seconds: float | None = None


@dataclass(frozen=True, eq=False)
class _Narrowed:
    """What a query means in one snapshot.

    Attributes:
        allowed: what passes its filters, as the finder takes it.
        marked: codes and features of the images marked right, and of those marked wrong; or None.
    """

    allowed: Any
    marked: tuple[feedback.Marked, feedback.Marked] | None


@dataclass(frozen=True, eq=False)
class Answer:
    """What was found, and in which order it is shown.

    Attributes:
        found: `Found`.
        places: int64 `(n,)`, of images in it, best first.
        compared: dict of a place to its `Verification`.
        threshold: int, of the pool, or None where it has none.
        pool: int. Images in it.
        seconds: dict of stage to float, or None for one that did not run.
        written: `Written`, or None where it was not asked for.
    """

    found: Found
    places: np.ndarray
    compared: dict[int, Verification]
    threshold: int | None
    pool: int
    seconds: dict[str, float | None]
    written: Written | None = None


class Engine:
    """Searches one snapshot of an index.

    Args:
        index: a `Index`.
        num_threads: int or None. Threads of the stages; None means one for each core this process
            may use. Answers do not depend on it.
        after: `Engine` or None. One of an earlier snapshot of the index, which is still open:
            what it has verified and made ready is taken over.

    Attributes:
        index: as given.
        num_threads: int, as given, or the cores that None stands for.
        snapshot: the `Snapshot`.
        finder: what finds in it; see `hashnet.retrieval.search.finder`.

    Example:
        >>> from hashnet.retrieval.index import Index
        >>> engine = Engine(Index.open(index_folder))
        >>> result = engine.search("cat.png", Query(k=2))
        >>> [(hit.label, hit.bits_apart) for hit in result.hits][0]
        ('cat', 0)
    """

    # Images that one id may stand for.
    _most_of_an_id = 1

    def __init__(
        self,
        index: Searchable,
        *,
        num_threads: int | None = None,
        after: "Engine | None" = None,
    ) -> None:
        self.index = index
        self.num_threads = system.cores() if num_threads is None else num_threads
        self.snapshot = index.store.snapshot()
        older: Finder[Any] | None = None if after is None else after.finder
        self.finder: Finder[Any] = finder_of(
            self.snapshot, num_threads=self.num_threads, after=older
        )

    def search(self, image: images.Source | images.Photo, query: Query = DEFAULT) -> SearchResult:
        """Find the images most like one image.

        Args:
            image: as for `images.Photo`, or such a photo, which is then still decoded for the
                caller.
            query: a `Query`.

        Returns:
            A `SearchResult`; its hits are ordered by (distance, row) where nothing is verified.
            In an index with regions, each image is found once, by its nearest row in the pool.

        Raises:
            ImageError: the image cannot be read, or a `RegionError`: the region lies outside it.
            StoreError: local features or what is written are asked for, and the index has none.
            WeightsError: what reads text is not installed.
            UnknownNameError: no image has one of the labels; the message lists those there are.
            UnknownIdError: an image marked right or wrong is not in the index, or none of `ids`.
            ArgumentError: where likeness ends is asked for, and this index cannot tell.
        """
        narrowed = self._narrowed(query)
        extractor = self.index.extractor if _compares(query) else None
        reader = self.index.reader if query.written else None
        start = time.perf_counter()
        photo = images.Photo.of(image)
        part = photo if query.region is None else images.Photo(_crop(photo, query.region))
        code, feature = self.index.encoder.encode_one(part)
        queried = _QueryImage(
            photo.path or "image",
            code,
            feature,
            None if extractor is None else lambda: extractor.extract(part.full()),
            None if reader is None else lambda: [line.text for line in reader.read(part.full())],
            (0, 0) if query.region is None else query.region[:2],
            encode_seconds=time.perf_counter() - start,
        )
        return self._search(queried, query, narrowed)

    def search_encoded(
        self,
        code: np.ndarray,
        feature: np.ndarray,
        query: Query = DEFAULT,
        *,
        name: str = "code",
        local: Features | None = None,
        lines: Sequence[str] | None = None,
        without: str | None = None,
    ) -> SearchResult:
        """Find by a code and a feature.

        For the answer and the errors, see `search`.

        Args:
            code: uint8 `(code_bytes,)`.
            feature: float32 `(feature_dim,)`.
            query: a `Query` without a region.
            name: str. What the answer calls the query.
            local: its local features, for `verify` and `same_object`; or None.
            lines: list of str, what is written in it, for `written`; or None.
            without: str or None. The id of an image that is left out of the hits.

        Raises:
            ArgumentError: the query has a region, is to be verified without local features, or
                found by what is written without lines.
        """
        _refuse_region(query)
        if _compares(query) and local is None:
            raise ArgumentError(
                "Local features are compared between pictures.",
                f"{'verify' if query.verify else 'same_object'}=True for a code and a feature",
                "Search by the image or its id.",
            )
        if query.written and lines is None:
            raise ArgumentError(
                "What is written is read in pictures.",
                "written=True for a code and a feature",
                "Search by the image or its id.",
            )
        row = -1 if without is None else int(self.snapshot.rows([without])[0])
        features = (lambda: local) if local is not None and _compares(query) else None
        read = (lambda: list(lines)) if lines is not None and query.written else None
        image = _QueryImage(name, code, feature, features, read, without=without, row=row)
        return self._search(image, query, self._narrowed(query))

    def search_vector(
        self, vector: np.ndarray, query: Query = DEFAULT, *, name: str = "vector"
    ) -> SearchResult:
        """Find by a feature that the index's network, or the one it stands for, gave elsewhere.

        For the answer and the other errors, see `search_encoded`.

        Args:
            vector: float array `(feature_dim,)`, of any length but 0.
            query, name: as for `search_encoded`.

        Raises:
            ShapeError: it is of another width, or no numbers.
            ArgumentError: it holds NaN or infinity, or is 0; or as for `search_encoded`.

        Example:
            >>> from hashnet.retrieval.index import Index
            >>> index = Index.open(index_folder)
            >>> [hit.id for hit in Engine(index).search_vector(index.features(["dog"])[0]).hits]
            ['dog', 'cat']
        """
        start = time.perf_counter()
        [code], [feature] = self.index.encoder.encode_vectors(np.asarray(vector)[None])
        spent = round((time.perf_counter() - start) * 1000, 3)
        result = self.search_encoded(code, feature, query, name=name)
        return replace(result, milliseconds={**result.milliseconds, "encode": spent})

    def search_id(self, id: str, query: Query = DEFAULT) -> SearchResult:
        """Find the images most like one that the index holds; nothing is read or encoded again.

        The image itself is in the pool, and left out of the hits.

        Args:
            id: str.
            query: a `Query` without a region.

        Returns:
            A `SearchResult`; `query` is the id. For the other errors, see `search`.

        Raises:
            UnknownIdError: the index holds no image of this id.
            ArgumentError: the query has a region.

        Example:
            >>> from hashnet.retrieval.index import Index
            >>> [hit.id for hit in Engine(Index.open(index_folder)).search_id("cat").hits]
            ['dog']
        """
        _refuse_region(query)
        narrowed = self._narrowed(query)
        rows, codes, features = self._encoded([id])
        local = self.snapshot.candidates(rows)[0] if _compares(query) else None
        lines = (lambda: self.lines(int(rows[0]))) if query.written else None
        image = _QueryImage(id, codes[0], features[0], local, lines, without=id, row=int(rows[0]))
        return self._search(image, query, narrowed)

    def match(
        self,
        image: images.Source | images.Photo,
        id: str,
        *,
        region: tuple[int, int, int, int] | None = None,
    ) -> Verification:
        """Compare the local features of an image with those of one that the index holds.

        For the hits of a search that verified them, `SearchResult.verifications` has this already.

        Args:
            image: as for `search`.
            id: str.
            region: as of a `Query`. Only this part of the image.

        Returns:
            A `Verification`: inliers, matched places in pixels of the two, and the model.

        Raises:
            ImageError: the image cannot be read, or a `RegionError`.
            UnknownIdError: the index holds no image of this id.
            StoreError: the index has no local features.
        """
        [candidate] = self.snapshot.local_features([self._row(id)])
        photo = images.Photo.of(image)
        pixels = photo.full() if region is None else _crop(photo, region)
        [found] = self._strongest(self.index.extractor.extract(pixels), [candidate])
        return found if region is None else found.moved(region[:2])

    def match_id(self, query_id: str, id: str) -> Verification:
        """Compare the local features of two images that the index holds; no file is read.

        Args:
            query_id, id: str.

        Returns:
            As for `match`.

        Raises:
            UnknownIdError: the index holds no image of one of these ids.
            StoreError: the index has no local features.
        """
        features = self.snapshot.local_features(self._rows([query_id, id]))
        return self._strongest(features[0], features[1:])[0]

    def verify(
        self, features: Features, rows: np.ndarray, query: Query = DEFAULT
    ) -> tuple[np.ndarray, list[Verification]]:
        """The last stage by itself: verify images that the fine stage has ranked.

        Args:
            features: the query's local features, as `verify.verify` takes them.
            rows: int64 `(n,)`, of whole images, nearest first.
            query: a `Query`, of which `matcher` and `matcher_top` count.

        Returns:
            order: int64 `(n,)`, places in `rows`: those that show the same thing first, by (most
                strength, place), then the others as they were. Where features have another matcher,
                what it has found comes before what only nearest ones of them have.
            verifications: list of n `Verification`, in the order of `rows`.

        Raises:
            StoreError: the index has no local features, or they are damaged.
            ArgumentError: the matcher is not for features of their kind.
            WeightsError: the matcher's weights are not installed.
        """
        matchers = self._matchers(query.matcher)
        nearest = self._verify(features, self.snapshot.candidates(rows))
        found = _strongest_of(nearest)
        first = np.zeros(len(found), bool)
        if matchers:
            # Of an extractor that has no matcher, nearest features are the last word.
            others = [ones for name, ones in nearest.items() if name not in matchers]
            first |= np.any([[one.same for one in ones] for ones in others], axis=0)
            of_matched = _strongest_of({name: nearest[name] for name in matchers})
            matches = np.array([one.matches for one in of_matched], np.int64)
            best = np.lexsort((-matches, -_strengths(found)))[: query.matcher_top]
            again = self._verify(features, self.snapshot.candidates(rows[best]), matchers)
            for place, one in zip(best.tolist(), _strongest_of(again), strict=True):
                found[place] = verification.strongest([one, *(ones[place] for ones in others)])
                first[place] = found[place].same
        return np.lexsort((-_strengths(found), ~first)), found

    def histogram(self, code: np.ndarray, query: Query = DEFAULT) -> np.ndarray:
        """Count the images at each number of bits from a code.

        Args:
            code: uint8 `(code_bytes,)`.
            query: a `Query`, of which labels and ids count.

        Returns:
            int64 `(8 * code_bytes + 1,)`; element d counts the images at Hamming distance d.

        Example:
            >>> from hashnet.retrieval.index import Index
            >>> engine = Engine(Index.open(index_folder))
            >>> int(engine.histogram(engine.snapshot.codes[0]).sum())
            2
        """
        return self.finder.histogram(code, allowed=self.allowed(query))

    def ranking(
        self, code: np.ndarray, feature: np.ndarray, query: Query = DEFAULT
    ) -> Ranking | None:
        """What the fine stage ranks by, as a finder takes it.

        Args:
            code: uint8 `(code_bytes,)`, of the query.
            feature: float32 `(feature_dim,)`, of the query.
            query: a `Query`, of which `rank_by` counts.

        Returns:
            A `Ranking`, or None where features alone rank.
        """
        if self._bundle is None:
            return None
        mean = None if query.rank_by == "feature" else self.mean
        return ranking_of(self.index.encoder, mean, code, feature)

    def reranked(
        self,
        code: np.ndarray,
        feature: np.ndarray,
        rows: np.ndarray,
        ranking: Ranking | None,
        query: Query,
    ) -> np.ndarray:
        """The second half of the fine stage by itself: rank images again, as a query asks for.

        Args:
            code: uint8 `(code_bytes,)`, of the query.
            feature: float32 `(feature_dim,)`, of the query.
            rows: int64 `(n,)`, nearest first.
            ranking: from `ranking`.
            query: a `Query` with a `rerank`.

        Returns:
            int64 `(n,)`, places in `rows`: the first `rerank_top` ranked again, then the others as
            they were.
        """
        assert query.rerank is not None  # else nobody asked
        packed, features = self.finder.of_rows(rows[: query.rerank_top])
        joined = reranking.vectors(code, feature, packed, features, ranking)
        first = reranking.rerank(joined, query.rerank, query.rerank_neighbours)
        return np.concatenate([first, np.arange(len(first), len(rows))])

    def least_pool(self, query: Query = DEFAULT) -> int | None:
        """The least size of the pool that a query asks for; None where a threshold sets its pool.

        Args:
            query: a `Query`.

        Returns:
            int or None; see `default_pool`.
        """
        if query.threshold is not None or query.pool is not None:
            return query.pool
        return default_pool(
            _wanted(query), self.snapshot.num_items, by_certainty=self._knows_certainty
        )

    @functools.cached_property
    def _knows_certainty(self) -> bool:
        if self._bundle is None:
            return False
        nothing = np.zeros(self.index.store.feature_dim, np.float32)
        return self.mean is not None or self.index.encoder.latent_of(nothing) is not None

    @functools.cached_property
    def mean(self) -> np.ndarray | None:
        """float32 `(feature_dim,)`: the mean about which features are ranked, the bundle's.

        None where the bundle is of before it was kept, so that features rank as they are.
        """
        return None if self._bundle is None else self._bundle.mean

    @functools.cached_property
    def _bundle(self) -> Bundle | None:
        # A store can be searched by itself, without a network to make queries of images.
        return getattr(getattr(self.index, "encoder", None), "bundle", None)

    def meaning(self, text: str) -> np.ndarray:
        """The direction in which features lie that show what a text says, for `Query.text`.

        An engine that knows no words refuses: see `words.box.WordEngine`.

        Args:
            text: str.

        Returns:
            float32 `(feature_dim,)`, of length 1, as seen from `mean`.

        Raises:
            ArgumentError: it knows no words, or none of these.
        """
        raise ArgumentError(
            "Words beside a picture are for one index at a time.",
            f"{text[:50]!r}, and no index by itself",
            "Search one of them, or leave the text out.",
        )

    def written(self, text: str, allowed: Any) -> Written:
        """The images in which something was read that a text has, for `Query.written`.

        An engine that knows no words refuses, as for `meaning`.

        Args:
            text: str, of any length.
            allowed: what passes the filters, as `allowed` gives it.

        Returns:
            `Written`.

        Raises:
            ArgumentError: it knows no words.
            StoreError: nothing was read in the images of the index.
        """
        raise ArgumentError(
            "By what is written one index is searched at a time.",
            "several that are searched as one",
            "Name one of them, or leave that out.",
        )

    def along(self, direction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A query that lies in a direction from `mean`, as far from there as photos do.

        Args:
            direction: float32 `(feature_dim,)`, of length 1.

        Returns:
            code: uint8 `(code_bytes,)`.
            feature: float32 `(feature_dim,)`, of length 1.
        """
        mean = np.zeros_like(direction) if self.mean is None else self.mean
        # Of features of length 1, this is the mean of the squares of their distances from the mean.
        spread = max(1.0 - float(np.square(mean).sum()), 0.0)
        feature = (mean + np.sqrt(spread) * direction)[None].astype(np.float32)
        [code], [feature] = self.index.encoder.encode_vectors(feature)
        return code, feature

    @property
    def grades(self) -> bool:
        """bool. Whether hits are graded, where codes and features rank; see `grading`."""
        if self._bundle is None or self.mean is None:
            return False
        return self._bundle.is_label_free or self.snapshot.num_items >= grading.LEAST_IMAGES

    @property
    def labels(self) -> list[str]:
        """The labels that images of the snapshot have, a list of str."""
        return list(self.finder.labels)

    def path(self, id: str) -> str | None:
        """Where the file of an image of the index lies, if that is known.

        Args:
            id: str.

        Returns:
            str, or None where it is not known.

        Raises:
            UnknownIdError: the index holds no image of this id.
        """
        path: str | None = self.snapshot.items([self._row(id)])[0].path
        return path

    def ids_of(self, names: Sequence[str]) -> list[str]:
        """Ids, of ids and of paths of files, as a person names images: see `ids_named`.

        Args:
            names: list of str.

        Returns:
            list of str.
        """
        return ids_named(self.snapshot, names)

    def duplicates(
        self,
        threshold: int,
        *,
        turned: bool = False,
        progress: Progress | None = None,
    ) -> Iterator[DuplicateGroup]:
        """Groups of images that are copies of each other; `search.duplicates` says how.

        Args:
            threshold: int, 1 or more. Pairs whose codes differ in strictly fewer bits are looked
                at, besides those that their pixels tell.
            turned: bool. Also find copies that lie on a side, on their head, or are mirrored.
            progress: called with the stage, images done and images to do; or None.

        Yields:
            `DuplicateGroup`, in the order in which their first image was added.

        Raises:
            ArgumentError: the threshold is no such integer.

        Example:
            >>> from hashnet.retrieval.index import Index
            >>> list(Engine(Index.open(index_folder)).duplicates(threshold=33))
            []
        """
        return duplicates.find(
            self.snapshot,
            self.finder,
            threshold,
            turned=turned,
            num_threads=self.num_threads,
            progress=progress,
        )

    def _row(self, id: str) -> int:
        return int(self._rows([id])[0])

    def _rows(self, ids: Sequence[str]) -> np.ndarray:
        rows: np.ndarray = self.snapshot.rows(ids)
        _refuse_unknown(ids, rows)
        return rows

    def _encoded(self, ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows, codes and features of some images."""
        rows, codes, features = self.finder.encoded(ids)
        _refuse_unknown(ids, rows)
        return rows, codes, features

    def _narrowed(self, query: Query) -> _Narrowed:
        marked = None
        if query.right or query.wrong:
            _, codes, features = self._encoded([*query.right, *query.wrong])
            number = len(query.right)
            marked = (codes[:number], features[:number]), (codes[number:], features[number:])
        return _Narrowed(self.allowed(query), marked)

    def allowed(self, query: Query) -> Any:
        """What passes the filters of a query, as the finder takes it.

        Args:
            query: a `Query`.

        Returns:
            As `Finder.allowed`.

        Raises:
            UnknownNameError: no image has one of the labels; the message lists those there are.
            StoreError: dates are asked for that the index does not keep.
        """
        known = self.finder.labels if query.labels else []
        for name in query.labels or ():
            if name not in known:
                raise UnknownNameError("label", name, known)
        labels, ids, under = (
            None if names is None else list(names)
            for names in (query.labels, query.ids, query.under)
        )
        return self.finder.allowed(labels, ids, after=query.after, before=query.before, under=under)

    def refuse_strangers(self, query: Query) -> None:
        """Where nothing was found among some ids or in some folders, say so if there are no such.

        Args:
            query: a `Query`.

        Raises:
            UnknownIdError: none of its ids is in the index.
            ArgumentError: no image lies in any of its folders.
        """
        ids, folders = list(query.ids or ()), list(query.under or ())
        if ids and (self.snapshot.rows(ids) < 0).all():
            more = f" and {len(ids) - IDS_SHOWN} more" if len(ids) > IDS_SHOWN else ""
            raise UnknownIdError(
                "A search among ids needs one that the index holds.",
                ", ".join(map(repr, ids[:IDS_SHOWN])) + more,
                "Ids are what hits show.",
            )
        if folders and not any(map(self.finder.is_folder, folders)):
            raise ArgumentError(
                "A search under a folder needs one that images of the index lie in.",
                ", ".join(map(repr, folders[:IDS_SHOWN])),
                "Name it as ids begin, such as photos/2026, or by its path.",
            )

    def _search(self, image: _QueryImage, query: Query, narrowed: _Narrowed) -> SearchResult:
        """The pool, then verification where it is asked for; items last."""
        deadline.check()
        if narrowed.marked:
            code, feature = feedback.move(
                image.code,
                image.feature,
                *narrowed.marked,
                num_bits=self.index.store.num_bits,
            )
            image = replace(image, code=code, feature=feature)
        if query.text is not None and query.text_weight:
            towards = self.meaning(query.text)
            code, feature = self._moved(image.feature, towards, query.text_weight)
            image = replace(image, code=code, feature=feature)
        ranking = self.ranking(image.code, image.feature, query)
        background = self._background(image.code, image.feature, ranking)
        counts = None
        if query.histogram:
            counts = self.finder.histogram(image.code, allowed=narrowed.allowed)
        if query.same_object:
            answer = self._by_local_pool(image, query, ranking, narrowed.allowed)
        else:
            answer = self._by_hash_pool(image, query, ranking, narrowed.allowed, counts)
        if not answer.pool:
            self.refuse_strangers(query)
        found, compared, places = answer.found, answer.compared, answer.places[: query.k]
        graded = self._graded(found, places, compared, background)
        if query.until_unlike:
            if background is None:
                raise self._cannot_grade()
            is_like = (one is not None and one.grade != grading.UNLIKE for one in graded)
            like = np.fromiter(is_like, bool, len(places))
            if answer.written is not None:
                like = like | (answer.written.of(found.image_rows[places]) >= LEAST_SHARE)
            places, graded = places[like], list(itertools.compress(graded, like))
        verifications = tuple(compared.get(place) for place in places.tolist())
        shares = None
        if answer.written is not None:
            shares = answer.written.of(found.image_rows[places]).round(4).tolist()
        return SearchResult(
            image.name,
            answer.threshold,
            answer.pool,
            {
                name: None if spent is None else round(spent * 1000, 3)
                for name, spent in ({"encode": image.encode_seconds} | answer.seconds).items()
            },
            tuple(hits_of(found, places, verifications, graded, shares)),
            None if counts is None else tuple(counts[: self.index.store.num_bits + 1].tolist()),
            verifications if image.local is not None else None,
        )

    def _moved(
        self, feature: np.ndarray, towards: np.ndarray, weight: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Code and feature of a query on its way to a direction, as far from the mean as it was."""
        mean = np.zeros_like(feature) if self.mean is None else self.mean
        apart = feature - mean
        far = float(np.linalg.norm(apart))
        between = (1 - weight) * apart / max(far, 1e-12) + weight * towards
        between *= far / max(float(np.linalg.norm(between)), 1e-12)
        [code], [feature] = self.index.encoder.encode_vectors((mean + between)[None])
        return code, feature

    def _by_hash_pool(
        self,
        image: _QueryImage,
        query: Query,
        ranking: Ranking | None,
        allowed: Any,
        counts: np.ndarray | None,
    ) -> Answer:
        """Coarse and fine, and where it is asked for the verified ones first."""
        threshold, pool = query.threshold, self.least_pool(query)
        if counts is not None and pool is not None and ranking is None:
            # It need not be counted a second time.
            threshold, pool = threshold_of(counts, pool), None
        wanted = _wanted(query)
        ranked = wanted if query.rerank is None else max(wanted, query.rerank_top)
        found = self.finder.find(
            image.code,
            image.feature,
            ranked + (self._most_of_an_id if image.without is not None else 0),
            ranking=ranking,
            threshold=threshold,
            at_least=pool,
            allowed=allowed,
        )
        places = _others(found, image)[:ranked]
        seconds: dict[str, float | None] = {
            "coarse": found.coarse_seconds,
            "fine": found.fine_seconds,
        }
        if query.rerank is not None:
            deadline.check()
            start = time.perf_counter()
            again = self.reranked(image.code, image.feature, found.rows[places], ranking, query)
            places = places[again]
            seconds["rerank"] = time.perf_counter() - start
        seconds["verify"] = None
        places = places[:wanted]
        answer = Answer(found, places, {}, found.threshold, found.pool, seconds)
        if image.local is None and image.lines is None:
            return answer
        deadline.check()
        written = self._written(image, allowed, seconds)
        start = time.perf_counter()
        features = None if image.local is None else image.local()
        found, candidates = self._candidates(
            image, query, ranking, allowed, found, places, features, written
        )
        order, compared = self._compared(found, candidates, features, image.corner, query)
        first = _first(found, order, compared, written)
        if features is not None:
            seconds["verify"] = time.perf_counter() - start
        return replace(
            answer,
            found=found,
            places=np.concatenate([first, places[~np.isin(places, first)]]),
            compared=compared,
            written=written,
        )

    def _written(
        self, image: _QueryImage, allowed: Any, seconds: dict[str, float | None]
    ) -> Written | None:
        """What has the text of a query, but for the query itself; None where it is not asked."""
        if image.lines is None:
            return None
        start = time.perf_counter()
        lines = image.lines()
        seconds["read"] = time.perf_counter() - start
        rows, shares = self.written("\n".join(lines), allowed)
        return Written(rows[rows != image.row], shares[rows != image.row])

    def lines(self, row: int) -> list[str]:
        """What was read in an image of the index.

        Args:
            row: int, of the whole image.

        Returns:
            list of str, from the top.
        """
        texts = self.snapshot.items([row])[0].texts
        return [] if texts is None else [line.text for line in texts.lines or ()]

    def _candidates(
        self,
        image: _QueryImage,
        query: Query,
        ranking: Ranking | None,
        allowed: Any,
        found: Found,
        places: np.ndarray,
        features: Features | None,
        written: Written | None,
    ) -> tuple[Found, np.ndarray]:
        """What may come first: the nearest and the most similar, which are verified, and those of
        the same text; and where it is, nearest first.
        """
        similar = None
        if features is not None:
            similar = self._similar(features, query, allowed, image.row)
        if similar is None and written is None:
            return found, places[: query.verify_top]
        by_hash, nothing = found.image_rows[places], np.empty(0, np.int64)
        by_text = nothing if written is None else written.best(_wanted(query))
        rows = by_text
        if features is not None:
            by_local = nothing if similar is None else similar[0]
            rows = local_pool.joined(by_hash, by_local, query.verify_top, by_text)
        new = rows[~np.isin(rows, by_hash)]
        # What the nearest do not hold has the scores of all hits, within a threshold if any.
        threshold = self._no_threshold if query.threshold is None else query.threshold
        more = self._scored(image, new, ranking, threshold)
        candidates = places[np.isin(by_hash, rows)]
        candidates = np.concatenate([candidates, len(found.rows) + _others(more, image)])
        found = found.followed_by(more)
        nearest = np.lexsort((found.rows[candidates], found.distances[candidates]))
        return found, candidates[nearest]

    def _by_local_pool(
        self, image: _QueryImage, query: Query, ranking: Ranking | None, allowed: Any
    ) -> Answer:
        """The most similar by signatures of local features, the verified ones first."""
        assert image.local is not None  # else it would have been refused
        start = time.perf_counter()
        features = image.local()
        extracted = time.perf_counter() - start
        seconds: dict[str, float | None] = {}
        written = self._written(image, allowed, seconds)
        middle = time.perf_counter()
        similar = self._similar(features, query, allowed, image.row)
        if similar is None:
            found, places = self._all_images(image, query, ranking, allowed)
            rows, pool = found.image_rows[places], found.pool
            coarse, fine = found.coarse_seconds, found.fine_seconds
        else:
            rows, pool = similar
            coarse = time.perf_counter() - middle
        if written is not None:
            by_text = written.best(_wanted(query))
            rows = local_pool.joined(np.empty(0, np.int64), rows, _wanted(query), by_text)
        if similar is not None or written is not None:
            found = self._scored(image, rows, ranking, self._no_threshold)
            places = _others(found, image)
            place_of = {row: place for place, row in enumerate(rows.tolist())}
            ranks = [place_of[row] for row in found.image_rows[places].tolist()]
            places = places[np.argsort(ranks)]
            fine = time.perf_counter() - middle - coarse
        scored = time.perf_counter()
        top = places[: query.verify_top]
        order, compared = self._compared(found, top, features, image.corner, query)
        first = _first(found, order, compared, written)
        seconds |= {
            "coarse": coarse,
            "fine": fine,
            "verify": extracted + time.perf_counter() - scored,
        }
        places = np.concatenate([first, places[~np.isin(places, first)]])
        return Answer(found, places, compared, None, pool, seconds, written)

    def _similar(
        self, features: Features, query: Query, allowed: Any, without: int
    ) -> tuple[np.ndarray, int] | None:
        """Rows of the best of the local pool, without one, and how many are in it; None without."""
        most = _wanted(query) + self._most_of_an_id
        similar = self.finder.similar(features.descriptors, most, allowed=allowed)
        if similar is None:
            return None
        return similar.rows[similar.rows != without][: _wanted(query)], similar.pool

    def _all_images(
        self, image: _QueryImage, query: Query, ranking: Ranking | None, allowed: Any
    ) -> tuple[Found, np.ndarray]:
        """Of an index too small for a codebook: the nearest of all images, and their places."""
        place, snapshot = self.index.store.folder, self.snapshot
        if not snapshot.keeps_words:
            raise no_local_pool(place)
        if local_pool.is_due(snapshot.num_items, snapshot.num_local_features):
            raise no_codebook(place)
        found = self.finder.find(
            image.code,
            image.feature,
            _wanted(query) + self._most_of_an_id,
            ranking=ranking,
            threshold=self._no_threshold,
            allowed=allowed,
        )
        return found, _others(found, image)

    @property
    def _no_threshold(self) -> int:
        return 8 * code_bytes(self.index.store.num_bits) + 1

    def _scored(
        self, image: _QueryImage, rows: np.ndarray, ranking: Ranking | None, threshold: int
    ) -> Found:
        """Some images, with the scores of the coarse and the fine stage."""
        return self.finder.find(
            image.code,
            image.feature,
            max(1, len(rows)),
            ranking=ranking,
            threshold=threshold,
            allowed=self.finder.among(rows),
        )

    def _background(
        self, code: np.ndarray, feature: np.ndarray, ranking: Ranking | None
    ) -> Background | None:
        if ranking is None or ranking.mean is None or not self.grades:
            return None
        return self._sample.background(code, feature, ranking)

    def _cannot_grade(self) -> ArgumentError:
        return ArgumentError(
            "Where likeness ends is told by an index that knows the mean of its features and, "
            f"where its network learned from labels, holds {grading.LEAST_IMAGES} images or more.",
            f"until_unlike=True, in an index of {self.snapshot.num_items}",
            "Leave it out; or make the index anew, or add to it.",
        )

    @functools.cached_property
    def _sample(self) -> Sample:
        assert self._bundle is not None and self.mean is not None  # there is a ranking about it
        codes, features = self.finder.at(drawn(self.snapshot.num_items))
        return Sample(codes, features, self.mean, unsupervised=self._bundle.is_label_free)

    def _graded(
        self,
        found: Found,
        places: np.ndarray,
        compared: dict[int, Verification],
        background: Background | None,
    ) -> list[Graded | None]:
        """How like the hits are: by their distances, and those that are verified in any case."""
        if background is None:
            return [None] * len(places)
        graded: list[Graded | None] = []
        for place in places.tolist():
            one = background.grade(float(found.distances[place]))
            verified = place in compared and compared[place].same
            if verified and one.grade == grading.UNLIKE:
                one = one._replace(grade=grading.LIKE)
            graded.append(one)
        return graded

    def _compared(
        self,
        found: Found,
        places: np.ndarray,
        features: Features | None,
        corner: tuple[int, int],
        query: Query,
    ) -> tuple[np.ndarray, dict[int, Verification]]:
        """Places of candidates, the verified ones first; and how each compares with the query.

        Without local features none does.
        """
        if features is None:
            return places, {}
        order, verifications = self.verify(features, found.image_rows[places], query)
        moved = [one.moved(corner) for one in verifications]
        return places[order], dict(zip(places.tolist(), moved, strict=True))

    def _strongest(self, features: Features, candidates: Sequence[Features]) -> list[Verification]:
        return _strongest_of(self._verify(features, candidates))

    def _verify(
        self,
        features: Features,
        candidates: Sequence[Features | Callable[[], Features]],
        matchers: Mapping[str, Matcher] | None = None,
    ) -> dict[str, list[Verification]]:
        """What each extractor's features say of the candidates, or those that have a matcher."""
        names = extractors.names_of(self.index.store.extractor)
        known = verification.BY_LIGHTGLUE if matchers else verification.MATCHING
        found: dict[str, list[Verification]] = {name: [] for name in matchers or names}

        def verify(name: str, query: Features, some: Sequence[Any]) -> None:
            matcher = matchers[name] if matchers else None
            ones = verification.verify_all(
                query, some, known[name], num_threads=self.num_threads, matcher=matcher
            )
            found[name] += [replace(one, extractor=name) for one in ones]

        if len(names) == 1:
            verify(*names, features, candidates)
            return found
        of_query = several.split(features, names)
        # A candidate is read once, and held until all extractors have had it.
        for start in range(0, len(candidates), CANDIDATES_AT_ONCE):
            some = [_Parts(one, names) for one in candidates[start : start + CANDIDATES_AT_ONCE]]
            for name in found:
                number = names.index(name)
                verify(name, of_query[number], [functools.partial(one.of, number) for one in some])
        return found

    def _matchers(self, name: str) -> dict[str, Matcher]:
        """What matches the first once more, by extractor; nothing for nearest features alone."""
        if name == "nearest":
            return {}
        from hashnet.local import lightglue  # which most searches do without

        known = verification.BY_LIGHTGLUE
        names = extractors.names_of(self.index.store.extractor)
        matched = [name for name in names if name in known]
        if not matched:
            raise ArgumentError(
                f"LightGlue matches the local features of {', '.join(known)}.",
                f"those of {self.index.store.extractor}",
                "Make an index with `hashnet index --local aliked`, or leave the matcher out.",
            )
        return {name: lightglue.opened(name) for name in matched}


class _Parts:
    """A candidate's local features by extractor, read when the first are asked for."""

    def __init__(self, given: Features | Callable[[], Features], names: Sequence[str]) -> None:
        self._given, self._names = given, names

    def of(self, number: int) -> Features:
        return self._split[number]

    @functools.cached_property
    def _split(self) -> Sequence[Features]:
        features = self._given() if callable(self._given) else self._given
        return several.split(features, self._names)


def _strongest_of(found: Mapping[str, Sequence[Verification]]) -> list[Verification]:
    """Of each image what the features of one extractor say, of what those of each say."""
    return [verification.strongest(ones) for ones in zip(*found.values(), strict=True)]


def _first(
    found: Found, order: np.ndarray, compared: dict[int, Verification], written: Written | None
) -> np.ndarray:
    """Of candidates in an order, the verified ones, joined with those of the same text."""
    strengths = np.zeros(len(order))
    if compared:
        strengths = _strengths([compared[place] for place in order.tolist()])
    if written is None:
        return order[strengths > 0]
    return order[joined(strengths, written.of(found.image_rows[order]))]


def _strengths(found: Sequence[Verification]) -> np.ndarray:
    """float64 `(n,)`: the strength of each that shows the same thing, and 0."""
    return np.array([one.strength if one.same else 0 for one in found], np.float64)


def _refuse_unknown(ids: Sequence[str], rows: np.ndarray) -> None:
    for id, row in zip(ids, rows, strict=True):
        if row < 0:
            raise UnknownIdError(
                "A search by id is for an image of the index.",
                repr(id),
                "Ids are what hits show; to search by a file, give its path.",
            )


def _refuse_region(query: Query) -> None:
    if query.region is not None:
        raise ArgumentError(
            "A region is cut out of a picture.",
            f"region={query.region}, and no picture",
            "Search by the image itself, or without a region.",
        )


def _wanted(query: Query) -> int:
    """How many of the nearest are to be found: more than `k` where they are to be verified."""
    return max(query.k, query.verify_top) if _compares(query) else query.k


def _compares(query: Query) -> bool:
    """Whether local features are compared."""
    return query.verify or query.same_object


def _others(found: Found, image: _QueryImage) -> np.ndarray:
    """Places of all that was found but the image that is searched by."""
    if image.without is None:
        return np.arange(len(found.rows))
    return np.flatnonzero([item.id != image.without for item in found.items])


def default_pool(k: int, num_items: int, *, by_certainty: bool = False) -> int:
    """The smallest pool where neither threshold nor pool is asked for.

    1000, ten for each hit, or five times the square root of the index, whichever is most. Of the
    ten nearest of up to 50,000 images, codes of 128 bits without labels keep 98.7 % in it, and
    the pool that holds 99 % grows a little faster than the root (tests/bench/pool_size.py). Three
    times the root hold more of them where certainty takes the pool (tests/bench/certainty.py).

    Args:
        k: int, hits that are wanted.
        num_items: int, images of the index.
        by_certainty: bool. Whether the pool is taken by the certainty of bits.

    Returns:
        int, images.

    Example:
        >>> default_pool(10, 50), default_pool(500, 50), default_pool(10, 1_000_000)
        (1000, 5000, 5000)
        >>> default_pool(10, 1_000_000, by_certainty=True)
        3000
    """
    per_root = POOL_PER_ROOT_BY_CERTAINTY if by_certainty else POOL_PER_ROOT
    return max(POOL, POOL_PER_HIT * k, per_root * math.isqrt(num_items))


def _crop(photo: images.Photo, region: tuple[int, int, int, int]) -> np.ndarray:
    top, left, bottom, right = region
    height, width = photo.size
    if not (0 <= top < bottom <= height and 0 <= left < right <= width):
        raise RegionError(
            "A region lies inside the query and has an area.",
            f"(top, left, bottom, right) = {region} in {height} x {width} pixels",
        )
    return np.ascontiguousarray(photo.full()[top:bottom, left:right])
