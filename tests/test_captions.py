"""Captions: within photos, beside them, and given; they stay with their images."""

import io
import json
import os
import struct

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from hashnet import images
from hashnet.errors import ArgumentError, StoreError
from hashnet.images.descriptions import texts_of_xmp
from hashnet.images.sidecars import Sidecars
from hashnet.retrieval import captions
from hashnet.retrieval.index import Index
from hashnet.retrieval.store.texts import Texts

XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
    'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description xmlns:dc="http://purl.org/dc/elements/1.1/" '
    'xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/" photoshop:Headline="Head &amp; line">'
    '<dc:description><rdf:Alt><rdf:li xml:lang="x-default">Märchen 狗</rdf:li></rdf:Alt>'
    "</dc:description><dc:subject><rdf:Bag><rdf:li>key</rdf:li><rdf:li>word</rdf:li></rdf:Bag>"
    "</dc:subject><dc:rights>not this</dc:rights></rdf:Description></rdf:RDF></x:xmpmeta>"
).encode()


def photo(kind="JPEG", shade=0, **options):
    file = io.BytesIO()
    Image.new("RGB", (64, 48), (shade, 40, 90)).save(file, kind, **options)
    return file.getvalue()


def exif_of(description=None, comment=None, **xp):
    exif = Image.Exif()
    if description is not None:
        exif[0x010E] = description
    for tag, text in xp.items():
        exif[{"title": 0x9C9B, "keywords": 0x9C9E}[tag]] = text.encode("utf-16-le")
    if comment is not None:
        exif.get_ifd(0x8769)[0x9286] = comment
    return exif


def iptc(**fields):
    data = b""
    for name, text in fields.items():
        number = {"title": 5, "keyword": 25, "headline": 105, "caption": 120}[name.rstrip("2")]
        data += struct.pack(">BBBH", 0x1C, 2, number, len(text)) + text
    block = b"8BIM" + struct.pack(">HBBI", 0x0404, 0, 0, len(data)) + data + b"\0" * (len(data) % 2)
    body = b"Photoshop 3.0\0" + block
    segment = b"\xff\xed" + struct.pack(">H", len(body) + 2) + body
    jpeg = photo()
    return jpeg[:2] + segment + jpeg[2:]


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (photo(), None),
        (photo(exif=exif_of("a dog")), "a dog"),
        (photo("PNG", exif=exif_of("a dog")), "a dog"),
        (photo("WEBP", exif=exif_of("a dog")), "a dog"),
        (photo(exif=exif_of("Grüße".encode())), "Grüße"),
        (photo(exif=exif_of("Grüße".encode("latin-1"))), "Grüße"),
        (photo(exif=exif_of(title="狗\0x", keywords="x;y")), "狗\nx;y"),
        (photo(exif=exif_of(comment=b"ASCII\0\0\0a dog\0\0")), "a dog"),
        (photo(exif=exif_of(comment=b"UNICODE\0" + "狗".encode("utf-16-be"))), "狗"),
        (photo(exif=exif_of(comment=b"UNICODE\0" + "dog".encode("utf-16-le"))), "dog"),
        (photo(exif=exif_of(comment=b"UNICODE\0" + "狗".encode("utf-16"))), "狗"),
        (photo(exif=exif_of(comment=b"JIS\0\0\0\0\0" + "犬".encode("iso2022_jp"))), "犬"),
        (photo(exif=exif_of(comment=bytes(8) + b"plain")), "plain"),
        (photo(exif=exif_of(comment=b"no code at all")), "no code at all"),
        (photo(exif=exif_of(comment=bytes(40))), None),
        (iptc(caption="Köln".encode(), keyword=b"a", keyword2=b"b", title=b"T"), "T\nKöln\na\nb"),
        (photo(xmp=XMP), "Head & line\nMärchen 狗\nkey\nword"),
        (photo(xmp=b"<broken"), None),
        (photo(xmp=b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>'), None),
        (photo(exif=exif_of("same"), xmp=XMP.replace(b"key", b"same")), None),
        (photo(exif=exif_of("x" * 20_000)), "x" * 10_000),
    ],
)
def test_what_a_photo_says_of_itself_is_read(content, wanted):
    found = images.Photo(content).description
    if wanted is None and found is not None:
        assert found.count("same") == 1  # a text that comes twice counts once
    else:
        assert found == wanted


def nested(depth, text="{}"):
    """XMP of titles within titles, each with a text of its own before the next."""
    opened = "".join(f"<dc:title>{text.format(one)}" for one in range(depth))
    inner = opened + "</dc:title>" * depth
    return f'<a xmlns:dc="http://purl.org/dc/elements/1.1/">{inner}</a>'.encode()


def test_the_text_of_nested_elements_counts_once():
    wanted = [f"n{one}" for one in range(300)]
    assert texts_of_xmp(nested(300, "n{}")) == wanted
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", nested(300, "n{}").decode(), zip=True)
    for content in (photo(xmp=nested(300, "n{}")), photo("PNG", pnginfo=info)):
        assert images.Photo(content).description == "\n".join(wanted)


def test_of_xmp_no_more_letters_are_kept_than_of_a_caption():
    texts = texts_of_xmp(nested(15_000, "number {}"))
    assert 10_000 <= sum(map(len, texts)) < 10_020
    assert texts_of_xmp(nested(1, "x" * 50_000)) == ["x" * 10_000]


def test_xmp_that_is_none_is_refused():
    for content in (
        b"",
        b"<a>",
        b"x" * (2**20 + 1),
        b"<!DOCTYPE a><a/>",
        "<!DOCTYPE a><a/>".encode("utf-16"),
    ):
        with pytest.raises(ValueError, match="XMP"):
            texts_of_xmp(content)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, name in enumerate(("a.jpg", "b.jpg", "c.jpg")):
        (folder / name).write_bytes(photo(shade=60 * number))
    return folder


@pytest.fixture
def index(bundle_folder, tmp_path, folder):
    index = Index.create(tmp_path / "photos.index", bundle_folder)
    (folder / "a.txt").write_text("Rex on the beach", "utf-8")
    (folder / "b.jpg.XMP").write_bytes(XMP)
    (folder / "readme.txt").write_text("of no photo", "utf-8")
    (folder / "c.jpg").write_bytes(photo(shade=200, exif=exif_of("a walrus")))
    index.update([folder])
    return index


def found(index, text):
    return sorted(hit.id[-5:] for hit in index.search_text(text) if "caption" in hit.ways)


def test_captions_within_and_beside_photos_are_taken(index, folder):
    assert found(index, "rex") == ["a.jpg"] and found(index, "märchen") == ["b.jpg"]
    assert found(index, "walrus") == ["c.jpg"] and not found(index, "photo")
    assert index["photos/a.jpg"].texts == Texts(beside="Rex on the beach")
    assert index["photos/c.jpg"].texts == Texts(inside="a walrus")


def test_captions_beside_photos_are_followed_and_nothing_is_encoded(index, folder, monkeypatch):
    monkeypatch.setattr(type(index.encoder), "_pixels", lambda *_: pytest.fail("encoded"))
    report = index.update([folder])
    assert report.unchanged == 3 and report.passed_over == {".txt": 1}  # of no photo
    version = index.store.version()
    index.update([folder])
    assert index.store.version() == version  # nothing was committed
    (folder / "a.txt").write_text("Bella", "utf-8")
    (folder / "b.jpg.XMP").unlink()
    assert index.update([folder]).unchanged == 3
    assert found(index, "bella") == ["a.jpg"] and not found(index, "rex")
    assert index["photos/b.jpg"].texts is None


def test_captions_stay_with_photos_that_are_renamed_copied_and_changed(index, folder):
    assert index.caption({"photos/c.jpg": "given to it"}).captioned == 1
    content = (folder / "c.jpg").read_bytes()
    (folder / "c.jpg").rename(folder / "d.jpg")
    assert index.update([folder]).moved == 1
    assert index["photos/d.jpg"].texts == Texts("given to it", inside="a walrus")
    (folder / "e.jpg").write_bytes(content)
    index.update([folder])
    assert index["photos/e.jpg"].texts == Texts(inside="a walrus")
    (folder / "d.jpg").write_bytes(photo(shade=9, exif=exif_of("a seal")))
    index.update([folder])
    assert index["photos/d.jpg"].texts == Texts("given to it", inside="a seal")
    index.update([folder], rehash=True)
    assert index["photos/d.jpg"].texts == Texts("given to it", inside="a seal")
    assert index["photos/a.jpg"].texts == Texts(beside="Rex on the beach")


def test_captions_are_given_and_taken_away(index, folder, tmp_path):
    file = folder / "captions.csv"
    text = (
        'path,caption\r\na.jpg,"a dog, asleep"\r\nphotos/b.jpg,second\r\nb.jpg,two\r\nno.jpg,x\r\n'
    )
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        file.write_text(text, encoding, newline="")
        report = index.caption(file)
        assert report.unknown == ["no.jpg"]
    assert (report.captioned, report.unchanged) == (0, 2)
    assert index["photos/a.jpg"].texts.given == "a dog, asleep"
    assert found(index, "asleep") == ["a.jpg"]
    assert index.caption({str(folder / "a.jpg"): ""}).captioned == 1
    assert index["photos/a.jpg"].texts == Texts(beside="Rex on the beach")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"a.jpg,caf\xe9\n", "not in utf-8.*Save it as UTF-8"),
        (b"\xff\xfea\xd8", "not in utf-16"),
        (b"a.jpg,x\nb.jpg,y\nc.jpg,z\nd.jpg,z\n", "more than 2 of them"),
        (b"a.jpg,x\nb.jpg\n", "line 2"),
        (b"a.jpg,x,y\n", "line 1"),
        (b",x\n", "line 1"),
        (b'a.jpg,"x\n', "line 1"),
        (b"a.jpg," + b"x" * 10_001, "line 1"),
        (b"a.jpg," + b"x" * 200_000, "line 1"),
    ],
)
def test_a_file_of_captions_of_another_form_is_refused_by_name(
    tmp_path, monkeypatch, content, line
):
    monkeypatch.setattr(captions, "MOST_NAMES", 2)
    file = tmp_path / "captions.csv"
    file.write_bytes(content)
    with pytest.raises(ArgumentError, match=rf"path,caption.*{line}"):
        captions.read(file)


def test_a_caption_that_cannot_be_read_is_named_and_its_photo_is_there(index, folder):
    (folder / "a.txt").write_bytes(b"caf\xe9")
    (folder / "b.jpg.xmp").write_bytes(b"<broken")
    (folder / "c.txt").write_bytes(b"x" * 10_001)
    (folder / "new.jpg").write_bytes(photo(shade=99))
    report = index.update([folder])
    assert report.added == 1 and len(index) == 4
    reasons = {problem.path[len(str(folder)) + 1 :]: problem.reason for problem in report.problems}
    assert set(reasons) >= {"a.txt", "c.txt"} and reasons["a.txt"].endswith("save it as UTF-8")
    assert "10,000 letters" in reasons["c.txt"]


def test_a_file_of_captions_is_read_up_to_a_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(captions, "MOST_BYTES", 8)
    (tmp_path / "c.csv").write_text("a,b\nc,d\ne")
    with pytest.raises(ArgumentError, match="8 bytes at most"):
        captions.read(tmp_path / "c.csv")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_of_sidecars_only_regular_files_are_read(tmp_path):
    (tmp_path / "long.txt").write_bytes(b"x" * (2**20 + 1))
    (tmp_path / "endless.txt").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "folder.xmp").mkdir()
    (tmp_path / "cat.txt").write_text("Rex")
    writer = os.open(tmp_path / "pipe.txt", os.O_RDWR)  # a pipe that is read does not end
    os.write(writer, b"never")
    sidecars = Sidecars()
    names = ("long", "endless", "pipe", "folder", "cat")
    texts = [sidecars.of(str(tmp_path / f"{name}.jpg")) for name in names]
    os.close(writer)
    assert texts == [None, None, None, None, "Rex"]
    reasons = [problem.reason for problem in sidecars.problems]
    for reason, words in zip(reasons, ("longer", "device", "pipe", "director"), strict=True):
        assert words in reason


def test_an_index_that_keeps_no_captions_refuses_them(bundle_folder, tmp_path, monkeypatch):
    from hashnet.retrieval.store.folder import store
    from hashnet.retrieval.store.folder.contents import Catalogue

    with monkeypatch.context() as patch:
        patch.setattr(store, "Catalogue", lambda **facts: Catalogue(**facts | {"texts": False}))
        index = Index.create(tmp_path / "old.index", bundle_folder)
    index.add([photo()], ids=["a"])
    assert index.info()["format_version"] == 6
    with pytest.raises(StoreError, match="format version 7"):
        index.caption({"a": "a dog"})
    assert index.words.missing["caption"].startswith("an index of format version 6 or older")
    assert [hit.id for hit in index.search_text("a")] == ["a"]


def test_the_command_gives_captions(run, index, folder, tmp_path):
    place, file = index.store.folder, tmp_path / "captions.csv"
    file.write_text(f"{folder}/a.jpg,my own words\nno.jpg,x\n", "utf-8")
    status, out, err = run("index", place, "--captions", file)
    assert (status, out) == (3, "1 caption given, 0 unchanged\n") and "no.jpg" in err
    (folder / "z.jpg").write_bytes(photo(shade=222))
    file.write_text(f"{folder}/z.jpg,the last\n", "utf-8")
    status, out, _ = run("index", place, folder, "--captions", file)
    assert status == 0 and out.endswith("1 caption given, 0 unchanged\n")
    answer = json.loads(run("search", place, "--text", "own words", "--json")[1])
    assert answer["hits"][0]["path"] == str(folder / "a.jpg")
    listed = [json.loads(line) for line in run("list", place, "--json")[1].splitlines()]
    of_a = next(one for one in listed if one["id"] == "photos/a.jpg")
    assert of_a["caption"] == "my own words\nRex on the beach" and of_a["lines"] is None
    file.write_bytes(b"caf\xe9")
    (folder / "late.jpg").write_bytes(photo(shade=111))
    status, _, err = run("index", place, folder, "--captions", file)
    assert status == 2 and "UTF-8" in err and "photos/late.jpg" not in Index.open(place)
    assert run("index", place, folder, "--captions", file, "--watch")[0] == 2


def test_pixels_without_a_file_have_no_description():
    assert images.Photo(np.zeros((9, 9, 3), np.uint8)).description is None
