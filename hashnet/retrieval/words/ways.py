"""Which ways from a text to images there are; each says itself whether an index has it."""

from typing import Any

from hashnet.retrieval.search.engine import Engine
from hashnet.retrieval.words import learned, lookup
from hashnet.retrieval.words.learned import LearnedWay
from hashnet.retrieval.words.paired import NetworkWay
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
    return [*written_ways(engine), ClassWay(engine), LearnedWay(engine), NetworkWay(engine)]


def settle(snapshot: Any, *, anew: bool = False) -> None:
    """Bring what ways keep of an index up to what is committed; under the writer's lock.

    Args:
        snapshot: `Snapshot`, of the last commit.
        anew: bool. Learn again what is learned of the index, however little has changed.
    """
    lookup.settle(snapshot)
    learned.settle(snapshot, anew=anew)
