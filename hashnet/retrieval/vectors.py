"""Vectors alone: arrays and files of features that some network made elsewhere.

A file is Parquet with the columns `id`, `vector` and, if wanted, `label` and `path`; or an array
`(n, d)` of float16 or float32 that `numpy.save` wrote, with texts beside it, one line a vector:
`NAME.ids.txt`, `NAME.labels.txt` and `NAME.paths.txt` beside `NAME.npy`. Without ids a vector's is
its place in the array, counted from 0. An empty line is no label and no path.

Either is read in blocks, and looked through before any of it counts.
"""

import collections
import functools
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hashnet import extras, files
from hashnet.checks import checked_ids
from hashnet.encode.encoder import unit_vectors
from hashnet.errors import ArgumentError, HashnetError
from hashnet.network.own_backbones import MAX_FEATURE_DIM
from hashnet.retrieval.extraction.parquet import PYARROW, codecs, words_of
from hashnet.retrieval.store.items import Item

StrPath = str | os.PathLike[str]

SUFFIXES = (".npy", ".parquet")
# Rows that are read at once: 16 MB of a thousand numbers each.
_ROWS_AT_ONCE = 4096
_NUMBERS_AT_ONCE = 2**24
# A header says dtype, order and shape; a longer one says more than is asked.
_MAX_HEADER = 10_000
# What a group of rows of a Parquet file may unfold to; writers' own groups are far smaller.
_MAX_GROUP_BYTES = 2**31
_MOST_LINE = 2**14  # bytes of an id, a label or a path, on average
_WORDS = ("ids", "labels", "paths")
_KNOWN_CODECS = frozenset(range(8))  # as parquet.thrift numbers them


@dataclass(frozen=True, eq=False)
class Vectors:
    """Vectors with what is known of each; the first axis is the items.

    Attributes:
        name: str. What messages call them.
        items: list of n `Item`: id, path and label.
        feature_dim: int. Numbers of a vector.
        read: function that gives the vectors from the first one on, float arrays `(b, d)`.

    Example:
        >>> vectors = Vectors.of(np.eye(3), labels=["x", "y", "z"])
        >>> len(vectors), vectors.feature_dim, vectors.items[1].id, vectors.items[1].label
        (3, 3, '1', 'y')
    """

    name: str
    items: list[Item]
    feature_dim: int
    read: Callable[[], Iterator[np.ndarray]]

    def __len__(self) -> int:
        return len(self.items)

    @classmethod
    def of(
        cls,
        vectors: "np.ndarray | StrPath | Vectors",
        *,
        ids: Sequence[str] | None = None,
        labels: Sequence[str | None] | None = None,
        paths: Sequence[StrPath | None] | None = None,
    ) -> "Vectors":
        """Vectors in an array or a file, looked through.

        Args:
            vectors: float array `(n, d)`; or the path of a file, which has ids, labels and paths
                of its own; or `Vectors`.
            ids: str, one a vector, each once; None for their places, counted from 0.
            labels: str, one a vector, None where it has none; or None.
            paths: str or path-like, one a vector, of the file that it was made of; or None.

        Returns:
            `Vectors`.

        Raises:
            ArgumentError: there is no vector; one holds NaN or infinity, or is 0; the four differ
                in length; an id comes twice; or the file is damaged or holds something else.
            ShapeError: the array is of another shape, or no numbers.
        """
        if not isinstance(vectors, np.ndarray):
            if any(words is not None for words in (ids, labels, paths)):
                raise ArgumentError(
                    "A file of vectors has ids, labels and paths of its own.",
                    f"some beside {vectors!r}",
                    "Give an array, or write them into the file.",
                )
            found = vectors if isinstance(vectors, Vectors) else _opened(os.fsdecode(vectors))
        else:
            unit_vectors(vectors[:0])  # the shape, before it is asked for

            def blocks() -> Iterator[np.ndarray]:
                for start in range(0, len(vectors), _ROWS_AT_ONCE):
                    yield vectors[start : start + _ROWS_AT_ONCE]

            given = [ids, labels, paths]
            items = _items("an array", len(vectors), given)
            found = cls("an array", items, vectors.shape[1], blocks)
        found._look_through()
        return found

    def _look_through(self) -> None:
        if not len(self) or not 1 <= self.feature_dim <= MAX_FEATURE_DIM:
            raise ArgumentError(
                f"Vectors are one or more, of 1 to {MAX_FEATURE_DIM} numbers.",
                f"{len(self)} of {self.feature_dim} in {self.name}",
            )
        twice = [
            id for id, n in collections.Counter(item.id for item in self.items).items() if n > 1
        ]
        if twice:
            raise ArgumentError(
                "An id names one vector.", f"{twice[0]!r} more than once in {self.name}"
            )
        for _ in self.blocks():
            pass

    def blocks(self) -> Iterator[tuple[list[Item], np.ndarray]]:
        """The items and their vectors, scaled to length 1, block by block.

        Yields:
            list of `Item`, and float32 `(b, feature_dim)`.

        Raises:
            ArgumentError: a vector holds NaN or infinity, or is 0; or the file is damaged.
        """
        start = 0
        for block in self.read():
            items = self.items[start : start + len(block)]
            try:
                units = unit_vectors(block, self.feature_dim)
            except HashnetError as error:
                raise ArgumentError(
                    "Vectors are searched by the angles between them.",
                    f"{self.name}, from vector {start} on: {error}",
                ) from error
            yield items, units
            start += len(block)
        if start != len(self):
            raise _damaged(self.name, f"{start} vectors in place of {len(self)}")

    def at(self, places: np.ndarray) -> np.ndarray:
        """Some of the vectors.

        Args:
            places: int64 `(m,)`, ascending.

        Returns:
            float32 `(m, feature_dim)`, each of length 1.
        """
        chosen, start = [np.empty((0, self.feature_dim), np.float32)], 0
        for items, block in self.blocks():
            inside = places[(places >= start) & (places < start + len(items))]
            chosen.append(block[inside - start])
            start += len(items)
        return np.concatenate(chosen)


def is_file(name: object) -> bool:
    """Whether a name is that of a file of vectors, by its ending.

    Args:
        name: anything.

    Returns:
        bool.

    Example:
        >>> is_file("queries.npy"), is_file("cat.png")
        (True, False)
    """
    return isinstance(name, str | os.PathLike) and os.fsdecode(name).lower().endswith(SUFFIXES)


def _opened(path: str) -> Vectors:
    if not is_file(path):
        raise ArgumentError(f"A file of vectors ends in {' or '.join(SUFFIXES)}.", path)
    if not os.path.isfile(path):
        raise ArgumentError("A file of vectors is there.", f"no file {path}")
    return _array(path) if path.lower().endswith(".npy") else _table(path)


def _damaged(path: str, what: str) -> ArgumentError:
    return ArgumentError(
        "A file of vectors is an array (n, d) of float16 or float32 from numpy.save, or Parquet.",
        f"{path}: {what}",
        "Write it again.",
    )


# --- .npy -------------------------------------------------------------------------------------


def _array(path: str) -> Vectors:
    shape, dtype, offset = _header(path)
    words = [_lines(pathlib.Path(path), name, shape[0]) for name in _WORDS]

    def blocks() -> Iterator[np.ndarray]:
        width = shape[1] * dtype.itemsize
        with open(path, "rb") as file:
            file.seek(offset)
            for start in range(0, shape[0], _ROWS_AT_ONCE):
                rows = min(_ROWS_AT_ONCE, shape[0] - start)
                content = file.read(rows * width)
                if len(content) != rows * width:
                    raise _damaged(path, "it ends too early")
                yield np.frombuffer(content, dtype).reshape(rows, shape[1]).astype(np.float32)

    return Vectors(path, _items(path, shape[0], words), shape[1], blocks)


def _header(path: str) -> tuple[tuple[int, int], np.dtype[Any], int]:
    """Shape, dtype and place of the numbers. No pickle is read, whatever the header says."""
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    try:
        with open(path, "rb") as file:
            version = np.lib.format.read_magic(file)
            if version not in readers:
                raise ValueError(f"format {version}")
            shape, by_columns, dtype = readers[version](file, max_header_size=_MAX_HEADER)
            offset = file.tell()
            size = os.fstat(file.fileno()).st_size
    except Exception as error:  # the header is read as Python, and fails in as many ways
        raise _damaged(path, f"{str(error) or type(error).__name__}"[:200]) from error
    if dtype.kind != "f" or dtype.itemsize not in (2, 4) or len(shape) != 2:
        raise _damaged(path, f"{dtype} of shape {shape}")
    if by_columns:
        raise _damaged(path, "in Fortran's order; numpy.ascontiguousarray changes it")
    if min(shape) < 1 or offset + shape[0] * shape[1] * dtype.itemsize != size:
        raise _damaged(path, f"{size - offset} bytes for {dtype} of shape {shape}")
    return (shape[0], shape[1]), dtype, offset


def _lines(path: pathlib.Path, name: str, number: int) -> list[str | None] | None:
    """The lines of the text beside an array; None where there is none."""
    beside = path.with_suffix(f".{name}.txt")
    if not beside.is_file():
        return None
    try:
        content = files.read_at_most(beside, (number + 1) * _MOST_LINE)
        lines: list[str | None] = [
            line.removesuffix("\r") or None
            for line in content.decode().removesuffix("\n").split("\n")
        ]
    except (UnicodeDecodeError, ArgumentError) as error:
        raise ArgumentError("Ids, labels and paths are text.", f"{beside} ({error})") from error
    if len(lines) != number:
        raise ArgumentError(
            "Beside an array stands one line a vector.",
            f"{len(lines)} in {beside} for {number} vectors",
        )
    return lines


# --- Parquet ----------------------------------------------------------------------------------


def _table(path: str) -> Vectors:
    extras.load("pyarrow.parquet", "parquet", PYARROW)
    pa = extras.load("pyarrow", "parquet", PYARROW)

    def opened(words: Sequence[str] = ()) -> Any:
        return pa.parquet.ParquetFile(path, memory_map=False, read_dictionary=words)

    def failed(error: Exception) -> ArgumentError:
        return _damaged(path, " ".join(str(error).split())[:200] or type(error).__name__)

    with open(path, "rb") as content:
        if not _KNOWN_CODECS.issuperset(codecs(content)):
            raise _damaged(path, "compressed in an unknown way")
    of_python = (OSError, ValueError, TypeError, LookupError, OverflowError, MemoryError)
    failures = (pa.ArrowException, *of_python)
    try:
        with opened() as file:
            schema, metadata = file.schema_arrow, file.metadata
            _check_columns(path, pa, schema)
            groups = (metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
            if any(size > _MAX_GROUP_BYTES for size in groups):
                raise _damaged(path, f"a group of rows of more than {_MAX_GROUP_BYTES} bytes")
            at_once = _rows_at_once(path, metadata)
            names = [name for name in ("id", "label", "path") if name in schema.names]
        with opened(names) as file:
            table = file.read(columns=names)
            words = {name: words_of(table[name]) for name in names}
        number = len(words["id"])
        first = next(iter(_of_table(path, pa, opened, at_once)), None)
    except HashnetError:
        raise
    except failures as error:
        raise failed(error) from error

    def blocks() -> Iterator[np.ndarray]:
        try:
            yield from _of_table(path, pa, opened, at_once)
        except HashnetError:
            raise
        except failures as error:
            raise failed(error) from error

    given = [words.get(name) for name in ("id", "label", "path")]
    feature_dim = 0 if first is None else first.shape[1]
    return Vectors(path, _items(path, number, given), feature_dim, blocks)


def _check_columns(path: str, pa: Any, schema: Any) -> None:
    def is_text(kind: Any) -> bool:
        inner = kind.value_type if pa.types.is_dictionary(kind) else kind
        return pa.types.is_string(inner) or pa.types.is_large_string(inner)

    def is_vector(kind: Any) -> bool:
        lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
        return any(one(kind) for one in lists) and pa.types.is_floating(kind.value_type)

    kinds = {field.name: field.type for field in schema}
    needed = {"id": is_text, "vector": is_vector}
    allowed = needed | {name: is_text for name in ("label", "path") if name in kinds}
    for name, fits in allowed.items():
        if name not in kinds or not fits(kinds[name]):
            found = ", ".join(f"{field.name} {field.type}" for field in schema)[:200]
            raise _damaged(path, f"no {name} of the right type among {found}")


def _rows_at_once(path: str, metadata: Any) -> int:
    """As many rows as have few enough numbers, which may be packed by the million into a byte."""
    widest = 1
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        columns = map(group.column, range(group.num_columns))
        [numbers] = [one.num_values for one in columns if one.path_in_schema.startswith("vector.")]
        widest = max(widest, -(-numbers // max(group.num_rows, 1)))
    if widest > MAX_FEATURE_DIM:
        raise _damaged(path, f"vectors of {widest} numbers, of {MAX_FEATURE_DIM} at most")
    return max(1, min(_ROWS_AT_ONCE, _NUMBERS_AT_ONCE // widest))


def _of_table(path: str, pa: Any, opened: Callable[[], Any], at_once: int) -> Iterator[np.ndarray]:
    width = None
    with opened() as file:
        for batch in file.iter_batches(at_once, columns=["vector"]):
            column = batch.column(0)
            if column.null_count or column.flatten().null_count:
                raise _damaged(path, "a row without a vector, or a vector with a gap")
            numbers = column.flatten().to_numpy(zero_copy_only=False)
            rows = len(column)
            lengths = {len(numbers) // max(rows, 1)}
            if not pa.types.is_fixed_size_list(column.type):
                lengths = {*column.value_lengths().to_pylist()}
            width = width or next(iter(lengths), None)
            if lengths != {width}:
                raise _damaged(path, f"vectors of {sorted({*lengths, width or 0})[:5]} numbers")
            yield numbers.reshape(rows, width)


# --- Items ------------------------------------------------------------------------------------


def _items(name: str, number: int, words: Iterable[Sequence[Any] | None]) -> list[Item]:
    """An `Item` for each vector, of ids, labels and paths, or of None in place of any."""
    ids, labels, paths = words
    given_ids = list(map(str, range(number))) if ids is None else ids
    labels = [None] * number if labels is None else labels
    paths = [None] * number if paths is None else paths
    if not number == len(given_ids) == len(labels) == len(paths):
        raise ArgumentError(
            "Every vector has one id, and one label and one path if there are any.",
            f"{number} vectors, {len(given_ids)} ids, {len(labels)} labels, {len(paths)} paths",
        )
    if any(id is None for id in given_ids):
        raise ArgumentError("Every vector has an id.", f"{name}, where one has none")
    if any(label is not None and not isinstance(label, str) for label in labels):
        raise ArgumentError("A label is a str or None.", f"{name}, where one is neither")
    return [
        Item(id, _whole(path), label)
        for id, label, path in zip(checked_ids(given_ids), labels, paths, strict=True)
    ]


@functools.lru_cache(maxsize=1024)
def _whole(path: StrPath | None) -> str | None:
    if path is None or "://" in os.fsdecode(path):
        return None if path is None else os.fsdecode(path)
    return os.path.abspath(os.fsdecode(path))
