"""Small faults put into the code, one at a time, each of which a test should find: `make mutants`.

`python -P tests/mutants.py run`, `results` and `show NAME` are mutmut's commands, which take names
and patterns of mutants. Here is which files are mutated, and by which tests each of them is meant
to be held: so a mutant is done in seconds, and a fault that another test finds by chance counts as
one that nobody finds.
"""

import dataclasses
import itertools

import pytest

# Names of test files, what tells most in least time first; none may load TensorFlow.
HELD_BY = {
    "hashnet/codes.py": ["codes"],
    "hashnet/metrics.py": ["metrics"],
    "hashnet/refitting.py": ["refit"],
    "hashnet/retrieval/changes.py": ["roots", "changes", "missing"],
    "hashnet/retrieval/index.py": [
        *("index", "remove", "api", "changes", "missing", "index_regions", "sharded")
    ],
    "hashnet/retrieval/ingest.py": [
        *("index", "missing", "changes", "exif", "index_regions", "extract")
    ],
    "hashnet/retrieval/missing.py": ["missing", "exclusion"],
    "hashnet/retrieval/search/coarse/hamming.py": ["hamming"],
    "hashnet/retrieval/search/engine.py": [
        *("engine", "engine_regions", "feedback", "filters", "engine_verify")
    ],
    "hashnet/retrieval/search/fine.py": ["rerank"],
    "hashnet/retrieval/search/hits.py": ["hits", "engine", "api"],
    "hashnet/retrieval/search/query.py": ["engine", "exif", "filters", "feedback"],
    "hashnet/retrieval/service/public_ids.py": ["public_ids"],
    "hashnet/retrieval/store/items.py": ["items", "store", "exif"],
}


def held_by(name):
    """Names of the test files that are to hold a function or a mutant of it, by its dotted name."""
    return HELD_BY.get(name.rpartition(".")[0].replace(".", "/") + ".py", [])


def name_of(item):
    """Name of the file of a test, as in the table."""
    return item.path.stem.removeprefix("test_")


def pytest_collection_modifyitems(items):
    """Run the tests of a mutant file by file in that order, the quick ones first."""
    from mutmut.mutation.trampoline import get_mutant_under_test
    from mutmut.state import state

    files, seconds = held_by(get_mutant_under_test()), state().duration_by_test
    if files:
        items.sort(key=lambda one: (files.index(name_of(one)), seconds.get(one.nodeid, 0)))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item):
    """Let mutmut, which asks next, not know of what a test reached and is not to hold."""
    from mutmut.state import state

    reached = state()._stats
    reached -= {name for name in reached if name_of(item) not in held_by(name)}


def main():
    """Run mutmut, told by the table what it has to do."""
    from mutmut import configuration
    from mutmut.__main__ import cli

    # Known to mutmut under no other name: a list in setup.cfg would be a second table.
    told = configuration.config()
    configuration._config = dataclasses.replace(
        told,
        only_mutate=list(HELD_BY),
        pytest_add_cli_args=[*told.pytest_add_cli_args, "-p", "tests.mutants"],
        pytest_add_cli_args_test_selection=[
            f"tests/test_{name}.py" for name in dict.fromkeys(itertools.chain(*HELD_BY.values()))
        ],
    )
    cli()


if __name__ == "__main__":
    main()
