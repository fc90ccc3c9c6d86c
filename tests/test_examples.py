"""Examples in files that load a network library, so that collecting tests leaves them alone."""

import pytest

from tests.fixtures import LAZY

pytestmark = pytest.mark.keras
# Others that load something large: tests/test_sklearn.py and tests/test_hamming.py run theirs.
ELSEWHERE = {"hashnet.sklearn", "hashnet.retrieval.search.kernels"}


@pytest.mark.parametrize("name", sorted(set(LAZY) - ELSEWHERE))
def test_examples_hold_in_files_that_load_network_libraries(name, run_examples):
    assert run_examples(name) == 0
