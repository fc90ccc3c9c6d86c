"""Labelled images from class folders, a CSV file, Fashion-MNIST's files or arrays.

Whatever the source, an image has a row in `targets`, true for each of its classes: one class or
several make no difference further on.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import csv
import gzip
import math
import os
import pathlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hashnet import images, system
from hashnet.errors import ArgumentError, ImageError, ShapeError
from hashnet.train.config import METRIC_LOSSES, TrainConfig

LABEL_SEPARATOR = "|"
IDX_IMAGES = "-images-idx3-ubyte.gz"
_MOST_IDX_BYTES = 2**30  # EMNIST's 800,000 pictures take half of it


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images with their classes.

    Attributes:
        sources: list of paths, or uint8 array `(n, height, width, 3)`, RGB.
        targets: bool array `(n, num_classes)`; each row has at least one true.
        classes: tuple of str, sorted.
        problems: list of `Problem`: what was left out, and why.
    """

    sources: Any
    targets: np.ndarray
    classes: tuple[str, ...]
    problems: list[images.Problem] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def labels(self) -> np.ndarray:
        """What `hashnet.metrics` takes: names `(n,)`, or `targets` if any image has several."""
        if (self.targets.sum(axis=1) > 1).any():
            return self.targets
        return np.array(self.classes)[self.targets.argmax(axis=1)]

    def rows(self, rows: np.ndarray) -> LabelledImages:
        """Some of the images, in the order asked for.

        Args:
            rows: int array of shape `(n,)`.

        Returns:
            `LabelledImages`.

        Example:
            >>> three = from_arrays(np.zeros((3, 4, 4, 3), "uint8"), ["cat", "dog", "cat"])
            >>> three.rows(np.array([2, 1])).labels.tolist()
            ['cat', 'dog']
        """
        some = self.sources[rows] if _is_array(self.sources) else [self.sources[r] for r in rows]
        return LabelledImages(some, self.targets[rows], self.classes, self.problems)

    def without(self, held_out: Sequence[str]) -> LabelledImages:
        """The images of all classes but some, without those classes.

        Args:
            held_out: sequence of str, names of classes.

        Returns:
            `LabelledImages`; an image of a class that is held out is not among them, whatever else
            it shows.

        Raises:
            ArgumentError: there is no such class, or fewer than two are left.

        Example:
            >>> pictures = np.zeros((3, 4, 4, 3), "uint8")
            >>> from_arrays(pictures, ["cat", "dog", "fox"]).without(["fox"]).classes
            ('cat', 'dog')
        """
        unknown = sorted(set(held_out) - set(self.classes))
        if unknown:
            raise ArgumentError(
                "Only classes that are there can be held out.",
                f"{', '.join(unknown)}",
                f"There are: {', '.join(self.classes[:20])}.",
            )
        kept = np.array([name not in held_out for name in self.classes])
        of_kept = self.rows(np.flatnonzero(~self.targets[:, ~kept].any(axis=1)))
        names = tuple(np.array(self.classes)[kept].tolist())
        return _checked(of_kept.sources, of_kept.targets[:, kept], names, self.problems)

    def of(self, classes: Sequence[str]) -> LabelledImages:
        """The images of some classes, with a column for each of these, in their order.

        Args:
            classes: sequence of str; no image need be of each.

        Returns:
            `LabelledImages`, maybe of no image.

        Example:
            >>> three = from_arrays(np.zeros((3, 4, 4, 3), "uint8"), ["cat", "dog", "cat"])
            >>> three.of(["ape", "cat"]).targets.tolist()
            [[False, True], [False, True]]
        """
        targets = np.zeros((len(self), len(classes)), bool)
        for column, name in enumerate(classes):
            if name in self.classes:
                targets[:, column] = self.targets[:, self.classes.index(name)]
        kept = np.flatnonzero(targets.any(axis=1))
        of_kept = self.rows(kept)
        return LabelledImages(of_kept.sources, targets[kept], tuple(classes), self.problems)

    def joined(self, others: LabelledImages) -> LabelledImages:
        """These images, and then others of their classes.

        Args:
            others: `LabelledImages` of the same classes; both are arrays of images of one size.

        Returns:
            `LabelledImages`.

        Example:
            >>> one = from_arrays(np.zeros((2, 4, 4, 3), "uint8"), ["cat", "dog"])
            >>> len(one.joined(one))
            4
        """
        return LabelledImages(
            np.concatenate([self.sources, others.sources]),
            np.concatenate([self.targets, others.targets]),
            self.classes,
            [*self.problems, *others.problems],
        )

    def split(self, part: float, seed: int) -> tuple[LabelledImages, LabelledImages]:
        """Keep a part of each class apart; a class of one image stays whole.

        Args:
            part: float, 0 to .5.
            seed: int.

        Returns:
            The rest and the part.

        Example:
            >>> ten = from_arrays(np.zeros((10, 4, 4, 3), "uint8"), ["cat", "dog"] * 5)
            >>> [len(one) for one in ten.split(0.2, seed=0)]
            [8, 2]
        """
        random = np.random.default_rng((seed, 0x5711))
        # Of several labels the rarest decides, so that it too is found on both sides.
        rarity = np.where(self.targets, -self.targets.sum(axis=0), -len(self) - 1)
        stratum = rarity.argmax(axis=1)
        apart = np.zeros(len(self), bool)
        for one in np.unique(stratum):
            members = random.permutation(np.flatnonzero(stratum == one))
            apart[members[: round(part * len(members))]] = True
        return self.rows(np.flatnonzero(~apart)), self.rows(np.flatnonzero(apart))

    def split_classes(self, part: float, seed: int) -> tuple[LabelledImages, LabelledImages]:
        """Keep a part of the classes apart, with all images of these.

        Args:
            part: float, 0 to .5.
            seed: int.

        Returns:
            The rest, and the part, which has two classes or more; an image of both is in neither.

        Raises:
            ArgumentError: fewer than two classes would be left.

        Example:
            >>> ten = from_arrays(np.zeros((10, 4, 4, 3), "uint8"), [*"abcdeabcde"])
            >>> [one.classes for one in ten.split_classes(0.4, seed=0)]
            [('b', 'd', 'e'), ('a', 'c')]
        """
        random = np.random.default_rng((seed, 0x5711))
        order = random.permutation(np.array(self.classes)).tolist()
        count = max(2, round(part * len(order)))
        return self.without(order[:count]), self.without(order[count:])

    def decoded(self, size: int) -> LabelledImages:
        """Decode and squash all images to `size` by `size` pixels, as encoding does.

        Images that cannot be read are left out and named in `problems`.

        Args:
            size: int, pixels.

        Returns:
            `LabelledImages` whose sources are a uint8 array `(n, size, size, 3)`.

        Raises:
            ArgumentError: fewer than two classes have an image that can be read.

        Example:
            >>> two = from_arrays(np.zeros((2, 9, 5, 3), "uint8"), ["cat", "dog"])
            >>> two.decoded(4).sources.shape
            (2, 4, 4, 3)
        """
        if _is_array(self.sources) and self.sources.shape[1:3] == (size, size):
            return self
        pixels = np.empty((len(self), size, size, 3), np.uint8)
        problems = list(self.problems)
        good = np.ones(len(self), bool)

        def decode(row: int) -> None:
            source = self.sources[row]
            if isinstance(source, np.ndarray):
                pixels[row] = images.resize(source, (size, size))
            else:
                pixels[row] = images.read_resized(source, (size, size))

        def attempt(row: int) -> images.Problem | None:
            try:
                decode(row)
            except ImageError as error:
                return images.Problem(os.fsdecode(self.sources[row]), str(error))
            return None

        with concurrent.futures.ThreadPoolExecutor(system.cores()) as pool:
            for row, problem in enumerate(pool.map(attempt, range(len(self)), chunksize=64)):
                if problem:
                    good[row] = False
                    problems.append(problem)
        if good.all():
            return LabelledImages(pixels, self.targets, self.classes, problems)
        targets = self.targets[good]
        present = targets.any(axis=0)
        names = tuple(np.array(self.classes)[present].tolist())
        return _checked(pixels[good], targets[:, present], names, problems)


def load(path: str | os.PathLike[str]) -> LabelledImages:
    """Find labelled images on disk; nothing is decoded yet, except for Fashion-MNIST's files.

    - *A folder of class folders*: each folder directly inside is a class, with all below it.
    - *A CSV file*: a path, relative to the file's folder or absolute, then one or more labels: in
      further columns, or in one column separated by `|`. A first row that begins with `path` is
      the header.
    - *Fashion-MNIST's or MNIST's files*: a folder with `train-images-idx3-ubyte.gz`, or such a
      file itself, with its labels beside it.

    Args:
        path: str or path-like.

    Returns:
        `LabelledImages`; class folders without pictures and the like are among its problems.

    Raises:
        ArgumentError: nothing of the kind is there, a file that a CSV names is missing, or there
            are fewer than two classes.

    Example:
        >>> load("no/such/place")
        Traceback (most recent call last):
        ...
        hashnet.errors.ArgumentError: Training data is a folder of class folders, a CSV file, or \
a file of the IDX format. Received: no/such/place.
    """
    path = pathlib.Path(path)
    if path.is_file() and path.name.endswith(IDX_IMAGES):
        return _from_idx(path)
    if path.is_dir() and (path / f"train{IDX_IMAGES}").is_file():
        return _from_idx(path / f"train{IDX_IMAGES}")
    if path.is_dir():
        return _from_folders(path)
    if path.is_file():
        return _from_csv(path)
    raise ArgumentError(
        "Training data is a folder of class folders, a CSV file, or a file of the IDX format.",
        str(path),
    )


def load_catalogue(path: str | os.PathLike[str]) -> LabelledImages:
    """Find the pictures of a catalogue: what `load` takes, or a folder of images that are named
    after their class, `Kiwi.jpg`, or both.

    Args:
        path: str or path-like.

    Returns:
        `LabelledImages`.

    Raises:
        ArgumentError: as for `load`; or there are pictures of fewer than two classes.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("Kiwi.jpg", "Lime.jpg"):
        ...         _ = images.write(pathlib.Path(folder, name), np.zeros((8, 8, 3), "uint8"))
        ...     load_catalogue(folder).classes
        ('Kiwi', 'Lime')
    """
    path = pathlib.Path(path)
    if not path.is_dir():
        with naming_catalogue():
            return load(path)
    found, problems, _ = images.find([path])
    names = [item.folder or pathlib.Path(item.path).stem for item in found]
    if len(set(names)) < 2:
        raise ArgumentError(
            "A catalogue has pictures of at least two classes.",
            f"{os.fspath(path)!r} with {len(set(names))} classes and {len(names)} images"
            f"{_first_of(problems)}",
            "Give pictures that are named after their classes, or a folder of them for each class.",
        )
    return _from_names([item.path for item in found], [[name] for name in names], problems)


@contextlib.contextmanager
def naming_catalogue() -> Iterator[None]:
    """Have what refuses images say that they are those of a catalogue, and not the photos.

    Raises:
        ArgumentError: the block has raised one.

    Example:
        >>> with naming_catalogue():
        ...     from_arrays(np.zeros((1, 4, 4, 3), "uint8"), ["cat"])
        Traceback (most recent call last):
        ...
        hashnet.errors.ArgumentError: The pictures of the catalogue do not serve. Codes are ...
    """
    try:
        yield
    except ArgumentError as error:
        raise ArgumentError(f"The pictures of the catalogue do not serve. {error}") from error


def of_catalogue(
    catalogue: LabelledImages, classes: Sequence[str], config: TrainConfig
) -> LabelledImages:
    """The pictures of a catalogue that show classes which are learned.

    Args:
        catalogue: `LabelledImages`.
        classes: sequence of str, those that are learned.
        config: `TrainConfig`.

    Returns:
        `LabelledImages` with a column for each of the classes.

    Raises:
        ArgumentError: the loss is none of features, or there is no such picture.

    Example:
        >>> pictures = from_arrays(np.zeros((2, 4, 4, 3), "uint8"), ["cat", "dog"])
        >>> len(of_catalogue(pictures, ["dog", "fox"], TrainConfig(loss="supcon")))
        1
    """
    if not config.learns_features:
        raise ArgumentError(
            "A catalogue goes with a loss of features.",
            f"loss={config.loss!r}",
            f"Those are {', '.join(METRIC_LOSSES)}.",
        )
    known = catalogue.of(classes)
    if not len(known):
        raise ArgumentError(
            "A catalogue shows classes that are learned.",
            ", ".join(catalogue.classes[:5]),
            f"Those are {', '.join(classes[:20])}.",
        )
    return known


def from_arrays(
    pixels: np.ndarray, labels: Sequence[Any] | np.ndarray, classes: Sequence[str] | None = None
) -> LabelledImages:
    """Take images and labels that are in memory.

    Args:
        pixels: uint8 array `(n, height, width, 3)`, RGB, or `(n, height, width)`, grey.
        labels: n names; or n ints that index `classes`; or a bool array `(n, num_classes)`.
        classes: names; needed with ints and bools. Names that no image has are dropped.

    Returns:
        `LabelledImages`.

    Raises:
        ShapeError: the arrays do not fit each other.
        ArgumentError: there are fewer than two classes, or an image without any.

    Example:
        >>> from_arrays(np.zeros((2, 8, 8), "uint8"), [1, 0], ["cat", "dog"]).labels.tolist()
        ['dog', 'cat']
    """
    pixels, labels = np.asarray(pixels), np.asarray(labels)
    if pixels.ndim == 3:
        pixels = np.repeat(pixels[..., None], 3, axis=-1)
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[-1] != 3:
        raise ShapeError(
            "Images are a uint8 array of shape (n, height, width, 3) or (n, height, width).",
            f"{pixels.dtype} of shape {pixels.shape}",
        )
    if labels.dtype.kind in "US":
        return _from_names(pixels, [[name] for name in labels.astype(str).tolist()], [])
    whole = labels.dtype.kind in "iu" and labels.ndim == 1
    if classes is None or not (whole or (labels.dtype == np.bool_ and labels.ndim == 2)):
        raise ShapeError(
            "Labels are names, or ints or bools beside the names of the classes.",
            f"labels of {labels.dtype} and shape {labels.shape}, classes={classes!r}",
        )
    if whole and len(labels) and not 0 <= labels.min() <= labels.max() < len(classes):
        raise ShapeError(
            "Labels index the classes.",
            f"labels {labels.min()} to {labels.max()}, {len(classes)} classes",
        )
    if not whole and labels.shape[1] != len(classes):
        raise ShapeError(
            "Labels have one column for each class.", f"{labels.shape}, {len(classes)} classes"
        )
    names = [str(name) for name in classes]
    chosen = [[label] for label in labels] if whole else [np.flatnonzero(row) for row in labels]
    return _from_names(pixels, [[names[label] for label in row] for row in chosen], [])


def _from_names(
    sources: Any, names_of: list[list[str]], problems: list[images.Problem]
) -> LabelledImages:
    """Build `LabelledImages` from a list of class names for each image."""
    if len(sources) != len(names_of):
        raise ShapeError(
            "Every image has its label.", f"{len(sources)} images, {len(names_of)} labels"
        )
    classes = sorted({name for names in names_of for name in names})
    column = {name: place for place, name in enumerate(classes)}
    targets = np.zeros((len(names_of), len(classes)), bool)
    for row, names in enumerate(names_of):
        targets[row, [column[name] for name in names]] = True
    return _checked(sources, targets, tuple(classes), problems)


def _checked(
    sources: Any, targets: np.ndarray, classes: tuple[str, ...], problems: list[images.Problem]
) -> LabelledImages:
    if len(classes) < 2:
        raise ArgumentError(
            "Codes are learned from images of at least two classes.",
            f"{len(classes)} classes with {len(targets)} images{_first_of(problems)}",
            "Give a folder that holds a folder of images for each class.",
        )
    without = np.flatnonzero(~targets.any(axis=1))
    if len(without):
        raise ArgumentError("Every image has at least one class.", f"none for image {without[0]}")
    return LabelledImages(sources, targets, classes, list(problems))


def _first_of(problems: Sequence[images.Problem]) -> str:
    """What a message says of inputs that were skipped: the first of them."""
    if not problems:
        return ""
    return f"; the first problem: {problems[0].path}: {problems[0].reason.rstrip('.')}"


def check_batches(labelled: LabelledImages, batch: int, images_of_class: int) -> None:
    """Refuse images that do not give batches of some classes and several images of each.

    Args:
        labelled: `LabelledImages`.
        batch: int, images of a batch.
        images_of_class: int, images of each class in a batch.

    Raises:
        ArgumentError: each class has one image, or there are too few classes or images.

    Example:
        >>> check_batches(from_arrays(np.zeros((8, 4, 4, 3), "uint8"), ["cat", "dog"] * 4), 12, 4)
        Traceback (most recent call last):
        ...
        hashnet.errors.ArgumentError: A batch of 12 with 4 images of each class holds 3 classes. \
Received: images of 2 classes. Give batch=8 (--batch 8).
    """
    if labelled.targets.sum(axis=0).max() < 2:
        raise ArgumentError(
            "Features are learned from two images or more of each class.",
            f"one image in each of {len(labelled.classes)} classes",
            "Give more images; codes of single images are made without labels (hashnet index).",
        )
    num_classes = batch // images_of_class
    if len(labelled.classes) < num_classes:
        raise ArgumentError(
            f"A batch of {batch} with {images_of_class} images of each class holds "
            f"{num_classes} classes.",
            f"images of {len(labelled.classes)} classes",
            _batches_of(labelled, images_of_class),
        )
    if len(labelled) < batch:
        raise ArgumentError(
            "There are images for one batch at least.",
            f"{len(labelled)}, batch={batch}",
            _batches_of(labelled, images_of_class),
        )


def _batches_of(labelled: LabelledImages, images_of_class: int) -> str:
    """What to do so that these images give batches, in words."""
    for each in (images_of_class, 2):
        num_classes = min(len(labelled.classes), len(labelled) // each)
        if num_classes < 2:
            continue
        batch = num_classes * each
        if each == images_of_class:
            return f"Give batch={batch} (--batch {batch})."
        return (
            f"Give batch={batch} and images_of_class={each} "
            f"(--batch {batch} --images-of-class {each})."
        )
    return "Give more images."


def _from_folders(root: pathlib.Path) -> LabelledImages:
    found, problems, _ = images.find([root])
    problems += [
        images.Problem(item.path, "it lies in no class folder")
        for item in found
        if item.folder is None
    ]
    found = [item for item in found if item.folder is not None]
    with_pictures = {item.folder for item in found}
    scope = images.Exclusion().begin(os.fspath(root))
    with os.scandir(root) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir())
    folders = [name for name in names if scope.reason(name, is_folder=True) is None]
    problems += [
        images.Problem(os.path.join(root, name), "this class folder holds no pictures")
        for name in folders
        if name not in with_pictures
    ]
    return _from_names(
        [item.path for item in found], [[item.folder or ""] for item in found], problems
    )


def _from_csv(path: pathlib.Path) -> LabelledImages:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            lines = [line for line in csv.reader(file) if line]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ArgumentError("Labels come as a CSV file in UTF-8.", f"{path}: {error}") from error
    if lines and lines[0][0].strip().lower() == "path":
        lines = lines[1:]
    sources, names_of = [], []
    for number, (name, *cells) in enumerate(lines, 1):
        names = [part.strip() for cell in cells for part in cell.split(LABEL_SEPARATOR)]
        names_of.append([part for part in names if part])
        sources.append(os.path.join(path.parent, name.strip()))
        if not names_of[-1]:
            raise ArgumentError(
                "A line of a CSV file of labels is a path and at least one label.",
                f"{name!r} in line {number} of the entries in {path}",
            )
    missing = [source for source in sources if not os.path.isfile(source)]
    if missing:
        raise ArgumentError(
            "The files that a CSV file names exist.",
            f"{len(missing)} of {len(sources)} missing: {', '.join(missing[:5])}",
            "Paths count from the folder of the CSV file.",
        )
    return _from_names(sources, names_of, [])


def _from_idx(path: pathlib.Path) -> LabelledImages:
    labels_path = path.with_name(path.name.replace(IDX_IMAGES, "-labels-idx1-ubyte.gz"))
    try:
        pixels, labels = _read_idx(path), _read_idx(labels_path)
    except (OSError, EOFError, ValueError) as error:
        raise ArgumentError("IDX files are whole and of uint8.", f"{path}: {error}") from error
    return from_arrays(pixels, labels, [str(name) for name in range(int(labels.max()) + 1)])


def _read_idx(path: pathlib.Path) -> np.ndarray:
    """Read the IDX format: two zeros, the type (8 for uint8), the number of axes, their lengths.

    No more is unpacked than the lengths say.
    """
    with gzip.open(path, "rb") as file:
        head = file.read(4)
        if head[:3] != b"\0\0\x08" or len(head) < 4:
            raise ValueError("no IDX file of uint8")
        shape = np.frombuffer(file.read(4 * head[3]), ">i4", head[3]).tolist()
        size = math.prod(shape)
        if not 0 <= size <= _MOST_IDX_BYTES:
            raise ValueError(f"{size} bytes of numbers, of {_MOST_IDX_BYTES} at most")
        content = file.read(size)
        if file.read(1):
            raise ValueError(f"more than the {size} bytes that its header says")
    return np.frombuffer(content, np.uint8).reshape(shape)


def _is_array(sources: Any) -> bool:
    return isinstance(sources, np.ndarray)
