"""Pictures that come with a request, and what they may be."""

from hashnet import images
from hashnet.errors import ImageError

MAX_PIXELS = 50_000_000  # of a picture that comes over HTTP, whatever its file could be reduced to


def received(content: bytes) -> images.Photo:
    """A picture that came with a request.

    Args:
        content: bytes of its file.

    Returns:
        `images.Photo`.

    Raises:
        ImageError: it is no picture, or of more than `MAX_PIXELS`.
    """
    photo = images.Photo(content, max_pixels=MAX_PIXELS)
    height, width = photo.size
    if height * width > MAX_PIXELS:
        raise ImageError(
            f"A picture that is sent has no more than {MAX_PIXELS} pixels.",
            f"{width} x {height}",
            "Send a smaller copy of it.",
        )
    return photo
