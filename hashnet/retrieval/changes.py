"""What has changed since an index last looked: what is new, what is another, what has moved.

A file is what it was if its size, its times and its inode are. Where one of these is another, its
content is compared by a hash, which costs reading it, and the network only if that differs. So a
file that was touched, renamed or moved keeps its row, and two that have changed names are found
out though size and date are the same.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from hashnet import images, threads
from hashnet.retrieval.missing import Judge
from hashnet.retrieval.store.items import Item
from hashnet.retrieval.store.protocol import Snapshot
from hashnet.retrieval.store.roots import Roots
from hashnet.retrieval.store.texts import Texts

_ITEMS_AT_ONCE = 4096
# If so many inodes and most of them are others, and nothing else is, their disk was mounted anew,
# by a system that makes them up.
_MANY = 64
_MOST_CANDIDATES = 1000


@dataclass
class Changes:
    """How files that were found differ from what an index holds.

    Attributes:
        unchanged: int. Images that are as they were.
        relabelled: list of `Item`, which are as they were but for their label or caption.
        touched: list of `Item` of the same content, of whose files something else is known now.
        again: list of `Item`, which are there, and are to be encoded again to see.
        taken_over: list of (`Item`, id): new or changed files of a content that an image of
            that id has.
        moved: dict of such an id, whose file is gone from its place, to the id of the file that it
            became.
        todo: list of `Item`, which are to be encoded: new ones, and those of another content.
        before: dict of id to `Item`, as the index has it, of all these.
        lost: dict of id to path, of images below the paths whose files were not found.
        labels_kept: int. Images that keep the label of a folder further up.
    """

    unchanged: int = 0
    relabelled: list[Item] = field(default_factory=list)
    touched: list[Item] = field(default_factory=list)
    again: list[Item] = field(default_factory=list)
    taken_over: list[tuple[Item, str]] = field(default_factory=list)
    moved: dict[str, str] = field(default_factory=dict)
    todo: list[Item] = field(default_factory=list)
    before: dict[str, Item] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)
    labels_kept: int = 0


def place_of(roots: Roots, id: str) -> str | None:
    """Where the file of an id lies, if the id is that of a file.

    Args:
        roots: `Roots` of the index.
        id: str.

    Returns:
        str, a path; of an index without roots, the id.
    """
    return id if roots.all is None else roots.path_of(id)


def rows_below(snapshot: Snapshot, places: Iterable[str]) -> np.ndarray:
    """Rows of the images of files at or below some paths.

    Args:
        snapshot: `Snapshot`.
        places: absolute paths.

    Returns:
        int64 `(n,)`, ascending.
    """
    roots, found = snapshot.roots, [np.empty(0, np.int64)]
    for place in places:
        found += [snapshot.rows_beginning_with(start) for start in roots.beginnings(place)]
        id = roots.id_of(place)
        if id is not None:
            rows = snapshot.rows([id])
            found.append(rows[rows >= 0])
    return np.unique(np.concatenate(found))


def compare(
    snapshot: Snapshot,
    items: Mapping[str, Item],
    places: Sequence[str],
    *,
    relabel: bool | None,
    rehash: bool,
) -> Changes:
    """Compare what a walk has found with what an index holds; no file is read for it.

    Args:
        snapshot: `Snapshot` of the index.
        items: dict of id to `Item`, of all files found.
        places: absolute paths, of the files and folders that were walked through.
        relabel: bool. Whether items take their label where the index has that of a folder further
            up; None where they have none to give.
        rehash: bool. Encode all again that is there.

    Returns:
        `Changes`. Files of a content that may be another are in `todo` yet: see `by_content`.
    """
    changes = Changes()
    above = [(os.path.join(place, ""), set(place.split(os.sep))) for place in places]
    seen: set[str] = set()
    other_inode: list[tuple[Item, Item]] = []
    others: dict[str, Item] = {}
    for old in _items(snapshot, rows_below(snapshot, places)):
        new = items.get(old.id)
        if new is None:
            place = place_of(snapshot.roots, old.id)
            if place is not None:
                changes.lost[old.id] = place
            continue
        seen.add(old.id)
        if relabel is not True and _keeps_label(old, new, above):
            changes.labels_kept += relabel is False and old.label != new.label
            new = new._replace(label=old.label)
        new = new._replace(texts=_renewed(old.texts, new))
        if rehash:
            changes.before[old.id] = old
            changes.again.append(new)
        elif _is_same(old, new):
            _keep(changes, old, new)
        elif _is_same(old, new._replace(inode=None)):
            other_inode.append((old, new))
        else:
            changes.before[old.id], others[old.id] = old, new
    if len(other_inode) > max(_MANY, len(seen) // 2):
        for old, new in other_inode:
            _keep(changes, old, new)
    else:
        for old, new in other_inode:
            changes.before[old.id], others[old.id] = old, new
    changes.todo = [
        others.get(id, item) for id, item in items.items() if id in others or id not in seen
    ]
    return changes


def by_content(
    snapshot: Snapshot,
    changes: Changes,
    judge: Judge,
    num_threads: int,
    step: Callable[[int], None],
) -> None:
    """Move those files from `todo` elsewhere whose content the index has.

    Args:
        snapshot: `Snapshot` of the index.
        changes: `Changes` of `compare`.
        judge: `Judge` of what is no longer where it was.
        num_threads: int. Threads that read files.
        step: called with 1 for each file that need not be encoded.
    """
    if snapshot.roots.all is None or not changes.todo:  # such an index knows no contents
        return
    sizes = {item.size for item in changes.todo if item.size is not None}
    held = list(_items(snapshot, snapshot.rows_of_sizes(sorted(sizes))))
    of_content: dict[bytes, list[Item]] = defaultdict(list)
    of_file: dict[tuple[object, ...], Item] = {}
    for old in held:
        if old.content is not None:
            of_content[old.content].append(old)
            if None not in (key := _file(old)):
                of_file[key] = old
    # A folder's new name changes nothing of the files in it: these need not be read.
    same_file = {
        item.id: of_file[_file(item)].content
        for item in changes.todo
        if item.id not in changes.before and _file(item) in of_file
    }
    known_sizes = {old.size for old in held if old.content is not None}
    to_read = [
        item for item in changes.todo if item.size in known_sizes and item.id not in same_file
    ]
    read = threads.mapped(_content, to_read, num_threads)
    contents = same_file | {item.id: content for item, content in zip(to_read, read, strict=True)}
    rest = []
    for item in changes.todo:
        content = contents.get(item.id)
        candidates = of_content.get(content, []) if content else []
        before = changes.before.get(item.id)
        if content is not None and before is not None and before.content == content:
            changes.touched.append(item._replace(content=content, exif=before.exif))
        elif candidates:
            _take_over(changes, item, candidates, judge, snapshot.roots)
        else:
            rest.append(item)
            continue
        step(1)
    changes.todo = rest


def _take_over(
    changes: Changes, item: Item, candidates: list[Item], judge: Judge, roots: Roots
) -> None:
    few = candidates[:_MOST_CANDIDATES]

    def is_gone(old: Item) -> bool:
        place = place_of(roots, old.id)
        return old.id not in changes.moved and place is not None and judge.is_gone(place)

    gone = [old for old in few if is_gone(old)]
    old = max(gone or few, key=lambda one: _shared_end(one.id, item.id))
    if gone:
        changes.moved[old.id] = item.id
        changes.lost.pop(old.id, None)
        if item.label is None:
            item = item._replace(label=old.label)
    # What a photo was given goes where it goes; a copy of it was given nothing.
    texts = old.texts if gone or old.texts is None else old.texts._replace(given=None)
    texts = _renewed(texts, item)
    item = item._replace(content=old.content, exif=old.exif, texts=texts)
    changes.taken_over.append((item, old.id))


def _shared_end(one: str, other: str) -> int:
    return len(os.path.commonprefix([one[::-1], other[::-1]]))


def _keep(changes: Changes, old: Item, new: Item) -> None:
    if (new.label, new.texts) == (old.label, old.texts):
        changes.unchanged += 1
    else:
        changes.relabelled.append(old._replace(label=new.label, texts=new.texts))


def _renewed(texts: Texts | None, item: Item) -> Texts | None:
    """Texts of an image, with what lies beside its file now."""
    renewed = (texts or Texts()).renewed(item.texts or Texts())
    return None if renewed == Texts() else renewed


def _keeps_label(old: Item, new: Item, above: Sequence[tuple[str, set[str]]]) -> bool:
    """Whether an image keeps the label that it has.

    So does one without another, and one whose label is the name of a folder that the walk began
    in or below: it comes from an earlier walk, which began further up.
    """
    if old.label is None or new.label is None:
        return old.label is not None
    path = new.path or ""
    names = next((names for prefix, names in above if path.startswith(prefix)), set())
    return old.label in names


def _is_same(old: Item, new: Item) -> bool:
    if (old.size, old.mtime_ns) != (new.size, new.mtime_ns):
        return False
    if old.content is None:  # nothing more could be compared
        return True
    pairs = ((old.ctime_ns, new.ctime_ns), (old.inode, new.inode))
    return all(None in pair or pair[0] == pair[1] for pair in pairs)


def _file(item: Item) -> tuple[object, ...]:
    """What only one file has, at any one time."""
    return item.size, item.mtime_ns, item.ctime_ns, item.inode


def _content(item: Item) -> bytes | None:
    try:
        return images.content_hash(item.path or "")
    except (OSError, ValueError):  # encoding it will say so
        return None


def _items(snapshot: Snapshot, rows: np.ndarray) -> Iterator[Item]:
    for start in range(0, len(rows), _ITEMS_AT_ONCE):
        yield from snapshot.items(rows[start : start + _ITEMS_AT_ONCE])


def moved_roots(snapshot: Snapshot, found: Iterable[images.Found], places: Sequence[str]) -> Roots:
    """The roots, those that are gone being where most of their files were found below a place.

    Args:
        snapshot: `Snapshot` of the index.
        found: `Found` of the walk.
        places: absolute paths that were walked through.

    Returns:
        `Roots`.
    """
    roots = snapshot.roots
    new = [place for place in places if os.path.isdir(place) and not roots.holds(place)]
    gone = [root for root in roots.all or () if new and not _is_there(root.path)]
    if not gone:
        return roots
    files = {(os.path.abspath(one.path), one.size) for one in found}
    for place in new:
        counts = []
        for root in gone:
            rows = snapshot.rows_beginning_with(f"{root.name}/")
            there = Roots([root._replace(path=place)])
            same = sum(
                (there.path_of(item.id), item.size) in files for item in _items(snapshot, rows)
            )
            counts.append((same, len(rows), root))
        most, total, root = max(counts, key=lambda one: one[0])
        if most * 2 > total:
            roots = roots.moved(root.path, place)
            gone.remove(root)
            if not gone:
                break
    return roots


def _is_there(folder: str) -> bool:
    """Whether something is in a folder, or may be."""
    try:
        with os.scandir(folder) as scan:
            return any(True for _ in scan)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
