"""A bundle in another precision is another bundle, and an index keeps to its own."""

import json
import shutil

import numpy as np
import pytest

from hashnet import cli, images
from hashnet.encode import precision
from hashnet.encode.encoder import Encoder
from hashnet.errors import (
    ArgumentError,
    BundleError,
    ExportError,
    HashnetError,
    UnknownNameError,
)
from hashnet.network import bundle, export, runtimes
from hashnet.retrieval.index import Index
from hashnet.retrieval.search.engine import Engine
from hashnet.retrieval.search.query import Query


@pytest.fixture(scope="module")
def int8(bundle_folder, photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("int8") / "int8.bundle"
    return precision.convert(bundle.load(bundle_folder), folder, "int8", images_from=[photos])


@pytest.fixture(scope="module")
def bfloat16(bundle_folder, tmp_path_factory):
    """What `convert` writes on a processor that has bfloat16."""
    source = bundle.load(bundle_folder)
    folder = tmp_path_factory.mktemp("bfloat16") / "b.bundle"
    content = source.encoder_file.read_bytes()
    return bundle.save_precision(folder, source, content, "bfloat16", origin={})


def has_bfloat16(made):
    try:
        Encoder(made)
    except HashnetError:
        return False
    return True


def test_int8_is_a_smaller_file_of_its_own_fingerprint(int8, bundle_folder):
    source = bundle.load(bundle_folder)
    assert (source.precision, int8.precision) == ("float32", "int8")
    assert int8.fingerprint != source.fingerprint
    # Of a network this small, the graph itself is a good part.
    assert int8.encoder_file.stat().st_size < 0.5 * source.encoder_file.stat().st_size
    assert json.loads((bundle_folder / "hashnet.json").read_text())["format_version"] == 1
    assert json.loads((int8.folder / "hashnet.json").read_text())["format_version"] == 2


def test_the_bits_that_flip_are_counted_and_kept(int8, bundle_folder, photos):
    paths = sorted(photos.rglob("*.png"))
    expected = Encoder.open(bundle_folder).encode(paths)
    found = Encoder(int8).encode(paths)
    differs = (found.latents >= 0.5) != (expected.latents >= 0.5)
    assert int8.origin["precision"] == {
        "name": "int8",
        "images": 24,
        "bits": 24 * 32,
        "bits_that_differ": differs.sum(),
        "bits_that_differ_share": differs.mean(),
    }
    assert 0 < differs.sum(), "int8 that flips no bit of 768 is float32"


def test_int8_gives_one_code_however_it_is_run(int8, photos):
    paths = sorted(photos.rglob("*.png"))
    one, many = Encoder(int8, num_threads=1), Encoder(int8, num_threads=2)
    encoded = many.encode(paths)
    np.testing.assert_array_equal(one.encode(paths).codes, encoded.codes)
    for row, path in enumerate(paths):
        np.testing.assert_array_equal(many.encode_one(path)[0], encoded.codes[row])
    latents = many.from_features("latent", encoded.features)
    np.testing.assert_allclose(latents, encoded.latents, atol=1e-5)


def test_an_index_encodes_its_queries_as_it_encoded_its_images(int8, photos, tmp_path):
    Index.create(tmp_path / "i", int8.folder).update([photos])
    index = Index.open(tmp_path / "i", runtime="soonest")
    assert index.encoder.precision == index.info()["precision"] == "int8"
    assert index.info()["origin"]["precision"]["bits"] == 24 * 32
    for path in sorted(photos.rglob("*.png"))[::5]:
        best = Engine(index).search(path, Query(k=1)).hits[0]
        assert (best.path, best.bits_apart) == (str(path), 0)


def test_other_runtimes_than_the_precisions_own_are_refused(int8, bfloat16):
    for runtime in ("openvino", "keras"):
        with pytest.raises(ArgumentError, match="for onnxruntime"):
            Encoder(int8, runtime=runtime)
    for runtime in ("onnxruntime", "keras"):
        with pytest.raises(ArgumentError, match="for openvino"):
            Encoder(bfloat16, runtime=runtime)
    assert runtimes.choose("soonest", runtimes.FOR_PRECISION["bfloat16"]) == "openvino"


def test_bfloat16_is_bfloat16_or_refused(bfloat16, bundle_folder, photos, tmp_path):
    """OpenVINO passes over the hint in silence where the processor lacks it."""
    pytest.importorskip("openvino")
    source = bundle.load(bundle_folder)
    assert bfloat16.fingerprint != source.fingerprint
    if has_bfloat16(bfloat16):
        paths = sorted(photos.rglob("*.png"))
        found, expected = Encoder(bfloat16).encode(paths), Encoder(source).encode(paths)
        assert 1e-5 < np.abs(found.features - expected.features).max() < 0.1
    else:
        for make in (
            lambda: precision.convert(source, tmp_path / "b", "bfloat16", images_from=[photos]),
            lambda: Index.create(tmp_path / "i", bfloat16.folder),
        ):
            with pytest.raises(HashnetError, match="needs a processor that computes in bfloat16"):
                make()
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "options", "kind"),
    [
        ("int4", {}, UnknownNameError),
        ("float32", {}, ArgumentError),
        ("int8", {"images_from": None}, ArgumentError),
        ("int8", {"images_from": ["missing"]}, ArgumentError),
        ("int8", {"out": "mine"}, BundleError),
    ],
)
def test_what_cannot_be_converted_is_refused(
    bundle_folder, photos, tmp_path, monkeypatch, name, options, kind
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious").touch()
    options = {"out": "new", "images_from": [photos], **options}
    with pytest.raises(kind):
        precision.convert(bundle.load(bundle_folder), precision=name, **options)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["mine", "precious"]


def test_codes_that_differ_too_much_are_not_written(bundle_folder, photos, tmp_path, monkeypatch):
    monkeypatch.setitem(export.LIMITS, "int8", export.Limits(1.0, 0.0))
    with pytest.raises(ExportError, match="bits differ"):
        precision.convert(
            bundle.load(bundle_folder), tmp_path / "b", "int8", images_from=[photos / "disc"]
        )
    assert list(tmp_path.iterdir()) == []


def test_int8_is_neither_converted_nor_exported_again(int8, photos, tmp_path):
    with pytest.raises(ArgumentError, match="from float32"):
        precision.convert(int8, tmp_path / "b", "int8", images_from=[photos])
    with pytest.raises(ArgumentError, match="float32 bundle"):
        export.export(int8, tmp_path / "n.onnx", "onnx")


def test_an_unknown_precision_in_a_bundle_is_refused(int8, tmp_path):
    folder = shutil.copytree(int8.folder, tmp_path / "b")
    description = json.loads((folder / "hashnet.json").read_text())
    for name in ("int4", None, ["int8"], {}):
        (folder / "hashnet.json").write_text(json.dumps({**description, "precision": name}))
        with pytest.raises(BundleError, match="whole"):
            bundle.load(folder)


def test_another_precision_put_into_an_index_is_refused(int8, bundle_folder, photos, tmp_path):
    Index.create(tmp_path / "i", bundle_folder).update([photos / "disc"])
    for name in ("hashnet.json", "encoder.onnx"):
        shutil.copy(int8.folder / name, tmp_path / "i" / "encoder" / name)
    with pytest.raises(HashnetError):
        Index.open(tmp_path / "i")


def test_the_commands_keep_the_precision(bundle_folder, photos, tmp_path, capsys):
    def run(*arguments):
        capsys.readouterr()
        status = cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    index, query = tmp_path / "i", photos / "disc/0.png"
    made = run("index", index, photos, "--bundle", bundle_folder, "--precision", "int8")
    assert made[0] == cli.DONE, made
    info = json.loads(run("info", index, "--json")[1])
    assert info["precision"] == "int8" and info["origin"]["precision"]["images"] == 24
    answer = json.loads(run("search", index, query, "--json")[1])
    assert answer["hits"][0]["path"] == str(query) and answer["hits"][0]["bits_apart"] == 0
    assert run("index", index, photos, "--precision", "int8")[0] == cli.DONE
    status, _, err = run("index", index, photos, "--precision", "float32")
    assert status == cli.FAILED and "keeps its precision" in err
    status, _, err = run("index", index, photos, "--bundle", bundle_folder)
    assert status == cli.FAILED and "keeps its network" in err
    exported = ["export", bundle_folder, tmp_path / "b", "--format", "bundle"]
    assert run(*exported, "--precision", "int8")[0] == cli.WRONG_ARGUMENTS
    status, out, _ = run(*exported, "--precision", "int8", "--images", photos)
    assert status == cli.DONE and "of 768" in out
    assert bundle.load(tmp_path / "b").fingerprint == info["fingerprint"]


def test_calibration_takes_images_from_the_whole_set(tmp_path):
    """Sorted by class, the first hundred of a thousand would all be of one."""
    for number in range(250):
        shade = np.full((4, 4, 3), number, np.uint8)
        images.write(tmp_path / f"{number:03}.png", shade)
    pixels = precision._pixels([tmp_path], 4)
    assert len(pixels) == 100
    assert pixels[:, 0, 0, 0].min() < 10 and pixels[:, 0, 0, 0].max() > 240
