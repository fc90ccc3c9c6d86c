"""Comparisons of features: figures by slow definitions, tests that tell, and a page."""

import itertools
import json
import math
import os

import numpy as np
import pytest

import hashnet
from hashnet import cli, codes, comparing, images, metrics
from hashnet.encode.encoder import Encoder
from hashnet.errors import ArgumentError, UnknownNameError
from hashnet.network import backbones
from hashnet.retrieval.evaluation import comparison, comparison_report, significance
from hashnet.retrieval.evaluation.ground_truth import Listed, answerable, query_set_of
from hashnet.retrieval.search.ranking import Certainty, Ranking
from hashnet.retrieval.store.items import Item

# --- Intervals and tests --------------------------------------------------------------------------


def test_an_interval_holds_the_mean_as_often_as_it_says():
    rng, held = np.random.default_rng(0), []
    for seed in range(60):
        low, high = significance.interval(rng.random(40) ** 2, seed=seed)
        held.append(low <= 1 / 3 <= high)
        assert 0.1 < high - low < 0.3
    assert 0.85 <= np.mean(held) <= 1


def test_the_chance_of_a_difference_is_that_of_all_signs():
    differences = np.array([0.3, 0.1, -0.05, 0.2, 0.15, 0.08, -0.02, 0.11])
    every = [
        abs(sum(sign * one for sign, one in zip(signs, differences, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    exact = np.mean(np.array(every) >= abs(differences.sum()) - 1e-12)
    assert significance.randomisation(differences, seed=0) == pytest.approx(exact, abs=0.005)


def test_chances_of_differences_that_are_none_are_spread_evenly():
    rng = np.random.default_rng(1)
    chances = [significance.randomisation(rng.standard_normal(20), seed=n) for n in range(100)]
    assert 0.3 < np.mean(np.array(chances) < 0.5) < 0.7
    assert np.mean(np.array(chances) < 0.05) < 0.13


def test_several_tests_are_raised_by_how_many_are_left():
    assert significance.of_several([0.01, 0.02, 0.03]) == pytest.approx([0.03, 0.04, 0.04])
    assert significance.of_several([0.9, 0.5]) == [1.0, 1.0]
    assert significance.of_several([]) == []


# --- What is ranked -------------------------------------------------------------------------------


class World:
    """Forty vectors around four centres, full of copies; all are images and some are queries."""

    def __init__(self, num_bits=12):
        rng = np.random.default_rng(0)
        self.labels = np.arange(40) % 4
        rows = np.eye(4, 8)[self.labels] + 0.6 * rng.standard_normal((40, 8))
        rows[20:24] = rows[:4]
        self.rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
        self.kernel = rng.standard_normal((8, num_bits))
        self.codes = codes.pack(self.rows @ self.kernel >= 0)
        self.mean = self.rows.mean(axis=0)
        self.database = Listed(
            [Item(str(n), f"/x/{label}/{n}.jpg", str(label)) for n, label in enumerate(self.labels)]
        )
        self.num_bits = num_bits

    def ranking(self, query):
        latent = 1 / (1 + np.exp(-self.rows[query] @ self.kernel))
        certainty = Certainty.of(latent, self.codes[query])
        return Ranking(certainty, self.mean.astype(float), 8.0 * certainty.unit)

    def methods(self, query_set, **options):
        described = comparison.Described("f", self.rows, self.rows[:9], 1.5, 16)
        coded = comparison.Coded(self.num_bits, self.codes, self.codes[:9], self.ranking)
        return comparison.methods_of(
            described, [coded], query_set, self.database, tell=lambda *_: None, **options
        )


@pytest.fixture
def world(tmp_path, monkeypatch):
    made = World()
    for number in range(9):
        folder = tmp_path / str(made.labels[number])
        folder.mkdir(exist_ok=True)
        images.write(folder / f"{number}.png", np.full((4, 4, 3), number, np.uint8))
    query_set = query_set_of([tmp_path], None, made.database)
    order = np.argsort([int(os.path.basename(path)[:-4]) for path in query_set.paths])
    made.query_set = answerable(query_set.kept(order), made.database)
    made.query_set.own[:] = [0, -1, 2, -1, -1, 5, -1, -1, 8]
    return made


@pytest.mark.parametrize("threads", [1, 2])
def test_each_method_scores_as_its_definition_says(world, threads):
    found = world.methods(world.query_set, num_threads=threads)
    assert [one.name for one in found] == ["f", "f, 12 bits", "f, 12 bits and feature"]
    assert [one.bytes_per_image for one in found] == [16, 2, 18]
    bits = codes.unpack(world.codes, 12)
    for query in range(9):
        others = [row for row in range(40) if row != world.query_set.own[query]]
        relevant = world.labels[others] == world.labels[query]
        ranking = world.ranking(query)
        slow = [[], [], []]
        for row in others:
            differing = bits[row] != bits[query]
            joined = math.dist(*(unit_from(world, one) for one in (row, query))) ** 2
            joined += ranking.weight * sum(ranking.certainty.steps[differing].tolist())
            slow[0].append(round(math.dist(world.rows[row], world.rows[query]), 9))
            slow[1].append(int(differing.sum()))
            slow[2].append(round(joined, 9))
        for method, distances in zip(found, slow, strict=True):
            expected = metrics.tie_aware_average_precision(np.array(distances), relevant).expected
            assert method.average_precision[query] == pytest.approx(expected, abs=1e-9)
            nearest = sorted(zip(distances, others, strict=True))[:5]
            assert method.hits[query].tolist() == [row for _, row in nearest]
            right = world.labels[nearest[0][1]] == world.labels[query]
            assert method.found_at_1[query] == right


def unit_from(world, row):
    apart = world.rows[row].astype(float) - world.mean.astype(float)
    return apart / math.sqrt(sum(apart**2))


def test_figures_are_those_of_the_queries_and_a_report_shows_where_methods_differ(world, tmp_path):
    pytest.importorskip("matplotlib")
    methods = world.methods(world.query_set, num_threads=1)
    relevant = [np.flatnonzero(world.query_set.relevant(at, world.database)) for at in range(9)]
    paths = [str(item.path) for item in world.database.items]
    made = comparison.Comparison(
        methods, paths, world.query_set.paths, relevant, "As <said>.",
        [images.Problem("a<b", "broken")], seed=3,
    )  # fmt: skip
    first, second, third = made.figures()
    assert "p" not in first and 0 < second["p"] <= 1
    apart = methods[2].average_precision - methods[0].average_precision
    assert third["difference"] == pytest.approx(apart.mean(), abs=1e-4)
    low, high = third["difference_interval"]
    assert low <= third["difference"] <= high
    assert "9 queries, 40 images" in repr(made)
    comparison_report.write(tmp_path / "report", made)
    figures = json.loads((tmp_path / "report" / "report.json").read_text())
    assert figures == json.loads(json.dumps(made.to_dict()))
    page = (tmp_path / "report" / "index.html").read_text()
    assert "As &lt;said&gt;." in page and "a&lt;b" in page
    assert "f, 12 bits beside f" in page and 'class="right"' in page and 'class="wrong"' in page
    plots = sorted(os.listdir(tmp_path / "report" / "plots"))
    assert plots == ["cost.png", "differences.png", "map.png"]


# --- Features of photos ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def few(photos, tmp_path_factory):
    """Two photos of each pattern, and a file that is none."""
    folder = tmp_path_factory.mktemp("few")
    for picture in sorted(photos.rglob("[01].png")):
        (folder / picture.parent.name).mkdir(exist_ok=True)
        (folder / picture.parent.name / picture.name).write_bytes(picture.read_bytes())
    (folder / "disc" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return folder


@pytest.mark.thorough
def test_photos_are_compared_by_the_poolings_of_one_pass(few, monkeypatch):
    monkeypatch.setattr(comparing, "_milliseconds", lambda encoder, sources: 1.0)
    found = hashnet.compare(few, features=["f7", "gem"], bits=[])
    assert [one.name for one in found.methods] == ["f7", "gem"]
    assert (len(found.queries), len(found.paths), len(found.problems)) == (8, 8, 1)
    assert found.methods[0].found_at_1.all()
    assert (found.methods[0].average_precision != found.methods[1].average_precision).any() or (
        found.methods[0].hits != found.methods[1].hits
    ).any()


def test_a_bundle_is_compared_by_the_feature_that_its_network_gives(few, bundle_folder):
    name = str(bundle_folder)
    found = hashnet.compare(few, features=[name], bits=[8])
    assert [one.name for one in found.methods] == [
        name,
        f"{name}, 8 bits",
        f"{name}, 8 bits and feature",
    ]
    features = Encoder.open(bundle_folder).encode(found.paths).features
    apart = np.linalg.norm(features[:, None] - features, axis=2)
    np.fill_diagonal(apart, np.inf)
    assert found.methods[0].hits[:, 0].tolist() == apart.argmin(axis=1).tolist()
    assert found.methods[0].bytes_per_image == 2 * features.shape[1]


@pytest.mark.thorough
def test_features_are_those_that_a_network_gives_alone(few):
    found = hashnet.compare(few, features=["gem", "f7", "mean+map_mac"], bits=[])
    assert [one.name for one in found.methods] == ["gem", "f7", "mean+map_mac"]
    assert [one.path.endswith("broken.png") for one in found.problems] == [True]
    assert (len(found.queries), len(found.paths)) == (8, 8)
    assert "8 of the queries are among them" in found.protocol
    with comparing._Encoders() as encoders:
        names = ["efficientnet_lite0:gem", "efficientnet_lite0", "efficientnet_lite0:mean+map_mac"]
        for method, name in zip(found.methods, names, strict=True):
            features = encoders.of(backbones.known(name)).encode(found.paths).features
            apart = np.linalg.norm(features[:, None] - features, axis=2)
            np.fill_diagonal(apart, np.inf)
            assert method.hits[:, 0].tolist() == apart.argmin(axis=1).tolist()
            assert method.bytes_per_image == 2 * features.shape[1]
    assert all(one.encode_milliseconds > 0 for one in found.methods)
    again = hashnet.compare(few, features=["gem"], bits=[])
    np.testing.assert_array_equal(
        again.methods[0].average_precision, found.methods[0].average_precision
    )


@pytest.mark.thorough
def test_the_command_compares_with_codes_and_writes_a_report(photos, tmp_path, run):
    pytest.importorskip("matplotlib")
    truth = {"disc/0.png": ["disc/1.png", "disc/2.png"], "ramp/3.png": ["ramp/0.png"]}
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    arguments = ["compare", photos, "--features", "f7,crow", "--codes", "32"]
    arguments += ["--ground-truth", tmp_path / "truth.json"]
    status, out, _ = run(*arguments, "--report", tmp_path / "report", "--json")
    figures = json.loads(out)
    assert status == 0 and figures["queries"] == 2 and figures["compared_with"] == "f7"
    assert [one["method"] for one in figures["methods"]][3:] == [
        "crow", "crow, 32 bits", "crow, 32 bits and feature",
    ]  # fmt: skip
    assert (tmp_path / "report" / "index.html").is_file()
    status, out, _ = run("compare", photos, "--most-queries", 5, "--codes", "none")
    assert status == 0 and "5 queries, 24 images" in out and "128" not in out.split("Queries:")[0]


def test_what_cannot_be_compared_is_refused_before_any_work(few, tmp_path, capsys):
    with pytest.raises(UnknownNameError, match="backbone of this name.*'max'"):
        hashnet.compare(few, features=["max"])
    with pytest.raises(ArgumentError, match="named once each"):
        hashnet.compare(few, features=["f7", "f7"])
    with pytest.raises(ArgumentError, match="The number of bits is an integer from 1 to 1024"):
        hashnet.compare(few, bits=[0])
    with pytest.raises(ArgumentError, match="Poolings are of the maps .*gem of mine.onnx"):
        hashnet.compare(few, features=["gem"], backbone="mine.onnx")
    with pytest.raises(ArgumentError, match="class folders, or by ground truth"):
        hashnet.compare(few / "disc")
    with pytest.raises(ArgumentError, match="one photo or more"):
        hashnet.compare(tmp_path)
    with pytest.raises(SystemExit):
        cli.main(["compare", str(few), "--codes", "long"])
    assert "'long' is no list of lengths" in capsys.readouterr().err
