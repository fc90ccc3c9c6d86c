"""Extractions: folders of Parquet shards with what an encoder made of a list of images.

    OUT/
      extraction.json         fingerprint, dtype of features, and one digest for each shard: of the
                              list of images that the shard is made from
      encoder/                the bundle that made the codes
      shards/000000.parquet   id, path, label, size, mtime_ns, code, feature; rows ascend by id
             000000.json      what was written: rows, bytes, sha256, the digest of the list, and
                              which images could not be read
      lock                    held while all but the shards is written

Only this file knows that. A shard counts when its `.json` is there and holds the digest that
`extraction.json` asks for; that file is written last, and each file appears under its name whole
or not at all. Any program that reads Parquet can read the shards.

Pages are neither compressed nor, but for labels, dictionaries: features hardly get smaller, and
a stranger's file cannot swell while it is read.
"""

import contextlib
import hashlib
import io
import itertools
import json
import os
import pathlib
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from hashnet import codes as hashcodes
from hashnet import extras, files, images, system
from hashnet.errors import ArgumentError, FingerprintError, HashnetError, ShapeError, StoreError
from hashnet.network import bundle as bundles
from hashnet.retrieval.store.items import Item

if TYPE_CHECKING:
    import pyarrow
    import pyarrow.parquet

FORMAT_VERSION = 1
SHARD_ROWS = 4096
MAX_SHARD_ROWS = 1 << 16
FEATURE_DTYPES = ("float16", "float32")

_MANIFEST, _SHARDS, _ENCODER, _LOCK = "extraction.json", "shards", "encoder", "lock"
PYARROW = "Parquet is read and written with pyarrow."
# A row's words, all together: far more than a file system's paths take.
_MAX_WORD_BYTES = 1 << 16
_MAX_JSON_BYTES = 1 << 28
_WORDS = ("id", "path", "label")


@dataclass(frozen=True)
class Batch:
    """Rows of an extraction; the first axis of both arrays is the items.

    Attributes:
        items: list of `Item`: id, path, label, size and time.
        codes: uint8 `(n, code_bytes)`.
        features: float16 or float32 `(n, feature_dim)`, finite.
    """

    items: list[Item]
    codes: np.ndarray
    features: np.ndarray

    def __len__(self) -> int:
        return len(self.items)


class Extraction:
    """A folder of Parquet shards, opened to be filled or read.

    Made by `begin` or `open`.

    Attributes:
        folder: pathlib.Path.
        bundle: the `Bundle` that it carries.
        feature_dtype: "float16" or "float32".
        shard_rows: int. Images that a shard is made from; the last one may have fewer.
        listings: tuple of str. For each shard, the digest of its list of images.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        bundle: bundles.Bundle,
        feature_dtype: str,
        shard_rows: int,
        listings: tuple[str, ...],
    ) -> None:
        self.folder = folder
        self.bundle = bundle
        self.feature_dtype = feature_dtype
        self.shard_rows = shard_rows
        self.listings = listings

    # Filling

    @classmethod
    def begin(
        cls,
        folder: str | os.PathLike[str],
        bundle_folder: str | os.PathLike[str],
        items: Sequence[Item],
        *,
        feature_dtype: str = "float16",
        shard_rows: int = SHARD_ROWS,
    ) -> "Extraction":
        """Make the folder for a list of images, or go on with one that was begun.

        Several processes may begin the same extraction at one time.

        Args:
            folder: str or path-like. Nothing is there, an empty folder, or an extraction.
            bundle_folder: str or path-like. A bundle, or an index whose encoder is taken.
            items: of all shards, ascending by id.
            feature_dtype: "float16" or "float32".
            shard_rows: int, 1 to `MAX_SHARD_ROWS`.

        Returns:
            The opened `Extraction`.

        Raises:
            FingerprintError: another network, dtype or size of shards began it.
            StoreError: something else is there, or the disk refuses.
            BundleError: the bundle is missing or damaged.
            ArgumentError: `feature_dtype` or `shard_rows` is out of its range.
        """
        _pyarrow()
        if feature_dtype not in FEATURE_DTYPES:
            raise ArgumentError(
                "Features are stored as float16 or float32.", f"feature_dtype={feature_dtype!r}"
            )
        if not 1 <= shard_rows <= MAX_SHARD_ROWS:
            raise ArgumentError(
                f"A shard has 1 to {MAX_SHARD_ROWS} rows.", f"shard_rows={shard_rows}"
            )
        folder = pathlib.Path(os.path.abspath(folder))
        bundle = bundles.load(bundle_folder)
        listings = tuple(
            _digest(items[start : start + shard_rows]) for start in range(0, len(items), shard_rows)
        )
        self = cls(folder, bundle, feature_dtype, shard_rows, listings)
        with _disk(folder):
            free = not folder.exists() or _is_free(folder)
            if not free and not os.path.lexists(folder / _MANIFEST):
                raise StoreError(
                    "An extraction needs a folder of its own.", str(folder), "Give a new name."
                )
            folder.mkdir(parents=True, exist_ok=True)
            with _locked(folder / _LOCK):
                self._settle()
        return cls.open(folder)

    def _settle(self) -> None:
        """Write what is not there yet but the shards; one process at a time."""
        begun = None
        if os.path.lexists(self.folder / _MANIFEST):
            begun = _read_manifest(self.folder)
            self._refuse_another(begun)
        if begun is None or begun["listings"] != list(self.listings):
            _write_whole(self.folder / _MANIFEST, json.dumps(self._manifest()).encode())
        (self.folder / _SHARDS).mkdir(exist_ok=True)
        _copy_bundle(self.bundle, self.folder)
        self._remove_surplus()

    def _manifest(self) -> dict[str, Any]:
        return {
            "format_version": FORMAT_VERSION,
            "fingerprint": self.bundle.fingerprint,
            "feature_dtype": self.feature_dtype,
            "shard_rows": self.shard_rows,
            "listings": list(self.listings),
        }

    def _refuse_another(self, begun: dict[str, Any]) -> None:
        ours = self._manifest()
        for name in ("fingerprint", "feature_dtype", "shard_rows"):
            if begun[name] != ours[name]:
                raise FingerprintError(
                    f"An extraction keeps its {name}.",
                    f"{ours[name]} for {begun[name]} in {self.folder}",
                    "Finish it as it was begun, or extract to another folder.",
                )

    def _remove_surplus(self) -> None:
        """Remove shards beyond the last one: they were made from a longer list."""
        for entry in os.scandir(self.folder / _SHARDS):
            number = re.fullmatch(r"(\d{6,})\.(json|parquet)", entry.name)
            if number and int(number[1]) >= len(self.listings):
                system.remove_unless_in_use(entry.path)

    def is_done(self, number: int) -> bool:
        """Whether shard `number` is there, made from the list as it is now, and undamaged.

        Args:
            number: int, from 0 on.

        Returns:
            bool.
        """
        try:
            self._content(number)
        except StoreError:
            return False
        return True

    def write(
        self,
        number: int,
        items: Sequence[Item],
        codes: np.ndarray,
        features: np.ndarray,
        problems: Sequence[images.Problem],
    ) -> None:
        """Write a shard, in place of one that may be there.

        Args:
            number: int, from 0.
            items: those that could be read, ascending by id.
            codes: uint8 `(len(items), code_bytes)`.
            features: float `(len(items), feature_dim)`, stored as `feature_dtype`.
            problems: the images that could not be read.

        Raises:
            StoreError: the disk refuses; the shard is not there then, or as it was.
        """
        content = self._to_parquet(number, items, codes, features)
        record = {
            "listing": self.listings[number],
            "rows": len(items),
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "problems": [[problem.path, problem.reason] for problem in problems],
        }
        with _disk(self.folder):
            # What vouches for the old shard goes before the shard does.
            self._path(number, "json").unlink(missing_ok=True)
            _write_whole(self._path(number, "parquet"), content)
            _write_whole(self._path(number, "json"), json.dumps(record).encode())

    def _to_parquet(
        self, number: int, items: Sequence[Item], codes: np.ndarray, features: np.ndarray
    ) -> bytes:
        pa = _pyarrow()
        config = self.bundle.config
        hashcodes.validate(codes, config.num_bits)
        features = np.ascontiguousarray(features, dtype=self.feature_dtype)
        facts = {
            "format_version": FORMAT_VERSION,
            "fingerprint": self.bundle.fingerprint,
            "num_bits": config.num_bits,
            "backbone": config.backbone,
            "shard": number,
        }
        schema = self._schema()
        columns = [
            pa.array([getattr(item, name) for item in items], schema.field(name).type)
            for name in (*_WORDS, "size", "mtime_ns")
        ]
        width = codes.shape[-1]
        columns.append(
            pa.FixedSizeBinaryArray.from_buffers(
                pa.binary(width), len(items), [None, pa.py_buffer(np.ascontiguousarray(codes))]
            )
        )
        columns.append(
            pa.FixedSizeListArray.from_arrays(
                pa.array(features.reshape(-1)), type=schema.field("feature").type
            )
        )
        schema = schema.with_metadata({"hashnet": json.dumps(facts, sort_keys=True)})
        sink = pa.BufferOutputStream()
        pa.parquet.write_table(
            pa.Table.from_arrays(columns, schema=schema),
            sink,
            compression="none",
            use_dictionary=["label"],
            write_statistics=["id"],
        )
        return sink.getvalue().to_pybytes()

    def _schema(self) -> "pyarrow.Schema":
        pa = _pyarrow()
        config = self.bundle.config
        number = pa.from_numpy_dtype(np.dtype(self.feature_dtype))
        element = pa.field("element", number, nullable=False)
        return pa.schema(
            [
                pa.field("id", pa.string(), nullable=False),
                pa.field("path", pa.string()),
                pa.field("label", pa.string()),
                pa.field("size", pa.int64()),
                pa.field("mtime_ns", pa.int64()),
                pa.field("code", pa.binary(hashcodes.code_bytes(config.num_bits)), nullable=False),
                pa.field("feature", pa.list_(element, config.feature_dim), nullable=False),
            ]
        )

    # Reading

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> "Extraction":
        """Open an extraction, finished or not.

        Args:
            folder: str or path-like.

        Returns:
            The opened `Extraction`.

        Raises:
            StoreError: there is none, it is damaged, or a newer version made it.
            BundleError: the bundle that it carries is missing or damaged.
            FingerprintError: it carries another network than made its codes.
        """
        folder = pathlib.Path(os.path.abspath(folder))
        manifest = _read_manifest(folder)
        bundle = bundles.load(folder / _ENCODER)
        if bundle.fingerprint != manifest["fingerprint"]:
            raise FingerprintError(
                "An extraction carries the encoder that made its codes.",
                f"codes of {manifest['fingerprint'][:12]}, an encoder of {bundle.fingerprint[:12]}",
                "Restore its encoder folder, or extract again.",
            )
        return cls(
            folder,
            bundle,
            manifest["feature_dtype"],
            manifest["shard_rows"],
            tuple(manifest["listings"]),
        )

    @property
    def num_images(self) -> int:
        """int, rows of all shards.

        Raises:
            StoreError: a shard is missing, or made from another list of images.
        """
        return sum(self._record(number)["rows"] for number in range(len(self.listings)))

    def num_rows(self, number: int) -> int:
        """Rows of one shard.

        Args:
            number: int, from 0 on.

        Returns:
            int.

        Raises:
            StoreError: it is missing, or made from another list of images.
        """
        return self._record(number)["rows"]

    def problems(self, number: int) -> list[images.Problem]:
        """The images of a finished shard that could not be read.

        Args:
            number: int, from 0 on.

        Returns:
            list of `Problem`.

        Raises:
            StoreError: the shard is missing, or made from another list of images.
        """
        return [images.Problem(*pair) for pair in self._record(number)["problems"]]

    def batches(self) -> Iterator[Batch]:
        """Read all shards, one `Batch` each, ascending by id; each is verified wholly first.

        Raises:
            StoreError: a shard is missing, damaged, or not what its encoder gives.

        Example:
            >>> from hashnet.retrieval.extraction.extract import extract
            >>> _ = extract(["cat.png", "dog.png"], "pets", bundle_folder)
            >>> [batch] = Extraction.open("pets").batches()
            >>> [os.path.basename(item.id) for item in batch.items], batch.codes.shape
            (['cat.png', 'dog.png'], (2, 4))
        """
        last_id = ""
        for number in range(len(self.listings)):
            batch = self._read(number)
            ids = [last_id, *(item.id for item in batch.items)]
            if not all(a < b for a, b in itertools.pairwise(ids)):
                raise self._damaged(number, "ids do not ascend")
            last_id = ids[-1]
            yield batch

    def _path(self, number: int, suffix: str) -> pathlib.Path:
        return self.folder / _SHARDS / f"{number:06d}.{suffix}"

    def _damaged(self, number: int, what: str) -> StoreError:
        return StoreError(
            "A shard must be whole and of its extraction.",
            f"{self._path(number, 'parquet')}: {what}",
            "Run the same `hashnet extract` again: it makes what is missing.",
        )

    def _record(self, number: int) -> dict[str, Any]:
        try:
            record = _read_json(self._path(number, "json"))
            whole = (
                all(_is_count(record[name]) for name in ("rows", "bytes"))
                and record["rows"] <= self.shard_rows
                and isinstance(record["sha256"], str)
                and all(len(pair) == 2 for pair in record["problems"])
                and all(isinstance(word, str) for pair in record["problems"] for word in pair)
            )
            listing = record["listing"]
        except OSError as error:
            raise self._damaged(number, f"not finished ({error.strerror})") from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise self._damaged(number, f"its .json is damaged ({error!r})") from error
        if not whole:
            raise self._damaged(number, "its .json is damaged")
        if listing != self.listings[number]:
            raise self._damaged(number, "made from another list of images")
        return record

    def _content(self, number: int) -> bytes:
        """The bytes of a finished shard, which are those that were written."""
        record = self._record(number)
        try:
            with open(self._path(number, "parquet"), "rb") as file:
                content = file.read(record["bytes"] + 1)
        except OSError as error:
            raise self._damaged(number, error.strerror or str(error)) from error
        if len(content) != record["bytes"]:
            raise self._damaged(number, f"not the {record['bytes']} bytes that were written")
        if hashlib.sha256(content).hexdigest() != record["sha256"]:
            raise self._damaged(number, "differs from its checksum")
        return content

    def _read(self, number: int) -> Batch:
        """A checksum does not prove who made a file: sizes are checked before memory is taken."""
        pa = _pyarrow()
        content, rows = self._content(number), self._record(number)["rows"]
        try:
            file = pa.parquet.ParquetFile(
                pa.BufferReader(content), read_dictionary=list(_WORDS), memory_map=False
            )
            self._refuse_schema(number, file, content, rows)
            table = file.read()
            table.validate(full=True)
            return self._batch(number, table, rows)
        except (
            pa.ArrowException,
            OSError,
            ValueError,
            TypeError,
            LookupError,
            OverflowError,
            RecursionError,
        ) as error:
            if isinstance(error, HashnetError):
                raise
            what = " ".join(str(error).split())[:200]
            raise self._damaged(number, f"not readable: {what}") from error

    def _refuse_schema(
        self, number: int, file: "pyarrow.parquet.ParquetFile", content: bytes, rows: int
    ) -> None:
        facts = json.loads((file.schema_arrow.metadata or {}).get(b"hashnet", b"{}"))
        fingerprint = facts.get("fingerprint") if isinstance(facts, dict) else None
        if fingerprint != self.bundle.fingerprint:
            raise FingerprintError(
                "A shard's codes are of the encoder that its extraction carries.",
                f"{self._path(number, 'parquet')} of {str(fingerprint)[:12]}",
                f"The encoder is {self.bundle.fingerprint[:12]}.",
            )
        pa = _pyarrow()
        found = pa.schema(
            [
                field.with_type(field.type.value_type)
                if pa.types.is_dictionary(field.type) and field.name in _WORDS
                else field
                for field in file.schema_arrow
            ]
        )
        if not found.equals(self._schema()):
            names = ", ".join(f"{field.name} {field.type}" for field in found)
            raise self._damaged(number, f"its columns are {names[:300]}")
        metadata = file.metadata
        if metadata.num_rows != rows:
            raise self._damaged(number, f"{metadata.num_rows} rows instead of {rows}")
        if any(codecs(io.BytesIO(content))):
            raise self._damaged(number, "it is compressed")

    def _batch(self, number: int, table: "pyarrow.Table", rows: int) -> Batch:
        config = self.bundle.config
        if table.num_rows != rows:
            raise self._damaged(number, f"{table.num_rows} rows instead of {rows}")
        if any(table[name].null_count for name in ("id", "code", "feature")):
            raise self._damaged(number, "a row has no id, code or feature")
        words = [self._words(number, table[name]) for name in _WORDS]
        numbers = [table[name].to_pylist() for name in ("size", "mtime_ns")]
        content = b"".join(table["code"].to_pylist())
        width = hashcodes.code_bytes(config.num_bits)
        codes = np.frombuffer(content, np.uint8).reshape(rows, width)
        chunks = [chunk.flatten().to_numpy() for chunk in table["feature"].chunks]
        features = np.concatenate([np.empty(0, self.feature_dtype), *chunks])
        if len(features) != rows * config.feature_dim or not np.isfinite(features).all():
            raise self._damaged(number, "a feature is short, or holds NaN or infinity")
        try:
            hashcodes.validate(codes, config.num_bits)
        except ShapeError as error:
            raise self._damaged(number, str(error)) from error
        items = [Item(*fields) for fields in zip(*words, *numbers, strict=True)]
        return Batch(items, codes, features.reshape(rows, config.feature_dim))

    def _words(self, number: int, column: "pyarrow.ChunkedArray") -> list[str | None]:
        """A column of text as a list, once no word is found to be long."""
        try:
            return words_of(column)
        except ValueError as error:
            raise self._damaged(number, str(error)) from error


def words_of(column: "pyarrow.ChunkedArray") -> list[str | None]:
    """A column of text that was read as dictionaries, which are as long as the file at most.

    Args:
        column: pyarrow.ChunkedArray. Its words, repeated for each row, might fill any memory.

    Returns:
        list of str, None where there is none; rows share their words.

    Raises:
        ValueError: a word is longer than ids, labels and paths are.
    """
    words: list[str | None] = []
    for chunk in column.chunks:
        known = chunk.dictionary.to_pylist()
        if any(word is not None and len(word) > _MAX_WORD_BYTES for word in known):
            raise ValueError(f"a word of more than {_MAX_WORD_BYTES} letters")
        words += [None if place is None else known[place] for place in chunk.indices.to_pylist()]
    return words


# --- Footers ----------------------------------------------------------------------------------

# Fields of Parquet's FileMetaData, by their numbers in parquet.thrift: row_groups, columns of each,
# meta_data of each, codec of that. 0 is uncompressed.
_CODEC = (4, 1, 3, 4)


def codecs(file: IO[bytes]) -> set[int]:
    """The compression of all column chunks of a Parquet file, as the numbers in its footer.

    pyarrow is not asked: it ends the process where a number stands for no codec.

    Args:
        file: binary file that can be sought in.

    Returns:
        set of int; -1 where the footer cannot be read.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - 8, 0))
    length = int.from_bytes(file.read(8)[:4], "little")
    file.seek(max(size - 8 - length, 0))
    try:
        return set(_Compact(file.read(length)).integers_at(_CODEC))
    except (ValueError, LookupError):
        return {-1}


class _Compact:
    """A reader of Thrift's compact protocol that skips all but the numbers in one place.

    ValueError or LookupError where the bytes are no such message.
    """

    _MAX_DEPTH = 64

    def __init__(self, message: bytes) -> None:
        self._message = message
        self._at = 0
        self._wanted: tuple[int, ...] = ()
        self._found: list[int] = []

    def integers_at(self, path: tuple[int, ...]) -> list[int]:
        """Integers of one field, given by the numbers of the fields on the way to it.

        Lists and sets on the way are gone through, element by element.
        """
        self._at, self._wanted, self._found = 0, path, []
        self._struct(())
        return self._found

    def _byte(self) -> int:
        byte = self._message[self._at]
        self._at += 1
        return byte

    def _varint(self) -> int:
        value = shift = 0
        while shift < 70:
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
        raise ValueError("a number of more than ten bytes")

    def _zigzag(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)

    def _struct(self, path: tuple[int, ...]) -> None:
        if len(path) > self._MAX_DEPTH:
            raise ValueError("structures are nested too deeply")
        field = 0
        while header := self._byte():
            step, kind = header >> 4, header & 0x0F
            field = field + step if step else self._zigzag()
            if kind > 2:  # the other two are booleans, whose value is the kind
                self._value(kind, (*path, field))

    def _value(self, kind: int, path: tuple[int, ...]) -> None:
        if kind in (4, 5, 6):
            number = self._zigzag()
            if path == self._wanted:
                self._found.append(number)
        elif kind in (1, 2, 3, 7, 13):
            self._at += {7: 8, 13: 16}.get(kind, 1)
        elif kind == 8:
            length = self._varint()
            self._at += length
        elif kind in (9, 10):
            size, kind = divmod(self._byte(), 16)
            for _ in range(self._varint() if size == 15 else size):
                self._value(kind, path)
        elif kind == 11:
            size = self._varint()
            kinds = divmod(self._byte(), 16) if size else ()
            for _ in range(size):
                for kind in kinds:
                    self._value(kind, (*path, -1))
        elif kind == 12:
            self._struct(path)
        else:
            raise ValueError(f"no type has number {kind}")
        if self._at > len(self._message):
            raise ValueError("the message ends early")


# --- Files ------------------------------------------------------------------------------------


def _pyarrow() -> ModuleType:
    extras.load("pyarrow.parquet", "parquet", PYARROW)
    return extras.load("pyarrow", "parquet", PYARROW)


def _digest(items: Sequence[Item]) -> str:
    """What changes with anything that a shard of these images shows of them."""
    fields = [[item.id, item.path, item.label, item.size, item.mtime_ns] for item in items]
    return hashlib.sha256(json.dumps(fields).encode()).hexdigest()


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_free(folder: pathlib.Path) -> bool:
    if not folder.is_dir():
        return False
    names = os.listdir(folder)
    return all(name == _LOCK or files.is_leftover(name) for name in names)


def _read_json(path: pathlib.Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        content = file.read(_MAX_JSON_BYTES + 1)
    if len(content) > _MAX_JSON_BYTES:
        raise ValueError("too long")
    value = json.loads(content)
    if not isinstance(value, dict):
        raise TypeError("no dictionary")
    return value


def _read_manifest(folder: pathlib.Path) -> dict[str, Any]:
    path = folder / _MANIFEST
    try:
        manifest = _read_json(path)
        if manifest["format_version"] > FORMAT_VERSION:
            raise StoreError(
                f"This HashNet reads extractions up to format {FORMAT_VERSION}.",
                f"format {manifest['format_version']} in {path}",
                "Upgrade: pip install -U hashnet",
            )
        whole = (
            isinstance(manifest["fingerprint"], str)
            and manifest["feature_dtype"] in FEATURE_DTYPES
            and _is_count(manifest["shard_rows"])
            and 1 <= manifest["shard_rows"] <= MAX_SHARD_ROWS
            and isinstance(manifest["listings"], list)
            and all(isinstance(listing, str) for listing in manifest["listings"])
        )
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(
            f"An extraction is a folder with a {_MANIFEST}.",
            f"{folder} ({error.strerror})",
            "Make one with `hashnet extract`, or check the path.",
        ) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise StoreError(f"{_MANIFEST} must be whole.", f"{path}: {error!r}") from error
    if not whole:
        raise StoreError(f"{_MANIFEST} must be whole.", str(path), "Extract to another folder.")
    return manifest


def _write_whole(path: pathlib.Path, content: bytes) -> None:
    """Put a file in its place at once; what a killed writer left of the same file goes."""
    files.remove_leftovers(path)
    with files.whole_file(path) as file:
        file.write(content)


def _copy_bundle(bundle: bundles.Bundle, folder: pathlib.Path) -> None:
    """Copy a bundle into the extraction, unless one is there."""
    place = folder / _ENCODER
    files.remove_leftovers(place)
    if place.exists():
        return
    with files.whole_folder(place) as beside:
        for name, source in bundle.files().items():
            shutil.copyfile(source, beside / name)


@contextlib.contextmanager
def _locked(path: pathlib.Path) -> Iterator[None]:
    """Wait until no other process has the lock."""
    lock = system.FileLock(path)
    try:
        while not lock.take():
            time.sleep(0.02)
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _disk(folder: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(
            "An extraction is made where there is room and leave to write.",
            f"{folder}: {error}",
            "Finished shards are kept; run it again when there is.",
        ) from error
