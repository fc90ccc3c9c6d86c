"""Work whose time is over ends at its next step, on whatever thread that is."""

import asyncio
import threading
import time

import numpy as np
import pytest

from hashnet import deadline
from hashnet.deadline import LateError
from hashnet.local.features import LocalFeatures
from hashnet.retrieval.search.engine import Engine
from hashnet.retrieval.search.verify import MATCHING, verify_all
from hashnet.retrieval.service.work_queue import BusyError, WorkQueue

NONE = LocalFeatures(*(np.empty(shape, "f4") for shape in ((0, 2), (0, 128), 0)))


@pytest.mark.parametrize("num_threads", [1, 2])
def test_no_more_candidates_are_compared_when_the_time_is_over(num_threads):
    begun = []

    def candidate():
        begun.append(None)
        time.sleep(0.02)
        return NONE

    with deadline.until(time.monotonic() + 0.1), pytest.raises(LateError):
        verify_all(NONE, [candidate] * 100, MATCHING["sift"], num_threads=num_threads)
    assert 1 <= len(begun) < 50
    assert len(verify_all(NONE, [candidate] * 3, MATCHING["sift"], num_threads=num_threads)) == 3


def test_an_outer_time_holds_within_a_longer_one():
    with deadline.until(time.monotonic() - 1), deadline.until(time.monotonic() + 9):
        with pytest.raises(LateError):
            deadline.check()
    deadline.check()


@pytest.mark.parametrize("query", [{"k": 1}, {"k": 1, "verify": True}])
def test_a_search_whose_time_is_over_does_not_rank(bundle_folder, tmp_path, monkeypatch, query):
    """The coarse stage takes all the time that there is."""
    from hashnet.retrieval.index import Index
    from hashnet.retrieval.search import folder_finder
    from hashnet.retrieval.search.query import Query

    index = Index.create(tmp_path / "index", bundle_folder, local="sift")
    index.add([np.zeros((9, 9, 3), np.uint8)], ids=["a"])
    engine, ranked = Engine(index), []
    moment = time.monotonic() + 0.2
    real, pool = folder_finder.nearest_features, folder_finder.FolderFinder._pool

    def slow_pool(*arguments):
        time.sleep(max(0.0, moment + 0.01 - time.monotonic()))
        return pool(*arguments)

    monkeypatch.setattr(folder_finder.FolderFinder, "_pool", slow_pool)
    monkeypatch.setattr(
        folder_finder, "nearest_features", lambda *a, **o: ranked.append(None) or real(*a, **o)
    )
    with deadline.until(moment), pytest.raises(LateError):
        engine.search_id("a", Query(threshold=5, **query))
    assert ranked == []


def test_work_that_nobody_waits_for_any_more_gives_its_place_back():
    async def ask():
        queue = WorkQueue("test", workers=1, capacity=1, seconds=0.1)
        ended = threading.Event()

        def work():
            try:
                while True:
                    deadline.check()
                    time.sleep(0.005)
            finally:
                ended.set()

        for _ in range(2):  # the second finds the place free
            with pytest.raises(BusyError, match="no answer within 0.1 s"):
                await queue.run(work)
            assert await asyncio.to_thread(ended.wait, 5)
            while queue.size():
                await asyncio.sleep(0.005)
            ended.clear()
        queue.close()

    asyncio.run(ask())
