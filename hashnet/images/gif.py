"""Opening GIF: the first frames, without what stands beside them."""

import io

from PIL import GifImagePlugin

FRAMES = 32  # so many are looked at for one that shows something
# Data comes in blocks of up to 255 bytes, and encoders fill them.
_LEAST_MEAN = 32
_FEW_BLOCKS = 2**16
_EXTENSION, _FRAME, _END, _CONTROL = 0x21, 0x2C, 0x3B, 0xF9


def open_gif(content: bytes) -> GifImagePlugin.GifImageFile:
    """The picture with its header read, from its first frames alone.

    Comments, which Pillow keeps block by block, are left out, as is a frame that reaches beyond the
    first one and the canvas, with all that follow.
    """
    return GifImagePlugin.GifImageFile(io.BytesIO(_frames(content)))


def _frames(content: bytes) -> bytes:
    at = 13 + _colours(content[10:11])
    kept, canvas, blocks, frames = [content[:at]], (0, 0), 0, 0
    most = _FEW_BLOCKS + len(content) // _LEAST_MEAN
    while at < len(content) and frames < FRAMES:
        start, kind = at, content[at]
        if kind == _END:
            break
        if kind == _FRAME:
            corner = [int.from_bytes(content[at + k : at + k + 2], "little") for k in (1, 3, 5, 7)]
            right, bottom = corner[0] + corner[2], corner[1] + corner[3]
            if not frames:
                sides = (int.from_bytes(content[k : k + 2], "little") for k in (6, 8))
                canvas = max(right, next(sides)), max(bottom, next(sides))
            elif right > canvas[0] or bottom > canvas[1]:
                break
            at += 11 + _colours(content[at + 9 : at + 10])
            frames += 1
        elif kind == _EXTENSION:
            at += 2
        else:  # what Pillow, too, passes over to the next block
            at += 1
            continue
        while at < len(content) and content[at]:
            at += 1 + content[at]
            blocks += 1
            if blocks > most:
                raise OSError(f"it has more than {most} blocks, far shorter than they could be")
        at += 1
        if kind == _FRAME or content[start + 1 : start + 2] == bytes([_CONTROL]):
            kept.append(content[start:at])
    return b"".join([*kept, bytes([_END])])


def _colours(flags: bytes) -> int:
    """How many bytes the colours take that stand behind a byte of flags."""
    return 3 * 2 ** ((flags[0] & 7) + 1) if flags and flags[0] & 128 else 0
