"""Putting copies away: moved into a folder, or made one file with the one that is kept.

Nothing is done to a copy unless the image to keep is there, is a file, and is another one.
"""

import filecmp
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import NamedTuple

from hashnet import files, system
from hashnet.retrieval.search.duplicates import DuplicateGroup


class Step(NamedTuple):
    """What is to be done to one copy.

    Attributes:
        path: str. The file of the copy.
        keep: str. The file that is kept.
        target: str or None. Where the copy goes; None where it becomes a link to `keep`.
        refused: str or None. Why nothing is done.
    """

    path: str
    keep: str
    target: str | None
    refused: str | None = None


def moves(group: DuplicateGroup, folder: str | os.PathLike[str], taken: set[str]) -> Iterator[Step]:
    """How the copies of a group move into a folder, each under its name or a new one.

    Args:
        group: a `DuplicateGroup`.
        folder: str or path-like. It is made when something moves.
        taken: set of str. Paths that other groups' copies move to; those of this one are added.

    Yields:
        `Step`, one a copy.
    """
    for path, keep, refused in _copies(group):
        target = _free(pathlib.Path(folder), pathlib.Path(path), taken)
        taken.add(target)
        yield Step(path, keep, target, refused)


def links(group: DuplicateGroup) -> Iterator[Step]:
    """Which copies of a group become hard links to the kept image: those of equal bytes.

    Args:
        group: a `DuplicateGroup`.

    Yields:
        `Step`, one a copy.
    """
    for path, keep, refused in _copies(group):
        if refused is None and not filecmp.cmp(path, keep, shallow=False):
            refused = "its bytes are not those of the kept one"
        elif refused is None and os.stat(path).st_dev != os.stat(keep).st_dev:
            refused = "it lies on another disk than the kept one"
        yield Step(path, keep, None, refused)


def do(step: Step) -> Step:
    """Move a copy, or put a link in its place; the file is never gone in between.

    Args:
        step: a `Step` of `moves` or `links`.

    Returns:
        The step, `refused` where the files have changed meanwhile or the disk refuses.
    """
    refused = step.refused or _refused(step.path, step.keep)
    if refused is None and step.target is not None and os.path.lexists(step.target):
        refused = f"{step.target} is there already"
    if refused is None:
        try:
            if step.target is None:
                beside = files.hidden_beside(pathlib.Path(step.path))
                os.link(step.keep, beside)
                try:
                    system.replace(beside, step.path)
                finally:
                    beside.unlink(missing_ok=True)
            else:
                os.makedirs(os.path.dirname(step.target), exist_ok=True)
                shutil.move(step.path, step.target)
        except OSError as error:
            refused = error.strerror or str(error)
    return step._replace(refused=refused)


def _copies(group: DuplicateGroup) -> Iterator[tuple[str, str, str | None]]:
    """Path of each copy, of the kept image, and why nothing is done to it."""
    keep = group.keep.path
    for copy in group.copies:
        if copy.path is None or keep is None:
            yield copy.path or copy.id, keep or group.keep.id, "it is no file"
        else:
            yield copy.path, keep, _refused(copy.path, keep)


def _refused(path: str, keep: str) -> str | None:
    checks: list[tuple[Callable[[], bool], str]] = [
        (lambda: os.path.isfile(keep), "the image to keep is away"),
        (lambda: os.path.isfile(path), "its file is away"),
        (lambda: not os.path.samefile(path, keep), "it is the kept file itself, by another name"),
    ]
    try:
        return next((reason for holds, reason in checks if not holds()), None)
    except OSError as error:
        return error.strerror or str(error)


def _free(folder: pathlib.Path, path: pathlib.Path, taken: set[str]) -> str:
    """A path in the folder that no file has and none of `taken` is."""
    target, number = folder / path.name, 1
    while str(target) in taken or os.path.lexists(target):
        number += 1
        target = folder / f"{path.stem}-{number}{path.suffix}"
    return str(target)
