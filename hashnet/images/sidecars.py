"""Captions in files beside photos: `cat.txt` or `cat.jpg.txt` of `cat.jpg`, and `.xmp` likewise."""

import os
import stat

from hashnet import files, system
from hashnet.errors import ArgumentError
from hashnet.images.descriptions import MOST_LETTERS, joined, texts_of_xmp
from hashnet.images.finding import Problem
from hashnet.images.sources import kind_of_file

_MOST_BYTES = 2**20
_SUFFIXES = (".txt", ".xmp")


class Sidecars:
    """Reads captions that lie beside photos, each folder listed once.

    Attributes:
        problems: list of `Problem`, of files that should hold a caption and cannot be read.
        files: set of str. Files beside photos that were asked for, readable or not.

    Example:
        >>> with open("cat.txt", "w") as file:
        ...     _ = file.write("Rex")
        >>> Sidecars().of("cat.png"), Sidecars().of("dog.png")
        ('Rex', None)
    """

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.files: set[str] = set()
        self._listed: dict[str, dict[str, str]] = {}

    def of(self, path: str) -> str | None:
        """The caption beside a photo.

        Args:
            path: str, of the photo.

        Returns:
            str, or None where there is none.
        """
        folder, name = os.path.split(path)
        beside = self._of_folder(folder)
        if not beside:
            return None
        stem, _ = os.path.splitext(name)
        names = [f"{base}{suffix}".casefold() for suffix in _SUFFIXES for base in (name, stem)]
        texts = [
            self._text(os.path.join(folder, beside[one]))
            for one in dict.fromkeys(names)
            if one in beside
        ]
        return joined(texts) or None

    def _of_folder(self, folder: str) -> dict[str, str]:
        """Names of files that may hold captions, by their names in small letters."""
        if folder not in self._listed:
            try:
                names = sorted(os.listdir(folder or "."))
            except OSError:
                names = []
            self._listed[folder] = {
                name.casefold(): name for name in names if name.casefold().endswith(_SUFFIXES)
            }
        return self._listed[folder]

    def _text(self, path: str) -> str:
        self.files.add(path)
        try:
            content = _content(path)
            if path.casefold().endswith(".xmp"):
                return joined(texts_of_xmp(content))
            text = decoded(content)
            if len(text) > MOST_LETTERS:
                raise ValueError(f"it has more than {MOST_LETTERS:,} letters")
            return text
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            if not any(one.path == path for one in self.problems):
                self.problems.append(Problem(path, f"no caption can be read: {reason}"))
            return ""


def _content(path: str) -> bytes:
    # Pipes wait for who writes, devices have no end: what was opened is what gets checked.
    with open(system.open_without_waiting(path), "rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if not stat.S_ISREG(mode):
            raise ValueError(f"it is a {kind_of_file(mode)}")
        try:
            return files.read_stream(file, _MOST_BYTES, path)
        except ArgumentError as error:
            raise ValueError(f"it is longer than {_MOST_BYTES} bytes") from error


def encoding_of(content: bytes) -> str:
    r"""The encoding of a text file: UTF-8, or UTF-16 that begins with its mark.

    Args:
        content: bytes.

    Returns:
        str, as Python names it.

    Example:
        >>> encoding_of(b"cat"), encoding_of(b"\xff\xfea\0")
        ('utf-8-sig', 'utf-16')
    """
    return "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"


def decoded(content: bytes) -> str:
    """A text file: UTF-8, or UTF-16 that begins with its mark.

    Args:
        content: bytes.

    Returns:
        str.

    Raises:
        ValueError: it is in another encoding.

    Example:
        >>> decoded("Ä".encode("utf-8-sig")), decoded("Ä".encode("utf-16"))
        ('Ä', 'Ä')
    """
    encoding = encoding_of(content)
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        reason = f"it is not in {encoding.removesuffix('-sig')}: {error.reason}; save it as UTF-8"
        raise ValueError(reason) from error
