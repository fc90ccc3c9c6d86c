"""What every test may ask for."""

import pathlib

import pytest


@pytest.fixture(scope="session")
def shared_data():
    """The folder of real images beside a developer's checkout; absent elsewhere."""
    folder = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the folder of real images lies beside a developer's checkout only")
    return folder
