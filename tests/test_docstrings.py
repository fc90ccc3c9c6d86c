"""Public docstrings say what they must: see tests/docstrings.py."""

import pathlib

import pytest

from tests import docstrings

ROOT = pathlib.Path(__file__).resolve().parents[1]
# The files of the commands are left out: each has the two functions that `hashnet.cli` calls.
FILES = [
    path
    for path in sorted((ROOT / "hashnet").rglob("*.py"))
    if path.parent.name != "cli" or path.name == "__init__.py"
]


def test_every_public_docstring_says_what_it_must():
    everything, own = [], []
    for path in FILES:
        name = str(path.relative_to(ROOT))
        module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        everything += docstrings.described(path.read_text(encoding="utf-8"), name, module)
        if path.name == "__init__.py" and path.parent != ROOT / "hashnet":
            own.append(docstrings.own_affair(path.read_text(encoding="utf-8"), module))
    assert len(everything) > 400
    faults = docstrings.faults(everything, lambda name: any(is_own(name) for is_own in own))
    assert not faults, "\n".join(faults)


WHOLE = '''"""A module."""


def scaled(image, factor=2):
    """Enlarge an image.

    Args:
        image: uint8 array of shape `(height, width, 3)`.
        factor: int (default 2).

    Returns:
        uint8 `(factor * height, factor * width, 3)`.

    Raises:
        ShapeError: it is no image.
    """
    if image.ndim != 3:
        raise ShapeError("An image has three axes.")
    return image


def halved(image):
    """Make it smaller; see `scaled`."""
    return image


class Box:
    """A box.

    Args:
        width: int, pixels.
    """

    def __init__(self, width):
        self.width = width
'''


def test_docstrings_that_say_all_have_no_faults():
    assert docstrings.faults(docstrings.described(WHOLE, "m.py", "m")) == []


PROTOCOL = '''"""A module."""


class Finder(Protocol[Filter]):
    """What finds."""

    def find(self, k):
        """Find.

        Args:
            k: int.

        Returns:
            list.
        """


class Slow:
    """A `Finder`."""

    def find(self, k):
        return [k]

    def lose(self, k):
        """Lose."""
'''


def test_what_a_protocol_says_of_a_method_holds_for_all_that_have_it():
    found = docstrings.faults(docstrings.described(PROTOCOL, "m.py", "m"))
    assert found == ["m.py:24 Slow.lose: Args: says nothing of k"]
    without = PROTOCOL.replace("            k: int.\n", "")
    assert len(docstrings.faults(docstrings.described(without, "m.py", "m"))) == 3


def test_what_a_package_does_not_give_to_others_needs_one_sentence():
    is_own = docstrings.own_affair('__all__ = ["Given"]', "m")
    source = '"""A module."""\n\ndef given(k):\n    """Give."""\n\ndef bare(k): ...\n'
    everything = docstrings.described(source, "m/a.py", "m.a")
    assert docstrings.faults(everything, is_own) == ["m/a.py:6 bare: no docstring"]
    assert not is_own("m.a.Given") and not is_own("m.a.Given.method") and not is_own("other.a")
    assert not docstrings.own_affair("", "m")("m.a.bare")


@pytest.mark.parametrize(
    ("said", "instead", "fault"),
    [
        ('"""A module."""', "", "m.py:1: no docstring"),
        ("image: uint8 array of shape `(height, width, 3)`.", "", "says nothing of image"),
        ("image: uint8 array", "image: an array", "an array of no dtype"),
        (
            "image: uint8 array of shape `(height, width, 3)`",
            "image: a photo",
            "image has no dtype",
        ),
        ("of shape `(height, width, 3)`", "", "an array of no shape"),
        ("(default 2)", "(default 3)", "has the default 2, not 3"),
        ("Returns:", "It gives:", "no Returns:"),
        ("ShapeError: it is no image", "An error", "Raises: says nothing of ShapeError"),
        ("; see `scaled`", "", "halved: Args: says nothing of image"),
        ("width: int, pixels.", "", "Box: says nothing of width"),
        ('    """Make it smaller; see `scaled`."""\n', "", "halved: no docstring"),
    ],
)
def test_what_a_docstring_leaves_out_is_found(said, instead, fault):
    assert said in WHOLE
    source = WHOLE.replace(said, instead, 1)
    assert fault in "\n".join(docstrings.faults(docstrings.described(source, "m.py", "m")))
