"""What an index folder holds as of one commit: its segments, and where they lie in which files.

The catalogue says so in catalogue.py; here stands what that means.
"""

import bisect
import dataclasses
import functools
import os

import numpy as np

from hashnet import system
from hashnet.codes import code_bytes
from hashnet.retrieval.store.folder.lookups import Run
from hashnet.retrieval.store.folder.paths import damaged, inside
from hashnet.retrieval.store.folder.records import EXIF, FILE, ITEM, SPAN, TEXTS
from hashnet.retrieval.store.folder.words import StoredCodebook, WordRun
from hashnet.retrieval.store.roots import Root
from hashnet.system import StrPath

SEGMENTS = "segments"
ARRAY_NAMES = ("codes", "features", "items", "text")
LOCAL_NAMES = ("spans", "yx", "descriptors")
REGION_NAMES = ("regions",)
FILE_NAMES = ("files",)
EXIF_NAMES = ("exif",)
TEXT_NAMES = ("texts",)
LOOKUPS = "lookups"
WORDS, CODEBOOKS = "words", "codebooks"


@dataclasses.dataclass(frozen=True)
class Segment:
    """The rows of one commit.

    Attributes:
        num_rows: int.
        arrays: dict of str, such as `codes`, to the number of rows of its own that the segment
            has there, and their sha256 as hex.
        deleted: bool array of shape `(num_rows,)`, or None while no row is deleted.
        first_row: int. Rows of the segments before it.
        starts: dict of a name in `arrays` to the rows of its own of the segments before it.
    """

    num_rows: int
    arrays: dict[str, tuple[int, str]]
    deleted: np.ndarray | None
    first_row: int
    starts: dict[str, int]

    @functools.cached_property
    def num_deleted(self) -> int:
        """int. Rows that are deleted."""
        return 0 if self.deleted is None else int(np.count_nonzero(self.deleted))

    @property
    def end_row(self) -> int:
        """int. Rows up to its end."""
        return self.first_row + self.num_rows

    @property
    def ends(self) -> dict[str, int]:
        """dict of an array's name to the rows of its own up to the end of this segment."""
        return {name: self.starts[name] + count for name, (count, _) in self.arrays.items()}


@dataclasses.dataclass(frozen=True)
class Catalogue:
    """All that the catalogue says, at one commit.

    Attributes:
        num_bits, descriptor_dim: int, as those of `Store`.
        feature_dtype, fingerprint, created, extractor: str, as those of `Store`.
        feature_dim, regions_per_image: int, as those of `Store`.
        encoder: dict of a file's name to its bytes and its sha256 as hex.
        generation: int. How many sets of files there have been.
        commits: int.
        segments: tuple of `Segment`.
        runs: tuple of `Run`, which list the images of all rows; None in format versions 1 to 3.
        identity: str. Tells an index from all others; "" in format versions 1 to 3.
        roots: tuple of `Root`; None in format versions 1 to 4.
        exif: bool, as that of `Store`.
        word_runs: tuple of `WordRun`, which list the images of all rows by their words; empty
            where there is no codebook, None in format versions 1 to 5.
        codebook: `StoredCodebook`, or None.
        texts: bool, as that of `Store`; False in format versions 1 to 6.
        ocr: str or None, as that of `Store`.
    """

    num_bits: int
    feature_dim: int
    feature_dtype: str
    fingerprint: str
    created: str
    encoder: dict[str, tuple[int, str]]
    generation: int
    commits: int
    segments: tuple[Segment, ...]
    extractor: str | None = None
    descriptor_dim: int | None = None
    regions_per_image: int = 0
    runs: tuple[Run, ...] | None = None
    identity: str = ""
    roots: tuple[Root, ...] | None = None
    exif: bool = False
    word_runs: tuple[WordRun, ...] | None = None
    codebook: StoredCodebook | None = None
    texts: bool = False
    ocr: str | None = None

    @property
    def made(self) -> tuple[str, str, str]:
        """What tells an index from another that was made in its place."""
        return self.created, self.fingerprint, self.identity

    @property
    def format_version(self) -> int:
        """int. The oldest format that can say all this."""
        if self.texts:
            return 7
        if self.word_runs is not None:
            return 6
        if self.roots is not None:
            return 5
        if self.runs is not None:
            return 4
        return 3 if self.regions_per_image else 1 if self.extractor is None else 2

    @property
    def array_names(self) -> tuple[str, ...]:
        """tuple of str: the arrays of every segment."""
        return names_of_arrays(
            self.extractor,
            self.regions_per_image,
            files=self.roots is not None,
            exif=self.exif,
            texts=self.texts,
        )

    @property
    def file_names(self) -> tuple[str, ...]:
        """tuple of str: the arrays of every segment, and the other files that there are."""
        names = self.array_names if self.runs is None else (*self.array_names, LOOKUPS)
        return (*names, WORDS, CODEBOOKS) if self.keeps_words else names

    @property
    def keeps_words(self) -> bool:
        """bool. Whether it may have a codebook."""
        return self.word_runs is not None and self.extractor is not None

    @functools.cached_property
    def ends(self) -> dict[str, int]:
        """dict of a file's name to how many of its own rows are committed."""
        ends = dict.fromkeys(self.file_names, 0)
        if self.segments:
            ends |= self.segments[-1].ends
        if self.runs:
            ends[LOOKUPS] = self.runs[-1].end
        if self.word_runs:
            ends[WORDS] = self.word_runs[-1].end
        if self.codebook:
            ends[CODEBOOKS] = self.codebook.end
        return ends

    def number_of_segment(self, row: int) -> int:
        """Which segment holds a row.

        Args:
            row: int.

        Returns:
            int, its place in `segments`.
        """
        return bisect.bisect_right(self.segments, row, key=lambda s: s.first_row) - 1

    def continues(self, older: "Catalogue") -> bool:
        """Whether all rows of an older catalogue are rows of this one, and the same.

        Args:
            older: `Catalogue`.

        Returns:
            bool.
        """
        same = (self.identity, self.created, self.fingerprint, self.generation) == (
            older.identity,
            older.created,
            older.fingerprint,
            older.generation,
        )
        if not same or older.commits > self.commits or len(older.segments) > len(self.segments):
            return False
        # Of another index that was made in its place in the same second, what it holds differs.
        pairs = zip(older.segments, self.segments, strict=False)
        return bool(self.identity) or all(old.arrays == new.arrays for old, new in pairs)

    @property
    def num_rows(self) -> int:
        """int. Rows, deleted ones included."""
        return self.ends["codes"]

    @property
    def num_deleted(self) -> int:
        """int. Rows that are deleted."""
        return sum(segment.num_deleted for segment in self.segments)

    def live(self) -> np.ndarray | None:
        """bool array of shape `(num_rows,)`, or None when nothing is deleted."""
        if all(segment.deleted is None for segment in self.segments):
            return None
        live = np.ones(self.num_rows, bool)
        for segment in self.segments:
            if segment.deleted is not None:
                live[segment.first_row : segment.end_row] = ~segment.deleted
        return live

    def layout(self, name: str) -> tuple[np.dtype, tuple[int, ...]]:
        """What one row of an array consists of.

        Args:
            name: str, such as `codes`.

        Returns:
            numpy.dtype, and tuple of int, the shape.
        """
        return {
            "codes": (np.dtype(np.uint8), (code_bytes(self.num_bits),)),
            "features": (np.dtype(self.feature_dtype).newbyteorder("<"), (self.feature_dim,)),
            "items": (ITEM, ()),
            "text": (np.dtype(np.uint8), ()),
            "spans": (SPAN, ()),
            "yx": (np.dtype("<f4"), (2,)),
            "descriptors": (np.dtype("<f2"), (self.descriptor_dim or 0,)),
            "regions": (np.dtype("<i4"), (4,)),
            "files": (FILE, ()),
            "exif": (EXIF, ()),
            "texts": (TEXTS, ()),
            **dict.fromkeys((LOOKUPS, WORDS, CODEBOOKS), (np.dtype(np.uint8), ())),
        }[name]

    def row_bytes(self, name: str) -> int:
        """Bytes of one row of an array.

        Args:
            name: str, such as `codes`.

        Returns:
            int.
        """
        dtype, shape = self.layout(name)
        return dtype.itemsize * (shape[0] if shape else 1)

    def file_name(self, name: str) -> str:
        """Name of an array's file inside the index.

        Args:
            name: str, such as `codes`.

        Returns:
            str.
        """
        return f"{SEGMENTS}/{self.generation:06d}.{name}"


def names_of_arrays(
    extractor: str | None, regions_per_image: int, *, files: bool, exif: bool, texts: bool
) -> tuple[str, ...]:
    """The arrays of every segment of an index.

    Args:
        extractor: str or None, as that of `Catalogue`.
        regions_per_image: int.
        files, exif, texts: bool. Whether there are such records of each row.

    Returns:
        tuple of str.
    """
    return (
        ARRAY_NAMES
        + (() if extractor is None else LOCAL_NAMES)
        + (REGION_NAMES if regions_per_image else ())
        + (FILE_NAMES if files else ())
        + (EXIF_NAMES if exif else ())
        + (TEXT_NAMES if texts else ())
    )


def open_data(folder: StrPath, catalogue: Catalogue, name: str, flags: int = os.O_RDONLY) -> int:
    """Open one file of numbers, which is at least as long as the catalogue says.

    Args:
        folder: path of the index.
        catalogue: `Catalogue`.
        name: str, such as `codes`.
        flags: int, for `os.open`.

    Returns:
        int, a descriptor, which the caller closes.

    Raises:
        StoreError: the file is missing, too short, or no plain file.
    """
    file_name = catalogue.file_name(name)
    path, size = inside(folder, file_name)
    wanted = catalogue.ends[name] * catalogue.row_bytes(name)
    if size < wanted:
        raise damaged(folder, file_name, f"{size} bytes instead of {wanted}")
    try:
        return system.open_file(path, flags)
    except OSError as error:
        raise damaged(folder, file_name, error.strerror) from error
