"""Which ways from a text to images there are; each says itself whether an index has it."""

from hashnet.retrieval.search.engine import Engine
from hashnet.retrieval.words.shown import ClassWay
from hashnet.retrieval.words.way import Way
from hashnet.retrieval.words.written import written_ways


def ways_of(engine: Engine) -> list[Way]:
    """All ways, of one snapshot of an index.

    Args:
        engine: `Engine`.

    Returns:
        list of `Way`, in the order of `way.NAMES`; those that the index is not searched by say
        why.
    """
    return [*written_ways(engine), ClassWay(engine)]
