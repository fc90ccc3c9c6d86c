"""docs/glossary.md: few words, each with one meaning, and each option and field really there."""

import ast
import json
import pathlib
import re

from hashnet import cli

TEXT = (pathlib.Path(__file__).resolve().parents[1] / "docs" / "glossary.md").read_text("utf-8")
MOST_WORDS = 40


def entries(text):
    """(word, meaning, spelled) of every row of the tables of three columns."""
    rows = re.findall(r"^\| (.+?) \| (.+?) \|(?: (.+?))? \|$", text, re.MULTILINE)
    return [row for row in rows if row[0] != "word"]


def test_the_glossary_has_few_words_and_each_has_one_meaning():
    words = [word for word, _, _ in entries(TEXT)]
    assert 30 < len(words) <= MOST_WORDS
    assert len(set(words)) == len(words)
    assert all(meaning for _, meaning, _ in entries(TEXT))


def test_no_word_that_is_to_be_avoided_is_an_entry():
    avoided = TEXT.partition("## Not used")[2]
    assert avoided
    said = " ".join(meaning for _, meaning, _ in entries(TEXT)).lower()
    for coinage in ("bits apart", "confirm", "label-free", "unlabelled", "desk"):
        assert coinage in avoided and coinage not in said


def test_every_option_of_the_glossary_is_one_of_a_command():
    known = {
        option
        for command in cli.commands(cli.parser()).values()
        for option in command._option_string_actions
    }
    options = {
        option for *_, spelled in entries(TEXT) for option in re.findall(r"--[a-z-]+", spelled)
    }
    assert len(options) > 10
    assert options <= known


def fields_of(value):
    """Every name of a field in a JSON value, at any depth."""
    if isinstance(value, list):
        return set().union(*map(fields_of, value))
    return set(value).union(*map(fields_of, value.values())) if isinstance(value, dict) else set()


def test_every_field_of_the_glossary_is_one_that_search_or_info_prints(doctest_folder, run):
    index = doctest_folder / "pets.index"
    printed = [
        json.loads(run(*arguments, "--json")[1])
        for arguments in (("search", index, doctest_folder / "cat.png"), ("info", index))
    ]
    known = fields_of(printed)
    fields = {field for *_, spelled in entries(TEXT) for field in re.findall(r'"(\w+)"', spelled)}
    assert len(fields) > 10
    assert fields <= known


# Class names of the tree before the glossary; none of them says what it is.
COINAGES = {"Asked", "Desk", "End", "Kept", "Live", "Names", "Runs", "View", "Words"}


def test_no_class_has_a_name_that_the_glossary_does_without():
    root = pathlib.Path(__file__).resolve().parents[1] / "hashnet"
    named = {
        node.name: path.name
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ClassDef)
    }
    assert len(named) > 100
    assert not COINAGES & set(named), {name: named[name] for name in COINAGES & set(named)}
