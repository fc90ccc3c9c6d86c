"""The last stage: local features confirm what codes and features have found."""

import dataclasses
import json

import numpy as np
import pytest

from hashnet import cli, images
from hashnet.errors import ArgumentError, FingerprintError, StoreError, UnknownIdError
from hashnet.images import reading
from hashnet.local import extractors
from hashnet.local.sift import Sift
from hashnet.retrieval.evaluation.evaluate import evaluate
from hashnet.retrieval.index import Index
from hashnet.retrieval.search import local_pool, verify
from hashnet.retrieval.search.engine import Engine
from hashnet.retrieval.search.query import Query

pytest.importorskip("cv2", reason="needs OpenCV: pip install hashnet[delf]")

NUM_THINGS = 6


def thing(number):
    """A picture with corners everywhere, unlike all others in its details only."""
    coarse = np.random.default_rng(number).integers(0, 256, (20, 26, 3), dtype=np.uint8)
    return images.resize(coarse, (200, 260))


def view(number):
    """The same thing from elsewhere: a part of it, enlarged, darker, on its side."""
    part = images.resize(thing(number)[20:190, 30:250], (204, 264))
    return np.ascontiguousarray(np.rot90(part * np.float32(0.7)).astype(np.uint8))


def make_things(folder, number):
    """Pictures of things in `db`, and a view of each beside it."""
    (folder / "db").mkdir()
    for one in range(number):
        images.write(folder / "db" / f"{one}.png", thing(one))
        images.write(folder / f"view {one}.png", view(one))


@pytest.fixture(scope="module", autouse=True)
def soon():
    """A codebook for an index as small as those here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local_pool, "LEAST_IMAGES", 0)
        patch.setattr(local_pool, "LEAST_DESCRIPTORS", 300)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("things")
    make_things(folder, NUM_THINGS)
    images.write(folder / "db" / "blank.png", np.full((80, 90, 3), 99, np.uint8))
    return folder


@pytest.fixture(scope="module")
def index(folder, bundle_folder):
    index = Index.create(folder / "index", bundle_folder, local="sift")
    report = index.update([folder / "db"])
    assert (report.added, report.problems) == (NUM_THINGS + 1, [])
    return index


@pytest.fixture(scope="module")
def engine(index):
    return Engine(index)


def name(hit):
    return hit.path.rsplit("/", 1)[1].removesuffix(".png")


@pytest.mark.parametrize("number", range(NUM_THINGS))
def test_a_view_of_a_thing_finds_the_thing(engine, folder, number):
    result = engine.search(folder / f"view {number}.png", Query(verify=True))
    first, *others = result.hits
    assert name(first) == str(number) and first.inliers > 20
    assert all(0 <= hit.inliers < 8 for hit in others)
    assert result.milliseconds["verify"] > 0


def test_verifying_only_permutes(engine, folder):
    for number in range(NUM_THINGS):
        query = folder / f"view {number}.png"
        plain, verified = engine.search(query), engine.search(query, Query(verify=True))
        assert {hit.id for hit in plain.hits} == {hit.id for hit in verified.hits}
        by_id = {hit.id: (hit.bits_apart, hit.distance) for hit in plain.hits}
        assert all((h.bits_apart, h.distance) == by_id[h.id] for h in verified.hits)
        failed = [hit.id for hit in verified.hits if hit.inliers < 8]
        assert failed == [hit.id for hit in plain.hits if hit.id in failed]
        assert verified.hits[: -len(failed)] == tuple(
            sorted(verified.hits[: -len(failed)], key=lambda hit: (-hit.inliers, hit.distance))
        )
        assert plain.milliseconds["verify"] is None
        assert all(hit.inliers is None for hit in plain.hits)


def test_only_the_nearest_are_verified_and_fewer_can_be_asked_for(engine, folder):
    query = folder / "view 2.png"
    order = [name(hit) for hit in engine.search(query).hits]
    place = order.index("2") + 1
    some = engine.search(query, Query(verify=True, verify_top=place))
    assert name(some.hits[0]) == "2"
    assert [hit.inliers is None for hit in some.hits] == [n >= place for n in range(7)]
    # A hit may come from beyond the k nearest, if it is among those verified.
    one = engine.search(query, Query(k=1, verify=True))
    assert [name(hit) for hit in one.hits] == ["2"]
    with pytest.raises(ArgumentError, match="verify_top=0"):
        engine.search(query, Query(verify=True, verify_top=0))


def test_the_answer_does_not_depend_on_threads(index, engine, folder):
    query = folder / "view 1.png"
    assert Engine(index, num_threads=3).search(query, Query(verify=True)).hits == (
        engine.search(query, Query(verify=True)).hits
    )


def test_a_query_may_come_in_any_form(engine, folder):
    path = folder / "view 3.png"
    wanted = engine.search(path, Query(verify=True)).hits
    with open(path, "rb") as file:
        for query in (path.read_bytes(), file, images.read(path)):
            assert engine.search(query, Query(verify=True)).hits == wanted


def test_a_search_by_id_is_verified_by_what_is_stored(engine, folder):
    id = "db/4.png"
    result = engine.search_id(id, Query(verify=True))
    assert id not in [hit.id for hit in result.hits]
    assert max(hit.inliers for hit in result.hits) < 8


def test_matched_places_are_where_the_thing_is(engine, folder):
    found = engine.match(folder / "view 5.png", "db/5.png")
    assert found.inliers > 20
    # By construction: view = the part turned a quarter to the left.
    row, column = found.query_yx[:, 0], found.query_yx[:, 1]
    back = np.column_stack([column, 263 - row]) * (170 / 204) + (20, 30)
    assert np.linalg.norm(back - found.yx, axis=1).max() < 3
    assert engine.match(folder / "view 5.png", "db/blank.png").inliers == 0
    itself = engine.match(folder / "db/5.png", "db/5.png")
    assert engine.match_id("db/5.png", "db/5.png").inliers == itself.inliers > 8
    assert engine.match_id("db/5.png", "db/blank.png").inliers == 0
    with pytest.raises(UnknownIdError):
        engine.match(folder / "view 5.png", "nobody")


def test_a_region_is_matched_by_itself(engine, folder):
    region = (100, 0, 264, 204)
    id = "db/0.png"
    whole = engine.match(folder / "view 0.png", id)
    part = engine.match(folder / "view 0.png", id, region=region)
    assert 8 <= part.inliers < whole.inliers
    result = engine.search(folder / "view 0.png", Query(region=region, verify=True))
    assert (result.hits[0].id, result.hits[0].inliers) == (id, part.inliers)


def test_a_result_keeps_the_matches_of_its_hits(engine, folder):
    query = folder / "view 0.png"
    for region in (None, (100, 0, 264, 204)):
        result = engine.search(query, Query(verify=True, verify_top=5, region=region))
        assert len(result.verifications) == len(result.hits) == 7
        compared = [
            (hit, one)
            for hit, one in zip(result.hits, result.verifications, strict=True)
            if one is not None
        ]
        assert len(compared) == 5
        for hit, one in compared:
            wanted = engine.match(query, hit.id, region=region)
            assert one.inliers == hit.inliers == wanted.inliers
            np.testing.assert_array_equal(one.query_yx, wanted.query_yx)
            np.testing.assert_array_equal(one.yx, wanted.yx)
        assert result.hits[0].inliers >= 8
    assert engine.search(query).verifications is None


def test_matches_of_a_part_are_in_pixels_of_the_whole_query(engine, folder):
    """By construction the view is the thing's part turned a quarter to the left."""
    top = 100
    found = engine.match(folder / "view 0.png", "db/0.png", region=(top, 0, 264, 204))
    row, column = found.query_yx[:, 0], found.query_yx[:, 1]
    assert row.min() >= top
    back = np.column_stack([column, 263 - row]) * (170 / 204) + (20, 30)
    assert np.linalg.norm(back - found.yx, axis=1).max() < 3
    homogeneous = np.column_stack([found.query_yx, np.ones(len(row))]) @ found.model.T
    mapped = homogeneous[:, :2] / homogeneous[:, 2:]
    assert np.linalg.norm(mapped - found.yx, axis=1).max() < 9


class Counts:
    """How often a content was decoded, and local features were extracted."""

    def __init__(self, monkeypatch, content):
        self.decoded = self.extracted = 0
        real_open, real_extract = reading.open_image, Sift.extract

        def opened(given, *arguments):
            image = real_open(given, *arguments)
            if given == content:
                load = image.load

                def counted():
                    self.decoded += 1
                    image.load = load
                    return load()

                image.load = counted
            return image

        def extract(extractor, image):
            self.extracted += 1
            return real_extract(extractor, image)

        monkeypatch.setattr(reading, "open_image", opened)
        monkeypatch.setattr(Sift, "extract", extract)


@pytest.mark.parametrize("region", [[], ["--region", "0,0,264,204"]])
def test_a_pictured_search_decodes_its_query_once_and_extracts_once(
    index, folder, tmp_path, monkeypatch, region
):
    query = folder / "view 2.png"
    counts = Counts(monkeypatch, query.read_bytes())
    ask = ["search", str(index.store.folder), str(query), "--verify", *region]
    assert cli.main([*ask, "--picture", str(tmp_path / "out.png")]) == 0
    assert (counts.decoded, counts.extracted) == (1, 1)


def test_images_that_match_too_little_stay_where_they_were(engine, folder, monkeypatch):
    """Some inliers below the least number confirm nothing, however many they are."""
    query = folder / "view 2.png"
    plain = [hit.id for hit in engine.search(query).hits]
    few = verify.MATCHING["sift"].min_inliers - 1
    real = verify.verify_all

    def weak(features, candidates, *arguments, **options):
        found = real(features, candidates, *arguments, **options)
        return [
            dataclasses.replace(one, inliers=min(few, place)) for place, one in enumerate(found)
        ]

    monkeypatch.setattr(verify, "verify_all", weak)
    hits = engine.search(query, Query(verify=True)).hits
    assert [hit.id for hit in hits] == plain
    assert [hit.inliers for hit in hits] == [min(few, place) for place in range(7)]


def test_local_features_follow_their_images(folder, bundle_folder, tmp_path):
    (tmp_path / "db").mkdir()
    path = tmp_path / "db" / "one.png"
    images.write(path, thing(0))
    index = Index.create(tmp_path / "index", bundle_folder, local="sift")
    index.update([tmp_path / "db"])
    query = folder / "view 1.png"
    assert Engine(index).match(query, f"{path.parent.name}/{path.name}").inliers < 8
    images.write(path, np.ascontiguousarray(thing(1)))
    assert index.update([tmp_path / "db"]).changed == 1
    assert Engine(index).match(query, f"{path.parent.name}/{path.name}").inliers > 20
    assert index.add([folder / "db" / "2.png"], ids=["b"]).added == 1
    with open(folder / "db" / "3.png", "rb") as file:
        assert index.add([file, b"no image"], ids=["c", "d"]).added == 1
    index.remove([str(path)])
    with index.store.writer() as writer:
        writer.compact()
    engine = Engine(index)
    assert engine.match(folder / "view 2.png", "b").inliers > 20
    assert engine.match(folder / "view 3.png", "c").inliers > 20
    assert index.store.check() == []
    assert index.info()["local"] == "sift" and index.info()["format_version"] == 7


def test_an_image_that_is_damaged_behind_its_header_is_a_problem(bundle_folder, tmp_path):
    for number in range(3):
        images.write(tmp_path / f"{number}.png", thing(number))
    whole = (tmp_path / "1.png").read_bytes()
    (tmp_path / "1.png").write_bytes(whole[: len(whole) // 2])
    index = Index.create(tmp_path / "index", bundle_folder, local="sift")
    report = index.update([tmp_path / "0.png", tmp_path / "1.png", tmp_path / "2.png"])
    assert [problem.path for problem in report.problems] == [str(tmp_path / "1.png")]
    assert (report.added, len(index)) == (2, 2)


def test_an_index_without_local_features_says_so(folder, bundle_folder, tmp_path):
    index = Index.create(tmp_path / "index", bundle_folder)
    index.update([folder / "db"])
    engine = Engine(index)
    for ask in (
        lambda: engine.search(folder / "view 0.png", Query(verify=True)),
        lambda: engine.search_id("db/0.png", Query(verify=True)),
        lambda: engine.match(folder / "view 0.png", "db/0.png"),
    ):
        with pytest.raises(StoreError, match="--local"):
            ask()


# Evaluation


@pytest.fixture(scope="module")
def truth(folder):
    """Ground truth: each view shows its thing. The folder of queries holds nothing else."""
    path = folder / "truth.json"
    queries = folder / "queries"
    queries.mkdir()
    for number in range(NUM_THINGS):
        images.write(queries / f"seen {number}.png", view(number))
    path.write_text(json.dumps({f"seen {n}.png": [f"db/{n}.png"] for n in range(NUM_THINGS)}))
    return queries, path


def slow_stage(rankings):
    """Found at 1, at 5, and mAP where each query has one right answer; by the definition."""
    ranks = [names.index(number) + 1 for number, names in rankings.items()]
    return {
        "found_at_1": sum(rank <= 1 for rank in ranks) / len(ranks),
        "found_at_5": sum(rank <= 5 for rank in ranks) / len(ranks),
        "map_all": sum(1 / rank for rank in ranks) / len(ranks),
    }


@pytest.mark.thorough
def test_an_evaluation_sets_the_stages_side_by_side(index, engine, truth):
    queries, path = truth
    report = evaluate(index, [queries], ground_truth=path, query=Query(verify=True))
    stages = report.stages
    assert stages.queries == NUM_THINGS
    mean = stages.figures["verified"]["map_all"]
    assert repr(report).endswith(f", verified {mean:.4f} (of {NUM_THINGS} queries)")
    for name_of_stage, verified in (("coarse_to_fine", False), ("verified", True)):
        rankings = {
            str(number): [
                name(hit)
                for hit in engine.search(
                    queries / f"seen {number}.png", Query(verify=verified)
                ).hits
            ]
            for number in range(NUM_THINGS)
        }
        got = dict(stages.figures[name_of_stage])
        assert got.pop("milliseconds") > 0
        assert got == pytest.approx(slow_stage(rankings))
    assert stages.figures["verified"]["found_at_1"] == 1
    assert (stages.relevant_verified, stages.non_relevant_verified) == (1, 0)
    spent = [stages.figures[one]["milliseconds"] for one in ("coarse", "coarse_to_fine")]
    assert spent == sorted(spent) and stages.milliseconds["extract"] > 0
    assert evaluate(index, [queries], ground_truth=path).stages is None


def test_an_evaluation_verifies_no_more_than_it_is_told(index, truth, monkeypatch):
    queries, path = truth
    compared = []
    real = verify.verify_all

    def counted(query, candidates, *arguments, **options):
        compared.append(len(candidates))
        return real(query, candidates, *arguments, **options)

    monkeypatch.setattr(verify, "verify_all", counted)
    stages = evaluate(
        index,
        [queries],
        ground_truth=path,
        verify_queries=2,
        query=Query(verify=True, verify_top=3),
    ).stages
    # Twice each: those of both pools, and those of the local pool alone.
    assert compared == [3] * 4 and stages.queries == 2
    with pytest.raises(ArgumentError, match="verify_queries=0"):
        evaluate(index, [queries], ground_truth=path, verify_queries=0, query=Query(verify=True))


@pytest.mark.thorough
def test_stages_of_class_folders_leave_out_the_query_and_repeat(bundle_folder, tmp_path):
    """Two views of each thing, of one label each; queries are the images of the index."""
    for number in range(4):
        (tmp_path / "db" / str(number)).mkdir(parents=True)
        images.write(tmp_path / "db" / str(number) / "front.png", thing(number))
        images.write(tmp_path / "db" / str(number) / "side.png", view(number))
    index = Index.create(tmp_path / "index", bundle_folder, local="sift")
    index.update([tmp_path / "db"], label_from_folder=True)

    def figures(**options):
        content = evaluate(
            index, [tmp_path / "db"], **options, query=Query(verify=True)
        ).stages.to_dict()
        assert content.pop("milliseconds")
        for stage in ("coarse", "coarse_to_fine", "verified", "same_object"):
            assert content[stage].pop("milliseconds") >= 0
        return content

    first = figures()
    assert first["queries"] == 8 and first["verified"]["found_at_1"] == 1
    assert first["verified"]["map_all"] == 1 > first["coarse_to_fine"]["map_all"]
    assert first["same_object"]["map_all"] == 1
    assert figures() == figures(num_threads=2) == first


@pytest.mark.slow
def test_verification_does_not_harm_where_classes_are_searched(
    bundle_folder, shared_data, tmp_path
):
    """Clothes of one class are not the same thing; what geometry finds among them is chance."""
    groups = sorted((shared_data / "clothing10" / "train").iterdir())
    for part, first, last in (("db", 0, 60), ("queries", 60, 66)):
        for group in groups:
            (tmp_path / part / group.name).mkdir(parents=True)
            for photo in sorted(group.iterdir())[first:last]:
                (tmp_path / part / group.name / photo.name).symlink_to(photo)
    index = Index.create(tmp_path / "index", bundle_folder, local="sift")
    index.update([tmp_path / "db"], label_from_folder=True)
    stages = evaluate(index, [tmp_path / "queries"], num_threads=2, query=Query(verify=True)).stages
    print(json.dumps(stages.to_dict()))
    assert stages.queries >= 50
    before, after = (stages.figures[name]["map_all"] for name in ("coarse_to_fine", "verified"))
    assert after >= 0.995 * before


# The command line


@pytest.mark.fast("folder")
@pytest.mark.parametrize("kind", ["folder", "chdb"])
def test_the_command_line_indexes_and_verifies(
    folder, bundle_folder, tmp_path, capsys, request, kind
):
    place, sheet = str(tmp_path / "i"), str(tmp_path / "matches.png")
    if kind == "chdb":
        place = f"chdb://{request.getfixturevalue('chdb_folder')}/verify/things"
    make = ["index", place, str(folder / "db"), "--bundle", str(bundle_folder), "--local", "sift"]
    assert cli.main(make) == 0
    query = str(folder / "view 2.png")
    capsys.readouterr()
    assert cli.main(["search", place, query, "--verify", "--json", "--picture", sheet]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["hits"][0]["path"].endswith("2.png") and found["hits"][0]["inliers"] > 20
    assert found["milliseconds"]["verify"] > 0
    assert images.read(sheet).shape[1] == 2 * 400 + 32
    assert cli.main(["search", place, query, "--verify"]) == 0
    assert "inliers" in capsys.readouterr().out
    assert cli.main(["index", place, str(folder / "db"), "--local", "delf"]) == cli.FAILED
    if kind == "folder":
        assert cli.main(["check", place]) == 0


@pytest.mark.thorough
def test_the_command_line_evaluates_the_stages(index, truth, tmp_path, capsys):
    queries, path = map(str, truth)
    ask = ["evaluate", str(index.store.folder), queries, "--ground-truth", path, "--verify"]
    assert cli.main([*ask, "--json", "--report", str(tmp_path / "report")]) == 0
    stages = json.loads(capsys.readouterr().out)["stages"]
    assert stages["verified"]["found_at_1"] == 1
    page = (tmp_path / "report" / "index.html").read_text()
    assert "<td>verified</td><td>1.0000</td>" in page
    assert cli.main(ask) == 0
    shown = capsys.readouterr().out
    assert [line[:22].strip() for line in shown.splitlines() if line.startswith("coarse")] == [
        "coarse only", "coarse then fine", "coarse, fine, verified"
    ]  # fmt: skip


def test_an_index_without_local_features_is_not_evaluated_by_them(
    folder, truth, bundle_folder, tmp_path
):
    index = Index.create(tmp_path / "index", bundle_folder)
    index.update([folder / "db"])
    with pytest.raises(StoreError, match="--local"):
        evaluate(index, [truth[0]], ground_truth=truth[1], query=Query(verify=True))


def test_an_index_keeps_its_local_features(index, folder, bundle_folder, tmp_path):
    place = str(index.store.folder)
    assert cli.main(["index", place, str(folder / "db"), "--local", "sift"]) == 0
    assert cli.main(["index", place, str(folder / "db"), "--local", "delf"]) == 1
    plain = str(tmp_path / "plain")
    assert cli.main(["index", plain, str(folder / "db"), "--bundle", str(bundle_folder)]) == 0
    assert cli.main(["index", plain, str(folder / "db"), "--local", "sift"]) == 1
    assert cli.main(["search", plain, str(folder / "view 0.png"), "--verify"]) == 1


def test_another_extractor_than_the_stored_one_is_refused(index, monkeypatch):

    class Other:
        descriptor_dim = 40

    opened = Index.open(index.store.folder)
    monkeypatch.setattr(extractors, "open", lambda *_: Other())
    with pytest.raises(FingerprintError, match="128.*40"):
        opened.extractor  # noqa: B018
