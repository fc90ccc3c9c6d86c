"""The folders that an index takes its photos from, and what the ids of their files look like.

A file's id is the name of its root and its path below it, with `/` between all parts, whatever the
system: a folder that moves takes its photos' ids along, and nothing of where it lies is in them.
Indexes made before there were roots have absolute paths for ids.
"""

import functools
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from hashnet.errors import ArgumentError
from hashnet.escapes import unescaped

# More folders at once are taken for parts of one.
MOST_AT_ONCE = 16


class Root(NamedTuple):
    """A folder that an index takes photos from.

    Attributes:
        name: str. What the ids of its photos begin with; it stays when the folder moves.
        path: str. Where the folder is, absolute.
    """

    name: str
    path: str


class Roots:
    """What tells the ids of files from their paths, and the other way round.

    Args:
        roots: sequence of `Root`, each name once; or None for an index whose ids are paths.

    Attributes:
        all: tuple of `Root`; None as given.

    Raises:
        ValueError: no such roots can be.

    Example:
        >>> photos = os.path.abspath("photos")
        >>> roots = Roots([Root("photos", photos)])
        >>> roots.id_of(os.path.join(photos, "2026", "cat.jpg"))
        'photos/2026/cat.jpg'
        >>> roots.path_of("photos/cat.jpg") == os.path.join(photos, "cat.jpg")
        True
    """

    def __init__(self, roots: Iterable[Sequence[str]] | None) -> None:
        self.all = None if roots is None else tuple(Root(*root) for root in roots)
        for root in self.all or ():
            if not (isinstance(root.name, str) and isinstance(root.path, str)):
                raise ValueError(f"{root} is no name and path")
            if not root.name or "/" in root.name:
                raise ValueError(f"{root.name!r} is no name of a root")
        self._places = {root.name: root.path for root in self.all or ()}
        if len(self._places) != len(self.all or ()):
            raise ValueError("a name of two roots")
        # The deepest first: a file belongs to the nearest root above it.
        self._prefixes = sorted(
            ((_with_end(root.path), root.name) for root in self.all or ()),
            key=lambda pair: (-len(pair[0]), pair),
        )
        self._id_start = functools.lru_cache(1 << 12)(self._id_start_of)

    def id_of(self, path: str) -> str | None:
        """The id of a file.

        Args:
            path: str, absolute.

        Returns:
            str; None where it lies below no root.
        """
        if self.all is None:
            return path
        folder, name = os.path.split(path)
        start = self._id_start(folder)
        return None if start is None else start + name

    def _id_start_of(self, folder: str) -> str | None:
        whole = _with_end(folder)
        for prefix, name in self._prefixes:
            if whole.startswith(prefix):
                return f"{name}/{whole[len(prefix) :].replace(os.sep, '/')}"
        return None

    def path_of(self, id: str) -> str | None:
        """Where the file of an id lies.

        Args:
            id: str.

        Returns:
            str, absolute; None where the id begins with no root's name, or is a path itself.
        """
        name, slash, below = id.partition("/")
        place = self._places.get(name)
        if place is None or not (slash and below):
            return None
        return _with_end(place) + below.replace("/", os.sep)

    def beginnings(self, folder: str) -> list[str]:
        """What the ids of all files below a folder begin with, and no others.

        Args:
            folder: str, absolute.

        Returns:
            list of str: one where it lies in a root, and one of each root that lies in it.
        """
        if self.all is None:
            return [_with_end(folder)]
        start = self._id_start(folder)
        below = [root for root in self.all if _is_below(root.path, folder)]
        return [*([] if start is None else [start]), *(f"{root.name}/" for root in below)]

    def holds(self, folder: str) -> bool:
        """Whether files of a folder have ids.

        Args:
            folder: str, absolute.

        Returns:
            bool.
        """
        return self.all is None or self._id_start(folder) is not None

    def with_folders(self, folders: Iterable[str], is_taken: Callable[[str], bool]) -> "Roots":
        """These roots, and as many more as it takes for all files of some folders to have ids.

        Args:
            folders: absolute paths.
            is_taken: function of what ids would begin with; whether some do already.

        Returns:
            `Roots`.
        """
        if self.all is None:
            return self
        new = sorted({folder for folder in folders if not self.holds(folder)}, key=_with_end)
        tops: list[str] = []
        for folder in new:  # one above another comes before it
            if not tops or not _with_end(folder).startswith(_with_end(tops[-1])):
                tops.append(folder)
        if len(tops) > MOST_AT_ONCE:
            tops = _shared(tops)
        roots = [*self.all]
        for folder in tops:
            names = {root.name for root in roots}
            plain = os.path.basename(folder.rstrip(os.sep)).replace("/", "_") or "files"
            name, number = plain, 1
            while name in names or is_taken(f"{name}/"):
                number += 1
                name = f"{plain}-{number}"
            roots.append(Root(name, folder))
        return Roots(roots)

    def moved(self, old: str, new: str) -> "Roots":
        """These roots, those at or below a folder being where that has moved to.

        Args:
            old, new: str, absolute.

        Returns:
            `Roots`.

        Raises:
            ArgumentError: no root is there, or the index keeps paths.
        """
        if self.all is None:
            raise ArgumentError(
                "An index follows folders that move if it has roots.",
                "one of an older version, which keeps absolute paths",
                "Index the photos anew: hashnet index NEW IMAGES --bundle INDEX.",
            )
        roots = [
            root._replace(path=new + root.path[len(old) :])
            if root.path == old or _is_below(root.path, old)
            else root
            for root in self.all
        ]
        if tuple(roots) == self.all and old != new:
            known = ", ".join(root.path for root in self.all) or "none"
            raise ArgumentError(
                "A folder that has moved is one that photos were taken from, or above one.",
                f"{old}; there are {known}",
                "Of a folder inside one, index the new place: photos that moved keep their rows.",
            )
        return Roots(roots)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Roots) and other.all == self.all

    def __hash__(self) -> int:
        return hash(self.all)


def ids_named(snapshot: Any, names: Sequence[str]) -> list[str]:
    """Ids, of ids and of paths of files.

    Args:
        snapshot: `Snapshot`.
        names: list of str, as they are or escaped, as commands print them (`printable`). Where an
            id with a backslash is known, it is that one.

    Returns:
        list of str: each id itself; for the path of a file of the index its id; all others as
        they are.
    """
    found = _ids_known(snapshot, names)
    escaped = [place for place, id in enumerate(found) if id is None and "\\" in names[place]]
    ids = _ids_known(snapshot, [unescaped(names[place]) for place in escaped])
    for place, id in zip(escaped, ids, strict=True):
        found[place] = id
    return [name if id is None else id for id, name in zip(found, names, strict=True)]


def _ids_known(snapshot: Any, names: Sequence[str]) -> list[str | None]:
    """As `ids_named`, of names as they stand; None for each that is not known."""
    found = list(names)
    for id_of in (snapshot.roots.id_of, str):  # an id may be a path, too
        rows = snapshot.rows(found) if found else ()
        for place in [place for place, row in enumerate(rows) if row < 0]:
            if "\0" not in names[place]:
                found[place] = id_of(os.path.abspath(names[place])) or names[place]
    rows = snapshot.rows(found) if found else ()
    return [id if row >= 0 else None for id, row in zip(found, rows, strict=True)]


def starts_named(snapshot: Any, folder: str, *, path_first: bool = False) -> list[str]:
    """What the ids of all images in or below a folder begin with, as a person names it.

    Args:
        snapshot: `Snapshot`.
        folder: str, as ids begin, such as "photos/2026", or a path.
        path_first: bool. Which of the two it is taken for, where it could be both.

    Returns:
        list of str, with which some ids begin; none where no image lies there.
    """
    as_ids, as_path = [folder.rstrip("/") + "/"], []
    if "\0" not in folder:
        place = os.path.abspath(folder)
        # An id may be an absolute path, given by whoever added the image.
        as_path = [*dict.fromkeys([_with_end(place), *snapshot.roots.beginnings(place)])]
    for starts in (as_path, as_ids) if path_first else (as_ids, as_path):
        if there := [start for start in starts if snapshot.id_ends(start) is not None]:
            return there
    return []


def _with_end(folder: str) -> str:
    return os.path.join(folder, "")


def _is_below(path: str, folder: str) -> bool:
    return path != folder and path.startswith(_with_end(folder))


def _shared(folders: Sequence[str]) -> list[str]:
    """The folder that some lie in, or where there is none (drives of Windows) one a drive."""
    drives: dict[str, list[str]] = {}
    for folder in folders:
        drives.setdefault(os.path.splitdrive(folder)[0], []).append(folder)
    return [os.path.commonpath(of_drive) for of_drive in drives.values()]
