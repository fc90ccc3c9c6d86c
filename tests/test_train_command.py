"""Training as it is asked for, by `hashnet train` and `hashnet.train`: what it says and keeps."""

import json
import shutil

import pytest
from PIL import Image

import hashnet
from hashnet import cli

pytestmark = pytest.mark.keras


@pytest.fixture
def tiny_training(tmp_path):
    """Options of a training of seconds."""
    recipe = tmp_path / "tiny.toml"
    recipe.write_text('backbone = "tiny"\nweights = "random"\nimage_size = 32\n')
    return ("--recipe", recipe, "--bits", 8, "--head-epochs", 1, "--epochs", 0, "--batch", 4)


def test_train_ends_with_the_score_of_what_it_made(run, photos, tiny_training, tmp_path):
    bundle = tmp_path / "my.bundle"
    status, out, err = run("train", photos, "--bundle", bundle, *tiny_training)
    score = json.loads((bundle / "hashnet.json").read_text())["origin"]["score"]
    assert status == cli.DONE and "phase 1" in err
    assert f"mAP {score['map']:.3f} on 24 images that it has learned from" in out


@pytest.mark.thorough
def test_train_quietly_replaces_a_bundle_and_scores_what_was_kept_apart(
    run, photos, bundle_folder, tiny_training, tmp_path
):
    bundle = shutil.copytree(bundle_folder, tmp_path / "my.bundle")
    status, out, err = run(
        "train", photos, "--bundle", bundle, "--overwrite", "-q", *tiny_training,
        "--validation", 0.5,
    )  # fmt: skip
    assert (status, err) == (cli.DONE, "") and "on 12 images kept apart" in out


def test_train_replaces_a_bundle_only_when_told_to(
    run, photos, bundle_folder, tiny_training, tmp_path
):
    folder = shutil.copytree(bundle_folder, tmp_path / "my.bundle")
    (folder / "delf.onnx").write_bytes(b"learned")
    before = sorted(path.name for path in folder.iterdir())
    status, _, err = run("train", photos, "--bundle", folder, *tiny_training)
    assert status == cli.WRONG_ARGUMENTS
    assert "--overwrite" in err and "delf.onnx" in err
    assert sorted(path.name for path in folder.iterdir()) == before
    assert (folder / "delf.onnx").read_bytes() == b"learned"


@pytest.mark.parametrize(
    ("each", "said"), [(1, "one image in each of 5 classes"), (9, "(--batch 20)")]
)
def test_too_few_images_are_refused_before_libraries_load(run, tmp_path, monkeypatch, each, said):
    from hashnet import quiet

    monkeypatch.setattr(quiet, "import_keras", lambda: pytest.fail("they are loaded"))
    for one in range(5 * each):
        folder = tmp_path / "photos" / f"class {one % 5}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (one, 0, 0)).save(folder / f"{one}.png")
    bundle = tmp_path / "my.bundle"
    status, _, err = run("train", tmp_path / "photos", "--bundle", bundle, "--loss", "supcon")
    assert status == cli.WRONG_ARGUMENTS and said in err and not bundle.exists()


@pytest.mark.thorough
def test_a_training_ends_with_a_score(photos, tmp_path, monkeypatch):
    from hashnet.network import backbones
    from tests.stub_backbone import STUB

    monkeypatch.setitem(backbones.BACKBONES, "stub", STUB)
    settings = {"backbone": "stub", "weights": "random", "image_size": 32, "batch": 8}
    trained = hashnet.train(
        photos, tmp_path / "b", bits=8, head_epochs=2, epochs=0, verbose=False, **settings
    )
    assert trained.score.images == 24 and not trained.score.kept_apart
    assert "has learned from" in str(trained.score)
    assert trained.bundle.origin["score"] == trained.score.to_dict()
    apart = hashnet.train(
        photos,
        tmp_path / "b",
        bits=8,
        head_epochs=2,
        epochs=0,
        validation=0.5,
        overwrite=True,
        verbose=False,
        **settings,
    )
    assert apart.score.images == 12 and apart.score.kept_apart
    # On the images that were kept apart it is what was measured after the last epoch.
    assert apart.score.map == pytest.approx(apart.history[-1]["validation_map"], abs=1e-3)
