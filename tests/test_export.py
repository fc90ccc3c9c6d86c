"""Exports give what Keras gives, in their own runtimes, or are not there."""

import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from hashnet import cli, images
from hashnet.encode.encoder import Encoder
from hashnet.errors import ArgumentError, ExportError, HashnetError, UnknownNameError
from hashnet.network import bundle, export, runtimes
from hashnet.network.model import HashNetConfig, build
from tests import windows_files

pytestmark = pytest.mark.keras
NUM_BITS = 12  # of the stub, not a whole number of bytes
RNG = np.random.default_rng(3)
PIXELS = RNG.integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)


def needs(package):
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f"{package} is not installed")


@pytest.fixture(scope="module")
def tiny(stub_bundles):
    return bundle.load(stub_bundles[0])


@pytest.fixture(scope="module")
def real_bundle(tmp_path_factory):
    """The default backbone with its real weights at 64 pixels, and 32 random bits."""
    config = HashNetConfig(image_size=64, num_bits=32, classes=("one", "two", "three"))
    network = build(config)
    kernel = np.random.default_rng(0).normal(size=(config.feature_dim, 32)).astype(np.float32)
    # Features are not negative; without their common part half of all bits are ones.
    network.get_layer("latent").set_weights([(kernel - kernel.mean(axis=0)) * 9, np.zeros(32)])
    folder = tmp_path_factory.mktemp("real") / "bundle"
    return bundle.save(folder, network, config, origin={"command": "tests"})


def reference(tiny_bundle, pixels):
    """The outputs by the Keras model itself, and codes by a loop over bits."""
    outputs = tiny_bundle.load_model()(pixels.astype(np.float32))
    outputs = {name: np.asarray(value) for name, value in outputs.items()}
    outputs["code"] = np.zeros((len(pixels), 2), np.uint8)
    for row, latent in enumerate(outputs["latent"]):
        for place, value in enumerate(latent):
            if value >= 0.5:
                outputs["code"][row, place // 8] |= 1 << (7 - place % 8)
    return outputs


def assert_like_reference(outputs, expected):
    for name in ("latent", "feature", "scores"):
        assert outputs[name].dtype == np.float32
        np.testing.assert_allclose(outputs[name], expected[name], atol=1e-5)
    assert outputs["code"].dtype == np.uint8
    assert np.abs(expected["latent"] - 0.5).min() > 1e-4, "choose another seed"
    np.testing.assert_array_equal(outputs["code"], expected["code"])


@pytest.mark.slow
def test_a_keras_export_opens_in_keras_alone(tiny, tmp_path):
    export.export(tiny, tmp_path / "n.keras", "keras")
    np.save(tmp_path / "pixels.npy", PIXELS)
    code = (
        "import sys, numpy as np, keras\n"
        "model = keras.saving.load_model('n.keras')\n"
        "outputs = model(np.load('pixels.npy'))\n"
        "np.savez('out.npz', **{name: np.asarray(value) for name, value in outputs.items()})\n"
        "assert 'hashnet' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    assert_like_reference(np.load(tmp_path / "out.npz"), reference(tiny, PIXELS))


@pytest.mark.thorough
def test_a_saved_model_serves_named_outputs(tiny, tmp_path):
    import tensorflow as tf

    export.export(tiny, tmp_path / "served", "saved_model")
    serve = tf.saved_model.load(str(tmp_path / "served")).signatures["serving_default"]
    for count in (1, 5):
        outputs = {k: v.numpy() for k, v in serve(image=tf.constant(PIXELS[:count])).items()}
        assert_like_reference(outputs, reference(tiny, PIXELS[:count]))


@pytest.mark.thorough
def test_an_onnx_export_runs_any_number_of_images(tiny, tmp_path):
    import onnxruntime

    export.export(tiny, tmp_path / "n.onnx", "onnx")
    session = onnxruntime.InferenceSession(tmp_path / "n.onnx")
    names = [end.name for end in session.get_outputs()]
    assert sorted(names) == ["code", "feature", "latent", "scores"]
    for count in (1, 5):
        outputs = dict(zip(names, session.run(None, {"image": PIXELS[:count]}), strict=True))
        assert_like_reference(outputs, reference(tiny, PIXELS[:count]))


@needs("openvino")
@pytest.mark.thorough
def test_an_openvino_export_runs_any_number_of_images(tiny, tmp_path):
    import openvino

    export.export(tiny, tmp_path / "n.xml", "openvino")
    compiled = openvino.Core().compile_model(
        tmp_path / "n.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    for count in (1, 5):
        results = compiled({"image": PIXELS[:count]})
        outputs = {name: results[name] for name in export.OUTPUTS}
        assert_like_reference(outputs, reference(tiny, PIXELS[:count]))


@needs("ai_edge_litert")
@pytest.mark.thorough
def test_a_litert_export_runs_any_number_of_images(tiny, tmp_path):
    from ai_edge_litert.interpreter import Interpreter

    export.export(tiny, tmp_path / "n.tflite", "litert")
    runner = Interpreter(str(tmp_path / "n.tflite")).get_signature_runner()
    for count in (1, 5):
        assert_like_reference(runner(image=PIXELS[:count]), reference(tiny, PIXELS[:count]))


@needs("ai_edge_litert")
@pytest.mark.thorough
@pytest.mark.parametrize("precision", export.PRECISIONS)
def test_every_precision_says_which_bits_flip(tiny, photos, tmp_path, precision):
    path = tmp_path / f"{precision}.tflite"
    comparison = export.export(tiny, path, "litert", precision=precision, images_from=[photos])
    report = json.loads((tmp_path / f"{precision}.tflite.json").read_text())
    assert report["precision"] == precision
    assert report["images"] == 24 and report["bits"] == 24 * NUM_BITS
    assert len(report["differing"]) == report["bits_that_differ"] == comparison.bits_that_differ
    for bit in report["differing"]:
        assert (bit["keras"] >= 0.5) != (bit["export"] >= 0.5)


def test_the_report_beside_the_export_says_what_was_compared(tiny, photos, tmp_path):
    export.export(tiny, tmp_path / "n.onnx", "onnx", images_from=[photos])
    report = json.loads((tmp_path / "n.onnx.json").read_text())
    assert report["fingerprint"] == tiny.fingerprint
    assert report["images"] == 24
    assert report["bits_that_differ"] == 0
    assert max(report["largest_difference"].values()) < 1e-5
    assert str(photos) not in json.dumps(report)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "format", ["onnx", pytest.param("openvino", marks=needs("openvino")), "saved_model"]
)
def test_exports_are_moved_and_replaced_where_open_files_stay(tiny, tmp_path, monkeypatch, format):
    if not os.path.exists("/proc/self/maps"):
        pytest.skip("looks at /proc for what is open")
    windows_files.install(monkeypatch)
    out = tmp_path / {"onnx": "a.onnx", "openvino": "a.xml", "saved_model": "a"}[format]
    for _ in range(2):
        export.export(tiny, out, format)
    assert out.exists() and not [path for path in tmp_path.iterdir() if path.name[0] == "."]


def test_a_bad_export_leaves_nothing_behind(tiny, tmp_path, monkeypatch):
    """The writer here writes another network than it was given."""
    whole = export._WRITERS["onnx"]

    def write_another(_model, *rest):
        whole(build(tiny.config, weights=None), *rest)

    (tmp_path / "n.onnx").write_text("a former export")
    monkeypatch.setitem(export._WRITERS, "onnx", write_another)
    with pytest.raises(ExportError, match=r"latent differs .* bits differ"):
        export.export(tiny, tmp_path / "n.onnx", "onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["n.onnx"]
    assert (tmp_path / "n.onnx").read_text() == "a former export"


def comparison(**changes):
    good = {
        "format": "onnx",
        "precision": "float32",
        "runtime": "onnxruntime",
        "fingerprint": "0" * 64,
        "images": 1,
        "images_from": "nowhere",
        "largest_difference": {"latent": 1e-6, "feature": 1e-6, "scores": 1e-6},
        "bits": 1000,
        "bits_that_differ": 1,
        "bits_that_differ_share": 0.001,
        "bits_near_half": {"3": 1},
        "differing": [],
        "differing_far_from_half": 0,
        "codes_are_packed_latents": True,
    }
    return export.Comparison(**{**good, **changes})


def test_a_bit_near_one_half_may_differ_and_no_other():
    assert comparison().faults() == []
    assert comparison(differing_far_from_half=1).faults()
    assert comparison(precision="float16", differing_far_from_half=9).faults() == []
    assert comparison(precision="float16", differing_far_from_half=11).faults()
    assert comparison(codes_are_packed_latents=False).faults()
    for difference in (0.1, float("nan")):
        assert comparison(largest_difference={"feature": difference}).faults()


@pytest.mark.parametrize(
    ("name", "format", "options", "kind"),
    [
        ("n.onnx", "caffe", {}, UnknownNameError),
        ("n.onnx", "onnx", {"precision": "float8"}, UnknownNameError),
        ("n.onnx", "onnx", {"precision": "int8"}, ArgumentError),
        ("n.tflite", "litert", {"precision": "int8"}, ArgumentError),
        ("n.bin", "onnx", {}, ArgumentError),
        ("n.onnx", "openvino", {}, ArgumentError),
        ("precious", "saved_model", {}, ExportError),
        ("precious/mine.txt", "saved_model", {}, ExportError),
        ("folder.onnx", "onnx", {}, ExportError),
        ("n.onnx", "onnx", {"images_from": ["precious"]}, ArgumentError),
    ],
)
def test_what_cannot_be_exported_is_refused_before_any_work(
    tiny, tmp_path, monkeypatch, name, format, options, kind
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bundle.Bundle, "load_model", lambda _self: pytest.fail("it began"))
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "mine.txt").write_text("mine")
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(kind):
        export.export(tiny, name, format, **options)
    assert (tmp_path / "precious" / "mine.txt").read_text() == "mine"


def test_a_missing_runtime_names_the_extra(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(HashnetError, match="pip install .*openvino"):
        export.export(tiny, tmp_path / "n.xml", "openvino")


def test_the_command_says_what_it_compared(tiny, tmp_path, capfd):
    arguments = ["export", str(tiny.folder), str(tmp_path / "n.onnx"), "--format", "onnx"]
    assert cli.main(arguments) == cli.DONE
    answer = capfd.readouterr()
    assert "bits that differ      0 of 1200" in answer.out
    assert answer.err == ""
    assert runtimes.open_file(tmp_path / "n.onnx").outputs["code"] == runtimes.TensorSpec(
        "uint8", (2,)
    )


@pytest.mark.slow
@pytest.mark.parametrize("format", ["keras", "saved_model", "onnx", "openvino", "litert"])
def test_real_photos_get_the_codes_that_keras_gives(real_bundle, shared_data, format, tmp_path):
    photos = [shared_data / "clothing10" / "test"]
    out = tmp_path / f"n{export.SUFFIXES[format]}"
    found = export.export(real_bundle, out, format, images_from=photos)
    assert found.images == export.NUM_IMAGES and found.differing_far_from_half == 0


@pytest.mark.slow
@needs("ai_edge_litert")
def test_int8_quarters_and_float16_halves_the_file(real_bundle, shared_data, tmp_path):
    sizes = {}
    for precision in export.PRECISIONS:
        out = tmp_path / f"{precision}.tflite"
        photos = [shared_data / "clothing10" / "test"]
        found = export.export(real_bundle, out, "litert", precision=precision, images_from=photos)
        assert found.faults() == []
        sizes[precision] = out.stat().st_size
    assert sizes["float16"] < 0.55 * sizes["float32"]
    assert sizes["int8"] < 0.35 * sizes["float32"]


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_all_photos_of_a_real_set_get_keras_codes(real_bundle, shared_data, runtime):
    found, *_ = images.find([shared_data / "clothing10"])
    paths = [file.path for file in found]
    expected = Encoder(real_bundle, runtime="keras").encode(paths)
    encoded = Encoder(real_bundle, runtime=runtime).encode(paths)
    differs = (encoded.latents >= 0.5) != (expected.latents >= 0.5)
    assert np.abs(expected.latents[differs] - 0.5).max(initial=0) < 1e-4


@pytest.mark.slow
def test_no_library_writes_in_a_terminal(bundle_folder, photos, tmp_path):
    """Of all that builds, trains, exports and runs networks, in one process without a command."""
    code = (
        "import sys, hashnet\n"
        "from hashnet.network import bundle, export\n"
        "there, photos, out = sys.argv[1:]\n"
        "for runtime in ('onnxruntime', 'openvino'):\n"
        "    index = hashnet.Index.of_photos(f'{out}/{runtime}', photos, bundle=there,\n"
        "                                    runtime=runtime)\n"
        "hashnet.train(photos, f'{out}/b', bits=8, image_size=64, backbone='tiny',\n"
        "              weights='random', head_epochs=1, epochs=1, batch=4, verbose=False)\n"
        "for format, suffix in export.SUFFIXES.items():\n"
        "    export.export(bundle.load(there), f'{out}/export{suffix}', format)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, bundle_folder, photos, tmp_path],
        capture_output=True,
        text=True,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
