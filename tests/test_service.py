"""The service: what it answers, what it refuses, and that it keeps serving the others."""

import concurrent.futures
import contextlib
import ctypes
import functools
import io
import itertools
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse

import httpx2
import jsonschema
import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from hashnet import cli, images, system
from hashnet.errors import BackendError, HashnetError
from hashnet.images.apart import Decoders
from hashnet.retrieval.index import Index
from hashnet.retrieval.search.engine import Engine
from hashnet.retrieval.search.query import Query
from hashnet.retrieval.service import answers, limits, server, settings, uploads
from hashnet.retrieval.service import app as service
from hashnet.retrieval.service.public_ids import PublicIds
from hashnet.retrieval.service.thumbnails import Pictures
from hashnet.retrieval.service.work_queue import BusyError, WorkQueue
from hashnet.retrieval.store.items import Item
from hashnet.retrieval.store.roots import Roots
from tests import make_images

TABLES = itertools.count()
TOKEN = "0123456789abcdef0123456789abcdef"
ODD = 'ü <img src=x onerror="boom()"> #1 100%?\n.png'


@pytest.fixture(scope="module")
def folder(photos, tmp_path_factory):
    """The photos, one of an odd name, and one that says where it was taken."""
    folder = shutil.copytree(photos, tmp_path_factory.mktemp("service") / "p")
    odd = folder / "odd"
    odd.mkdir()
    shutil.copy(photos / "disc/0.png", odd / ODD)
    shutil.copy(photos / "ramp/0.png", os.fsencode(odd) + b"/\xff.png")
    (odd / "gps.jpg").write_bytes(with_gps(make_images.photo(300, 400)))
    return folder


def with_gps(image):
    data = Image.Exif()
    data[0x010F] = "SECRETMAKER"
    data.get_ifd(0x8825)[1] = "N"
    data.get_ifd(0x8825)[29] = "2001:02:03"
    return make_images.encoded(image, "JPEG", exif=data.tobytes(), quality=90)


@pytest.fixture(scope="module")
def index(folder, bundle_folder):
    index = folder.parent / "photos.index"
    arguments = ["index", index, folder, "--bundle", bundle_folder, "--label-from", "folder"]
    assert cli.main([str(argument) for argument in arguments]) == cli.DONE
    return index


KINDS = ["folder", pytest.param("chdb", marks=pytest.mark.thorough)]


def in_chdb(request, table):
    """The photos in a table, indexed as those in the folder are."""
    url = f"chdb://{request.getfixturevalue('chdb_folder')}/service/{table}"
    folder, bundle_folder = map(request.getfixturevalue, ("folder", "bundle_folder"))
    arguments = ["index", url, folder, "--bundle", bundle_folder, "--label-from", "folder"]
    assert cli.main([str(argument) for argument in arguments]) == cli.DONE
    return url


@pytest.fixture(scope="module", params=KINDS)
def place(request, index):
    """The same photos in each kind of index."""
    return index if request.param == "folder" else in_chdb(request, "photos")


class CheckingClient(TestClient):
    """A client that compares each answer with what the service's OpenAPI document says of it."""

    def request(self, method, url, **options):
        answer = super().request(method, url, **options)
        agrees_with_document(self.document, answer)
        return answer

    @functools.cached_property
    def document(self):
        return super().request("GET", "/openapi.json").json()


def agrees_with_document(document, answer):
    """The answer's status, type and fields are those that the document gives its operation."""
    path = urllib.parse.unquote(answer.request.url.raw_path.decode().partition("?")[0])
    if answer.status_code in (304, 405) or answer.request.method == "HEAD":
        return
    # The longest first: ids hold anything, and so look like what follows them.
    for template in sorted(document["paths"], key=len, reverse=True):
        operation = document["paths"][template].get(answer.request.method.lower())
        pattern = re.escape(template).replace(r"\{id\}", ".+")
        if operation is not None and re.fullmatch(pattern, path, re.DOTALL):
            break
    else:
        return  # of the page
    told = operation["responses"].get(str(answer.status_code))
    if told is None:  # what is said to any request before it is looked at
        assert answer.status_code in (400, 403, 404, 413, 416, 422, 500, 503), answer.text
        told = {"content": {"application/json": {"schema": PROBLEM}}}
    [(kind, content)] = told["content"].items()
    assert answer.headers["content-type"].partition(";")[0] == kind
    schema = content["schema"]
    if kind == "application/json":
        assert schema != {} and schema.get("type") != "string"
        schema = {**schema, "components": document["components"]}
        jsonschema.Draft202012Validator(schema).validate(answer.json())


PROBLEM = {"$ref": "#/components/schemas/Problem"}


def client_of(index, **options):
    app = service.create_app(index, settings.Settings(**options))
    return CheckingClient(app, base_url="http://localhost", raise_server_exceptions=False)


@pytest.fixture(scope="module")
def client(place):
    with client_of(place) as client:
        yield client


@contextlib.contextmanager
def writable_client(place):
    with client_of(place, token=TOKEN, refresh_seconds=0.05) as client:
        client.place = place
        yield client


@pytest.fixture
def writable(index, tmp_path):
    with writable_client(shutil.copytree(index, tmp_path / "copy.index")) as client:
        yield client


@pytest.fixture(params=KINDS)
def any_writable(request):
    if request.param == "folder":
        yield request.getfixturevalue("writable")
    else:
        with writable_client(in_chdb(request, f"t{next(TABLES)}")) as client:
            yield client


def bearer(token=TOKEN):
    return {"authorization": f"Bearer {token}"}


def upload(path_or_bytes, name="query.png"):
    content = path_or_bytes if isinstance(path_or_bytes, bytes) else path_or_bytes.read_bytes()
    return {"image": (name, content)}


def refused(answer, status):
    """The answer is a refusal of this status, in JSON, with no traces of the inside."""
    assert answer.status_code == status, answer.text
    message = answer.json()["error"]
    assert set(answer.json()) == {"error"} and isinstance(message, str) and message
    assert "Traceback" not in message and "/tmp" not in message
    return message


# --- What it answers --------------------------------------------------------------------------


def test_an_upload_is_searched_as_the_engine_does(client, place, folder):
    query = folder / "disc/1.png"
    answer = client.post("/api/search", files=upload(query), data={"k": 7, "pool": 10}).json()
    wanted = Engine(Index.open(place)).search(query, Query(k=7, pool=10)).to_dict()
    for hit in wanted["hits"]:
        del hit["path"]
        hit["distance"] = pytest.approx(hit["distance"], abs=1e-5)
    assert answer["hits"] == list(wanted["hits"])
    assert (answer["threshold"], answer["pool"]) == (wanted["threshold"], wanted["pool"])
    assert set(answer) == set(wanted) | {"histogram"}
    assert set(answer["milliseconds"]) == set(wanted["milliseconds"])
    assert answer["hits"][0]["id"] == "p/disc/1.png" and answer["hits"][0]["bits_apart"] == 0


def test_the_histogram_counts_every_image_that_may_be_found(client, index, folder):
    answer = client.get("/api/search", params={"id": "p/disc/0.png", "k": 100}).json()
    assert len(answer["histogram"]) == 33 and sum(answer["histogram"]) == 27
    apart = np.bincount([hit["bits_apart"] for hit in answer["hits"]], minlength=33)
    apart[0] += 1  # the image itself
    assert answer["histogram"] == apart.tolist()
    some = client.get("/api/search", params={"id": "p/disc/0.png", "label": ["ramp", "disc"]})
    assert sum(some.json()["histogram"]) == 12
    small = client.get("/api/search", params={"id": "p/disc/0.png", "threshold": 3}).json()
    assert small["pool"] == sum(small["histogram"][:3])


def test_ids_regions_labels_and_words(client, folder):
    by_id = client.get("/api/search", params={"id": "p/ramp/2.png", "k": 5}).json()
    assert by_id["query"] == "p/ramp/2.png" and len(by_id["hits"]) == 5
    assert "p/ramp/2.png" not in [hit["id"] for hit in by_id["hits"]]
    region = {"id": "p/ramp/2.png", "region": "0,0,30,40"}
    cut = client.get("/api/search", params=region).json()
    posted = client.post(
        "/api/search", files=upload(folder / "ramp/2.png"), data={"region": "0,0,30,40"}
    )
    assert cut["query"] == "p/ramp/2.png" and cut["hits"] == posted.json()["hits"]
    labels = {"id": "p/ramp/2.png", "label": ["disc", "checks"]}
    hits = client.get("/api/search", params=labels).json()["hits"]
    assert {hit["label"] for hit in hits} == {"disc", "checks"}
    for word in ("disc", "DISC"):
        hits = client.get("/api/search", params={"class": word, "k": 6}).json()["hits"]
        # One of the odd ones is a copy of a disc.
        assert {hit["label"] for hit in hits} <= {"disc", "odd"} and len(hits) == 6
    # "two" is a class that only the network knows.
    assert client.get("/api/search", params={"class": "two"}).json()["hits"]


def test_a_search_in_words_answers_as_python_does(client, place):
    answer = client.get("/api/search/text", params={"text": "DISC", "k": 3}).json()
    wanted = Index.open(place).search_text("DISC", k=3).to_dict()
    for hit in wanted["hits"]:
        del hit["path"]
        hit["ways"] = list(hit["ways"])
    assert answer["hits"] == list(wanted["hits"])
    for name in ("query", "found", "missing"):
        assert answer[name] == wanted[name]
    if "label" in answer["missing"]:  # of a table
        return
    assert answer["hits"][0]["label"] == "disc"
    assert answer["missing"]["ocr"] == "it was made without --ocr"
    narrowed = {"text": "disc", "ids": ["p/disc/1.png"], "label": "disc", "under": "p/disc"}
    hits = client.get("/api/search/text", params=narrowed).json()["hits"]
    assert [hit["id"] for hit in hits] == ["p/disc/1.png"]
    assert client.get("/api/search/text?text=chekcs").json()["suggestions"] == ["checks"]


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("?text=", 422),
        ("", 422),
        ("?text=%00%0a", 422),
        ("?text=" + "x" * 1001, 422),
        ("?text=disc&verify=true", 422),
        ("?text=disc&threshold=3", 422),
        ("?text=disc&k=0", 422),
        ("?text=disc&label=none", 404),
        ("?text=disc&ids=none", 404),
        ("?text=disc&under=none", 422),
    ],
)
def test_a_search_in_words_refuses_what_is_none(client, address, status):
    refused(client.get(f"/api/search/text{address}"), status)


def test_words_beside_a_picture_move_it_as_in_python(client, place, folder):
    index = Index.open(place)
    name = index.encoder.config.classes[0]
    asked = {"text": name, "text_weight": 0.8, "k": 5}
    by_id = client.get("/api/search", params={"id": "p/disc/0.png", **asked}).json()["hits"]
    posted = client.post("/api/search", files=upload(folder / "disc/0.png"), data=asked).json()
    for hits, query in ((by_id, index["p/disc/0.png"]), (posted["hits"], folder / "disc/0.png")):
        wanted = index.search(query, **asked)
        assert [hit["id"] for hit in hits] == [hit.id for hit in wanted]
        assert [hit.id for hit in wanted] != [hit.id for hit in index.search(query, k=5)]
    for wrong in ({"text": "unheard of"}, {"text": ""}, {"text": name, "text_weight": 1.5}):
        refused(client.get("/api/search", params={"id": "p/disc/0.png", **wrong}), 422)


def test_a_posted_search_takes_parameters_from_the_query_string_too(client, folder):
    query = upload(folder / "disc/0.png")
    options = {
        "k": 1,
        "label": ["ramp", "disc"],
        "ids": ["p/ramp/1.png", "p/checks/1.png"],
    }
    by_form = client.post("/api/search", files=query, data=options).json()
    by_address = client.post("/api/search", files=query, params=options).json()
    mixed = client.post("/api/search?k=1", files=query, data={**options, "k": []}).json()
    assert [hit["id"] for hit in by_form["hits"]] == ["p/ramp/1.png"] and by_form["pool"] == 1
    assert by_address["hits"] == by_form["hits"] == mixed["hits"]
    twice = client.post("/api/search?k=1", files=query, data={"k": 1})
    assert "k in both" in refused(twice, 422)
    assert "kk" in refused(client.post("/api/search?kk=1", files=query), 422)
    refused(client.post("/api/search?k=0", files=query), 422)
    # Without any, the defaults are those of `Query`.
    assert len(client.post("/api/search", files=query).json()["hits"]) == Query.k
    assert len(client.get("/api/search?id=p/disc/0.png").json()["hits"]) == Query.k


def test_a_form_has_no_fields_but_those_of_its_question(client, things, folder):
    query = upload(folder / "disc/0.png")
    message = refused(
        client.post("/api/search", files=query, data={"kk": "1", "treshold": "2"}), 422
    )
    assert "kk, treshold" in message and "threshold" in message.partition("They are")[2]
    refused(client.post("/api/search", files={"mask": b"picture"}), 422)
    pair = {"hit": "t/one.png", "hits": "t/one.png"}
    assert "hits" in refused(things.post("/api/matches", files=query, data=pair), 422)


def test_a_match_takes_no_parameter_from_where_it_is_not_looked_for(things):
    content = things.get("/api/images/t%2Fpart.png/picture?size=2000").content
    answer = things.post(
        "/api/matches?region=0,0,9,9", files=upload(content), data={"hit": "t/one.png"}
    )
    assert "region" in refused(answer, 422)


def test_feedback_reaches_the_engine(client, place, folder):
    marked = {
        "right": ["p/checks/1.png", "p/checks/2.png"],
        "wrong": ["p/disc/1.png"],
    }
    answer = client.get("/api/search", params={"id": "p/disc/0.png", "k": 9, **marked}).json()
    wanted = Engine(Index.open(place)).search_id("p/disc/0.png", Query(k=9, **marked))
    assert [hit["id"] for hit in answer["hits"]] == [hit.id for hit in wanted.hits]
    plain = client.get("/api/search", params={"id": "p/disc/0.png"}).json()
    assert plain["hits"] != answer["hits"]
    posted = client.post("/api/search", files=upload(folder / "disc/0.png"), data=marked).json()
    assert posted["histogram"] == answer["histogram"]


def test_info_health_list_and_metrics(client):
    info = client.get("/api/info").json()
    assert (info["items"], info["bits"], info["local"], info["writable"]) == (27, 32, None, False)
    assert info["grades"] is False and info["ocr"] is False
    assert {"name": "disc", "count": 6} in info["labels"]
    assert info["classes"] == ["one", "two", "three"]
    assert client.get("/healthz").json() == {"status": "ok", "items": 27}
    first = client.get("/api/images", params={"limit": 20}).json()
    rest = client.get("/api/images", params={"limit": 20, "offset": 20}).json()
    ids = [image["id"] for image in first["images"] + rest["images"]]
    assert first["total"] == 27 and len(set(ids)) == 27
    discs = client.get("/api/images", params={"label": "disc"}).json()
    assert discs["total"] == 6 and {image["label"] for image in discs["images"]} == {"disc"}
    text = client.get("/metrics").text
    assert "hashnet_images 27.0" in text
    assert 'hashnet_requests_total{endpoint="health",status="200"}' in text
    assert "disc" not in text


def test_lists_and_refusals_are_cut(index, tmp_path):
    """Of an index of very many labels, of which an answer once named all."""
    folder = shutil.copytree(index, tmp_path / "many.index")
    many = Index.open(folder)
    with many.store.writer() as writer, many.store.snapshot() as snapshot:
        ids = [snapshot.ids()[0]] * 1500
        items = [Item(f"p/many/{n}", label=f"label {n:04} {'x' * 60}") for n in range(len(ids))]
        writer.copy(items, ids)
    with client_of(folder, token=TOKEN) as client:
        info = client.get("/api/info").json()
        assert (info["num_labels"], len(info["labels"])) == (1505, settings.MAX_LISTED)
        assert info["labels"][0] == {"name": "checks", "count": 6}
        listed = client.get("/api/labels", params={"find": "LABEL 149", "limit": 3, "offset": 2})
        names = [label["name"][:10] for label in listed.json()["labels"]]
        assert listed.json()["total"] == 10
        assert names == ["label 1492", "label 1493", "label 1494"]
        for path in ("/api/images?label=unknown", "/api/search?id=p/disc/0.png&label=unknown"):
            message = refused(client.get(path), 404)
            assert "unknown" in message and len(message) <= answers.MAX_MESSAGE + 2
        start = time.process_time()
        message = refused(client.get("/api/search?class=label"), 404)
        assert len(message) < 1000 and time.process_time() - start < 1
        refused(client.get("/api/images", params={"label": "y" * settings.MAX_TEXT}), 404)
        gone = client.delete("/api/images?folder=p/many", headers=bearer()).json()
        assert gone["total"] == 1500 and len(gone["removed"]) == settings.MAX_LISTED


def test_every_operation_says_what_its_answer_holds(client):
    document = client.document
    for path, operations in document["paths"].items():
        for operation in operations.values():
            [(kind, content)] = operation["responses"]["200"]["content"].items()
            if path.endswith(("/thumbnail", "/picture", "/metrics")):
                assert kind in ("image/jpeg", "text/plain")
            else:
                name = content["schema"]["$ref"].rpartition("/")[2]
                described = document["components"]["schemas"][name]
                assert described["properties"] and described["additionalProperties"] is False


# An address for each route that answers GET.
ADDRESSES = {
    "/api/info": "/api/info",
    "/api/labels": "/api/labels?find=DISC",
    "/api/images": "/api/images?limit=5",
    "/api/search/text": "/api/search/text?text=disc",
    "/api/images/{id}": "/api/images/p%2Fdisc%2F0.png",
    "/api/images/{id}/thumbnail": "/api/images/p%2Fdisc%2F0.png/thumbnail?size=32",
    "/api/images/{id}/picture": "/api/images/p%2Fdisc%2F0.png/picture",
    "/api/matches": "/api/matches?query=p/disc/0.png&hit=p/disc/1.png",
    "/api/search": "/api/search?id=p/disc/0.png&k=3",
    "/healthz": "/healthz",
    "/metrics": "/metrics",
}
# They tell times and counts, so that no two answers need be of one length.
OF_ANY_LENGTH = ("/api/search", "/metrics")


def test_the_head_of_every_route_is_that_of_its_get(client):
    paths = client.get("/openapi.json").json()["paths"]
    gets = {path.replace("{id:any}", "{id}") for path, ways in paths.items() if "get" in ways}
    assert gets == set(ADDRESSES)
    others = ("/", "/openapi.json", "/static/app.js", "/static/none.js", "/nothing")
    wrong = ("/api/images?limit=0", "/api/images/none", "/api/search", "/healthz?k=3")
    for address in (*ADDRESSES.values(), *others, *wrong):
        asked, got = client.head(address), client.get(address)
        assert (asked.status_code, asked.content) == (got.status_code, b""), address
        heads = [dict(answer.headers) for answer in (asked, got)]
        lengths = [int(head.pop("content-length")) for head in heads]
        assert heads[0] == heads[1], address
        assert lengths[0] and lengths[1] == len(got.content), address
        assert lengths[0] == lengths[1] or address.startswith(OF_ANY_LENGTH), address
    assert client.head("/", headers={"host": "elsewhere.org"}).status_code == 400


@pytest.mark.parametrize("name", [ODD, "gps.jpg", "bytes"])
def test_any_id_round_trips(client, folder, name):
    shown = [image["id"] for image in client.get("/api/images?label=odd").json()["images"]]
    name = (
        next(one for one in shown if one.startswith("bytes:"))
        if name == "bytes"
        else f"p/odd/{name}"
    )
    assert name in shown
    quoted = urllib.parse.quote(name, safe="")
    assert client.get(f"/api/images/{quoted}").json()["id"] == name
    thumbnail = client.get(f"/api/images/{quoted}/thumbnail")
    assert thumbnail.headers["content-type"] == "image/jpeg"
    assert images.read(thumbnail.content).ndim == 3
    answer = client.get("/api/search", params={"id": name, "right": name}).json()
    assert answer["query"] == name
    hits = client.post("/api/search", files=upload(folder / "disc/0.png"), data={"right": name})
    assert hits.status_code == 200


def test_paths_are_shown_only_if_asked_for(client, index, folder):
    everything = [
        client.get(path).text
        for path in ("/api/info", "/api/images", "/api/search?class=disc", "/openapi.json")
    ]
    everything.append(client.get("/api/search?id=nothing").text)
    everything.append(client.post("/api/search", files=upload(b"bad")).text)
    assert not any(str(folder.parent) in text or "/tmp" in text for text in everything)
    with client_of(index, show_paths=True) as open_client:
        hit = open_client.get("/api/search?class=disc&k=1").json()["hits"][0]
        assert hit["path"] == str(folder.parent / hit["id"]) and hit["id"].startswith("p/")


class Ids(list):
    """What `PublicIds` asks of a snapshot."""

    roots = Roots(None)

    def id_ends(self, start):
        ids = [id for id in self if id.startswith(start)]
        return (min(ids), max(ids)) if ids else None

    def ids_outside(self, start):
        return [id for id in self if not id.startswith(start)]


def test_names_are_a_two_way_map():
    ids = ["/a/b/1.jpg", "/a/c/2.jpg", "b/1.jpg", "x", "/a/\udcff", "bytes:%zz", "/a/bytes:x", ""]
    within = ["/a/x", "/a//a/x", "/a/y"]  # without its folder, the second is the first
    names = PublicIds.of(Ids(within), b"key")
    assert [names.id(names.shown(id)) for id in within] == within
    for show_paths in (True, False):
        names = PublicIds() if show_paths else PublicIds.of(Ids(ids), b"key")
        shown = [names.shown(id) for id in ids]
        assert len(set(shown)) == len(ids)
        assert [names.id(name) for name in shown] == ids
        assert all(name.encode() or True for name in shown)  # nothing that UTF-8 has no place for
    assert "/a/" not in "".join(shown[1:2] + shown[2:])


def test_no_answer_names_a_folder_of_sources_that_are_unrelated(bundle_folder, folder, tmp_path):
    index = Index.create(tmp_path / "unrelated.index", bundle_folder)
    ids = ["/home/alice/secret/1.png", "/mnt/disk/private/1.png", "mine"]
    index.add([folder / "disc/0.png", folder / "ramp/0.png", folder / "disc/1.png"], ids=ids)
    with client_of(index.store.folder) as client:
        listed = client.get("/api/images")
        names = [image["id"] for image in listed.json()["images"]]
        assert names[2] == "mine" and all(name.endswith("/1.png") for name in names[:2])
        texts = [listed.text, client.get("/api/info").text]
        for name in names:
            quoted = urllib.parse.quote(name, safe="")
            assert client.get(f"/api/images/{quoted}").json()["id"] == name
            texts.append(client.get("/api/search", params={"id": name}).text)
        texts.append(client.get("/api/search?class=one").text)
        for part in ("home", "alice", "secret", "mnt", "disk", "private"):
            assert not any(part in text for text in texts)
        # Nor does it say whether there is a path that somebody guessed.
        refused(client.get("/api/search", params={"id": ids[0]}), 404)


def test_answers_carry_what_keeps_a_browser_safe(client):
    for path in ("/", "/api/info", "/nothing", "/static/nothing.js", "/api/search"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-cache"
        assert "access-control-allow-origin" not in headers


def test_matches_need_local_features(client):
    parameters = {"query": "p/disc/0.png", "hit": "p/disc/1.png"}
    assert "local" in refused(client.get("/api/matches", params=parameters), 409)
    assert "local" in refused(client.get("/api/search?id=p/disc/0.png&verify=true"), 409)


@pytest.fixture(scope="module", params=KINDS)
def things(request, tmp_path_factory, bundle_folder):
    """A client of an index with local features: two views of one thing, and another thing."""
    pytest.importorskip("cv2", reason="needs OpenCV: pip install hashnet[delf]")
    folder = tmp_path_factory.mktemp("top") / "t"
    folder.mkdir()
    coarse = np.random.default_rng(0).integers(0, 256, (2, 20, 26, 3), dtype=np.uint8)
    one, other = (images.resize(picture, (200, 260)) for picture in coarse)
    images.write(folder / "one.png", one)
    images.write(folder / "part.png", images.resize(one[20:190, 30:250], (204, 264)))
    images.write(folder / "other.png", other)
    place = folder / "index"
    if request.param == "chdb":
        place = f"chdb://{request.getfixturevalue('chdb_folder')}/service/things"
    index = Index.create(place, bundle_folder, local="sift")
    assert index.update([folder]).added == 3
    with client_of(place) as client:
        yield client


def test_matches_join_the_same_places_of_two_images(things):
    assert things.get("/api/info").json()["local"] == "sift"
    found = things.get("/api/matches", params={"query": "t/one.png", "hit": "t/part.png"}).json()
    one, part = (np.array(found[side]["yx"]) for side in ("query", "hit"))
    assert found["inliers"] == len(one) == len(part) > 20
    assert np.abs((one - (20, 30)) * (204 / 170, 264 / 220) - part).max() < 6
    assert things.get("/api/images/t%2Fpart.png").json()["height"] == 204
    none = things.get("/api/matches", params={"query": "t/one.png", "hit": "t/other.png"}).json()
    assert none["inliers"] < 8
    refused(things.get("/api/matches", params={"query": "t/one.png", "hit": "nothing"}), 404)


def test_an_upload_is_matched_and_a_region_of_either_query(things):
    content = things.get("/api/images/t%2Fpart.png/picture?size=2000").content
    found = things.post("/api/matches", files=upload(content), data={"hit": "t/one.png"}).json()
    part, one = (np.array(found[side]["yx"]) for side in ("query", "hit"))
    assert found["inliers"] == len(one) == len(part) > 20
    assert np.abs((one - (20, 30)) * (204 / 170, 264 / 220) - part).max() < 6
    box = {"region": "20,120,200,264"}
    by_id = things.get("/api/matches", params={"query": "t/part.png", "hit": "t/one.png", **box})
    posted = things.post("/api/matches", files=upload(content), data={"hit": "t/one.png", **box})
    for answer in (by_id, posted):
        inside, other = (np.array(answer.json()[side]["yx"]) for side in ("query", "hit"))
        # In pixels of the whole query, and from within the box only.
        assert len(inside) >= 8 and (inside >= (20, 120)).all() and (inside <= (200, 264)).all()
        assert np.abs((other - (20, 30)) * (204 / 170, 264 / 220) - inside).max() < 6
    for wrong in ("0,0,0,0", "0,0,999,9", "a"):
        one = {"query": "t/part.png", "hit": "t/one.png", "region": wrong}
        refused(things.get("/api/matches", params=one), 422)
        data = {"hit": "t/one.png", "region": wrong}
        refused(things.post("/api/matches", files=upload(content), data=data), 422)
    refused(
        things.post("/api/matches", files=upload(b"no picture"), data={"hit": "t/one.png"}),
        415,
    )
    refused(things.post("/api/matches", files=upload(content), data={"hit": "nothing"}), 404)
    refused(things.post("/api/matches", files=upload(content)), 422)


def test_verification_puts_the_same_thing_first(things):
    by_id = things.get("/api/search?id=t/one.png&verify=true").json()
    content = images.to_png(images.read(things.get("/api/images/t%2Fpart.png/picture").content))
    uploaded = things.post("/api/search", files=upload(content), data={"verify": "true"}).json()
    assert by_id["hits"][0]["id"] == "t/part.png" and by_id["hits"][0]["inliers"] > 20
    assert {hit["id"] for hit in uploaded["hits"][:2]} == {"t/one.png", "t/part.png"}
    assert uploaded["milliseconds"]["verify"] > 0


def test_the_same_object_is_found_by_the_local_pool(things):
    by_id = things.get("/api/search?id=t/one.png&same_object=true").json()
    content = images.to_png(images.read(things.get("/api/images/t%2Fpart.png/picture").content))
    uploaded = things.post(
        "/api/search", files=upload(content), data={"same_object": "true"}
    ).json()
    assert by_id["hits"][0]["id"] == "t/part.png" and by_id["hits"][0]["inliers"] > 20
    assert {hit["id"] for hit in uploaded["hits"][:2]} == {"t/one.png", "t/part.png"}
    assert uploaded["threshold"] is None and uploaded["pool"] >= 2
    assert uploaded["milliseconds"]["verify"] > 0
    for other in ("verify=true", "threshold=9", "pool=9", "right=t/part.png"):
        message = refused(things.get(f"/api/search?id=t/one.png&same_object=true&{other}"), 422)
        assert other.split("=")[0] in message


@pytest.mark.thorough
def test_an_index_of_before_is_verified_and_has_no_local_pool(bundle_folder, tmp_path, monkeypatch):
    pytest.importorskip("cv2", reason="needs OpenCV: pip install hashnet[delf]")
    from hashnet.retrieval.store.folder import store

    real = store.Catalogue
    with monkeypatch.context() as patch:
        patch.setattr(
            store, "Catalogue", lambda **facts: real(**facts | {"word_runs": None, "texts": False})
        )
        index = Index.create(tmp_path / "index", bundle_folder, local="sift")
    photo = tmp_path / "one.png"
    images.write(photo, make_images.photo(200, 260))
    assert index.add([str(photo)], ids=["a"]).added == 1
    assert index.info()["format_version"] == 5
    with client_of(tmp_path / "index") as client:
        assert client.get("/api/search?id=a&verify=true").status_code == 200
        assert "anew" in refused(client.get("/api/search?id=a&same_object=true"), 409)


# --- What it refuses --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "status"),
    [
        ({}, 422),
        ({"id": "p/disc/0.png", "class": "disc"}, 422),
        ({"id": "nothing"}, 404),
        ({"class": "nothing"}, 404),
        ({"id": "p/disc/0.png", "label": "nothing"}, 404),
        ({"id": "p/disc/0.png", "right": "nothing"}, 404),
        ({"id": "p/disc/0.png", "ids": ["nothing", "no more"]}, 404),
        ({"id": "p/disc/0.png", "kk": 3}, 422),
        ({"id": "p/disc/0.png", "threshold": 0}, 422),
        ({"id": "p/disc/0.png", "k": 0}, 422),
        ({"id": "p/disc/0.png", "k": 10**9}, 422),
        ({"id": "p/disc/0.png", "threshold": -1}, 422),
        ({"id": "p/disc/0.png", "threshold": 1.5}, 422),
        ({"id": "p/disc/0.png", "threshold": 3, "pool": 3}, 422),
        ({"id": "p/disc/0.png", "region": "0,0,0,0"}, 422),
        ({"id": "p/disc/0.png", "region": "0,0,999,9"}, 422),
        ({"id": "p/disc/0.png", "region": "a"}, 422),
        ({"class": "disc", "region": "0,0,9,9"}, 422),
        ({"class": "disc", "verify": "true"}, 409),
        ({"id": "p/disc/0.png", "same_object": "true"}, 409),
        ({"id": "p/disc/0.png", "after": "2020"}, 409),
        ({"id": "p/disc/0.png", "right": ["x"] * 201}, 422),
        ({"id": "x" * 5000}, 422),
    ],
)
def test_parameters_out_of_range(client, parameters, status):
    refused(client.get("/api/search", params=parameters), status)


@pytest.mark.parametrize(
    "content",
    [b"", b"no picture", make_images.jpeg_header(), make_images.png_bomb()],
    ids=["empty", "text", "huge header", "bomb"],
)
def test_what_is_no_picture(client, content):
    refused(client.post("/api/search", files=upload(content)), 415)


def test_who_sends_too_many_pixels_is_told_what_they_can_do(client, monkeypatch):
    monkeypatch.setattr(uploads, "MAX_PIXELS", 100)
    for kind in ("PNG", "JPEG"):  # of which the latter could be reduced
        content = make_images.encoded(make_images.photo(60, 80), kind)
        answer = client.post("/api/search", files=upload(content))
        refused(answer, 415)
        said = answer.json()["error"]
        assert "no more than 100 pixels" in said and "80 x 60 pixels" in said
        assert said.endswith("Send a smaller copy of it.")


def test_malformed_forms(client):
    """Fault 33: 10,000 parts, a field without a file name, and what is no form at all."""
    refused(client.post("/api/search", data={"k": 3}), 400)
    text = client.post("/api/search", data={"image": "a field without a file name"})
    refused(text, 400)
    said = "A picture is sent as a file, and this is text; with curl: -F image=@cat.jpg."
    assert text.json() == {"error": f"image: {said}"}
    head = {"content-type": "multipart/form-data; boundary=x"}
    refused(client.post("/api/search", content=b"--x\r\nnonsense", headers=head), 400)
    refused(client.post("/api/search", content=b"{}", headers={"content-type": "text/json"}), 400)
    fields = "".join(
        f'--x\r\ncontent-disposition: form-data; name="f{n}"\r\n\r\nv\r\n' for n in range(10_000)
    )
    start = time.process_time()
    refused(client.post("/api/search", content=f"{fields}--x--".encode(), headers=head), 400)
    assert time.process_time() - start < 2  # they are not read to their end
    assert client.get("/healthz").status_code == 200
    two = [("image", ("a", b"a")), ("image", ("b", b"b"))]
    refused(client.post("/api/search", files=two), 400)


def test_other_hosts_and_pages_of_other_sites(index, client):
    for host in ("evil.example", "127.0.0.1.evil.example", "", "localhost.evil:80", "[::1]evil"):
        refused(client.get("/api/info", headers={"host": host}), 400)
    for host in ("127.0.0.1:8000", "[::1]:8000", "localhost", "LOCALHOST:1"):
        assert client.get("/api/info", headers={"host": host}).status_code == 200
    origin = {"origin": "http://evil.example"}
    refused(client.post("/api/search", files=upload(b""), headers=origin), 403)
    refused(client.get("/api/info", headers={"origin": "null"}), 403)
    assert client.get("/api/info", headers={"origin": "http://localhost"}).status_code == 200
    with client_of(index, hosts=("photos.example",)) as named:
        assert named.get("/api/info", headers={"host": "photos.example"}).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/api/images/..%2F..%2F..%2Fetc%2Fpasswd",
        "/api/images/%2Fetc%2Fpasswd/thumbnail",
        "/api/images/%2Fetc%2Fpasswd/picture",
        "/api/images/%252e%252e%252fetc%252fpasswd",
        "/api/images/p%2Fdisc%2F0.png%00",
        "/api/images/%00/thumbnail",
        "/api/images/" + "x" * 9000,
        "/static/..%2Fapp.py",
        "/static/%2e%2e/app.py",
        "/static/%2Fetc%2Fpasswd",
        "/static/..%5c..%5capp.py",
        "/../../etc/passwd",
        "/api/search?id=%2Fetc%2Fpasswd",
        "/api/search?id=%00",
    ],
)
def test_no_path_leads_out(client, path):
    """Fault 34."""
    answer = client.get(path)
    assert answer.status_code in (400, 404, 422) and "root:" not in answer.text
    assert "import" not in answer.text


def test_ranges_cost_nothing(client):
    """Fault 34: no more than one range, and that one is answered in whole."""
    many = {"range": "bytes=" + ",".join(f"{n}-" for n in range(10_000))}
    start = time.perf_counter()
    refused(client.get("/", headers=many), 416)
    refused(client.get("/static/app.js", headers=many), 416)
    assert time.perf_counter() - start < 1
    assert client.get("/", headers={"range": "bytes=0-1"}).status_code == 200


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1/x.png", "http://169.254.169.254/", "http://[::1]/", "file:///etc/passwd"],
)
def test_nothing_is_fetched(client, url, monkeypatch):
    """Fault 35: a URL is no query; as an id it is only an id."""
    monkeypatch.setattr(socket, "create_connection", lambda *_: pytest.fail("it was fetched"))
    refused(client.get("/api/search", params={"id": url}), 404)
    refused(client.post("/api/search", data={"image": url}), 400)
    refused(client.post("/api/search", data={"url": url}), 422)
    quoted = urllib.parse.quote(url, safe="")
    refused(client.get(f"/api/images/{quoted}/thumbnail"), 404)


def test_uploads_leave_nothing_and_pictures_say_nothing(client, folder, tmp_path, monkeypatch):
    """Fault 36."""
    before = set(folder.parent.rglob("*"))
    content = (folder / "odd/gps.jpg").read_bytes()
    assert b"SECRETMAKER" in content
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    large = images.to_png(np.random.default_rng(0).integers(0, 256, (700, 700, 3), np.uint8))
    assert len(large) > 2**20  # too much to be held in memory by who reads forms
    assert client.post("/api/search", files=upload(large)).status_code == 200
    assert list(tmp_path.iterdir()) == []
    answer = client.post("/api/search", files=upload(content, "<img onerror=x>.jpg"))
    assert answer.json()["query"] == "image" and "onerror=x" not in answer.text
    assert set(folder.parent.rglob("*")) == before
    for kind in ("thumbnail", "picture"):
        picture = client.get(f"/api/images/p%2Fodd%2Fgps.jpg/{kind}")
        assert picture.status_code == 200
        assert b"SECRETMAKER" not in picture.content and b"Exif" not in picture.content
        assert not Image.open(io.BytesIO(picture.content)).getexif()


def test_sizes_of_pictures(client):
    def size(path):
        return Image.open(io.BytesIO(client.get(path).content)).size

    assert size("/api/images/p%2Fodd%2Fgps.jpg/thumbnail?size=100") == (100, 75)
    assert size("/api/images/p%2Fodd%2Fgps.jpg/picture") == (400, 300)
    refused(client.get("/api/images/p%2Fodd%2Fgps.jpg/thumbnail?size=99999"), 422)
    refused(client.get("/api/images/nothing/thumbnail"), 404)


def test_pictures_are_remembered_within_bounds(folder):
    pictures = Pictures(20_000, Decoders(1))
    paths = [str(path) for path in sorted(folder.glob("checks/*.png"))]
    first = pictures.jpeg(paths[0], 64, remember=True)
    for path in paths * 3:
        pictures.jpeg(path, 64, remember=True)
        assert pictures._held == sum(map(len, pictures._known.values())) <= 20_000
    assert pictures.jpeg(paths[0], 64, remember=True) == first


# --- Changes ----------------------------------------------------------------------------------


def test_changes_need_the_token(client, any_writable, folder):
    writable = any_writable
    one = {"files": upload(folder / "disc/0.png"), "data": {"id": "new"}}
    refused(client.post("/api/images", **one), 403)
    refused(client.delete("/api/images/p%2Fdisc%2F0.png"), 403)
    for headers in ({}, bearer("wrong"), bearer(""), {"authorization": TOKEN}, bearer(TOKEN[:-1])):
        refused(writable.post("/api/images", headers=headers, **one), 401)
        refused(writable.delete("/api/images/p%2Fdisc%2F0.png", headers=headers), 401)
    assert writable.get("/healthz").json()["items"] == 27


def test_add_and_remove(any_writable, folder):
    writable = any_writable
    data = {"id": "new/ü 1", "label": "fresh"}
    added = writable.post(
        "/api/images", files=upload(folder / "disc/0.png"), data=data, headers=bearer()
    )
    assert added.json() == {"id": "new/ü 1", "label": "fresh", "bytes": None}
    assert writable.get("/healthz").json()["items"] == 28
    assert {"name": "fresh", "count": 1} in writable.get("/api/info").json()["labels"]
    hits = writable.get("/api/search", params={"id": "p/disc/0.png", "k": 2}).json()["hits"]
    assert "new/ü 1" in [hit["id"] for hit in hits]
    # Its bytes were not kept.
    refused(writable.get("/api/images/new%2F%C3%BC%201/thumbnail"), 404)
    gone = writable.delete("/api/images/new%2F%C3%BC%201", headers=bearer())
    assert gone.json() == {"removed": "new/ü 1"}
    refused(writable.delete("/api/images/new%2F%C3%BC%201", headers=bearer()), 404)
    bad = writable.post("/api/images", files=upload(b"bad"), data=data, headers=bearer())
    refused(bad, 415)
    assert writable.get("/healthz").json()["items"] == 27
    assert writable.get("/api/images/p%2Fdisc%2F0.png/thumbnail").status_code == 200


def test_folders_patterns_and_labels_are_removed_by_their_public_names(any_writable):
    writable, url = any_writable, "/api/images"

    def removed(**parameters):
        answer = writable.delete(url, params=parameters, headers=bearer())
        assert answer.status_code == 200
        return answer.json()["removed"]

    before = writable.get("/healthz").json()["items"]
    checks = [f"p/checks/{number}.png" for number in range(6)]
    assert removed(folder="p/checks", dry_run=True) == checks
    assert removed(folder="p/checks", label="disc") == removed(folder="p/che") == []
    assert removed(pattern="/p/checks/[12].png") == checks[1:3]
    assert removed(folder="p/checks", label=["checks", "disc"]) == [checks[0], *checks[3:]]
    assert removed(pattern="3.png", label="ramp") == ["p/ramp/3.png"]
    assert removed(label="disc", dry_run=True) == [f"p/disc/{number}.png" for number in range(6)]
    assert writable.get("/healthz").json()["items"] == before - 7
    refused(writable.delete(url, headers=bearer()), 422)
    refused(writable.delete(url, params={"pattern": "!"}, headers=bearer()), 422)
    refused(writable.delete(url, params={"folder": "p/disc"}), 401)


def test_a_writer_elsewhere_is_waited_for_by_the_client(writable, folder):
    """Faults 27 and 28: who writes gets 503, who searches is served; a stale lock is none."""
    one = {"files": upload(folder / "disc/0.png"), "data": {"id": "new"}, "headers": bearer()}
    with Index.open(writable.place).store.writer():
        answer = writable.post("/api/images", **one)
        refused(answer, 503)
        assert answer.headers["retry-after"] == "1"
        assert writable.get("/api/search?id=p/disc/0.png").status_code == 200
    (writable.place / "lock").write_text("process 999999 on elsewhere")
    assert writable.post("/api/images", **one).status_code == 200


def wait_for(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def test_what_others_commit_is_served_without_downtime(any_writable, folder):
    """Fault 30: an index that is being built is searched meanwhile."""
    writable = any_writable
    answers = []
    stop = threading.Event()

    def ask():
        while not stop.is_set():
            answers.append(writable.get("/api/search?id=p/disc/0.png").status_code)

    asking = threading.Thread(target=ask)
    asking.start()
    index = Index.open(writable.place)
    try:
        for number in range(5):
            index.add([folder / "ramp/0.png"], ids=[f"more {number}"], labels=["more"])
        wait_for(lambda: writable.get("/healthz").json()["items"] == 32)
    finally:
        stop.set()
        asking.join()
    assert set(answers) == {200}
    with index.store.writer() as writer:
        writer.compact()
    assert writable.get("/api/search?id=p/disc/0.png").status_code == 200


def test_an_index_that_cannot_be_read_any_more_leaves_the_last_version(writable, caplog):
    """Faults 29 and 31: of a newer format, or with another model inside; the old one serves on."""
    catalogue = writable.place / "catalogue.sqlite"
    whole = catalogue.read_bytes()
    catalogue.write_bytes(whole[:100] + bytes(len(whole) - 100))
    wait_for(lambda: "cannot be read" in caplog.text)
    assert writable.get("/api/search?id=p/disc/0.png").status_code == 200
    assert writable.get("/healthz").json()["items"] == 27
    time.sleep(0.5)  # it is looked at again, and again
    assert caplog.text.count("cannot be read") == 1
    catalogue.write_bytes(whole)
    with contextlib.closing(sqlite3.connect(catalogue)) as connection, connection:
        connection.execute("PRAGMA user_version = 99")
    caplog.clear()
    wait_for(lambda: "Upgrade" in caplog.text)
    assert writable.get("/api/search?id=p/disc/0.png").status_code == 200


@pytest.mark.thorough
def test_an_indexing_that_is_killed_and_goes_on_is_served_throughout(writable, folder):
    """Faults 28 and 30: what was committed is found, its lock is nobody's, and others go on."""
    code = (
        "import sys; from hashnet.retrieval.index import Index; index = Index.open(sys.argv[1])\n"
        "for number in range(1000):\n"
        "    index.add([sys.argv[2]], ids=[f'more {number}']); print(number, flush=True)"
    )
    command = [sys.executable, "-c", code, writable.place, folder / "ramp/0.png"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        for number in range(3):
            assert child.stdout.readline() == f"{number}\n"
            assert writable.get("/api/search?id=p/disc/0.png").status_code == 200
    finally:
        child.kill()
        child.communicate()
    index = Index.open(writable.place)
    committed = len(index)
    assert committed >= 30
    wait_for(lambda: writable.get("/healthz").json()["items"] == committed)
    one = {"files": upload(folder / "disc/0.png"), "data": {"id": "new"}, "headers": bearer()}
    assert writable.post("/api/images", **one).status_code == 200
    assert writable.get("/healthz").json()["items"] == committed + 1
    assert index.store.check() == []


def test_a_damaged_feature_is_an_error_and_not_another_answer(index, tmp_path):
    copy = shutil.copytree(index, tmp_path / "copy.index")
    [features] = (copy / "segments").glob("*.features")
    data = bytearray(features.read_bytes())
    data[100] ^= 1
    features.write_bytes(data)
    with client_of(copy) as client:
        answers = [
            client.get("/api/search", params={"class": word, "k": 27}) for word in ("disc", "ramp")
        ]
        assert {answer.status_code for answer in answers} == {503}
        assert all(str(tmp_path) not in answer.text for answer in answers)
        assert client.get("/healthz").status_code == 200


def test_an_index_of_a_newer_format_or_with_a_broken_model_is_not_served(index, tmp_path):
    """Faults 29 and 31."""
    copy = shutil.copytree(index, tmp_path / "newer.index")
    with contextlib.closing(sqlite3.connect(copy / "catalogue.sqlite")) as connection, connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(HashnetError, match="Upgrade"):
        service.create_app(copy)
    copy = shutil.copytree(index, tmp_path / "broken.index")
    model = copy / "encoder/encoder.onnx"
    whole = model.read_bytes()
    sentinel = tmp_path / "sentinel"
    calls = f"cos\nsystem\n(S'touch {sentinel}'\ntR.".encode()  # a pickle
    for content in (whole[:-1] + b"x", whole[: len(whole) // 2], b"", calls):
        model.write_bytes(content)
        with pytest.raises(HashnetError):
            service.create_app(copy)
    assert not sentinel.exists()


def test_an_index_with_a_broken_model_does_not_take_the_place_of_one_that_serves(
    writable, folder, caplog
):
    """Fault 31."""
    other = writable.place.with_name("other")
    Index.create(other, writable.place / "encoder", feature_dtype="float32")
    (other / "encoder/encoder.onnx").write_bytes(b"no model")
    with contextlib.closing(sqlite3.connect(other / "catalogue.sqlite")) as connection, connection:
        connection.execute("UPDATE facts SET fingerprint = 'another'")
    writable.place.rename(writable.place.with_name("away"))
    other.rename(writable.place)
    wait_for(lambda: "cannot be read" in caplog.text)
    assert writable.get("/healthz").json()["items"] == 27
    assert writable.get("/api/search?class=disc").status_code == 200
    assert writable.post("/api/search", files=upload(folder / "disc/0.png")).status_code == 200


# --- Under pressure ---------------------------------------------------------------------------


def test_a_full_queue_sends_away_and_an_abandoned_task_keeps_its_place():
    import asyncio

    release = threading.Event()

    async def main():
        queue = WorkQueue("test", workers=1, capacity=2, seconds=0.2)
        tasks = [asyncio.create_task(queue.run(release.wait)) for _ in range(2)]
        await asyncio.sleep(0.05)
        with pytest.raises(BusyError, match="busy"):
            await queue.run(int)
        for task in tasks:
            with pytest.raises(BusyError, match="within"):
                await task
        assert queue.size() == 1  # the one that runs still does; the one that waited is gone
        release.set()
        while queue.size():
            await asyncio.sleep(0.01)
        assert await queue.run(int, "7") == 7
        queue.close()
        with pytest.raises(BusyError, match="stopping"):
            await queue.run(int)

    asyncio.run(main())


def test_work_that_nobody_waits_for_any_more_holds_nothing():
    import asyncio
    import gc
    import weakref

    class Body:
        """Of a request."""

    release, ran = threading.Event(), []

    async def main():
        queue = WorkQueue("test", workers=1, capacity=4, seconds=0.1)
        bodies = [Body() for _ in range(3)]
        gone = [weakref.ref(body) for body in bodies]
        running = asyncio.create_task(queue.run(release.wait))
        await asyncio.sleep(0.02)
        tasks = [asyncio.create_task(queue.run(ran.append, body)) for body in bodies]
        del bodies
        for task in [running, *tasks]:
            with pytest.raises(BusyError):
                await task
        del task, tasks, running
        await asyncio.sleep(0)  # the loop lets go of the one it has just woken
        held = [one() for one in gone]
        release.set()
        while queue.size():
            await asyncio.sleep(0.01)
        assert await queue.run(int, "7") == 7
        queue.close()
        assert held == [None] * 3 and ran == []

    gc.disable()
    try:
        asyncio.run(main())
    finally:
        gc.enable()


def test_a_busy_service_says_when_to_come_back(index, folder, monkeypatch):
    release = threading.Event()
    search = Engine.search

    def slow(self, *args, **options):
        release.wait(20)
        return search(self, *args, **options)

    monkeypatch.setattr(Engine, "search", slow)
    with client_of(index, workers=1, capacity=3) as client:
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            asked = [
                pool.submit(client.post, "/api/search", files=upload(folder / "disc/0.png"))
                for _ in range(8)
            ]
            concurrent.futures.wait(asked, timeout=1)
            sent_away = [one.result() for one in asked if one.done()]
            assert len(sent_away) == 5
            for answer in sent_away:
                refused(answer, 503)
                assert answer.headers["retry-after"] == "1"
            assert client.get("/healthz").status_code == 200
            assert client.get("/api/images/p%2Fdisc%2F0.png/thumbnail").status_code == 200
            release.set()
            assert sorted(one.result().status_code for one in asked) == [200] * 3 + [503] * 5


def test_bodies_together_are_bounded(index, folder):
    with client_of(index, body_bytes=10_000, bodies_bytes=5_000) as client:
        refused(client.post("/api/search", files=upload(bytes(8_000))), 503)
        refused(client.post("/api/search", files=upload(bytes(20_000))), 413)
        answer = client.post("/api/search", files=upload(b"small"))
        refused(answer, 415)  # what the others held was given back


@pytest.mark.thorough
def test_every_answer_agrees_with_the_openapi_document(index):
    """Requests made up from the service's own description: no crash, no answer out of it."""
    schemathesis = pytest.importorskip("schemathesis")
    import hypothesis

    app = service.create_app(index, settings.Settings(token=TOKEN))
    with CheckingClient(app, base_url="http://localhost") as client:
        document = client.document
        schema = schemathesis.openapi.from_dict(document)
        for result in schema.get_all_operations():
            operation = result.ok()

            @hypothesis.given(case=operation.as_strategy())
            @hypothesis.settings(
                max_examples=6,
                deadline=None,
                derandomize=True,
                database=None,
                suppress_health_check=list(hypothesis.HealthCheck),
            )
            def ask(case):
                sent = case.as_transport_kwargs(base_url="http://localhost")
                sent.pop("cookies", None)
                headers = {
                    name: value
                    for name, value in (sent.pop("headers", None) or {}).items()
                    if name.lower() not in ("host", "origin")
                }
                answer = client.request(**sent, headers=headers)
                assert answer.status_code < 500, answer.text
                documented = case.operation.definition.raw["responses"]
                assert str(answer.status_code) in documented, (answer.status_code, answer.text)
                if answer.status_code >= 400:
                    assert set(answer.json()) == {"error"}

            ask()


SECONDS = 3  # enough for a search on a busy machine


@pytest.fixture
def database(request):
    """A client of an index in a database, its statements in the hands of the test."""
    pytest.importorskip("chdb")
    from hashnet.retrieval.store.clickhouse import connection

    url = in_chdb(request, f"t{next(TABLES)}")
    settings = {"workers": 1, "seconds": SECONDS, "token": TOKEN, "refresh_seconds": 0.05}
    ask, before = connection.Connection.ask, []

    def asked(self, *args, **options):
        for hook in before:
            hook()
        return ask(self, *args, **options)

    with pytest.MonkeyPatch.context() as patch, client_of(url, **settings) as client:
        patch.setattr(connection.Connection, "ask", asked)
        client.before = before
        yield client
        before.clear()


SEARCHES = [
    "/api/search?id=p%2Fdisc%2F0.png",
    "/api/search?class=disc",
    "/api/images",
    "/api/images/p%2Fdisc%2F0.png",
    "/api/images/p%2Fdisc%2F0.png/thumbnail",
]


@pytest.mark.thorough
def test_a_slow_database_is_a_503_in_time_and_keeps_nobody_waiting(database, folder):
    """Fault 36: an answer late is none, and what needs no database is served meanwhile."""
    release = threading.Event()
    database.before.append(lambda: release.wait(20))
    with concurrent.futures.ThreadPoolExecutor(len(SEARCHES) + 2) as pool:
        start = time.monotonic()
        asked = [pool.submit(database.get, path) for path in SEARCHES]
        content = upload(folder / "disc/0.png")
        asked.append(pool.submit(database.post, "/api/search", files=content))
        more = {"files": content, "data": {"id": "new"}, "headers": bearer()}
        asked.append(pool.submit(database.post, "/api/images", **more))
        times = []
        while not all(one.done() for one in asked):
            before = time.monotonic()
            for path in ("/healthz", "/api/info", "/"):
                assert database.get(path).status_code == 200
            times.append(time.monotonic() - before)
        assert time.monotonic() - start < 4 * SECONDS and max(times) < SECONDS
    for one in asked:
        refused(one.result(), 503)
        assert one.result().headers["retry-after"] == "1"
    release.set()
    database.before.clear()
    wait_for(lambda: database.get(SEARCHES[0]).status_code == 200, 30)


@pytest.mark.thorough
def test_a_database_that_is_down_is_a_503_until_it_is_back(database, caplog):
    """Fault 36: no answer in part; the last version is served on once the database is there."""

    def down():
        raise BackendError("The database is used while it answers.", "db.example refused", "Wait.")

    database.before.append(down)
    for path in SEARCHES:
        answer = database.get(path)
        assert "database" in refused(answer, 503) and "db.example" not in answer.text
        assert answer.headers["retry-after"] == "1"
    gone = database.delete("/api/images/p%2Fdisc%2F0.png", headers=bearer())
    assert "database" in refused(gone, 503)
    assert "db.example" in caplog.text  # for who runs the service
    assert database.get("/healthz").json()["items"] == 27
    database.before.clear()
    for path in SEARCHES:
        wait_for(lambda path=path: database.get(path).status_code == 200, 30)


@pytest.mark.thorough
def test_a_database_that_fails_halfway_gives_no_answer_in_part(database):
    """Fault 36: whichever of a search's statements it is that fails."""
    wait_for(lambda: database.get(SEARCHES[0]).status_code == 200, 30)  # the machine may be busy
    statements = itertools.count()
    database.before.append(lambda: next(statements))
    whole = database.get(SEARCHES[0]).json()
    database.before.clear()

    def fail(left):
        def hook():
            if not next(left):
                raise BackendError("The database is used while it answers.", "timeout", "Wait.")

        return hook

    for number in range(next(statements)):
        database.before[:] = [fail(iter(range(number, -(10**6), -1)))]
        answer = database.get(SEARCHES[0])
        if answer.status_code == 503:
            assert set(answer.json()) == {"error"}
        else:  # a refresh of the view asked in between
            assert answer.json()["hits"] == whole["hits"]


# --- The process ------------------------------------------------------------------------------


@contextlib.contextmanager
def process(index, *arguments, before=None, **environment):
    """`hashnet serve` as a process: gives it and its URL; `before` runs in it at first."""
    code = "import sys; from hashnet import cli; sys.exit(cli.main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "serve", str(index), "--port", "0", *arguments]
    child = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
        preexec_fn=before,  # noqa: PLW1509  it makes one system call
    )
    try:
        line = child.stdout.readline()
        assert " at http" in line, child.stderr.read()
        yield child, re.search(r"http://\S+?(?=/ )", line)[0]
    finally:
        child.kill()
        child.communicate()


@pytest.fixture(scope="module")
def running(index):
    with process(index) as (child, url):
        yield child, url


def memory(child):
    """Peak resident memory of a process, bytes."""
    with open(f"/proc/{child.pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024


def test_bodies_over_the_limit(running, folder):
    """Fault 33: with and without Content-Length; others are served, memory stays."""
    child, url = running
    limit = settings.Settings().body_bytes
    before = memory(child)

    def endless():
        yield b'--x\r\ncontent-disposition: form-data; name="image"; filename="a"\r\n\r\n'
        for _ in range(limit // 2**20 + 8):
            yield bytes(2**20)

    head = {"content-type": "multipart/form-data; boundary=x"}
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        slow = pool.submit(
            httpx2.post, url + "/api/search", content=endless(), headers=head, timeout=30
        )
        assert httpx2.get(url + "/healthz").elapsed.total_seconds() < 2
        refused(slow.result(), 413)
    refused(httpx2.post(url + "/api/search", content=bytes(limit + 1), headers=head), 413)
    address = urllib.parse.urlsplit(url)
    with socket.create_connection((address.hostname, address.port), 5) as connection:
        connection.sendall(
            b"POST /api/search HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99999999999\r\n"
            b"expect: 100-continue\r\n\r\n"
        )
        assert connection.recv(100).startswith(b"HTTP/1.1 413")
    assert memory(child) - before < 4 * limit


def test_a_hundred_slow_clients_keep_nobody_waiting(running, folder):
    """Fault 33: a byte a second, in the head or in the body."""
    _, url = running
    address = urllib.parse.urlsplit(url)
    head = b"POST /api/search HTTP/1.1\r\nhost: localhost\r\ncontent-type: multipart/form-data; "
    body = head + b"boundary=x\r\ncontent-length: 1000\r\n\r\n-"
    with contextlib.ExitStack() as stack:
        slow = [
            stack.enter_context(socket.create_connection((address.hostname, address.port), 15))
            for _ in range(100)
        ]
        for number, connection in enumerate(slow):
            connection.sendall(body if number % 2 else head)
        start = time.monotonic()
        for _ in range(5):
            answer = httpx2.post(
                url + "/api/search", files=upload(folder / "disc/0.png"), timeout=10
            )
            assert answer.status_code == 200
        assert time.monotonic() - start < 8
        while time.monotonic() - start < server.HEADER_SECONDS + 1:
            for connection in slow[::2]:
                with contextlib.suppress(OSError):
                    connection.sendall(b"x")
            time.sleep(0.5)
        assert slow[0].recv(100).startswith(b"HTTP/1.1 408")


@contextlib.contextmanager
def served(app):
    """An application on a port, in a thread of this process."""
    import uvicorn

    with server.listen("127.0.0.1", 0) as listening:
        config = uvicorn.Config(app, http=server._Connection, lifespan="off", log_level="critical")
        running = uvicorn.Server(config)
        thread = threading.Thread(target=running.run, args=[[listening]])
        thread.start()
        try:
            yield listening.getsockname()
        finally:
            running.should_exit = True
            thread.join()


def connected(address, source="127.0.0.1"):
    connection = socket.create_connection(address, 10, (source, 0))
    connection.sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
    return connection


def read(connection, most=2**40, pause=0.0):
    """How many bytes come until the connection ends, or is cut off."""
    count = 0
    with contextlib.suppress(ConnectionError):
        while count < most and (content := connection.recv(2**16)):
            count += len(content)
            time.sleep(pause)
    return count


def much(size):
    """An application that answers with so many bytes, and forgets none of its clients."""

    async def app(_scope, _receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": bytes(size)})

    return app


def test_a_client_that_takes_nothing_is_cut_off_and_a_slow_one_is_not(monkeypatch):
    monkeypatch.setattr(server, "SENDING_SECONDS", 0.2)
    size = 24 * 2**20  # more than systems keep for a client
    with served(much(size)) as address, connected(address) as idle, connected(address) as slow:
        assert read(slow, size, pause=0.002) >= size
        time.sleep(0.3)
        assert 0 < read(idle) < size


def test_one_client_leaves_connections_to_others(monkeypatch):
    monkeypatch.setattr(server, "CONNECTIONS_A_CLIENT", 3)
    with served(much(10)) as address, contextlib.ExitStack() as stack:
        for _ in range(3):
            assert read(stack.enter_context(connected(address)), 1)
        with connected(address) as refused_one:
            assert not read(refused_one, 1)
        with connected(address, "127.0.0.2") as other:
            assert read(other, 1)


def test_addresses_of_one_network_are_one_client():
    addresses = ["10.0.0.1", "10.0.0.2", "2001:db8::1", "2001:db8::2%eth0", "2001:db9::1", None]
    of = [server.address_of(None if one is None else (one, 80)) for one in addresses]
    assert len(set(of)) == 5 and of[2] == of[3]


def test_a_head_that_is_too_long_is_refused(running):
    """Fault 34."""
    _, url = running
    many = "bytes=" + ",".join(f"{n}-{n}" for n in range(10_000))
    start = time.perf_counter()
    assert httpx2.get(url, headers={"range": many}).status_code in (400, 416)
    assert time.perf_counter() - start < 1
    assert httpx2.get(url + "/healthz").status_code == 200


def test_a_body_that_comes_too_slowly(index):
    with client_of(index, body_seconds=0.3) as client:
        head = {"content-type": "multipart/form-data; boundary=x"}
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "path": "/api/search",
            "raw_path": b"/api/search",
            "query_string": b"",
            "root_path": "",
            "scheme": "http",
            "headers": [
                (b"host", b"localhost"),
                *((k.encode(), v.encode()) for k, v in head.items()),
            ],
        }
        import asyncio

        sent = []

        async def receive():
            await asyncio.sleep(0.1)
            return {"type": "http.request", "body": b"-", "more_body": True}

        async def send(message):
            sent.append(message)

        client.portal.call(client.app, scope, receive, send)
        assert sent[0]["status"] == 408 and b"0.3 s" in sent[1]["body"]


def test_a_stop_finishes_what_is_being_answered(index, folder):
    with process(index) as (child, url):
        httpx2.post(url + "/api/search", files=upload(folder / "disc/0.png"), timeout=30)
        address = urllib.parse.urlsplit(url)
        content = (folder / "disc/0.png").read_bytes()
        body = (
            b'--x\r\ncontent-disposition: form-data; name="image"; filename="a"\r\n\r\n'
            + content
            + b"\r\n--x--\r\n"
        )
        with socket.create_connection((address.hostname, address.port), 20) as connection:
            connection.sendall(
                b"POST /api/search HTTP/1.1\r\nhost: localhost\r\n"
                b"content-type: multipart/form-data; boundary=x\r\n"
                b"content-length: %d\r\n\r\n" % len(body) + body[:100]
            )
            time.sleep(0.3)
            child.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            connection.sendall(body[100:])
            answer = b""
            while chunk := connection.recv(2**16):
                answer += chunk
        assert answer.startswith(b"HTTP/1.1 200") and b'"hits"' in answer
        assert child.wait(15) in (0, -signal.SIGTERM)
        assert "Traceback" not in child.stderr.read()


def long_upload():
    return {"image": ("a.qoi", make_images.long_qoi(1100))}


@pytest.mark.thorough
@pytest.mark.skipif(not system.has_forks(), reason="pictures are decoded in the service then")
@pytest.mark.parametrize("number", [1, 2])
def test_a_stop_waits_for_a_decoder_and_a_second_one_does_not(index, number):
    with process(index) as (child, url):
        with concurrent.futures.ThreadPoolExecutor(1) as asking:
            asked = asking.submit(httpx2.post, url + "/api/search", files=long_upload(), timeout=60)
            time.sleep(0.5)
            before = time.monotonic()
            child.send_signal(signal.SIGTERM)
            if number == 1:
                assert asked.result().status_code in (200, 415)
            else:
                # Where the machine is busy, two signals are heard as one.
                while child.poll() is None and time.monotonic() < before + 5:
                    time.sleep(0.3)
                    child.send_signal(signal.SIGTERM)
                assert child.wait(1) == -signal.SIGTERM
                with pytest.raises(httpx2.TransportError):
                    asked.result()
        assert child.wait(server.STOP_SECONDS + 5) in (0, -signal.SIGTERM)
        assert time.monotonic() - before < server.STOP_SECONDS
        assert "Traceback" not in child.stderr.read()


@pytest.mark.skipif(not system.has_forks(), reason="pictures are decoded in the service then")
def test_pictures_that_take_long_keep_nobody_waiting(index, folder):
    with (
        client_of(index, workers=1) as client,
        concurrent.futures.ThreadPoolExecutor(3) as asking,
    ):
        asked = [asking.submit(client.post, "/api/search", files=long_upload()) for _ in range(3)]
        time.sleep(0.3)
        for _ in range(3):
            answer = client.post("/api/search", files=upload(folder / "disc/0.png"))
            assert answer.status_code == 200
            assert client.get("/healthz").status_code == 200
        assert not all(one.done() for one in asked)
        for one in asked:
            answer = one.result()
            assert answer.status_code in (200, 415, 503)
            if answer.status_code == 503:
                assert "takes long" in refused(answer, 503)
                assert answer.headers["retry-after"] == "1"


def test_a_taken_port_and_a_missing_index_fail_with_a_way_out(running, index, tmp_path, capsys):
    _, url = running
    port = str(urllib.parse.urlsplit(url).port)
    assert cli.main(["serve", str(index), "--port", port]) == cli.FAILED
    assert "--port" in capsys.readouterr().err
    assert cli.main(["serve", str(index), "--port", "99999"]) == cli.WRONG_ARGUMENTS
    assert cli.main(["serve", str(tmp_path / "none"), "--port", "0"]) == cli.FAILED
    assert "hashnet index" in capsys.readouterr().err


@pytest.mark.thorough
def test_an_index_in_a_database_is_served(tmp_path, folder, bundle_folder, chdb_folder):
    url = f"chdb://{tmp_path}/engine/db/photos"
    code = "import sys; from hashnet import cli; sys.exit(cli.main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "index", url, folder / "disc", "--bundle", bundle_folder]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    with process(url) as (child, address):
        found = httpx2.get(address + "/api/search?id=disc/0.png&k=3", timeout=60).json()
        assert len(found["hits"]) == 3
        posted = httpx2.post(
            address + "/api/search", files=upload(folder / "disc/0.png"), timeout=60
        )
        assert posted.json()["hits"][0]["id"] == "disc/0.png"
        child.send_signal(signal.SIGTERM)
        assert child.wait(30) in (0, -signal.SIGTERM)


@pytest.mark.thorough
def test_an_index_that_may_only_be_read_is_served(index, tmp_path):
    """Fault 28: searched as ever; who adds hears that it cannot be written, and why in the log."""
    copy = shutil.copytree(index, tmp_path / "photos.index")
    for path in [copy, *copy.rglob("*")]:
        os.chmod(path, 0o555 if path.is_dir() else 0o444)
    libc = ctypes.CDLL(None)  # a root without CAP_DAC_OVERRIDE, for whom modes count

    def without_overriding():
        libc.prctl(24, 1, 0, 0, 0)

    with process(copy, before=without_overriding, HASHNET_TOKEN=TOKEN) as (_, url):
        before = httpx2.get(url + "/api/search?id=p%2Fdisc%2F0.png&k=99", timeout=30)
        assert before.status_code == 200 and len(before.json()["hits"]) == 26
        gone = httpx2.delete(url + "/api/images/p%2Fdisc%2F0.png", headers=bearer())
        assert "log" in refused(gone, 503) and gone.headers["retry-after"] == "1"
        after = httpx2.get(url + "/api/search?id=p%2Fdisc%2F0.png&k=99", timeout=30)
        assert after.json()["hits"] == before.json()["hits"]


def test_answers_do_not_wait_for_an_acknowledgement(running):
    """Two small packets an answer, the second held back for 40 ms, unless TCP_NODELAY is set."""
    _, url = running
    with httpx2.Client(base_url=url) as client:
        client.get("/healthz")
        times = []
        for _ in range(20):
            start = time.perf_counter()
            client.get("/healthz")
            times.append(time.perf_counter() - start)
    assert min(times) < 0.03


def test_a_connection_stays_in_step_after_a_head(running):
    with httpx2.Client(base_url=running[1]) as client:
        for _ in range(2):
            assert client.head("/").headers["content-length"] == str(len(client.get("/").content))


def test_tokens(tmp_path, monkeypatch):
    monkeypatch.delenv("HASHNET_TOKEN", raising=False)
    assert server.token_from(None) is None
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    assert server.token_from(str(tmp_path / "token")) == TOKEN
    monkeypatch.setenv("HASHNET_TOKEN", TOKEN[::-1])
    assert server.token_from(None) == TOKEN[::-1]
    monkeypatch.setenv("HASHNET_TOKEN", "short")
    with pytest.raises(HashnetError, match="16"):
        server.token_from(None)
    with pytest.raises(HashnetError, match="first line"):
        server.token_from(str(tmp_path / "nothing"))
    with pytest.raises(HashnetError, match=r"4096 at most.*4097 characters"):
        server.token_from("/dev/zero")
    (tmp_path / "token").write_bytes(bytes(20))
    with pytest.raises(HashnetError, match="printable"):
        server.token_from(str(tmp_path / "token"))


def test_only_this_machine_is_listened_to_by_default():
    arguments = cli.parser().parse_args(["serve", "photos.index"])
    assert arguments.host == "127.0.0.1"


@pytest.mark.thorough
def test_searching_never_loads_a_training_library(index):
    code = (
        "import sys; from hashnet.retrieval.service.app import create_app; create_app(sys.argv[1]);"
        "assert not {'tensorflow', 'keras', 'jax'} & set(sys.modules), 'imported'"
    )
    run = subprocess.run([sys.executable, "-c", code, str(index)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_the_limits_apply_before_anything_is_parsed():
    """A length that is over the limit is refused before one byte is read."""
    import asyncio

    async def never(*_):
        pytest.fail("the application was asked")

    inside = limits.Limits(never, body_bytes=10, bodies_bytes=10, body_seconds=1)
    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        pytest.fail("the body was read")

    headers = [(b"host", b"localhost"), (b"content-length", b"11"), (b"expect", b"100-continue")]
    scope = {"type": "http", "path": "/", "raw_path": b"/", "headers": headers}
    asyncio.run(inside(scope, receive, send))
    assert sent[0]["status"] == 413
    assert json.loads(sent[1]["body"])["error"]
