"""Which queries there are, and which images of an index are right answers to them.

By label, an image is right if its label is the query's; by ground truth, if a file lists it.
"""

import collections
import functools
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from hashnet import images
from hashnet.encode.encoder import Encoder
from hashnet.errors import ArgumentError
from hashnet.retrieval.store.protocol import Snapshot

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
        self.snapshot.verify_features(self.rows)
        if len(self.rows) == self.snapshot.num_rows:
            return np.asarray(self.snapshot.feature_map)
        return self.snapshot.features(self.rows)


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
        codes, features, scores: as of `Encoded`.
    """

    paths: list[str]
    own: np.ndarray
    labels: np.ndarray | None
    names: list[str]
    listed: list[np.ndarray] | None
    problems: list[images.Problem]
    skipped: list[str]
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
    found, problems, _ = images.find(
        queries if not isinstance(queries, str | os.PathLike) else [queries]
    )
    if ground_truth is not None:
        return _by_list(found, problems, _read_ground_truth(ground_truth), database)
    if not database.names:
        raise ArgumentError(
            "An index is evaluated by its labels or by ground truth.",
            "an index without any label",
            "Index with --label-from folder, or give --ground-truth.",
        )
    labelled = [(file.path, file.folder) for file in found if file.folder is not None]
    skipped = [file.path for file in found if file.folder is None]
    reason = "the first folder below the one given is the label, and there is none"
    problems = problems + [images.Problem(path, reason) for path in skipped]
    names = list(database.names)
    place_of = {name: place for place, name in enumerate(names)}
    for _, label in labelled:
        if label not in place_of:
            place_of[label] = len(names)
            names.append(label)
    paths = [path for path, _ in labelled]
    return QuerySet(
        paths=paths,
        own=_own_rows(paths, database),
        labels=np.array([place_of[label] for _, label in labelled], np.int32),
        names=names,
        listed=None,
        problems=problems,
        skipped=skipped,
    )


def _by_list(
    found: list[images.Found],
    problems: list[images.Problem],
    truth: dict[str, list[str]],
    database: Database,
) -> QuerySet:
    def id_of(row: int) -> str:
        return database.snapshot.items(np.array([row]))[0].id

    files = _Names((place, [file.path]) for place, file in enumerate(found))
    items = _Names(
        (row, [name for name in (item.id, item.path) if name is not None])
        for row, item in zip(database.rows.tolist(), database.items, strict=True)
    )
    paths, listed, skipped, problems = [], [], [], list(problems)
    for query, relevant in truth.items():
        file = _only(files.find(query), lambda place: found[place].path, "query")
        if isinstance(file, str):
            problems.append(images.Problem(query, file))
            skipped.append(query)
            continue
        rows = set()
        for name in relevant:
            row = _only(items.find(name), id_of, "image")
            if isinstance(row, str):
                problems.append(images.Problem(name, f"named for {query}: {row}"))
            else:
                rows.add(row)
        paths.append(found[file].path)
        listed.append(np.array(sorted(rows), np.int64))
    own = _own_rows(paths, database)
    return QuerySet(paths, own, None, [], listed, problems, skipped)


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
        with open(path, encoding="utf-8") as file:
            truth = json.load(file, object_pairs_hook=once)
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
