"""Ids as the outside sees them.

`hashnet index` takes a file's absolute path for its id. Where files lie is nobody's business, so
the folder that all such ids share is left out of answers, and put back into questions. Where they
share no more than what all users or disks of a machine do, a cipher stands for each one's folder.
The other ids are shown as they are, but for those that no URL or JavaScript string can carry.
"""

import base64
import binascii
import contextlib
import hashlib
import hmac
import os
import re
import urllib.parse
from collections.abc import Collection, Sequence
from typing import cast

from hashnet.retrieval.store.protocol import Snapshot

_ESCAPED = "bytes:"
_CIPHER = "folder:"
_TAG_BYTES = 8
# Of users and of disks: what paths have in common that have nothing to do with each other.
_ABOVE_ALL = ("/", "/home/", "/Users/", "/mnt/", "/media/", "/run/media/", "/Volumes/")
_NO_TEXT = re.compile("[\ud800-\udfff]")


class PublicIds:
    """The two-way map between ids and what is shown of them.

    Args:
        root: str. What is left out where an id begins with it: a folder and its slash, or "".
        others: collection of str. The ids that do not begin so; none where the root is "".
        unrelated: sequence of str. What ids begin with, for whose folders a cipher stands.
        key: bytes, of the cipher; of one index always the same.

    Example:
        >>> public_ids = PublicIds("/home/me/", ["x"])
        >>> public_ids.shown("/home/me/b/c.jpg"), public_ids.shown("x"), public_ids.id("a.jpg")
        ('b/c.jpg', 'x', '/home/me/a.jpg')
    """

    def __init__(
        self,
        root: str = "",
        others: Collection[str] = (),
        *,
        unrelated: Sequence[str] = (),
        key: bytes = b"",
    ) -> None:
        self._root, self._others = root, others
        self._unrelated, self._key = tuple(unrelated), key

    @classmethod
    def of(cls, snapshot: Snapshot, key: bytes) -> "PublicIds":
        """The map for a snapshot of an index; not all of its ids are read for it.

        Args:
            snapshot: a `Snapshot`.
            key: bytes, of the index, which nobody outside knows.

        Returns:
            `PublicIds`.
        """
        # The index had taken very many folders at once for parts of one, which is all of a disk.
        unrelated = [
            f"{root.name}/"
            for root in snapshot.roots.all or ()
            if os.path.dirname(root.path) == root.path
        ]
        ends = snapshot.id_ends("/")
        root, others = "", cast(Collection[str], ())
        if ends is not None:
            shared = os.path.commonprefix(ends)
            root = shared[: shared.rindex("/") + 1]
            if root in _ABOVE_ALL:
                unrelated.append("/")
                root = ""
            else:
                others = snapshot.ids_outside(root)
        return cls(root, others, unrelated=unrelated, key=key)

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
        if self._unrelated and id.startswith(self._unrelated):
            folder, _, last = id.rpartition("/")
            name = f"{self._ciphered(folder)}/{last}"
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

    def _ciphered(self, folder: str) -> str:
        """What stands for a folder: only who has the key can tell which it is, or whether it is."""
        content = folder.encode("utf-8", "surrogatepass")
        tag = hmac.digest(self._key, content, "sha256")[:_TAG_BYTES]
        text = base64.urlsafe_b64encode(tag + self._mixed(tag, content)).decode()
        return _CIPHER + text.rstrip("=")

    def _deciphered(self, name: str) -> str:
        """The id of a name with a folder that a cipher stands for; others as they are."""
        cipher, slash, last = name.removeprefix(_CIPHER).partition("/")
        try:
            content = base64.urlsafe_b64decode(cipher + "=" * (-len(cipher) % 4))
            folder = self._mixed(content[:_TAG_BYTES], content[_TAG_BYTES:])
            text = folder.decode("utf-8", "surrogatepass")
        except (binascii.Error, ValueError):
            return name
        meant = self._ciphered(text) == _CIPHER + cipher and text + "/"
        known = meant and self._unrelated and meant.startswith(self._unrelated)
        return f"{text}{slash}{last}" if known else name

    def _mixed(self, tag: bytes, content: bytes) -> bytes:
        stream = hashlib.shake_256(self._key + tag).digest(len(content))
        return bytes(one ^ other for one, other in zip(content, stream, strict=True))

    def _meant(self, name: str) -> str:
        if self._unrelated and name.startswith(_CIPHER):
            return self._deciphered(name)
        if self._unrelated and name.startswith(self._unrelated):
            return _CIPHER + name  # of no image: whether there is one is nobody's business
        if name in self._others or name.startswith(self._root) or not self._root:
            return name
        return self._root + name


def _literally(text: str) -> str:
    """Text as a part of a pattern that means itself."""
    return re.sub(r"([\\*?\[\]])", r"\\\1", text)
