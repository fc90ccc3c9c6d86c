"""Pictures that come with a request, and what they may be."""

from hashnet import images
from hashnet.errors import ImageError
from hashnet.images.apart import Decoders
from hashnet.images.formats import TooManyPixelsError, check_size
from hashnet.images.workers import Wish

MAX_PIXELS = 50_000_000  # of a picture that comes over HTTP, whatever its file could be reduced to


def received(decoders: Decoders, content: bytes, *wishes: Wish) -> images.Photo:
    """A picture that came with a request.

    Args:
        decoders: `Decoders`.
        content: bytes of its file.
        *wishes: what will be asked of it, as for `Decoders.photo`.

    Returns:
        `images.Photo`.

    Raises:
        ImageError: it is no picture, of more than `MAX_PIXELS`, or takes too much to decode.
        CrowdedError: it takes long, and others come.
    """
    try:
        photo = decoders.photo(content, *wishes, max_pixels=MAX_PIXELS)
        height, width = photo.size
        check_size((width, height), MAX_PIXELS)
    except (ImageError, TooManyPixelsError) as error:
        reason = error if isinstance(error, TooManyPixelsError) else error.__cause__
        if not isinstance(reason, TooManyPixelsError):
            raise
        raise ImageError(
            f"A picture that is sent has no more than {MAX_PIXELS} pixels.",
            str(reason),
            "Send a smaller copy of it.",
        ) from error
    return photo
