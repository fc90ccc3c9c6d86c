"""An index in a ClickHouse table. `search.clickhouse_finder` has the SQL of searching it.

    clickhouse://[USER[:PASSWORD]@]HOST:PORT/DB/TABLE    a server (clickhouses:// with TLS)
    chdb:///FOLDER/DB/TABLE                              the engine in this process (chdb)

    TABLE              one entry per image or region, and one per entry that was taken out
    TABLE_descriptors  local features, by the row of their image
    TABLE_words        their signatures, by the word of the codebook: the local pool
    TABLE_encoder      the facts of the index, the bundle that made its codes, and the codebook
    TABLE-g...         the entries with other codes: see `generations`

An entry is never changed. `row` numbers entries in the order in which they came; an entry with
`kills` above 0 is no image but says that the row of that number is out. One insert holds the new
rows of a batch and the entries that take out what they replace, and becomes one part of the
table, which is there wholly or not at all: killed at any moment, an image is there as before or
as after. A snapshot is the highest row at its time, so it goes on seeing what it saw, until a
compaction takes the dead rows away.

As in a folder, the entry of an image is followed by those of its regions, which have its words.
What is written about an image and in it is a column of its entries; what it is looked up by, as
`documents` makes it, is three more, of whole images only: a search in words reads them as they are.
Its local features are hundreds of times the bytes of all else and asked for by few rows at a time,
so they lie in a table of their own, ordered by row. They are inserted before their image is: what
a kill leaves there belongs to no row, and goes with the next compaction. So do their signatures,
each with the number of the codebook that it is by. Another codebook lists all images by its own
number, and takes effect by one record in `TABLE_encoder`; then the signatures by others are
deleted, which snapshots of before do not find any more. Tables without `TABLE_words`,
`TABLE_descriptors` or the columns `region` and `texts`, made before there were any, are used as
they are, for indexes that need none of them.

A refit fills another table of entries beside the one that is there, which nobody sees until one
record in `TABLE_encoder` names it, with the new encoder; what others wrote meanwhile is taken over,
and the old table is dropped. Records that follow the same one have the same token, so that the
server takes one of them. Killed at any moment, the index has the old codes or the new; the next
refit drops what is left, and takes over what was written to the old table in between.

Entries are sorted by code, so that the pool of a query lies together where codes repeat, as
learned ones do. The statement of a search reads the codes of all entries, and of the granules
that hold a pool the rest. Every value in a statement is a bound parameter; names of databases
and tables are checked to be plain words.

There is to be one writer at a time, as for a folder; no lock makes sure of it. Two that write
the same id at the same time may leave it twice, until it is written or removed again.
"""
