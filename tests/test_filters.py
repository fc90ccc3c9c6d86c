"""A search is narrowed by date and by folder, in every kind of index and by every way to ask."""

import datetime
import json

import numpy as np
import pytest
from starlette.testclient import TestClient

from hashnet import cli
from hashnet.errors import ArgumentError, StoreError
from hashnet.images import Exif
from hashnet.retrieval.index import Index, open_sharded
from hashnet.retrieval.search.query import Query
from hashnet.retrieval.service import app as service
from hashnet.retrieval.service import settings
from hashnet.retrieval.store.items import Item
from hashnet.retrieval.store.roots import Roots

FOLDERS = ["a", "a/b", "ab", "c"]


def day(number):
    return datetime.datetime(2026, 1, 1) + datetime.timedelta(days=number)  # noqa: DTZ001


def fill(index, numbers=range(60)):
    """An image a day, none of every fifth, in folders that take turns."""
    items = [
        Item(
            f"photos/{FOLDERS[number % 4]}/{number}",
            f"/home/me/photos/{FOLDERS[number % 4]}/{number}",
            ["x", "y"][number % 2],
            exif=Exif(day(number)) if number % 5 else None,
        )
        for number in numbers
    ]
    chance = np.random.default_rng(0)
    codes = chance.integers(0, 256, (len(items), 4), np.uint8)
    features = chance.normal(size=(len(items), 64)).astype("f4").astype(index.store.feature_dtype)
    with index.store.writer() as writer:
        writer.set_roots(Roots([("photos", "/home/me/photos")]))
        writer.add(items, codes, features)
        writer.remove([items[7].id])
    return items[:7] + items[8:]


@pytest.fixture(scope="module", params=["folder", "chdb"])
def index(request, bundle_folder, tmp_path_factory):
    place = tmp_path_factory.mktemp("filters") / "i"
    if request.param == "chdb":
        place = f"chdb://{request.getfixturevalue('chdb_folder')}/filters/photos"
    index = Index.create(place, bundle_folder, exif=True)
    index.wanted = fill(index)
    return index


def passes(item, after=None, before=None, under=None, labels=None):
    taken = item.exif and item.exif.taken
    return (
        (after is before is None or taken is not None)
        and (after is None or taken >= after)
        and (before is None or taken < before)
        and (under is None or any(item.id.startswith(f"photos/{name}/") for name in under))
        and (labels is None or item.label == labels)
    )


@pytest.mark.parametrize(
    "asked",
    [
        {"after": day(30)},
        {"before": day(12)},
        {"after": day(11), "before": day(21)},
        {"after": day(11), "before": day(11)},
        {"under": ["a"]},
        {"under": ["a/b", "c"]},
        {"under": ["a"], "after": day(20), "labels": "x"},
    ],
)
def test_what_passes_is_found_and_nothing_else(index, photos, asked):
    wanted = {item.id for item in index.wanted if passes(item, **asked)}
    for under in ("photos/", "/home/me/photos/"):
        folders = {"under": [under + name for name in asked["under"]]} if "under" in asked else {}
        query = Query(k=100, pool=100, histogram=True, **asked | folders)
        result = index.search(photos / "disc/0.png", query)
        assert {hit.id for hit in result} == wanted
        assert sum(result.histogram) == result.pool == len(wanted)


def test_several_indexes_are_narrowed_as_one(bundle_folder, tmp_path, photos):
    places = [tmp_path / "one", tmp_path / "two"]
    for place, numbers in zip(places, (range(30), range(30, 60)), strict=True):
        fill(Index.create(place, bundle_folder, exif=True), numbers)
    query = Query(k=100, pool=100, after=day(25), before=day(35), under="photos/a")
    found = open_sharded(places, runtime="soonest").search(photos / "disc/0.png", query)
    assert {hit.id for hit in found.hits} == {
        f"photos/{FOLDERS[number % 4]}/{number}"
        for number in range(25, 35)
        if number % 4 < 2 and number % 5
    }


def test_dates_are_written_in_many_ways():
    for text, moment in [
        ("2026", datetime.datetime(2026, 1, 1)),  # noqa: DTZ001
        ("2026-05", datetime.datetime(2026, 5, 1)),  # noqa: DTZ001
        ("2026-05-02", datetime.datetime(2026, 5, 2)),  # noqa: DTZ001
        ("2026-05-02T12:30", datetime.datetime(2026, 5, 2, 12, 30)),  # noqa: DTZ001
        ("2026-05-02T12:30:01+02:00", datetime.datetime(2026, 5, 2, 12, 30, 1)),  # noqa: DTZ001
        (datetime.date(2026, 5, 2), datetime.datetime(2026, 5, 2)),  # noqa: DTZ001
    ]:
        assert Query(after=text).after == Query(before=text).before == moment
    for wrong in ("yesterday", "2026-13", "2026-02-30", "", 2026, "05/01/2026"):
        with pytest.raises(ArgumentError, match="2026-05-01"):
            Query(before=wrong)
    with pytest.raises(ArgumentError, match="collection of str"):
        Query(under=[1])


def test_what_an_index_cannot_tell_is_refused(bundle_folder, tmp_path, photos, index):
    plain = Index.create(tmp_path / "plain", bundle_folder)
    plain.add(photos / "disc/0.png")
    with pytest.raises(StoreError, match="--exif"):
        plain.search(photos / "disc/0.png", after="2026")
    for folder in ("photos/none", "/home/me", "phot", "/nowhere", "a\0b"):
        if folder == "/home/me":  # which the index's root lies in
            assert len(index.search(photos / "disc/0.png", under=folder, k=100, pool=100)) == 59
            continue
        with pytest.raises(ArgumentError, match="images of the index lie in"):
            index.search(photos / "disc/0.png", under=["photos/none", folder])


def test_the_command_narrows(run, index, photos):
    ask = ["search", index.store.folder, photos / "disc/0.png", "-k", 100, "--pool", 100, "--json"]
    status, out, _ = run(*ask, "--after", "2026-01-12", "--before", "2026-01-22", "--under",
                         "/home/me/photos/a")  # fmt: skip
    asked = {"after": day(11), "before": day(21), "under": ["a"]}
    wanted = {item.id for item in index.wanted if passes(item, **asked)}
    assert status == cli.DONE and {hit["id"] for hit in json.loads(out)["hits"]} == wanted
    assert run(*ask, "--after", "soon")[0] == cli.WRONG_ARGUMENTS
    assert run(*ask, "--under", "nowhere")[0] == cli.WRONG_ARGUMENTS
    listed = [json.loads(line) for line in run("list", ask[1], "--json")[1].splitlines()]
    taken = {one["id"]: one.get("taken") for one in listed}
    assert taken["photos/a/b/1"] == "2026-01-02T00:00:00" and taken["photos/a/0"] is None


def test_the_service_narrows_by_ids_alone(index):
    app = service.create_app(index.store.folder, settings.Settings())
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:
        info = client.get("/api/info").json()
        assert info["exif"] is True and info["folders"] == ["photos"]

        def found(**parameters):
            ask = {"id": "photos/c/3", "k": 100, "pool": 100, **parameters}
            return client.get("/api/search", params=ask)

        asked = {"after": day(11), "before": day(21), "under": ["a", "c"]}
        wanted = {item.id for item in index.wanted if passes(item, **asked)}
        under = {"under": ["photos/a", "photos/c/"]}
        answer = found(after="2026-01-12", before="2026-01-22", **under).json()
        assert {hit["id"] for hit in answer["hits"]} == wanted
        for wrong in ({"after": "soon"}, {"after": "2026-99"}, {"under": "/home/me/photos"},
                      {"under": "photo"}, {"under": ["x" * 5000]}):  # fmt: skip
            refused = found(**wrong)
            assert refused.status_code == 422 and "/home/me" not in refused.text.replace(
                "'/home/me/photos'", ""
            )
        one = client.get("/api/images/photos%2Fa%2Fb%2F1").json()
        assert one["taken"] == "2026-01-02T00:00:00" and one["camera"] is None
        assert "latitude" not in one


@pytest.mark.thorough
def test_places_are_told_with_paths_only(bundle_folder, tmp_path):
    index = Index.create(tmp_path / "i", bundle_folder, exif=True)
    item = Item("a", "/home/me/a", exif=Exif(latitude=1.5, longitude=2.5))
    with index.store.writer() as writer:
        writer.add([item], np.zeros((1, 4), "u1"), np.ones((1, 64), "f2"))
    for show_paths in (False, True):
        app = service.create_app(tmp_path / "i", settings.Settings(show_paths=show_paths))
        with TestClient(app, base_url="http://localhost") as client:
            one = client.get("/api/images/a").json()
            assert ("latitude" in one, "path" in one) == (show_paths, show_paths)
