"""Which queries there are, and which images of an index are right answers to them.

By label, an image is right if its label is the query's; by ground truth, if a file lists it.
"""

import collections
import functools
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from hashnet import files, images
from hashnet.encode.encoder import Encoder
from hashnet.errors import ArgumentError
from hashnet.retrieval.store.items import Item
from hashnet.retrieval.store.protocol import Snapshot
from hashnet.retrieval.vectors import Vectors, is_file

MOST_BYTES = 1 << 28  # of a file of ground truth

# --- The database ---------------------------------------------------------------------------------


class Database:
    """The images of one snapshot that can be found.

    Args:
        snapshot: a `Snapshot`, open as long as this is used.

    Attributes:
        rows: int64 `(n,)`, ascending.
        items: list of n `Item`.
        labels: int32 `(num_rows,)`, -1 for none; by row, removed ones included.
        names: list of str. Of the labels.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        live = snapshot.live_images
        self.rows = np.arange(snapshot.num_rows) if live is None else np.flatnonzero(live)
        if not len(self.rows):
            raise ArgumentError(
                "Only an index that holds images can be evaluated.",
                "an empty index",
                "Add some first.",
            )
        self.items = snapshot.items(self.rows)
        self.labels, self.names = snapshot.labels()

    def id_of(self, row: int) -> str:
        """The id of an image.

        Args:
            row: int.

        Returns:
            str.
        """
        return self.snapshot.items(np.array([row]))[0].id

    def codes(self, rows: np.ndarray) -> np.ndarray:
        """Codes of some rows.

        Args:
            rows: int64 `(n,)`.

        Returns:
            uint8 `(n, code_bytes)`.
        """
        return self.snapshot.codes[rows]

    @functools.cached_property
    def features(self) -> np.ndarray:
        """Float array `(n, feature_dim)` in the order of rows; a memory map where possible."""
        if len(self.rows) == self.snapshot.num_rows:
            return np.asarray(self.snapshot.feature_map(self.rows))
        return self.snapshot.features(self.rows)


class Listed(Database):
    """Images that are in no index, but only listed.

    Args:
        items: list of n `Item` with paths, and labels where they have some.
    """

    def __init__(self, items: Sequence[Item]) -> None:
        self.items, self.rows = list(items), np.arange(len(items))
        known = [item.label for item in items if item.label is not None]
        self.names = sorted(set(known))
        places = {name: place for place, name in enumerate(self.names)}
        self.labels = np.array(
            [-1 if item.label is None else places[item.label] for item in items], np.int32
        )

    def id_of(self, row: int) -> str:
        """As for `Database`.

        Args:
            row: int.

        Returns:
            str.
        """
        return self.items[row].id


# --- The queries, and what is right ---------------------------------------------------------------


def _unknown() -> np.ndarray:
    """What stands for arrays until `encoded` and `answerable` have filled them in."""
    return np.empty(0)


@dataclass(frozen=True, eq=False)
class QuerySet:
    """The queries, one an item; `labels` or `listed` says what is relevant to each.

    Attributes:
        paths: list of str.
        own: int64 `(q,)`. The row of the index that is the query itself, or -1.
        labels: int32 `(q,)`, a place in `names`; None with ground truth.
        names: list of str. Of the labels.
        listed: list of int64 arrays, rows ascending; None without ground truth.
        num_relevant: int64 `(q,)`. Relevant images of the database, the query itself left out.
        problems, skipped: as in `EvaluationReport`.
        vectors: float32 `(q, feature_dim)`, of length 1, where the queries are no images; None
            where they are.
        codes, features, scores: as of `Encoded`.
    """

    paths: list[str]
    own: np.ndarray
    labels: np.ndarray | None
    names: list[str]
    listed: list[np.ndarray] | None
    problems: list[images.Problem]
    skipped: list[str]
    vectors: np.ndarray | None = None
    num_relevant: np.ndarray = field(default_factory=_unknown)
    codes: np.ndarray = field(default_factory=_unknown)
    features: np.ndarray = field(default_factory=_unknown)
    scores: np.ndarray = field(default_factory=_unknown)

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def answerable(self) -> np.ndarray:
        """int64: the queries that have something to find."""
        return np.flatnonzero(self.num_relevant > 0)

    def kept(self, places: np.ndarray) -> "QuerySet":
        """Only the queries at these places.

        Args:
            places: int64 `(n,)`, places among these queries.

        Returns:
            `QuerySet`, of n queries in this order.
        """
        return replace(
            self,
            paths=[self.paths[place] for place in places],
            own=self.own[places],
            labels=None if self.labels is None else self.labels[places],
            listed=None if self.listed is None else [self.listed[place] for place in places],
        )

    def relevant(self, query: int, database: Database) -> np.ndarray:
        """Which rows are right answers to one query.

        Args:
            query: int, its place among these queries.
            database: the `Database`.

        Returns:
            bool `(num_rows,)`; false for the query's own row.
        """
        if self.labels is not None:
            relevant = database.labels == self.labels[query]
        else:
            relevant = np.zeros(len(database.labels), bool)
            if self.listed is not None:
                relevant[self.listed[query]] = True
        if self.own[query] >= 0:
            relevant[self.own[query]] = False
        return relevant


def query_set_of(
    queries: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    ground_truth: str | os.PathLike[str] | None,
    database: Database,
) -> QuerySet:
    """Find the queries and what is relevant to each; see `evaluate.evaluate`.

    Args:
        database: the `Database`.

    Returns:
        `QuerySet`, without codes, features and scores.

    Raises:
        ArgumentError: neither labels nor ground truth say what is relevant, or the file of the
            ground truth cannot be read.
    """
    given = [queries] if isinstance(queries, str | os.PathLike) else list(queries)
    if any(map(is_file, given)):
        return _of_vectors(given, ground_truth, database)
    found, problems, _ = images.find(given)
    if ground_truth is not None:
        places = {place: file.path for place, file in enumerate(found)}
        query_set = _by_list(places, problems, _read_ground_truth(ground_truth), database)
        return replace(query_set, own=_own_rows(query_set.paths, database))
    _refuse_without_labels(database)
    labelled = [(file.path, file.folder) for file in found if file.folder is not None]
    skipped = [file.path for file in found if file.folder is None]
    reason = "the first folder below the one given is the label, and there is none"
    problems = problems + [images.Problem(path, reason) for path in skipped]
    labels, names = _places_of_labels([label for _, label in labelled], database)
    paths = [path for path, _ in labelled]
    return QuerySet(
        paths=paths,
        own=_own_rows(paths, database),
        labels=labels,
        names=names,
        listed=None,
        problems=problems,
        skipped=skipped,
    )


def _refuse_without_labels(database: Database) -> None:
    if not database.names:
        raise ArgumentError(
            "An index is evaluated by its labels or by ground truth.",
            "an index without any label",
            "Index with --label-from folder, or give --ground-truth.",
        )


def _places_of_labels(
    labels: Sequence[str | None], database: Database
) -> tuple[np.ndarray, list[str]]:
    """int32 `(q,)`, the place of each label among the names, and the names."""
    places = dict(zip(database.names, range(len(database.names)), strict=True))
    found = [places.setdefault(str(label), len(places)) for label in labels]
    return np.array(found, np.int32), list(places)


def _of_vectors(
    given: Sequence[str | os.PathLike[str]],
    ground_truth: str | os.PathLike[str] | None,
    database: Database,
) -> QuerySet:
    """The queries of one file of vectors, called by their ids.

    One that the index holds, the same vector under the same id, is left out of its own ranking.
    """
    if len(given) != 1:
        raise ArgumentError(
            "Queries that are vectors come in one file.", ", ".join(map(os.fsdecode, given))
        )
    asked = Vectors.of(os.fsdecode(given[0]))
    ids = [item.id for item in asked.items]
    if ground_truth is not None:
        places = dict(enumerate(ids))
        query_set = _by_list(places, [], _read_ground_truth(ground_truth), database)
    else:
        _refuse_without_labels(database)
        known = [place for place, item in enumerate(asked.items) if item.label is not None]
        labels, names = _places_of_labels([asked.items[place].label for place in known], database)
        unlabelled = [item.id for item in asked.items if item.label is None]
        problems = [images.Problem(id, "a query needs a label") for id in unlabelled]
        paths = [ids[place] for place in known]
        query_set = QuerySet(paths, np.empty(0), labels, names, None, problems, unlabelled)
    place_of = {id: place for place, id in enumerate(ids)}
    chosen = np.array([place_of[id] for id in query_set.paths], np.int64)
    order = np.argsort(chosen, kind="stable")
    vectors = np.empty((len(chosen), asked.feature_dim), np.float32)
    vectors[order] = asked.at(chosen[order])
    rows = database.snapshot.rows(query_set.paths)
    held = np.flatnonzero(rows >= 0)
    stored = database.snapshot.features(rows[held])
    if stored.shape[1] == asked.feature_dim:
        rows[held[(stored != vectors[held].astype(stored.dtype)).any(axis=1)]] = -1
    return replace(query_set, own=rows, vectors=vectors)


def _by_list(
    found: Mapping[int, str],
    problems: list[images.Problem],
    truth: dict[str, list[str]],
    database: Database,
) -> QuerySet:
    files = _Names((place, [name]) for place, name in found.items())
    items = _Names(
        (row, [name for name in (item.id, item.path) if name is not None])
        for row, item in zip(database.rows.tolist(), database.items, strict=True)
    )
    paths, listed, skipped, problems = [], [], [], list(problems)
    for query, relevant in truth.items():
        file = _only(files.find(query), found.__getitem__, "query")
        if isinstance(file, str):
            problems.append(images.Problem(query, file))
            skipped.append(query)
            continue
        rows = set()
        for name in relevant:
            row = _only(items.find(name), database.id_of, "image")
            if isinstance(row, str):
                problems.append(images.Problem(name, f"named for {query}: {row}"))
            else:
                rows.add(row)
        paths.append(found[file])
        listed.append(np.array(sorted(rows), np.int64))
    return QuerySet(paths, np.empty(0), None, [], listed, problems, skipped)


def _read_ground_truth(path: str | os.PathLike[str]) -> dict[str, list[str]]:
    """dict of query to list of relevant, all names."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        twice = [
            name for name, count in collections.Counter(n for n, _ in pairs).items() if count > 1
        ]
        if twice:
            raise ValueError(f"the query {twice[0]!r} comes twice")
        return dict(pairs)

    try:
        content = files.read_at_most(path, MOST_BYTES)
        truth = json.loads(content.decode(), object_pairs_hook=once)
        if not isinstance(truth, dict) or not all(
            isinstance(names, list) and all(isinstance(name, str) for name in names)
            for names in truth.values()
        ):
            raise ValueError("not an object of lists of names")
    except (OSError, ValueError, RecursionError) as error:
        raise ArgumentError(
            "Ground truth is a JSON file {query: [relevant, ...]}.", f"{os.fsdecode(path)}: {error}"
        ) from error
    return truth


class _Names:
    """Finds places by a name: their spelling, or the end of it by whole folder names."""

    def __init__(self, spelled: Iterable[tuple[int, Iterable[str]]]) -> None:
        self._exact = collections.defaultdict(set)
        self._by_last = collections.defaultdict(list)
        for place, spellings in spelled:
            for spelling in spellings:
                self._exact[spelling].add(place)
                if parts := _parts(spelling):
                    self._by_last[parts[-1]].append((parts, place))

    def find(self, name: str) -> list[int]:
        """Places, ascending."""
        if name in self._exact:
            return sorted(self._exact[name])
        parts = _parts(name)
        if name.startswith("/") or not parts:
            return []
        ending = (p for p in self._by_last.get(parts[-1], ()) if p[0][-len(parts) :] == parts)
        return sorted({place for _, place in ending})


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def _only(places: list[int], spell: Callable[[int], str], kind: str) -> int | str:
    """The one place, or what is wrong."""
    if len(places) == 1:
        return places[0]
    if not places:
        return f"no {kind} has this name"
    some = ", ".join(spell(place) for place in places[:3])
    return f"{len(places)} of this name, such as {some}; name more of the path"


def _own_rows(paths: list[str], database: Database) -> np.ndarray:
    """int64 `(q,)`: the row that is the same file, -1 for none."""
    row_of: dict[str, int] = {}
    for row, item in zip(database.rows.tolist(), database.items, strict=True):
        for name in (item.path, item.id):
            if name is not None and os.path.isabs(name):
                row_of.setdefault(name, row)
    spellings = ((os.path.abspath(path), os.path.realpath(path)) for path in paths)
    own = [next((row_of[name] for name in both if name in row_of), -1) for both in spellings]
    return np.array(own, np.int64)


def encoded(
    query_set: QuerySet, encoder: Encoder, tell: Callable[[str, int, int], object]
) -> QuerySet:
    """The queries that could be read, with codes, features and class scores.

    Args:
        query_set: `QuerySet`.
        encoder: `Encoder` of the index.
        tell: function of stage, done and total, for a progress bar.

    Returns:
        `QuerySet`, the broken ones left out and named in `problems` and `skipped`.

    Raises:
        ArgumentError: none could be read.
    """
    if query_set.vectors is not None and len(query_set):
        codes, features = encoder.encode_vectors(query_set.vectors)
        return replace(query_set, codes=codes, features=features)
    parts, done, broken = [], 0, []
    for part in encoder.stream(query_set.paths):
        parts.append(part)
        broken += part.problems
        done += len(part) + len(part.problems)
        tell("encoding queries", done, len(query_set))
    positions = np.concatenate([np.empty(0, np.int64), *(part.positions for part in parts)])
    if not len(positions):
        raise ArgumentError(
            "An evaluation needs a query that can be read and whose answers are known.",
            f"{len(query_set.problems) + len(broken)} problems"
            + "".join(f"; {one.path}: {one.reason}" for one in (*query_set.problems, *broken)[:1]),
            "Queries are images in class folders, or images that the ground truth names.",
        )
    return replace(
        query_set.kept(positions),
        problems=query_set.problems + broken,
        skipped=query_set.skipped + [problem.path for problem in broken],
        codes=np.concatenate([part.codes for part in parts]),
        features=np.concatenate([part.features for part in parts]),
        scores=np.concatenate([part.scores for part in parts]),
    )


def answerable(query_set: QuerySet, database: Database) -> QuerySet:
    """Count what is relevant, and name what has nothing to find.

    Args:
        query_set: `QuerySet`.
        database: the `Database`.

    Returns:
        `QuerySet`, with `num_relevant`; all queries are still there.

    Raises:
        ArgumentError: no query has a relevant image.
    """
    own = query_set.own
    if query_set.labels is None:
        listed = zip(query_set.listed or [], own, strict=True)
        num_relevant = np.array([np.count_nonzero(rows != row) for rows, row in listed], np.int64)
        without = [query_set.paths[query] for query in np.flatnonzero(num_relevant == 0)]
        reason = "the index holds no image that the ground truth names for it"
        problems = [images.Problem(path, reason) for path in without]
    else:
        held = database.labels[database.rows]
        counts = np.bincount(held[held >= 0], minlength=len(query_set.names))
        # Row -1 stands for no row; what is read there does not count.
        is_own = (own >= 0) & (database.labels[own] == query_set.labels)
        num_relevant = counts[query_set.labels] - is_own
        in_vain = np.bincount(query_set.labels[num_relevant == 0], minlength=len(query_set.names))
        problems = [
            images.Problem(
                query_set.names[place],
                f"no image of the index has this label but the query itself, if any; {count} "
                "queries have nothing to find and are left out of the means",
            )
            for place, count in enumerate(in_vain)
            if count
        ]
    if not (num_relevant > 0).any():
        raise ArgumentError(
            "At least one query has a relevant image in the index.",
            f"{len(query_set)} queries, none with any"
            + "".join(f"; {one.path}: {one.reason}" for one in (query_set.problems + problems)[:1]),
            "Do queries and index use the same labels or names?",
        )
    return replace(query_set, num_relevant=num_relevant, problems=query_set.problems + problems)
