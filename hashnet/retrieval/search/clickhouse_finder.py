"""How an index in ClickHouse is searched: statements by which the server compares and ranks."""

import functools
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np

from hashnet.checks import checked_integer
from hashnet.codes import code_bytes
from hashnet.errors import ArgumentError, ShapeError
from hashnet.retrieval.search import local_pool
from hashnet.retrieval.search.coarse.hamming import DIGITS
from hashnet.retrieval.search.finder import Found, Similar, threshold_of
from hashnet.retrieval.search.ranking import Certainty, Ranking
from hashnet.retrieval.store.clickhouse.entries import (
    KEY_OF_IDS,
    OF_IDS,
    hexadecimal,
    region_of_numbers,
    taken_within,
)
from hashnet.retrieval.store.clickhouse.snapshot import Snapshot
from hashnet.retrieval.store.items import no_exif
from hashnet.retrieval.store.roots import starts_named

# Part of a statement, and the parameters it is bound to.
Condition = tuple[str, dict[str, Any]]
# More than any distance of two codes, in bits or in steps.
MOST = 1 << 16


class ClickHouseFinder:
    """Finds in a snapshot of an index in ClickHouse, by statements that the server works out.

    Args:
        snapshot: `Snapshot` of a table.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._store = snapshot.store

    @functools.cached_property
    def labels(self) -> list[str]:
        return list(self._snapshot.label_counts())

    def allowed(
        self,
        labels: Sequence[str] | None = None,
        ids: Sequence[str] | None = None,
        *,
        after: datetime | None = None,
        before: datetime | None = None,
        under: Sequence[str] | None = None,
    ) -> Condition:
        condition: str = ""
        parameters: dict[str, Any] = {}
        if labels is not None:
            condition += " AND label IN (SELECT unhex(arrayJoin({labels:Array(String)})))"
            parameters["labels"] = hexadecimal(labels)
        if ids is not None:
            condition += f" AND {OF_IDS}"
            parameters["ids"] = hexadecimal(ids)
        if after is not None or before is not None:
            if not self._store.exif:
                raise no_exif(self._store.folder)
            of_dates, dates = taken_within(after, before)
            condition, parameters = condition + of_dates, parameters | dates
        if under is not None:
            starts = [start for name in under for start in starts_named(self._snapshot, name)]
            condition += (
                " AND arrayExists(one -> startsWith(id, unhex(one)), {starts:Array(String)})"
            )
            parameters["starts"] = hexadecimal(starts)
        return condition, parameters

    def is_folder(self, name: str) -> bool:
        return bool(starts_named(self._snapshot, name))

    def encoded(self, ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        found, numbers, codes, features = self._snapshot.ask(
            f"SELECT id, row, code, feature FROM {{table}} PREWHERE {KEY_OF_IDS} "
            f"WHERE {{image}} AND {OF_IDS} ORDER BY row",
            width=4,
            ids=hexadecimal(ids),
        )
        place_of = {id.hex(): place for place, id in enumerate(found)}
        places = [place_of.get(id) for id in hexadecimal(ids)]
        rows = np.array([-1 if at is None else numbers[at] for at in places], np.int64)
        known = [at for at in places if at is not None]
        content = b"".join(codes[at] for at in known)
        return (
            rows,
            np.frombuffer(content, np.uint8).reshape(len(known), self._code_bytes),
            np.array([features[at] for at in known], np.float32).reshape(
                len(known), self._store.feature_dim
            ),
        )

    def at(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        [rows] = self._snapshot.ask(
            "SELECT row FROM (SELECT row, row_number() OVER (ORDER BY row) - 1 AS place "
            "FROM {table} WHERE {image}) WHERE place IN {places:Array(UInt64)} ORDER BY place",
            places=places.tolist(),
        )
        return self.of_rows(np.array(rows, np.int64))

    def of_rows(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self._snapshot.encoded(rows)

    def histogram(self, code: np.ndarray, *, allowed: Condition | None = None) -> np.ndarray:
        counts = self._counts(code, self._apart(), {}, allowed)
        histogram = np.zeros(8 * self._code_bytes + 1, np.int64)
        histogram[: len(counts)] = counts
        return histogram

    def _counts(
        self, code: np.ndarray, apart: str, weighed: dict[str, Any], allowed: Condition | None
    ) -> np.ndarray:
        """Images at each distance from a code, int64; an image is where its nearest row is."""
        condition, parameters = allowed or ("", {})
        of_image = ""
        if self._store.regions_per_image:
            apart, of_image = f"min({apart})", " GROUP BY id"
        bits, counts = self._snapshot.ask(
            f"SELECT apart, count() FROM (SELECT {apart} AS apart FROM {{table}} "
            f"WHERE {{live}}{condition}{of_image}) GROUP BY apart",
            width=2,
            code=self._code(code),
            **weighed,
            **parameters,
        )
        histogram = np.zeros(max(bits, default=0) + 1, np.int64)
        histogram[np.asarray(bits, np.int64)] = counts
        return histogram

    def step_counts(
        self,
        code: np.ndarray,
        certainty: Certainty,
        at_least: int,
        *,
        allowed: Condition | None = None,
    ) -> np.ndarray:
        steps, weighed = self._steps(certainty)
        return self._counts(code, steps, weighed, allowed)

    def find(
        self,
        code: np.ndarray,
        feature: np.ndarray,
        k: int,
        *,
        ranking: Ranking | None = None,
        threshold: int | None = None,
        at_least: int | None = None,
        steps_below: int | None = None,
        allowed: Condition | None = None,
    ) -> Found:
        """One statement finds, counts and ranks; for the rest see `Finder.find`."""
        numbers = self._feature(feature)
        condition, parameters = allowed or ("", {})
        start = time.perf_counter()
        apart, steps = self._apart(), ""
        weighed: dict[str, Any] = {}
        if ranking is not None:
            steps, weighed = self._steps(ranking.certainty)
        most = threshold
        if threshold is None:
            at_least = checked_integer(at_least, 1, "at_least")
            if ranking is None:
                most = threshold = threshold_of(self.histogram(code, allowed=allowed), at_least)
            else:
                apart, most = steps, steps_below
                if most is None:
                    counts = self.step_counts(code, ranking.certainty, at_least, allowed=allowed)
                    most = threshold_of(counts, at_least)
        most = checked_integer(most, 0, "threshold")
        middle = time.perf_counter()
        with_regions = bool(self._store.regions_per_image)
        item = ", ".join(self._snapshot.hit_columns)
        distance, ranked_by = "L2Distance(feature, {feature:Array(Float64)})", {"feature": numbers}
        if ranking is not None and ranking.mean is not None:
            distance, ranked_by = self._joined(feature, ranking.mean, ranking.weight, steps)
        hit = f"{distance}, row, {self._apart()}, {item}"
        hit = f"({hit}, region)" if with_regions else f"({hit})"
        source = f"FROM {{table}} PREWHERE {apart} < {{most:UInt32}} WHERE {{live}}{condition}"
        far = self._apart()
        if with_regions:  # of the rows of an image the nearest, of equal ones the first
            source = f"FROM (SELECT min({hit}) AS hit, max({far}) AS far {source} GROUP BY id)"
            hit, far = "hit", "far"
        # However large the pool is, the server holds the k best of it.
        [[pool], [best], [farthest]] = self._snapshot.ask(
            f"SELECT count(), groupArraySorted({{k:UInt64}})({hit}), max({far}) {source}",
            width=3,
            code=self._code(code),
            **ranked_by,
            **weighed,
            most=min(most, MOST),
            k=int(k),
            **parameters,
        )
        width = len(self._snapshot.hit_columns)
        none = [()] * (4 + width)
        distances, rows, bits, *columns = zip(*best, strict=True) if best else none
        end = time.perf_counter()
        items = self._snapshot.items_of_columns(columns[:width])
        return Found(
            np.array(rows, np.int64),
            items,
            np.array(bits, np.int64),
            np.array(distances, np.float64),
            (int(farthest) + 1 if pool else 0) if threshold is None else threshold,
            int(pool),
            middle - start,
            end - middle,
            list(map(region_of_numbers, columns[width])) if with_regions else None,
            (lambda: self._snapshot.rows([one.id for one in items])) if with_regions else None,
        )

    def similar(
        self, descriptors: np.ndarray, most: int, *, allowed: Condition | None = None
    ) -> Similar | None:
        codebook = self._snapshot.codebook
        if codebook is None:
            return None
        words, signatures = codebook.signatures(descriptors, assignments=local_pool.ASSIGNMENTS)
        condition, parameters = allowed or ("", {})
        apart = "bitCount(bitXor(signature, transform(word, {words}, {signatures}, toUInt64(0))))"
        shared = f"sum(arrayElement({{steps:Array(UInt16)}}, {apart} + 1)) / {local_pool.STEPS}"
        # As `local_pool.similarities` has it: each step rounded to float32.
        similarity = (
            f"toFloat32(toFloat32({shared}) / toFloat32(pow(any(length), {local_pool.BY_LENGTH})))"
        )
        statement = (
            "SELECT count(), groupArraySorted({most:UInt64})((-similarity, row)) FROM "
            f"(SELECT row, {similarity} AS similarity FROM {{words_table}} "
            "WHERE codebook = {codebook:UInt64} AND word IN {words} "
            f"AND row IN (SELECT row FROM {{table}} WHERE {{image}}{condition}) "
            "GROUP BY row HAVING similarity > 0)"
        )
        for name, kind in (("words", "UInt32"), ("signatures", "UInt64")):
            statement = statement.replace(f"{{{name}}}", f"{{{name}:Array({kind})}}")
        [[pool], [best]] = self._snapshot.ask(
            statement,
            width=2,
            codebook=self._snapshot.codebook_number,
            words=words.tolist(),
            signatures=signatures.tolist(),
            steps=local_pool.steps_of(codebook.num_bits).tolist(),
            most=int(most),
            **parameters,
        )
        negative, rows = zip(*best, strict=True) if best else ((), ())
        return Similar(np.array(rows, np.int64), -np.array(negative, np.float32), int(pool))

    def passing(self, rows: np.ndarray, allowed: Condition | None) -> np.ndarray:
        condition, parameters = allowed or ("", {})
        if not condition or not len(rows):
            return np.ones(len(rows), bool)
        [passing] = self._snapshot.ask(
            f"SELECT row FROM {{table}} WHERE {{image}}{condition}", **parameters
        )
        return np.isin(rows, np.array(passing, np.int64))

    def among(self, rows: np.ndarray) -> Condition:
        parameters = {"among": [int(row) for row in rows]}
        if not self._store.regions_per_image:
            return " AND row IN {among:Array(UInt64)}", parameters
        ids = "SELECT id FROM {table} WHERE row IN {among:Array(UInt64)} AND kills = 0"
        return f" AND id IN ({ids})", parameters

    def rows(
        self, label: str | None = None, *, offset: int = 0, limit: int | None = None
    ) -> np.ndarray:
        condition, parameters = self._labelled(label)
        page = "" if limit is None else "LIMIT {limit:UInt64} "
        [rows] = self._snapshot.ask(
            f"SELECT row FROM {{table}} WHERE {{image}}{condition} "
            f"ORDER BY row {page}OFFSET {{offset:UInt64}}",
            offset=int(offset),
            limit=limit,
            **parameters,
        )
        return np.array(rows, np.int64)

    def spread(self, label: str, most: int) -> np.ndarray:
        condition, parameters = self._labelled(label)
        [rows] = self._snapshot.ask(
            "SELECT row FROM (SELECT row, row_number() OVER (ORDER BY row) AS place, "
            f"count() OVER () AS num FROM {{table}} WHERE {{image}}{condition}) "
            "WHERE (place - 1) % intDiv(num + {most:UInt64} - 1, {most:UInt64}) = 0 ORDER BY row",
            most=int(most),
            **parameters,
        )
        return np.array(rows, np.int64)

    def most_like(self, weights: np.ndarray, most: int, *, by: str) -> np.ndarray:
        numbers = "feature"
        if by == "code":
            # Its bits as text are bytes 48 and 49: that much more for all changes no order.
            numbers = "reinterpret(bin(code), 'Array(UInt8)')"
            weights = np.append(weights, np.zeros(8 * self._code_bytes - len(weights)))
        [rows] = self._snapshot.ask(
            f"SELECT row FROM {{table}} WHERE {{image}} ORDER BY "
            f"dotProduct({numbers}, {{weights:Array(Float64)}}) DESC, row LIMIT {{most:UInt64}}",
            weights=np.asarray(weights, np.float64).tolist(),
            most=int(most),
        )
        return np.array(rows, np.int64)

    def _labelled(self, label: str | None) -> Condition:
        return self.allowed(None if label is None else [label], None)

    def _joined(
        self, feature: np.ndarray, mean: np.ndarray, weight: float, steps: str
    ) -> tuple[str, dict[str, Any]]:
        """The distance that `ranking` says, and the parameters it is bound to.

        Directions of length 1 with the cosine c lie apart by 2 - 2c squared.
        """
        centre = np.asarray(feature, np.float64) - mean
        length = np.linalg.norm(centre)
        direction = centre / length if length else centre
        apart = "L2Distance(feature, {mean:Array(Float64)})"
        along = "dotProduct(feature, {direction:Array(Float64)}) - {offset:Float64}"
        alone = "if({directed:UInt8}, 1, 0)"  # what lies at the mean has no direction
        squared = f"if({apart} > 0, 1 + {alone} - 2 * ({along}) / {apart}, {alone})"
        return (
            f"sqrt(greatest({squared}, 0) + {{weight:Float64}} * ({steps}))",
            {
                "mean": mean.tolist(),
                "direction": direction.tolist(),
                "offset": float(direction @ mean),
                "directed": int(length > 0),
                "weight": weight,
            },
        )

    def _steps(self, certainty: Certainty) -> tuple[str, dict[str, Any]]:
        """The steps of certainty of the bits that differ, and the parameters they are bound to."""
        differing = f"bitXor(code, toFixedString(unhex({{code:String}}), {self._code_bytes}))"
        digits = [
            f"{1 << digit} * bitCount(bitAnd({differing}, "
            f"toFixedString(unhex({{plane{digit}:String}}), {self._code_bytes})))"
            for digit in range(DIGITS)
        ]
        steps = np.zeros(8 * self._code_bytes, np.uint8)
        steps[: len(certainty.steps)] = certainty.steps
        return " + ".join(digits), {
            f"plane{digit}": np.packbits(steps >> digit & 1).tobytes().hex()
            for digit in range(DIGITS)
        }

    @property
    def _code_bytes(self) -> int:
        return code_bytes(self._store.num_bits)

    def _apart(self) -> str:
        return (
            f"bitHammingDistance(code, toFixedString(unhex({{code:String}}), {self._code_bytes}))"
        )

    def _code(self, code: np.ndarray) -> str:
        code = np.asarray(code)
        if code.dtype != np.uint8 or code.shape != (self._code_bytes,):
            raise ShapeError(
                f"A query's code is uint8 of shape ({self._code_bytes},).",
                f"{code.dtype} of shape {code.shape}",
            )
        return code.tobytes().hex()

    def _feature(self, feature: np.ndarray) -> list[float]:
        feature = np.asarray(feature, np.float64)
        if feature.shape != (self._store.feature_dim,):
            raise ShapeError(
                f"A query's feature has shape ({self._store.feature_dim},).", f"{feature.shape}"
            )
        if not np.isfinite(feature).all():
            raise ArgumentError("A query's feature is finite.", "NaN or infinity")
        return feature.tolist()
