"""What is left out on purpose: other programs' folders, ignore files, patterns; and it is said."""

import os
import subprocess

import pytest

from hashnet import cli, images
from hashnet.errors import ArgumentError
from hashnet.images import exclusion
from tests import needs


def tree(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"12345")


def taken(folder, exclusion=None):
    found, problems, _ = images.find([folder], exclusion=exclusion)
    assert problems == []
    return [os.path.relpath(file.path, folder).replace(os.sep, "/") for file in found]


def test_folders_of_thumbnails_and_of_deleted_files_are_left_out_and_counted(tmp_path):
    tree(tmp_path, "1.jpg", "a/@eaDir/1.jpg/S.jpg", "a/@eaDir/1.jpg/M.jpg", "#recycle/2.jpg")
    tree(tmp_path, "$Recycle.Bin/S-1/3.jpg", "Previews.lrdata/4.jpg", ".thumbnails/5.jpg")
    tree(tmp_path, ".Trash-1000/files/6.jpg", "lost+found.jpg", "@eaDir.jpg", ".cache/7.jpg")
    rules = images.Exclusion()
    assert taken(tmp_path, rules) == ["1.jpg", "@eaDir.jpg", "lost+found.jpg"]
    assert rules.left_out == {
        "@eaDir": 2,
        "#recycle": 1,
        "$RECYCLE.BIN": 1,
        "*.lrdata": 1,
        ".thumbnails": 1,
        ".Trash-*": 1,
        "hidden folders": 1,
    }


def test_the_defaults_can_be_taken_in(tmp_path):
    names = ["#recycle/2.jpg", ".x.jpg", ".y/1.jpg", "@eaDir/1.jpg"]
    tree(tmp_path, *names)
    rules = images.Exclusion(defaults=False)
    assert sorted(taken(tmp_path, rules)) == sorted(names) and rules.left_out == {}


def test_a_folder_that_is_named_itself_is_walked_whatever_its_name(tmp_path):
    tree(tmp_path, "@eaDir/1.jpg")
    assert taken(tmp_path / "@eaDir") == ["1.jpg"]


def test_an_ignore_file_holds_for_its_folder_and_those_below(tmp_path):
    tree(tmp_path, "raw/1.jpg", "a/raw/2.jpg", "a/x.gif", "b/x.gif", "b/keep.gif", "b/c/1.png")
    tree(tmp_path, "top.png", "b/top.png")
    (tmp_path / ".hashnetignore").write_text("# words\n\n/raw/\n/top.png\n*.gif\n")
    (tmp_path / "b" / ".hashnetignore").write_text("!keep.gif\nc\n")
    rules = images.Exclusion()
    assert taken(tmp_path, rules) == ["a/raw/2.jpg", "b/keep.gif", "b/top.png"]
    assert rules.left_out == {".hashnetignore": 5}


def test_an_ignore_file_may_take_a_default_in_again_and_a_pattern_has_the_last_word(tmp_path):
    tree(tmp_path, "@eaDir/1.jpg", ".mine/2.jpg", "3.jpg")
    (tmp_path / ".hashnetignore").write_text("!@eaDir/\n!.mine/\n3.jpg\n")
    assert taken(tmp_path) == [".mine/2.jpg", "@eaDir/1.jpg"]
    assert taken(tmp_path, images.Exclusion([".mine", "!3.jpg"])) == ["3.jpg", "@eaDir/1.jpg"]


def test_patterns_are_counted_each_for_itself_and_one_that_named_nothing_as_0(tmp_path):
    tree(tmp_path, "raw/1.jpg", "raw/2.jpg", "a/3.jpg", "#b/4.jpg", "abs/5.jpg")
    patterns = ["raw/", "a/*.jpg", "#b", str(tmp_path / "abs"), "nothing"]
    rules = images.Exclusion(patterns)
    assert taken(tmp_path, rules) == []
    assert list(rules.left_out.values()) == [2, 1, 1, 1, 0]


def test_no_more_than_some_files_of_a_kind_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(exclusion, "MOST_COUNTED", 3)
    tree(tmp_path, *(f"{part}/@eaDir/{number}.jpg" for part in "ab" for number in range(5)))
    rules = images.Exclusion()
    assert taken(tmp_path, rules) == [] and rules.left_out == {"@eaDir": 3}


def test_a_link_that_leads_in_a_circle_or_to_a_folder_counts_for_what_its_name_says(tmp_path):
    tree(tmp_path, "1.jpg")
    needs.link(tmp_path / "@eaDir", tmp_path)
    needs.link(tmp_path / "itself.jpg", tmp_path / "itself.jpg")
    found, problems, _ = images.find([tmp_path], follow_links=True)
    assert [os.path.basename(file.path) for file in found] == ["1.jpg"]
    assert [os.path.basename(problem.path) for problem in problems] == ["itself.jpg"]


def test_a_folder_whose_ignore_file_cannot_be_read_is_not_walked(tmp_path):
    tree(tmp_path, "a/1.jpg", "2.jpg", "b/.hashnetignore/x", "b/3.jpg")
    (tmp_path / "a" / ".hashnetignore").write_text("ok\n!\n")
    found, problems, _ = images.find([tmp_path])
    assert [os.path.basename(file.path) for file in found] == ["2.jpg"]
    assert [os.path.relpath(problem.path, tmp_path) for problem in problems] == [
        os.path.join("a", ".hashnetignore"),
        os.path.join("b", ".hashnetignore"),
    ]


@pytest.mark.parametrize("pattern", ["", " ", "!", 5])
def test_what_is_no_pattern_is_refused(pattern):
    with pytest.raises(ArgumentError, match=r"\.gitignore.*Received: "):
        images.Exclusion([pattern])


def test_a_tree_is_taken_as_git_takes_it(tmp_path):
    """git itself says what its patterns mean."""
    names = [f"{a}/{b}/{c}.png" for a in "ab" for b in ("raw", "x y", "é") for c in ("1", "in[1]")]
    tree(tmp_path, *names, "raw.png", "a/raw.png")
    (tmp_path / ".hashnetignore").write_text(
        "raw/\n/a/x\\ y/\nin\\[1\\].png\n!a/é/in*\n**/b/é/1*\n"
    )
    (tmp_path / "a" / ".hashnetignore").write_text("!/raw/\n/raw/1*\nraw.png\n!x y\n")
    command = ["git", "-c", "core.quotePath=off", "ls-files", "--others", "*.png"]
    try:
        subprocess.run(["git", "init", "-q", tmp_path], check=True, timeout=60)
        told = subprocess.run(
            [*command, "--exclude-per-directory=.hashnetignore"],
            cwd=tmp_path, check=True, capture_output=True, timeout=60,
        )  # fmt: skip
    except FileNotFoundError:
        pytest.skip("git is not installed")
    assert sorted(taken(tmp_path)) == sorted(told.stdout.decode().splitlines())


def test_index_says_in_one_line_what_it_leaves_out(run, photos, bundle_folder, tmp_path):
    folder = tmp_path / "photos"
    tree(folder, "@eaDir/1.jpg", "@eaDir/2.jpg", "raw/1.jpg", "private/x/1.png")
    (folder / "good.png").write_bytes((photos / "disc" / "0.png").read_bytes())
    (folder / ".hashnetignore").write_text("private\n")
    options = ("--bundle", bundle_folder, "--exclude", "raw/", "--exclude", "nothing")
    status, out, err = run("index", tmp_path / "i", folder, *options)
    assert status == cli.DONE and out.startswith("1 added") and err.count("left out") == 1
    assert err.endswith("left out: 1 by raw/, 0 by nothing, 2 in @eaDir, 1 by .hashnetignore\n")
    status, out, err = run("index", tmp_path / "i", folder, "-q", "--exclude", "!@eaDir")
    assert status == cli.SKIPPED_SOME and "left out" not in err and "@eaDir/2.jpg" in err
    status, out, err = run("index", tmp_path / "i", folder, "--no-default-excludes")
    assert "3 skipped" in out and err.endswith("left out: 1 by .hashnetignore\n")
    assert run("index", tmp_path / "j", folder, *options[:2], "--exclude=!")[0] == 2
    assert not (tmp_path / "j").exists()


def test_extract_leaves_out_the_same(run, photos, bundle_folder, tmp_path):
    pytest.importorskip("pyarrow")
    folder = tmp_path / "photos"
    tree(folder, "@eaDir/1.jpg", "raw/1.jpg", ".hidden/1.png")
    (folder / "good.png").write_bytes((photos / "disc" / "0.png").read_bytes())
    for source, more in ((folder, ", 1 hidden folders"), (folder.as_uri(), "")):
        out = tmp_path / f"out{len(more)}"
        options = ("--bundle", bundle_folder, "--exclude", "raw/")
        status, _, err = run("extract", source, out, *options)
        assert status == cli.DONE and f"left out: 1 by raw/{more}, 1 in @eaDir\n" in err
