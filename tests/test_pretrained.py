"""The default network as searching runs it, made without Keras."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from hashnet.encode.encoder import Encoder
from hashnet.errors import ArgumentError, BundleError, ShapeError, WeightsError
from hashnet.network import backbones, bundle, onnx_graph, pretrained, torch_weights
from hashnet.network.model import HashNetConfig
from hashnet.train import unsupervised


def config(backbone="efficientnet_lite0", **options):
    return HashNetConfig(
        backbone=backbone,
        num_bits=12,
        classes=backbones.imagenet_classes(),
        scores_from="feature",
        **options,
    )


@pytest.mark.thorough
def test_photos_are_indexed_and_searched_with_the_core_alone(photos, tmp_path):
    """In a process that has no library but those of setup.cfg's install_requires."""
    code = (
        "import sys; sys.modules.update(dict.fromkeys(sys.argv[1].split(',')))\n"
        "from hashnet import cli\n"
        "for command in sys.argv[2:]:\n"
        "    print(cli.main(command.split('|')))\n"
    )
    absent = "cv2,h5py,jax,keras,llvmlite,matplotlib,numba,openvino,pandas,scipy,tensorflow"
    few = tmp_path / "photos"
    for kind in ("disc", "ramp"):
        (few / kind).mkdir(parents=True)
        for number in range(3):
            shutil.copy(photos / f"{kind}/{number}.png", few / kind)
    index, folder, query = tmp_path / "i", few / "disc", few / "disc/0.png"
    commands = [
        f"index|{index}|{few}|--label-from|folder",
        f"search|{index}|{query}|-k|2|--json",
        f"evaluate|{index}|{few}|--json",
        f"info|{index}|--json",
        f"train|{few}|--bundle|{tmp_path / 'b'}",
        f"index|{tmp_path / 'r'}|{folder}|--backbone|resnet50",
        f"export|{index}|{tmp_path / 'x.onnx'}|--format|onnx",
    ]
    run = subprocess.run(
        [sys.executable, "-c", code, absent, *commands], capture_output=True, text=True
    )
    answers = [line for line in run.stdout.splitlines() if line]
    assert [line for line in answers if line.isdigit()] == ["0"] * 4 + ["1"] * 3, run.stderr
    hits = next(json.loads(line) for line in answers if line.startswith('{"query"'))["hits"]
    assert [hit["label"] for hit in hits] == ["disc", "disc"]
    refusals = [line for line in run.stderr.splitlines() if "Keras" in line]
    assert len(refusals) == 3
    assert all('pip install "keras>=' in line and "tensorflow" in line for line in refusals)
    assert not (tmp_path / "r").exists() and not (tmp_path / "x.onnx").exists()


@pytest.mark.slow
def test_a_fitted_bundle_gives_its_network_to_keras(photos, tmp_path):
    paths = sorted(photos.rglob("*.png"))[::3]
    fitted = unsupervised.fit_bundle(tmp_path / "b", paths, num_bits=16)
    assert sorted(path.name for path in fitted.bundle.folder.iterdir()) == [
        "encoder.onnx",
        "hashnet.json",
    ]
    description = json.loads((tmp_path / "b/hashnet.json").read_text())
    assert description["format_version"] == 3
    encoded = Encoder(fitted.bundle).encode(paths)
    by_keras = Encoder(fitted.bundle, runtime="keras").encode(paths)
    np.testing.assert_allclose(by_keras.latents, encoded.latents, atol=1e-4)
    far = np.abs(encoded.latents - 0.5) > 1e-4
    np.testing.assert_array_equal((by_keras.latents >= 0.5)[far], (encoded.latents >= 0.5)[far])


def test_weights_of_another_network_are_refused():
    with pytest.raises(WeightsError, match="checkpoint of efficientnet_lite0"):
        pretrained.write(config(), torch_weights.efficientnet_lite_file(1))
    with pytest.raises(WeightsError, match="existing file"):
        pretrained.write(config(), "no-such-file.pth")
    with pytest.raises(ArgumentError, match="32 pixels"):
        pretrained.write(config(image_size=8))


@pytest.mark.thorough
def test_weights_of_h_fit_or_are_refused():
    network = pretrained.write(config(image_size=32))
    with pytest.raises(ShapeError, match="latent/kernel"):
        pretrained.with_hash_layer(network, np.ones((1280, 13)), np.zeros(12))
    made = pretrained.with_hash_layer(network, np.ones((1280, 12)), np.zeros(12))
    assert onnx_graph.content(made) != onnx_graph.content(network)


def test_a_file_that_keras_could_not_read_back_makes_no_bundle(bundle_folder, tmp_path):
    foreign = bundle.load(bundle_folder)
    with pytest.raises(BundleError, match="ours"):
        bundle.save_encoder(
            tmp_path / "b", foreign.encoder_file.read_bytes(), foreign.config, origin={}
        )
    assert not (tmp_path / "b").exists()
