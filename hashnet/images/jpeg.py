"""Opening JPEG: where the picture ends, whether it is whole, and what its size may be.

libjpeg reads on to the end mark, through whatever a phone has put there, and fills what is missing
with grey and a warning that Pillow does not pass on. So it gets the file here up to where the
picture ends, and is watched as it asks for more.
"""

import dataclasses
import io
import re
from collections.abc import Callable
from typing import Any

from PIL import Image, ImageFile, JpegImagePlugin

from hashnet.images.directories import is_bounded, without_head

MAX_SCANS = 200
# A block of 8 x 8 samples is gone through once in each scan. The usual programs make progressive
# photos of ten scans, most of them of one component.
MAX_BLOCKS = 2**25
MAX_PASSES = 24
MAX_SEGMENTS = 2**13
REDUCTION = 8  # of each side, at most, while a picture is decoded

# A byte ff followed by 0 or by a restart mark belongs to a scan; ff before ff is a filler.
_MARK = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
# What Pillow is given: it puts together Exif piece by piece, and walks through other segments.
_EXIF, _XMP, _PROFILE = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0", b"ICC_PROFILE\0"
_PHOTOSHOP = b"Photoshop 3.0\0"  # where captions of IPTC stand
_MOST_EXIF_SEGMENTS = 64
_MOST_PHOTOSHOP_SEGMENTS = 16
_TABLES, _QUANTISATION, _INTERVAL, _SCAN, _START, _END = 0xC4, 0xDB, 0xDD, 0xDA, 0xD8, 0xD9
# libjpeg looks so far ahead of the bits that it decodes.
_AHEAD = 8
_UNFILLED = bytes(64)
_OTHERS = (0x33, 0x55, 0xAA)
_AT_ONCE = 2**20  # pixels that are compared


@dataclasses.dataclass(slots=True)
class _Layout:
    """What the segments of a file say.

    Attributes:
        end: int. Where the data of the last scan ends.
        is_cut: bool. Whether the file ends there, without any mark.
        frame: int. The mark of the frame's header; 0 where there is none.
        components: tuple of int, their numbers.
        scans: int.
        bits_missing: dict of (component, coefficient) to the bits not sent yet.
        blocks: dict of component to the blocks that a scan of it goes through.
        blocks_sent: int. In all scans.
        head: list of bytes. The segments up to the first scan that say something of the picture.
    """

    end: int = 0
    is_cut: bool = False
    frame: int = 0
    components: tuple[int, ...] = ()
    scans: int = 0
    bits_missing: dict[tuple[int, int], int] = dataclasses.field(default_factory=dict)
    blocks: dict[int, int] = dataclasses.field(default_factory=dict)
    blocks_sent: int = 0
    head: list[bytes] = dataclasses.field(default_factory=list)

    @property
    def is_progressive(self) -> bool:
        return self.frame in _PROGRESSIVE

    @property
    def is_huffman(self) -> bool:
        return self.frame < 0xC8

    @property
    def lacks_a_scan(self) -> bool:
        last = 64 if self.is_progressive else 1
        sent = [self.bits_missing.get((c, k)) == 0 for c in self.components for k in range(last)]
        return not all(sent)


class JpegFile(JpegImagePlugin.JpegImageFile):
    """A JPEG file whose pixels are read up to the picture's end, and only if all are there.

    Args:
        content: bytes of the file.
        behind: int, 0 to 254. The byte that follows the picture, in place of what the file has.

    Attributes:
        is_sequential: bool. Whether rows come one after another out of a single scan, so that a
            reduced picture takes little memory, whatever the size in the file.
        is_huffman: bool. Whether its codes are Huffman's; else it is decoded bit by bit.
        times: int. How often it is decoded: again where its end is missing, see `load`.
        blocks, blocks_sent: int. Blocks of 8 x 8 samples, and those of all scans together.
    """

    def __init__(self, content: bytes, behind: int = 0) -> None:
        self._content, self._behind = content, behind
        self._layout = _layout_of(content)
        self.is_sequential = not self._layout.is_progressive and self._layout.scans == 1
        self.is_huffman = self._layout.is_huffman
        self.times = 1 + len(_OTHERS) if self._layout.is_cut and not behind else 1
        self.blocks = sum(self._layout.blocks.values())
        self.blocks_sent = self._layout.blocks_sent
        super().__init__(io.BytesIO(b"".join([b"\xff\xd8", *_without_bombs(self._layout.head)])))
        self._check_size()

    def _check_size(self) -> None:
        layout, (width, height) = self._layout, self.size
        # A block of 8 x 8 takes a bit, and in a sequential picture another for its end.
        bits = -(-width // 8) * -(-height // 8) * (1 if layout.is_progressive else 2)
        if layout.is_huffman and bits > 8 * len(self._content):
            held = f"{len(self._content)} bytes can hold"
            raise OSError(f"{width} x {height} pixels are more than {held}")

    def load(self) -> Any:
        """Decode, as Pillow calls it.

        Raises:
            OSError: the picture is damaged, or a part of it is missing.
        """
        if not self.tile or not self._layout.scans:
            return super().load()
        if self._layout.lacks_a_scan:
            raise OSError("the picture is truncated: scans are missing")
        [tile] = self.tile
        self.load_prepare()
        decoder = Image._getdecoder(self.mode, "jpeg", tile.args, self.decoderconfig)
        try:
            decoder.setimage(self.im, tile.extents)
            is_whole = self._decode(decoder.decode)
        finally:
            decoder.cleanup()
        self.tile = []
        self.load_end()
        if not is_whole or (self._layout.is_cut and self._is_in_doubt()):
            raise OSError("the picture is truncated: its last rows are missing")
        return super().load()

    def _decode(self, decode: Callable[[bytes], tuple[int, int]]) -> bool:
        """Decode all that the picture has, and say whether libjpeg wanted more than that."""
        left = b""

        def feed(piece: bytes) -> bool:
            nonlocal left
            left += piece
            taken, error = decode(left)
            left = left[taken:] if taken >= 0 else b""
            if taken < 0 and error < 0:
                raise ImageFile._get_oserror(error, encoder=False)
            return taken < 0

        end, step = self._layout.end, self.decodermaxblock
        for start in range(0, end, step):
            if feed(self._content[start : min(start + step, end)]):
                return True
        if self._layout.is_huffman:
            # Who looks for the next mark takes each byte as it comes; who looks for a code takes
            # some of them at once, and leaves others for later.
            behind = bytes([self._behind])
            if any(feed(behind) for _ in range(_AHEAD)):
                return True
            if self.is_sequential or any(feed(behind) or left for _ in range(_AHEAD)):
                return False
        feed(b"\xff\xd9")
        return True

    def _is_in_doubt(self) -> bool:
        """Whether pixels depend on what would follow the file."""
        if self._behind:
            return False
        return any(self._differs_before(behind) for behind in _OTHERS)

    def _differs_before(self, behind: int) -> bool:
        """Whether there are other pixels if other bytes follow the file."""
        other = JpegFile(self._content, behind)
        other.decoderconfig, other._size, other._mode = self.decoderconfig, self._size, self._mode
        other.tile = [other.tile[0]._replace(extents=(0, 0, *self._size))]
        other.load()
        step = max(1, _AT_ONCE // self.width)
        return any(
            self.crop(box).tobytes() != other.crop(box).tobytes()
            for box in ((0, top, self.width, top + step) for top in range(0, self.height, step))
        )


def _layout_of(content: bytes) -> _Layout:
    layout, at, start_of_data, segments = _Layout(), 2, 0, 0
    while mark := _MARK.search(content, at):
        segments += 1
        if segments > MAX_SEGMENTS:
            raise OSError(f"it has more than {MAX_SEGMENTS} segments")
        kind, start = content[mark.end() - 1], mark.end()
        if kind in (_END, _START):
            break
        length = int.from_bytes(content[start : start + 2], "big")
        segment = content[start + 2 : start + length]
        at = start + length
        if layout.scans and not _belongs(kind, segment, length, layout):
            break
        if not layout.scans and _is_of_use(kind, segment):
            layout.head.append(content[mark.end() - 2 : at])
        if kind in _FRAMES and not layout.frame:
            layout.frame = kind
            layout.components = tuple(segment[6::3])
            layout.blocks = _blocks_of(segment)
        elif kind == _SCAN:
            _note_scan(layout, segment)
            start_of_data = at
            following = _MARK.search(content, at)
            layout.is_cut = following is None
            layout.end = at = following.start() if following else len(content)
            if not layout.is_progressive and segment[:1] == bytes([len(layout.components)]):
                break  # all of the picture, whatever comes behind it
    if layout.is_cut and content.endswith(_UNFILLED):
        # What a disk was to hold and does not; but the 0 behind an ff is of the picture.
        data = content[start_of_data:].rstrip(b"\0")
        layout.end = start_of_data + len(data) + data.endswith(b"\xff")
    return layout


def _is_of_use(kind: int, segment: bytes) -> bool:
    """Whether Pillow needs a segment, or who asks for the profile or for what a file tells."""
    if kind == 0xE1:
        return segment.startswith((_EXIF, _XMP))
    if kind in (0xE2, 0xED):
        return segment.startswith(_PROFILE if kind == 0xE2 else _PHOTOSHOP)
    return kind in (*_FRAMES, _SCAN, _QUANTISATION, 0xEE)


def _without_bombs(head: list[bytes]) -> list[bytes]:
    """The segments without Exif and captions that would take long to read."""
    exif = [segment[10:] for segment in head if segment[4:10] == _EXIF]
    if len(exif) > _MOST_EXIF_SEGMENTS or not is_bounded(without_head(b"".join(exif))):
        head = [segment for segment in head if segment[4:10] != _EXIF]
    captions = [segment for segment in head if segment[4:18] == _PHOTOSHOP]
    if len(captions) > _MOST_PHOTOSHOP_SEGMENTS:
        head = [segment for segment in head if segment[4:18] != _PHOTOSHOP]
    return head


def _blocks_of(segment: bytes) -> dict[int, int]:
    """How many blocks each component has, from the header of a frame."""
    height, width = (int.from_bytes(segment[at : at + 2], "big") for at in (1, 3))
    sampling = dict(zip(segment[6::3], segment[7::3], strict=False))
    most = [max([1, *(pair >> shift & 15 for pair in sampling.values())]) for shift in (4, 0)]
    return {
        component: -(-width * (pair >> 4) // (8 * most[0]))
        * -(-height * (pair & 15) // (8 * most[1]))
        for component, pair in sampling.items()
    }


def _note_scan(layout: _Layout, segment: bytes) -> None:
    layout.scans += 1
    if layout.scans > MAX_SCANS:
        raise OSError(f"it has more than {MAX_SCANS} scans")
    count = segment[0] if segment else 0
    named = segment[1 : 1 + 2 * count : 2]
    layout.blocks_sent += sum(layout.blocks.get(component, 0) for component in named)
    most = max(MAX_BLOCKS, MAX_PASSES * sum(layout.blocks.values()))
    if layout.scans > 1 and layout.blocks_sent > most:
        raise OSError(f"its scans go through more than {most} blocks")
    if len(segment) < 4 + 2 * count:
        return
    first, last, bits = segment[1 + 2 * count : 4 + 2 * count]
    for component in named:
        for coefficient in range(first, min(last, 63) + 1):
            layout.bits_missing[component, coefficient] = bits & 15


def _belongs(kind: int, segment: bytes, length: int, layout: _Layout) -> bool:
    """Whether a segment behind a scan is one of the picture, and no film that looks like one."""
    if length < 2 or len(segment) != length - 2:
        return False
    if kind == _SCAN:
        count = segment[0] if segment else 0
        named = set(segment[1 : 1 + 2 * count : 2])
        return len(segment) == 4 + 2 * count and 0 < count and named <= set(layout.components)
    if kind == _TABLES:
        while len(segment) > 16 and segment[0] & 0xEE <= 0x10:
            segment = segment[17 + sum(segment[1:17]) :]
        return not segment
    if kind == _QUANTISATION:
        return len(segment) % 65 == 0 or len(segment) % 129 == 0
    return (kind == _INTERVAL and length == 4) or kind >= 0xE0
