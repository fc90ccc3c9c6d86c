"""What an image is looked up by in words: its name, its captions, and what was read in it."""

import os

from hashnet.retrieval.store.items import Item
from hashnet.retrieval.words.spelling import spaced

NAME, CAPTION, OCR = range(3)  # kinds of texts
# Of what `spaced` makes of texts. What a folder keeps in another form is made anew; a table holds
# it beside its images, and another form is another format version of it.
FORM = 1


def texts_of(item: Item) -> dict[int, str]:
    """The texts that an image is looked up by.

    Args:
        item: `Item`.

    Returns:
        dict of kind to str, spaced; none that are empty.

    Example:
        >>> texts_of(Item("photos/beers/Pale_Ale.jpg", "/home/me/photos/beers/Pale_Ale.jpg"))
        {0: ' beers pale ale '}
    """
    stem, _ = os.path.splitext(_name_of(item))
    found = {NAME: spaced(stem)}
    if item.texts is not None:
        found[CAPTION] = spaced(item.texts.caption)
        found[OCR] = spaced("\n".join(line.text for line in item.texts.lines or ()))
    return {kind: text for kind, text in found.items() if text}


def _name_of(item: Item) -> str:
    """The id, without the name of its root, which all share and a service does not tell.

    Of one that is a path, the file and the folder it is in.
    """
    if item.id == item.path:
        return "/".join(item.id.replace(os.sep, "/").split("/")[-2:])
    _, _, below = item.id.partition("/")
    is_of_root = below and item.path is not None and item.path.endswith(below)
    return below if is_of_root else item.id
