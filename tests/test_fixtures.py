"""What pytest is told beyond its own: which cases are fast, and how much memory is too much."""

import contextlib
import itertools
import types

import pytest

from tests import fixtures, mutants


def item(id, *marks):
    """A case of a test, as far as it is asked for its marks."""
    named = {mark.name: mark for mark in marks}
    return types.SimpleNamespace(
        nodeid=f"tests/test_a.py::test_b[{id}]",
        callspec=types.SimpleNamespace(id=id),
        get_closest_marker=named.get,
        add_marker=named.setdefault,
        named=named,
    )


def asked_for(*arguments):
    return types.SimpleNamespace(args=list(arguments))


def test_cases_that_are_not_named_fast_are_thorough():
    fast = pytest.mark.fast("one").mark
    items = [item("one", fast), item("two", fast), item("three", fast, pytest.mark.slow.mark)]
    items.append(item("four"))
    fixtures.pytest_collection_modifyitems(asked_for("tests"), items)
    assert ["thorough" in one.named for one in items] == [False, True, False, False]


def test_a_fast_case_that_is_not_there_is_an_error_unless_a_single_test_is_asked_for():
    items = [item("one", pytest.mark.fast("one", "gone").mark)]
    with pytest.raises(pytest.UsageError, match="gone"):
        fixtures.pytest_collection_modifyitems(asked_for("tests"), items)
    fixtures.pytest_collection_modifyitems(asked_for("tests/test_a.py::test_b[one]"), items)


@pytest.mark.parametrize(("most", "status"), [(None, 0), (10**6, 0), (1, 1)])
def test_a_process_that_takes_too_much_memory_fails_the_tests(monkeypatch, most, status):
    monkeypatch.setattr(fixtures, "PEAKS", {"gw0": 7})
    config = types.SimpleNamespace(option=types.SimpleNamespace(most_memory=most))
    session = types.SimpleNamespace(config=config, exitstatus=0)
    fixtures.pytest_sessionfinish(session)
    assert session.exitstatus == status
    said = []
    reporter = types.SimpleNamespace(write_line=lambda line, red: said.append((line, red)))
    fixtures.pytest_terminal_summary(reporter, config)
    assert [red for _, red in said] == ([] if most is None else [bool(status)])


def test_a_worker_tells_what_it_took(monkeypatch):
    monkeypatch.setattr(fixtures, "PEAKS", {})
    output = {}
    session = types.SimpleNamespace(config=types.SimpleNamespace(workeroutput=output))
    fixtures.pytest_sessionfinish(session)
    node = types.SimpleNamespace(gateway=types.SimpleNamespace(id="gw1"), workeroutput=output)
    fixtures.pytest_testnodedown(node)
    assert fixtures.PEAKS == {"gw1": output["peak"]} and output["peak"] >= 0


@pytest.mark.parametrize(
    ("library", "path", "marks", "refused"),
    [
        ("tensorflow", "tests/test_codes.py", [], True),
        ("tensorflow", "tests/test_codes.py", [pytest.mark.slow.mark], False),
        ("tensorflow", "tests/test_model.py", [], False),
        ("chdb", "tests/test_codes.py", [], True),
        ("chdb", "tests/test_codes.py", [pytest.mark.thorough.mark], False),
        ("chdb", "tests/test_clickhouse.py", [], False),
        ("chdb", None, [], True),
        ("numpy", None, [], False),
    ],
)
def test_a_large_library_is_refused_to_fast_tests_of_other_workers(library, path, marks, refused):
    workers = fixtures.OneWorker()
    if path:
        workers.item = item("one", *marks)
        workers.item.nodeid = f"{path}::test_a"
    with pytest.raises(pytest.fail.Exception) if refused else contextlib.nullcontext():
        assert workers.find_spec(library) is None


def test_the_tests_that_are_to_find_mutants_are_there_and_load_no_networks():
    assert all((fixtures.TESTS.parent / file).is_file() for file in mutants.HELD_BY)
    for name in itertools.chain(*mutants.HELD_BY.values()):
        assert not fixtures.builds_networks(f"tests/test_{name}.py")
    assert mutants.held_by("hashnet.codes.pack__mutmut_1") == ["codes"]
    assert mutants.held_by("hashnet.errors.x") == []


def where_examples_run():
    """Not in the project, where what they write would stay.

    >>> import pathlib
    >>> pathlib.Path("setup.cfg").exists()
    False
    """
