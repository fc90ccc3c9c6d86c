"""The statements that make the tables of an index."""

from collections.abc import Iterable

from hashnet.codes import code_bytes
from hashnet.errors import ArgumentError
from hashnet.retrieval.store.clickhouse.connection import PLAIN_WORD, Connection, Place

# The features of a granule are read whole for one row of the pool.
GRANULE_ROWS = 256
# All rows are below, so this makes one partition; but a part of a partitioned table knows its
# highest row, which need not be read then.
PARTITION_ROWS = 10**19
_WINDOW = "non_replicated_deduplication_window = 1000"


def ddl(
    url: str, *, num_bits: int, cluster: str | None = None, entries: str | None = None
) -> list[str]:
    """The statements that make the tables of an index.

    Args:
        url: str; see `Place`.
        num_bits: int. Of the codes.
        cluster: str or None. Name of a cluster: entries are then spread over its shards by id,
            and every shard is replicated.
        entries: str or None. Name of the table of entries; None means the URL's.

    Returns:
        list of str.

    Raises:
        ArgumentError: the URL or the cluster's name has another form.

    Example:
        >>> for statement in ddl("clickhouse://db/photos/all", num_bits=48, cluster="main"):
        ...     print(statement.split("(")[0].strip())
        CREATE DATABASE IF NOT EXISTS `photos` ON CLUSTER `main`
        CREATE TABLE IF NOT EXISTS `photos`.`all_encoder` ON CLUSTER `main`
        CREATE TABLE IF NOT EXISTS `photos`.`all_descriptors_local` ON CLUSTER `main`
        CREATE TABLE IF NOT EXISTS `photos`.`all_descriptors` ON CLUSTER `main` AS
            `photos`.`all_descriptors_local` ENGINE = Distributed
        CREATE TABLE IF NOT EXISTS `photos`.`all_words_local` ON CLUSTER `main`
        CREATE TABLE IF NOT EXISTS `photos`.`all_words` ON CLUSTER `main` AS
            `photos`.`all_words_local` ENGINE = Distributed
        CREATE TABLE IF NOT EXISTS `photos`.`all_local` ON CLUSTER `main`
        CREATE TABLE IF NOT EXISTS `photos`.`all` ON CLUSTER `main` AS `photos`.`all_local`
            ENGINE = Distributed
    """
    place = Place(url)
    if cluster is not None and not PLAIN_WORD.fullmatch(cluster):
        raise ArgumentError("A cluster's name is a plain word.", repr(cluster))
    database, table = place.database, place.table
    encoder = f"`{database}`.`{table}_encoder`{_on(cluster)} (name String, content String) "
    engine = f"MergeTree ORDER BY name SETTINGS {_WINDOW}"
    if cluster is not None:
        engine = (
            f"ReplicatedMergeTree('/clickhouse/tables/all/{database}/{table}_encoder', "
            "'{shard}-{replica}') ORDER BY name"
        )
    # Those of one image are read alone; `id` only says which shard is theirs.
    descriptors = "row UInt64, id String, yx String, descriptors String CODEC(NONE)"
    order = "ORDER BY row SETTINGS index_granularity = 1"
    # A query reads those of its own words; of a codebook that another has followed, none.
    words = (
        "codebook UInt64, word UInt32, row UInt64, id String, signature UInt64 CODEC(NONE), "
        "length UInt16"
    )
    by_word = f"ORDER BY (codebook, word, row) SETTINGS index_granularity = {GRANULE_ROWS}"
    return [
        f"CREATE DATABASE IF NOT EXISTS `{database}`{_on(cluster)}",
        f"CREATE TABLE IF NOT EXISTS {encoder}ENGINE = {engine}",
        *_made(database, f"{table}_descriptors", descriptors, order, cluster),
        *_made(database, f"{table}_words", words, by_word, cluster),
        # The table that says that all are there comes last.
        *entries_ddl(database, entries or table, num_bits=num_bits, cluster=cluster),
    ]


def entries_ddl(database: str, table: str, *, num_bits: int, cluster: str | None) -> list[str]:
    """The statements that make a table of entries.

    Args:
        database, table: str, its name.
        num_bits, cluster: as for `ddl`.

    Returns:
        list of str.
    """
    columns = (
        "row UInt64 CODEC(NONE), kills UInt64, id String, key UInt64 MATERIALIZED cityHash64(id), "
        "path Nullable(String), label LowCardinality(Nullable(String)), size Nullable(Int64), "
        f"mtime_ns Nullable(Int64), code FixedString({code_bytes(num_bits)}) CODEC(NONE), "
        "feature Array(Float32) CODEC(NONE), region Array(Int32), rooted UInt8, "
        "ctime_ns Nullable(Int64), inode UInt64, content String, taken Nullable(Int64), "
        "latitude Nullable(Float64), longitude Nullable(Float64), "
        "camera LowCardinality(Nullable(String)), texts String, spaced_name String, "
        "spaced_caption String, spaced_ocr String"
    )
    order = (
        f"PARTITION BY intDiv(row, {PARTITION_ROWS}) ORDER BY (kills, code) "
        f"SETTINGS index_granularity = {GRANULE_ROWS}"
    )
    return _made(database, table, columns, order, cluster)


def renaming(database: str, table: str, new: str, *, cluster: str | None) -> str:
    """The statement that gives a table another name; on a cluster its shards keep theirs.

    Args:
        database, table, new: str, names.
        cluster: as for `ddl`.

    Returns:
        str.
    """
    return f"RENAME TABLE `{database}`.`{table}` TO `{database}`.`{new}`{_on(cluster)}"


def dropping(database: str, table: str, *, cluster: str | None) -> str:
    """The statement that drops a table, however large it is.

    Args:
        database, table: str, its name.
        cluster: as for `ddl`.

    Returns:
        str.
    """
    return (
        f"DROP TABLE IF EXISTS `{database}`.`{table}`{_on(cluster)} SYNC "
        "SETTINGS max_table_size_to_drop = 0"
    )


def _made(database: str, name: str, columns: str, order: str, cluster: str | None) -> list[str]:
    if cluster is None:
        return [
            f"CREATE TABLE IF NOT EXISTS `{database}`.`{name}` ({columns}) "
            f"ENGINE = MergeTree {order}, {_WINDOW}"
        ]
    path, on = f"/clickhouse/tables/{{shard}}/{database}/{name}", _on(cluster)
    return [
        f"CREATE TABLE IF NOT EXISTS `{database}`.`{name}_local`{on} ({columns}) "
        f"ENGINE = ReplicatedMergeTree('{path}', '{{replica}}') {order}",
        f"CREATE TABLE IF NOT EXISTS `{database}`.`{name}`{on} AS `{database}`.`{name}_local` "
        f"ENGINE = Distributed('{cluster}', '{database}', '{name}_local', cityHash64(id))",
    ]


def _on(cluster: str | None) -> str:
    return f" ON CLUSTER `{cluster}`" if cluster else ""


def execute(url: str, statements: Iterable[str]) -> None:
    """Run the statements of `ddl`.

    Args:
        url: str; see `Place`.
        statements: list of str, from `ddl`.

    Raises:
        BackendError: the server does not answer, or refuses.
    """
    connection = Connection(url)
    for statement in statements:
        connection.tell(statement)
