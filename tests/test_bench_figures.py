"""What a result says about how it was measured."""

import pytest

from tests.bench import figures


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("/home/someone/sets/clothing10/test", "clothing10/test"),
        ("/scratch/photos.index", "photos.index"),
        ("/photos.index", "photos.index"),
        ("clothing10=/a/b/train:/a/b/c/test", "clothing10=b/train:c/test"),
        ("beside/it/in/folders", "beside/it/in/folders"),
        ("--repeats", "--repeats"),
    ],
)
def test_a_command_keeps_the_last_two_names_of_a_path(argument, said):
    assert figures.portable([argument]) == [said]


def test_no_result_names_a_folder_of_the_machine_that_measured():
    for path in figures.FOLDER.glob("*.json"):
        result = figures.read(path.stem)
        for said in (
            result["command"],
            result.get("training_command", ""),
            f" {result.get('training', {}).get('start_from', '')}",
        ):
            assert " /" not in said, path.name
