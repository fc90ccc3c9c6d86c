"""Tables of entries that follow one another, each with the codes of another network.

The first is TABLE, those that refits make after it TABLE-g and a number that grows; out of the way
of those who write to it, a table is TABLE-g and its number, with -old behind it. No URL of an index
can name these, as they are no plain words. Rows keep their numbers, so that local features, which
lie in a table by row, are those of all generations.
"""

import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hashnet.errors import StoreError
from hashnet.retrieval.store.clickhouse.connection import Connection
from hashnet.retrieval.store.clickhouse.snapshot import Snapshot
from hashnet.retrieval.store.clickhouse.tables import dropping, renaming

Recoded = Callable[[np.ndarray], np.ndarray]
LATER, _OLD = "-g", "-old"


def name_of(table: str, number: int) -> str:
    """Name of a table of entries that follows others.

    Args:
        table: str, the table that the URL names.
        number: int, 1 or more.

    Returns:
        str.

    Example:
        >>> name_of("photos", 12), number_of("photos", "photos-g12"), number_of("photos", "photos")
        ('photos-g12', 12, 0)
    """
    return f"{table}{LATER}{number}"


def number_of(table: str, name: str) -> int:
    """The number in the name of a table of entries, 0 for the first.

    Args:
        table, name: as for `name_of`, which gives the name.

    Returns:
        int.

    Raises:
        ValueError: no table of entries of this index is named so.
    """
    found = re.fullmatch(rf"{table}(?:{LATER}(\d+))?", name)
    if not found:
        raise ValueError(f"a table of entries {name!r}")
    return int(found[1] or 0)


class Filling:
    """Fills a table of entries out of others, with other codes.

    Args:
        target: `Connection` to the table that is filled.
        recoded: as for `protocol.Writer.recode`.
        rows_at_once: int.
    """

    def __init__(self, target: Connection, recoded: Recoded, rows_at_once: int) -> None:
        self._target, self._recoded, self._rows_at_once = target, recoded, rows_at_once

    def take_live(self, snapshot: Snapshot, source: Connection) -> int:
        """Take over all live rows of a snapshot.

        Args:
            snapshot: `Snapshot`.
            source: `Connection` to its table.

        Returns:
            int. Rows.

        Raises:
            StoreError: the table was compacted meanwhile.
        """
        columns = _Columns(source)
        # Entries lie in the order of their codes, and in that order their features are read.
        codes, rows = snapshot.ask(
            "SELECT hex(code), row FROM (SELECT code, row, row_number() OVER (ORDER BY code, row) "
            "AS place FROM {table} WHERE {live}) WHERE place % {most:UInt64} = 0 "
            "ORDER BY code, row",
            width=2,
            most=self._rows_at_once,
        )
        ends = [(code.decode(), int(row)) for code, row in zip(codes, rows, strict=True)]
        num_rows = 0
        for after, until in itertools.pairwise([None, *ends, None]):
            condition, bound = _between(after, until)
            taken = snapshot.ask(
                f"SELECT {columns.listed} FROM {{table}} WHERE {{live}}{condition}",
                width=len(columns.names),
                **bound,
            )
            num_rows += self._put(columns, taken)
        if num_rows != snapshot.num_items + snapshot.num_regions:
            raise StoreError(
                "Codes are fitted again while nobody compacts the table.",
                f"{num_rows} rows of {snapshot.num_items + snapshot.num_regions}",
                "Nothing was changed: fit them again.",
            )
        return num_rows

    def take_later(self, source: Connection, row: int, known: Connection | None = None) -> int:
        """Take over the entries that have come after a row, those that take others out included.

        Args:
            source: `Connection` to the table that they are in.
            row: int.
            known: `Connection` to a table, whose entries are passed over; or None.

        Returns:
            int. The last row.
        """
        columns = _Columns(source)
        # A writer that goes on and on is not followed for ever.
        [[last]] = source.ask("SELECT max(row) FROM {table}")
        while True:
            taken = source.ask(
                f"SELECT {columns.listed} FROM {{table}} WHERE row > {{row:UInt64}} "
                "AND row <= {last:UInt64} ORDER BY row LIMIT {most:UInt64}",
                width=len(columns.names),
                row=row,
                last=int(last),
                most=self._rows_at_once,
            )
            rows = columns.of(taken, "row")
            if not len(rows):
                return row
            row = int(rows[-1])
            if known is not None:
                [there] = known.ask(
                    "SELECT row FROM {table} WHERE row IN {rows:Array(UInt64)}",
                    rows=[int(one) for one in rows],
                )
                passed = set(there)
                new = [place for place, one in enumerate(rows) if one not in passed]
                taken = [[column[place] for place in new] for column in taken]
            self._put(columns, taken)

    def _put(self, columns: "_Columns", taken: list[Sequence[Any]]) -> int:
        """Insert entries, each row with its new code; returns how many."""
        kills, features = columns.of(taken, "kills"), columns.of(taken, "feature")
        if not len(kills):
            return 0
        codes = list(columns.of(taken, "code"))
        live = [place for place, one in enumerate(kills) if not one]  # the others have no feature
        if live:
            new = self._recoded(np.array([features[place] for place in live], np.float32))
            for place, code in zip(live, new, strict=True):
                codes[place] = code.tobytes()
        taken = list(taken)
        taken[columns.names.index("code")] = codes
        rows = columns.of(taken, "row")
        token = f"{min(rows)}-{len(rows)}"
        self._target.insert(self._target.table, columns.names, columns.types, taken, token)
        return len(rows)


class _Columns:
    """The columns that a table of entries has, which of an older version are fewer.

    Attributes:
        names, types: list of str.
        listed: str, the names as a statement has them.
    """

    def __init__(self, source: Connection) -> None:
        names, types = source.ask(
            "SELECT name, type FROM system.columns WHERE database = {database:String} "
            "AND table = {entries:String} AND default_kind = '' ORDER BY position",
            width=2,
            database=source.place.database,
            entries=source.entries,
        )
        self.names = [name.decode() for name in names]
        self.types = [one.decode() for one in types]
        self.listed = ", ".join(self.names)

    def of(self, taken: Sequence[Sequence[Any]], name: str) -> Sequence[Any]:
        return taken[self.names.index(name)]


def _between(
    after: tuple[str, int] | None, until: tuple[str, int] | None
) -> tuple[str, dict[str, Any]]:
    """The condition that an entry lies between two, in the order of codes and rows.

    Codes alone are compared as well: by them a table finds where to read.
    """
    condition, bound = "", dict[str, Any]()
    for name, sign, end in (("after", ">", after), ("until", "<=", until)):
        if end is not None:
            code, row = end
            bound |= {name: code, f"{name}_row": row}
            code = f"toFixedString(unhex({{{name}:String}}), {len(code) // 2})"
            condition += f" AND code {sign[0]}= {code}"
            condition += f" AND (code, row) {sign} ({code}, {{{name}_row:UInt64}})"
    return condition, bound


def left_behind(connection: Connection, name: str) -> Connection | None:
    """A table of entries that another followed, wherever it was put.

    Args:
        connection: `Connection` to any of the index's.
        name: str, which it had.

    Returns:
        `Connection` to it; None if it is gone.
    """
    there = _tables(connection, None)
    for one in (name, _old(connection.place.table, name)):
        if one in there:
            return connection.of(one)
    return None


def put_aside(connection: Connection, *, cluster: str | None) -> Connection:
    """Rename a table of entries that another has followed, so that nobody writes to it any more.

    Args:
        connection: `Connection` to it, wherever it was put.
        cluster: str or None. Name of the cluster that the tables are on.

    Returns:
        `Connection` to where it is now.
    """
    if connection.entries.endswith(_OLD):
        return connection
    old = _old(connection.place.table, connection.entries)
    connection.tell(renaming(connection.place.database, connection.entries, old, cluster=cluster))
    return connection.of(old)


def drop(connection: Connection, *, cluster: str | None) -> None:
    """Drop a table of entries.

    Args:
        connection: `Connection` to it.
        cluster: str or None. Name of the cluster that the tables are on.
    """
    for end in ("_local", "") if cluster else ("",):
        name = connection.entries + end
        connection.tell(dropping(connection.place.database, name, cluster=cluster))


def drop_before(connection: Connection, *, cluster: str | None) -> None:
    """Drop all tables of entries before one, also what refits that were killed have left.

    Those with a higher number stay: one of them may be about to follow this one.

    Args:
        connection: `Connection` to the one.
        cluster: str or None. Name of the cluster that the tables are on.
    """
    number = number_of(connection.place.table, connection.entries)
    for name, its_number in sorted(_tables(connection, cluster).items()):
        if its_number < number:
            connection.tell(dropping(connection.place.database, name, cluster=cluster))


def _old(table: str, name: str) -> str:
    return name_of(table, number_of(table, name)) + _OLD


def _tables(connection: Connection, cluster: str | None) -> dict[str, int]:
    """Numbers of all tables of entries of an index by name, those of the shards included."""
    table = connection.place.table
    [names] = connection.ask(
        "SELECT name FROM system.tables WHERE database = {database:String} "
        "AND startsWith(name, {table:String})",
        database=connection.place.database,
        table=table,
    )
    # Without a cluster TABLE_local would be another index.
    first = f"{table}(?:_local)?" if cluster else table
    pattern = re.compile(rf"{first}|{table}{LATER}(\d+)(?:{_OLD})?(?:_local)?")
    found = [pattern.fullmatch(name.decode()) for name in names]
    return {one[0]: int(one[1] or 0) for one in found if one}
