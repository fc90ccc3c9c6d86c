"""Ids as the outside sees them.

`hashnet index` takes a file's absolute path for its id. Where files lie is nobody's business, so
the folder that all such ids share is left out of answers, and put back into questions. The other
ids are shown as they are, but for those that no URL or JavaScript string can carry.
"""

import contextlib
import os
import re
import urllib.parse
from collections.abc import Collection

from hashnet.retrieval.store.protocol import Snapshot

_ESCAPED = "bytes:"
_NO_TEXT = re.compile("[\ud800-\udfff]")


class PublicIds:
    """The two-way map between ids and what is shown of them.

    Args:
        root: str. What is left out where an id begins with it: a folder and its slash, or "".
        others: collection of str. The ids that do not begin so; none where the root is "".

    Example:
        >>> public_ids = PublicIds("/home/me/", ["x"])
        >>> public_ids.shown("/home/me/b/c.jpg"), public_ids.shown("x"), public_ids.id("a.jpg")
        ('b/c.jpg', 'x', '/home/me/a.jpg')
    """

    def __init__(self, root: str = "", others: Collection[str] = ()) -> None:
        self._root, self._others = root, others

    @classmethod
    def of(cls, snapshot: Snapshot) -> "PublicIds":
        """The map for a snapshot of an index; not all of its ids are read for it.

        Args:
            snapshot: a `Snapshot`.

        Returns:
            `PublicIds`.
        """
        ends = snapshot.id_ends("/")
        if ends is None:
            return cls()
        shared = os.path.commonprefix(ends)
        root = shared[: shared.rindex("/") + 1]
        return cls(root, snapshot.ids_outside(root))

    def shown(self, id: str) -> str:
        """What is shown of an id.

        Args:
            id: str.

        Returns:
            str of text that can stand in JSON and, quoted, in a URL.
        """
        name = id.removeprefix(self._root)
        if name != id and (not name or self._meant(name) != id):
            name = id  # it must stay apart from another image of that very name
        if _NO_TEXT.search(name) or name.startswith(_ESCAPED):
            quoted = urllib.parse.quote(name.encode("utf-8", "surrogatepass"))
            return _ESCAPED + quoted.replace("%", "=")  # a URL would have its own %
        return name

    def id(self, name: str) -> str:
        """The id that is shown so; any text gives one, which the index may not know.

        Args:
            name: str, from `shown` or from anybody.

        Returns:
            str.
        """
        if name.startswith(_ESCAPED):
            quoted = name.removeprefix(_ESCAPED).replace("=", "%")
            content = urllib.parse.unquote_to_bytes(quoted)
            with contextlib.suppress(UnicodeDecodeError):  # then nothing is shown so
                name = content.decode("utf-8", "surrogatepass")
        return self._meant(name)

    def pattern(self, pattern: str) -> str:
        """The pattern of ids, of one of what is shown of them; see `hashnet.images.matcher`.

        Args:
            pattern: str.

        Returns:
            str.

        Example:
            >>> PublicIds("/my [photos]/").pattern("2019/*.gif")
            '/my \\\\[photos\\\\]/2019/*.gif'
        """
        if not self._root or "/" not in pattern.rstrip("/") or pattern.startswith("**/"):
            return pattern
        return _literally(self._root) + pattern.removeprefix("/")

    def below(self, folder: str) -> str:
        """The pattern of all ids in and below a folder, of what is shown of it.

        Args:
            folder: str.

        Returns:
            str.

        Example:
            >>> PublicIds().below("photos/[2019]"), PublicIds("/my/").below("2019/")
            ('/photos/\\\\[2019\\\\]/', '/my/2019/')
        """
        return f"/{_literally(self.id(folder).strip('/'))}/"

    def _meant(self, name: str) -> str:
        if name in self._others or name.startswith(self._root) or not self._root:
            return name
        return self._root + name


def _literally(text: str) -> str:
    """Text as a part of a pattern that means itself."""
    return re.sub(r"([\\*?\[\]])", r"\\\1", text)
