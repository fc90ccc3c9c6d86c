"""What the guide to training says of faces, persons and other crops, on crops that are made."""

import pathlib
import re
import shlex

import numpy as np
import pytest

from hashnet import images
from hashnet.network import backbones
from tests.stub_backbone import STUB

pytestmark = [pytest.mark.keras, pytest.mark.thorough]
GUIDE = pathlib.Path(__file__).resolve().parents[1] / "docs" / "training.md"
# The recipe's network would take minutes.
CHEAP = ["--backbone", "stub", "--weights", "random", "--image-size", "32", "--learn-from", ""]
CHEAP += ["--epochs", "1", "--embedding", "4", "--components", "3", "--bits", "16"]


@pytest.fixture(autouse=True)
def stub(monkeypatch):
    """Know the stub of a backbone."""
    monkeypatch.setitem(backbones.BACKBONES, "stub", STUB)


def crops(folder, names, each, seed):
    """Crops of identities: a colour and a stripe of each, on a ground that says nothing."""
    random = np.random.default_rng(seed)
    for name in names:
        own = np.random.default_rng(sum(name.encode()))
        colour, at = own.integers(40, 256, 3), own.integers(6, 26)
        (folder / name).mkdir(parents=True)
        for number in range(1, each + 1):
            crop = random.integers(0, 60, (32, 32, 3)) + random.integers(0, 40)
            crop[4:28, 8:24] = colour * random.uniform(0.8, 1)
            crop[at : at + 3, 8:24] = 255 - colour
            images.write(folder / name / f"{number}.png", crop.clip(0, 255).astype("uint8"))


def test_the_commands_for_crops_run_as_shown(tmp_path, monkeypatch, run):
    section = GUIDE.read_text(encoding="utf-8").partition("## Faces, persons")[2]
    [block] = re.findall(r"```console\n(.*?)```", section.partition("\n## ")[0], re.DOTALL)
    monkeypatch.chdir(tmp_path)
    crops(tmp_path / "crops" / "train", ["bea", "cid", "dot", "eve", "flo", "gus"], 8, seed=0)
    crops(tmp_path / "crops" / "database", ["ann", "zoe", "max"], 3, seed=1)
    crops(tmp_path / "crops" / "queries", ["ann", "zoe", "max"], 2, seed=2)
    said = {}
    for line in block.strip().splitlines():
        _, verb, *arguments = shlex.split(line)
        more = CHEAP if verb == "train" else []
        status, out, err = run(verb, *arguments, *more)
        assert status == 0, (line, out, err)
        said[verb] = out
    assert said["index"].startswith("9 added")
    assert "6 queries" in said["evaluate"]
    assert "crops/queries/ann/1.png" in said["search"]
