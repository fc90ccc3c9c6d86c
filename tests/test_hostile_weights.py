"""Model files of strangers: refused, nothing in them is run, and memory stays bounded."""

import hashlib
import io
import itertools
import json
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from hashnet import cli
from hashnet.errors import BundleError, WeightsError
from hashnet.network import backbones, bundle, keras_check
from tests.lazily import Lazily

h5py = Lazily("h5py")
pytestmark = pytest.mark.keras
SECRET = np.full((1, 64), 7, np.float32)


@pytest.fixture(scope="module")
def good(stub_bundles):
    return bundle.load(stub_bundles[0])


@pytest.fixture
def with_model(good, tmp_path):
    """Function of the bytes of a model file: a bundle that holds it, with a matching checksum."""

    numbers = itertools.count()

    def make(content):
        folder = shutil.copytree(good.folder, tmp_path / f"bundle{next(numbers)}")
        (folder / bundle.MODEL).write_bytes(content)
        description = json.loads((folder / bundle.DESCRIPTION).read_text())
        description["sha256"][bundle.MODEL] = hashlib.sha256(content).hexdigest()
        (folder / bundle.DESCRIPTION).write_text(json.dumps(description))
        return bundle.load(folder)

    return make


def members(good):
    with zipfile.ZipFile(good.folder / bundle.MODEL) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(files):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def with_weights_changed(good, change):
    """The good model file after `change` had its way with the HDF5 file in it."""
    files = members(good)
    weights = io.BytesIO(files["model.weights.h5"])
    with h5py.File(weights, "r+") as file:
        change(file)
    return zipped({**files, "model.weights.h5": weights.getvalue()})


def first_array(file):
    """Path of some array in the file."""
    found = []
    file.visititems(lambda name, one: found.append(name) if isinstance(one, h5py.Dataset) else None)
    return found[0]


def refusal(opened):
    with pytest.raises(BundleError, match="must fit its description") as caught:
        opened.load_model()
    return str(caught.value)


def test_the_good_file_loads(good, with_model):
    with_model(zipped(members(good))).load_model()


@pytest.mark.parametrize(
    ("module", "class_name", "config"),
    [
        ("keras.layers", "Lambda", {"function": {"class_name": "__lambda__", "config": {}}}),
        ("os", "system", {"command": "touch sentinel"}),
        ("keras.layers", "TFSMLayer", {"filepath": "sentinel"}),
    ],
)
def test_what_a_model_file_says_about_layers_is_never_run(
    good, with_model, tmp_path, monkeypatch, module, class_name, config
):
    monkeypatch.chdir(tmp_path)
    attack = {"module": module, "class_name": class_name, "config": config}
    opened = with_model(zipped({**members(good), "config.json": json.dumps(attack).encode()}))
    expected = good.load_model().get_weights()
    for mine, theirs in zip(opened.load_model().get_weights(), expected, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert not (tmp_path / "sentinel").exists()


def test_a_foreign_member_is_refused(good, with_model):
    files = {**members(good), "assets/run.py": b"print('hello')"}
    assert "assets/run.py" in refusal(with_model(zipped(files)))


@pytest.mark.parametrize("kind", ["external", "virtual", "soft link", "external link"])
def test_weights_in_another_file_are_never_read(good, with_model, tmp_path, kind):
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["secret"] = SECRET
    (tmp_path / "secret.bin").write_bytes(SECRET.tobytes())

    def change(file):
        name = first_array(file)
        shape = file[name].shape
        del file[name]
        if kind == "external":
            places = [(str(tmp_path / "secret.bin"), 0, 256)]
            file.create_dataset(name, shape, "f4", external=places)
        elif kind == "virtual":
            layout = h5py.VirtualLayout(shape, "f4")
            source = h5py.VirtualSource(str(tmp_path / "secret.h5"), "secret", shape)
            layout[...] = source
            file.create_virtual_dataset(name, layout)
        elif kind == "soft link":
            file[name] = h5py.SoftLink("/elsewhere")
        else:
            file[name] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "secret")

    message = refusal(with_model(with_weights_changed(good, change)))
    assert "in another file" in message or "a link to something else" in message


def test_a_group_that_holds_itself_ends_the_walk(good, with_model):
    def change(file):
        file["again"] = file["/"]

    with_model(with_weights_changed(good, change)).load_model()


LOAD = """
import resource, sys
from hashnet.network import backbones, bundle
from hashnet.network.model import build
from tests.stub_backbone import STUB

backbones.BACKBONES["stub"] = STUB
opened = [bundle.load(folder) for folder in sys.argv[1:]]
build(opened[0].config, weights=None)
for one in opened:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        one.load_model()
    except bundle.BundleError as error:
        print("refused", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.fixture
def bombs(good, with_model):
    """Bundles whose small model files unfold to gigabytes, or to more memory than they may take."""
    unfolded = 160 * 2**20

    def huge_shape(file):
        name = first_array(file)
        del file[name]
        file.create_dataset(name, (2**40,), "f4", chunks=(2**20,))

    def compressed(file):
        name = first_array(file)
        del file[name]
        array = file.create_dataset(
            name, (unfolded // 4,), "f4", chunks=(2**20,), compression="gzip", compression_opts=9
        )
        for begin in range(0, unfolded // 4, 2**20):
            array[begin : begin + 2**20] = np.zeros(2**20, np.float32)

    contents = [
        zipped({**members(good), "model.weights.h5": bytes(unfolded)}),
        with_weights_changed(good, huge_shape),
        with_weights_changed(good, compressed),
    ]
    assert max(map(len, contents)) < 2_000_000
    return [with_model(content) for content in contents]


def test_a_small_file_that_unfolds_to_gigabytes_is_refused(bombs):
    for bomb in bombs:
        refusal(bomb)


@pytest.mark.thorough
def test_a_small_file_that_unfolds_to_gigabytes_is_refused_in_little_memory(bombs):
    folders = [bomb.folder for bomb in bombs]
    run = subprocess.run([sys.executable, "-c", LOAD, *folders], capture_output=True, text=True)
    answers = [line.split() for line in run.stdout.splitlines()]
    assert [word for word, _ in answers] == ["refused"] * 3, run.stderr
    assert max(int(kilobytes) for _, kilobytes in answers) < 100_000


@pytest.mark.parametrize("length", [0, 10, 1000, -1000, -1])
def test_a_truncated_model_file_is_refused(good, with_model, length):
    whole = (good.folder / bundle.MODEL).read_bytes()
    refusal(with_model(whole[:length]))


def test_a_whole_model_in_hdf5_is_refused_whatever_its_name(good, with_model, tmp_path, capsys):
    import keras

    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(2)])
    model.save(tmp_path / "model.h5")
    content = (tmp_path / "model.h5").read_bytes()
    refusal(with_model(content))
    with pytest.raises(WeightsError, match="whole model in HDF5"):
        keras_check.check(tmp_path / "model.h5", model)
    with pytest.raises(WeightsError, match="whole model in HDF5"):
        backbones.create("mobilenet_v3_large", weights=tmp_path / "model.h5", image_size=32)
    for name in ("model.h5", "model.keras"):
        (tmp_path / name).write_bytes(content)
        arguments = ["export", str(tmp_path / name), str(tmp_path / "n.onnx"), "--format", "onnx"]
        assert cli.main(arguments) == cli.FAILED
        assert "A bundle is a folder" in capsys.readouterr().err


def test_weights_that_name_further_files_are_refused(tmp_path):
    shards = {"metadata": {}, "weight_map": {"/layers": ["../../etc/passwd"]}}
    path = tmp_path / "shards.weights.json"
    path.write_text(json.dumps(shards))
    with pytest.raises(WeightsError):
        backbones.create("mobilenet_v3_large", weights=path, image_size=32)
