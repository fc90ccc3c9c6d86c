"""What people and programs write into photos beside the pixels: titles, captions, keywords.

Three blocks may hold it: EXIF, IPTC (IIM 4.2) and XMP (ISO 16684-1), which a photo's own file has,
or an `.xmp` file beside it.
"""

from collections.abc import Iterable, Iterator
from typing import Any
from xml.etree import ElementTree

from PIL import ExifTags, Image, ImageFile, IptcImagePlugin

MOST_LETTERS = 10_000
_MOST_BYTES = 2**20  # of XMP
_XP_TAGS = (0x9C9B, 0x9C9C, 0x9C9E, 0x9C9F)  # title, comment, keywords, subject: UTF-16
_IPTC = ((2, 5), (2, 105), (2, 120), (2, 25))  # title, headline, caption, keywords
_COMMENT_CODES = {b"ASCII": "ascii", b"UNICODE": "utf-16", b"JIS": "iso2022_jp", b"": "utf-8"}
# Elements, or attributes, by the end of their names' space and their own.
_OF_XMP = {
    "{http://purl.org/dc/elements/1.1/}title",
    "{http://purl.org/dc/elements/1.1/}description",
    "{http://purl.org/dc/elements/1.1/}subject",
    "{http://ns.adobe.com/photoshop/1.0/}Headline",
    "{http://ns.adobe.com/exif/1.0/}UserComment",
    "{http://ns.adobe.com/tiff/1.0/}ImageDescription",
}


def description_of(image: Image.Image) -> str | None:
    """Read what a photo says of itself; what is missing or damaged is passed over.

    Args:
        image: PIL image, as it was opened.

    Returns:
        str, a line for each text, none twice; None where there is none.

    Example:
        >>> image = Image.new("RGB", (1, 1))
        >>> image.getexif()[ExifTags.Base.ImageDescription] = "Rex on the beach"
        >>> description_of(image)
        'Rex on the beach'
    """
    texts: list[str] = []
    for read in (_of_exif, _of_iptc, _of_own_xmp):
        try:
            texts += read(image)
        except Exception:  # damaged data of a good picture: Pillow raises nearly anything
            continue
    return joined(texts) or None


def joined(texts: Iterable[str]) -> str:
    """Texts as one: a line for each, none twice, without what cannot be shown.

    Args:
        texts: iterable of str.

    Returns:
        str, `MOST_LETTERS` at most.

    Example:
        >>> joined(["a\\0 b\\n", "", "c", "a b"])
        'a b\\nc'
    """
    lines = (
        " ".join("".join(char if char.isprintable() else " " for char in text).split())
        for text in texts
    )
    return "\n".join(dict.fromkeys(line for line in lines if line))[:MOST_LETTERS]


def texts_of_xmp(content: bytes) -> list[str]:
    """The titles, captions and keywords of XMP.

    Args:
        content: bytes, of an `.xmp` file, or from within a photo.

    Returns:
        list of str, none twice, in the order of the file, as far as `MOST_LETTERS`.

    Raises:
        ValueError: it is no XMP, is too long, or declares entities, which XMP has no use for.

    Example:
        >>> texts_of_xmp(b'<a xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>x</dc:title></a>')
        ['x']
    """
    if len(content) > _MOST_BYTES:
        raise ValueError(f"{len(content)} bytes of XMP are more than {_MOST_BYTES}")
    content = content.strip(b"\0 \r\n\t")
    # In UTF-16 a document type would go unseen.
    if b"\0" in content or b"<!DOCTYPE" in content or b"<!ENTITY" in content:
        raise ValueError("XMP is UTF-8 and has no document type")
    described = _Described()
    parser = ElementTree.XMLParser(target=described)  # which builds no tree
    try:
        parser.feed(content)
        parser.close()
    except ElementTree.ParseError as error:
        raise ValueError(f"it is no XMP: {error}") from error
    return list(described.texts)


class _Described:
    """Collects texts while XMP is parsed, each once however elements lie within each other.

    Attributes:
        texts: dict of str, in the order of the file.
    """

    def __init__(self) -> None:
        self.texts: dict[str, None] = {}
        self._depth = 0  # within the outermost element that describes
        self._letters = 0
        self._pieces: list[str] = []

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self._end_text()
        for name, text in attributes.items():
            if name in _OF_XMP:
                self._keep(text)
        if self._depth or tag in _OF_XMP:
            self._depth += 1

    def data(self, piece: str) -> None:
        if self._depth:
            self._pieces.append(piece)

    def end(self, _: str) -> None:
        self._end_text()
        self._depth = max(0, self._depth - 1)

    def _end_text(self) -> None:
        self._keep("".join(self._pieces))
        self._pieces.clear()

    def _keep(self, text: str) -> None:
        text = text.strip()
        # What is over would be cut off where texts are joined.
        if text and text not in self.texts and self._letters < MOST_LETTERS:
            self.texts[text[:MOST_LETTERS]] = None
            self._letters += len(text)


def _of_exif(image: Image.Image) -> Iterator[str]:
    tags = image.getexif()
    yield _as_text(tags.get(ExifTags.Base.ImageDescription))
    for tag in _XP_TAGS:
        yield bytes(tags.get(tag) or b"").decode("utf-16-le", "replace").split("\0")[0]
    comment = tags.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment)
    if isinstance(comment, bytes):
        yield _user_comment(comment, tags.endian)
    else:
        yield _as_text(comment)


def _user_comment(comment: bytes, endian: str | None) -> str:
    code, text = comment[:8].strip(b"\0 ").upper(), comment[8:]
    encoding = _COMMENT_CODES.get(code)
    if encoding is None:  # written without a code
        encoding, text = "utf-8", comment
    if encoding == "utf-16":
        encoding = _utf_16_of(text, endian)
    return text.decode(encoding, "replace").strip("\0 ")


def _utf_16_of(text: bytes, endian: str | None) -> str:
    """Its bytes are in the order of the block, or in the one in which Latin letters are."""
    if text[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    high_first, high_last = text[::2].count(0), text[1::2].count(0)
    is_big = high_first > high_last if high_first != high_last else endian == ">"
    return "utf-16-be" if is_big else "utf-16-le"


def _as_text(value: Any) -> str:
    """A tag of EXIF's ASCII, in which many programs write UTF-8."""
    if isinstance(value, str):
        try:
            value = value.encode("latin-1")
        except UnicodeEncodeError:
            return value
    if not isinstance(value, bytes):
        return ""
    try:
        return value.decode("utf-8").split("\0")[0]
    except UnicodeDecodeError:
        return value.decode("latin-1").split("\0")[0]


def _of_iptc(image: Image.Image) -> Iterator[str]:
    # Of a picture that was not opened as a file there is none.
    if not isinstance(image, ImageFile.ImageFile):
        return
    found = IptcImagePlugin.getiptcinfo(image) or {}
    for key in _IPTC:
        values = found.get(key) or []
        for value in values if isinstance(values, list) else [values]:
            yield _as_text(value)


def _of_own_xmp(image: Image.Image) -> list[str]:
    content = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""
    content = content.encode() if isinstance(content, str) else content
    return texts_of_xmp(content) if content else []
