"""What an index holds and a walk has not found: gone for good, away for the moment, or left out.

A disk that is not mounted looks as an empty folder does, or as one that is gone. What cannot be
told from that is away: it may come back, and nothing of it is dropped. Nothing is remembered for
it; what the system says now decides.
"""

import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from hashnet import images, system


@dataclass(frozen=True)
class Missing:
    """Images of an index below the paths of a walk that the walk has not found.

    Attributes:
        prunable: list of str. Ids of images whose files are gone from where their folders are, are
            left out now, or were found under another name.
        away: dict of folder to number of images. The folder cannot be reached or listed, or is
            empty but for empty folders, or its disk is not mounted.
    """

    prunable: list[str] = field(default_factory=list)
    away: dict[str, int] = field(default_factory=dict)


def missing(
    ids: Iterable[str],
    paths: Sequence[str],
    found: Mapping[tuple[int, int], str],
    exclusion: images.Exclusion,
) -> Missing:
    """Judge what a walk has not found.

    Args:
        ids: of the images that it has not found, some of which may be paths of files.
        paths: the files and folders that were walked through.
        found: dict of device and inode of each file that was found to its id.
        exclusion: what the walk has left out.

    Returns:
        `Missing`. Files that are there, but were not found for another reason, are in none of it.

    Example:
        >>> photos = os.path.abspath("photos of last year")
        >>> gone = missing([os.path.join(photos, "cat.png")], [photos], {}, images.Exclusion())
        >>> len(gone.prunable), gone.away
        (1, {})
    """
    roots = [os.path.abspath(path) for path in paths]
    below = [(root, os.path.join(root, ""), exclusion.begin(root)) for root in roots]
    judged: dict[str, str | None] = {}
    prunable: list[str] = []
    away: dict[str, int] = {}
    for id in ids:
        holding = [(root, scope) for root, prefix, scope in below if id.startswith(prefix)]
        if not holding and id not in roots:
            continue
        try:
            status = os.lstat(id)
        except (OSError, ValueError) as error:
            folder = os.path.dirname(id)
            if folder not in judged:
                judged[folder] = _away(folder)
            place = judged[folder]
            if place is None and not isinstance(error, (FileNotFoundError, NotADirectoryError)):
                place = folder
            if place is None:
                prunable.append(id)
            else:
                away[place] = away.get(place, 0) + 1
            continue
        if stat.S_ISLNK(status.st_mode):
            try:
                status = os.stat(id)
            except OSError:  # the walk has named it
                continue
        twice = found.get((status.st_dev, status.st_ino), id) != id
        if twice or stat.S_ISDIR(status.st_mode) or _is_left_out(id, holding):
            prunable.append(id)
    return Missing(prunable, away)


def is_below(path: str, folder: str, *, itself: bool = True) -> bool:
    """Whether a path lies in a folder, or in one below it.

    Args:
        path, folder: str, absolute.
        itself: bool. Whether the folder's own path counts.

    Returns:
        bool.

    Example:
        >>> is_below("/photos/2026/a.jpg", "/photos"), is_below("/photos of cats", "/photos")
        (True, False)
    """
    return path.startswith(os.path.join(folder, "")) or (itself and path == folder)


def _is_left_out(id: str, holding: Sequence[tuple[str, images.Scope]]) -> bool:
    """Whether no walk from any of these folders comes to a file, for a reason."""
    for root, scope in holding:
        path = id[len(os.path.join(root, "")) :].replace(os.sep, "/")
        try:
            reason = scope.reason_below(path, root)
        except (OSError, ValueError):
            return False
        # A hidden file is in the index because it was named itself.
        if reason in (None, images.HIDDEN):
            return False
    return bool(holding)


def _away(folder: str) -> str | None:
    """The folder that is away, of one that a file is missing from; None where the file is gone."""
    if place := system.unmounted(folder):
        return place
    while True:
        try:
            os.lstat(folder)  # a link that leads nowhere is there itself
            if not stat.S_ISDIR(os.stat(folder).st_mode):
                return None
            return folder if _is_empty(folder) else None
        except (FileNotFoundError, NotADirectoryError):
            if os.path.islink(folder) or os.path.dirname(folder) == folder:
                return folder
            folder = os.path.dirname(folder)
        except (OSError, ValueError):
            return folder


def _is_empty(folder: str) -> bool:
    """Whether a folder holds nothing but hidden files and folders like itself."""
    todo = [folder]
    while todo:
        with os.scandir(todo.pop()) as scan:
            for entry in scan:
                if entry.name.startswith("."):
                    continue
                if not entry.is_dir(follow_symlinks=False) or system.is_linked_folder(entry):
                    return False
                todo.append(entry.path)
    return True
