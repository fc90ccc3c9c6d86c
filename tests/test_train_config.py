"""Settings and recipes."""

import dataclasses
import tomllib

import pytest

from hashnet.errors import ArgumentError, UnknownNameError
from hashnet.train import config
from hashnet.train.config import TrainConfig


@pytest.mark.parametrize("name", config.recipe_names())
def test_every_recipe_names_settings_that_exist(name):
    recipe = config.from_recipe(name)
    known = {field.name for field in dataclasses.fields(TrainConfig)}
    text = (config.RECIPES / f"{name}.toml").read_text()
    assert set(tomllib.loads(text)) <= known
    assert isinstance(recipe, TrainConfig)


@pytest.mark.parametrize("name", config.recipe_names())
def test_every_recipe_says_command_machine_minutes_score_and_paper(name):
    text = (config.RECIPES / f"{name}.toml").read_text()
    for word in ("# Command:", "# Machine:", "# Minutes:", "# Expected:", "# Paper:"):
        assert word in text
    assert f"--recipe {name}" in text


def test_a_recipe_can_be_changed():
    assert config.from_recipe("cifar10_48", num_bits=16).num_bits == 16


def test_a_recipe_of_ones_own_is_a_path(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('num_bits = 16\nheld_out = ["cat"]\nrate = 1\n')
    mine = config.from_recipe(str(path))
    assert (mine.num_bits, mine.held_out, mine.rate) == (16, ("cat",), 1.0)


def test_an_unknown_recipe_is_refused_with_the_known_ones():
    with pytest.raises(UnknownNameError, match="cifar10_48"):
        config.from_recipe("cifar11")


def test_an_unknown_setting_in_a_recipe_is_refused_with_the_known_ones(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("num_bit = 16\n")
    with pytest.raises(UnknownNameError, match="'num_bit'.*num_bits"):
        config.from_recipe(str(path))


@pytest.mark.parametrize("content", ["num_bits = = 3", None])
def test_a_recipe_that_cannot_be_read_is_refused(tmp_path, content):
    path = tmp_path / "mine.toml"
    if content:
        path.write_text(content)
    with pytest.raises(ArgumentError, match="TOML.*mine"):
        config.from_recipe(str(path))


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch": 1},
        {"validation": 0.7},
        {"rate": 0.0},
        {"rate": "fast"},
        {"flip": 1},
        {"epochs": 0, "head_epochs": 0},
        {"patience": 3},
        {"tensorboard": True},
        {"warmup": float("nan")},
        {"held_out": ("cat", 3)},
        {"held_out": "cat"},
    ],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ArgumentError, match="Received"):
        TrainConfig(**wrong)


@pytest.mark.parametrize("name", ["loss", "optimizer", "schedule", "precision"])
def test_an_unknown_choice_is_refused_with_the_known_ones(name):
    with pytest.raises(UnknownNameError, match="Known ones"):
        TrainConfig(**{name: "other"})
