"""One line of text as pixels, for a picture's caption."""

import functools
import unicodedata

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from hashnet.errors import ArgumentError


def text(line: str, height: int = 14) -> np.ndarray:
    """Draw one line of text, for a picture's caption.

    The font is Pillow's own and knows plain Latin letters: others lose their accents, what is
    not printable (control characters, the stand-ins for bytes that are not UTF-8) becomes a
    question mark, and all else a box. Of a longer line the first 1,000 characters are drawn.

    Args:
        line: str.
        height: positive int, pixels.

    Returns:
        uint8 array of shape `(height, width)`: 0 the ground, 255 the letters. The width is as the
        text needs it, 1 or more.

    Raises:
        ArgumentError: if the height is below 1.

    Example:
        >>> text("cat", height=14).shape[0]
        14
    """
    if height < 1:
        raise ArgumentError("A line of text is one pixel high or more.", f"height={height}")
    line = unicodedata.normalize("NFKD", line[:1000])
    line = "".join(char if char.isprintable() else "?" for char in line if not _is_accent(char))
    font = _font(height)
    width = max(1, round(font.getlength(line)))
    mask = Image.new("L", (width, height))
    ImageDraw.Draw(mask).text((0, 0.78 * height), line, fill=255, font=font, anchor="ls")
    return np.array(mask)


def _is_accent(char: str) -> bool:
    return unicodedata.combining(char) > 0


@functools.lru_cache(maxsize=8)
def _font(height: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=max(1, 0.8 * height))  # the rest is room for descenders
