"""Write `wordnet.txt` from WordNet 3.0 (Debian's package `wordnet-base`).

    python hashnet/retrieval/words/make_wordnet.py /usr/share/wordnet

Of the nouns it keeps what lies above the 1000 classes of ImageNet: a line for each synset with its
offset, the number of its class or nothing, the offsets of its parents, its words, and their
irregular plurals. A word stands in classes, and elsewhere where its sense is half as common as its
most common one here, or more. Glosses stay where they are.
"""

import pathlib
import re
import sys

from hashnet.network.backbones import imagenet_classes

# ImageNet's classes are synsets in the order of their offsets. Where that order and the name
# leave several, it is the first but for these.
MEANT = {
    "kit fox": 2119789,
    "tabby": 2123045,
    "ox": 2403003,
    "amphibian": 2704792,
    "beaker": 2815834,
    "bib": 2834397,
    "binder": 2840245,
    "bow": 2879718,
    "brass": 2892201,
    "cannon": 2950826,
    "cloak": 3045698,
    "clog": 3047690,
    "envelope": 3291819,
    "file": 3337140,
    "fountain": 3388043,
    "half track": 3478589,
    "hook": 3532672,
    "jersey": 3595614,
    "library": 3661043,
    "monitor": 3782006,
    "mortar": 3786901,
    "pick": 3929660,
    "pier": 3933933,
    "pinwheel": 3944341,
    "planetarium": 3956157,
    "pot": 3991062,
    "printer": 4004767,
    "rotisserie": 4111531,
    "scale": 4141975,
    "screen": 4152593,
    "slot": 4243546,
    "snorkel": 4251144,
    "spatula": 4270147,
    "spider web": 4275548,
    "switch": 4372370,
    "tank": 4389033,
    "yawl": 4612504,
    "groom": 10148035,
    "corn": 12144580,
}


def read_nouns(folder):
    """Read `data.noun`.

    Args:
        folder: pathlib.Path of WordNet's files.

    Returns:
        dict of offset to (list of words, list of offsets of parents), ascending.
    """
    nouns = {}
    for line in (folder / "data.noun").read_text(encoding="ascii").splitlines():
        if line.startswith("  "):  # the licence
            continue
        fields = line.split(" | ")[0].split()
        num_words = int(fields[3], 16)
        words = [fields[4 + 2 * i].replace("_", " ") for i in range(num_words)]
        pointers = fields[5 + 2 * num_words :]
        nouns[int(fields[0])] = (
            words,
            [
                int(pointers[i + 1])
                for i in range(0, len(pointers), 4)
                if pointers[i] in ("@", "@i")
            ],
        )
    return nouns


def read_senses(folder):
    """Read `index.noun`, and `cntlist.rev`, which says how often texts have each sense of a word.

    Args:
        folder: pathlib.Path of WordNet's files.

    Returns:
        dict of word, in small letters, to the dict of the offset of each sense to that number.
    """
    counts = {}
    for line in (folder / "cntlist.rev").read_text(encoding="ascii").splitlines():
        key, number, count = line.split()
        word, _, kind = key.partition("%")
        if kind.startswith("1:"):  # a noun
            counts[word, int(number)] = int(count)
    senses = {}
    for line in (folder / "index.noun").read_text(encoding="ascii").splitlines():
        if not line.startswith("  "):
            word, *fields = line.split()
            senses[word.replace("_", " ")] = {
                int(offset): counts.get((word, number), 0)
                for number, offset in enumerate(fields[-int(fields[1]) :], 1)
            }
    return senses


def find_classes(nouns, names):
    """The offset of each class.

    Args:
        nouns: as from `read_nouns`.
        names: list of the classes' names, in their order.

    Returns:
        list of int, ascending.
    """
    named = {}
    for first_only in (False, True):
        found = {}
        for offset, (words, _) in nouns.items():
            for word in words[:1] if first_only else words:
                found.setdefault(word, []).append(offset)
        named |= found
    fitting = [named[re.sub(r" \(.*", "", name)] for name in names]
    last = sys.maxsize
    for place in reversed(range(len(names))):
        fitting[place] = [offset for offset in fitting[place] if offset < last]
        last = fitting[place][-1]
    offsets, last = [], 0
    for name, among in zip(names, fitting, strict=True):
        among = [offset for offset in among if offset > last]
        last = MEANT.get(name, among[0])
        assert last in among, f"{name}: {last} is none of {among}"
        offsets.append(last)
    return offsets


def _above(nouns, offsets):
    """set of the offsets of some synsets and all that lies above them."""
    found, rest = set(), list(offsets)
    while rest:
        offset = rest.pop()
        if offset not in found:
            found.add(offset)
            rest += nouns[offset][1]
    return found


if __name__ == "__main__":
    folder = pathlib.Path(sys.argv[1])
    nouns, senses = read_nouns(folder), read_senses(folder)
    class_of = {
        offset: place for place, offset in enumerate(find_classes(nouns, imagenet_classes()))
    }
    plurals = {}
    for line in (folder / "noun.exc").read_text(encoding="ascii").splitlines():
        plural, *singulars = line.replace("_", " ").split(" ")
        for singular in singulars:
            plurals.setdefault(singular, []).append(plural)
    lines, kept = [], _above(nouns, class_of)
    common = {
        word: {
            offset
            for offset, count in counts.items()
            if offset in kept
            and 2 * count >= max(counts.get(one, 0) for one in counts.keys() & kept)
        }
        for word, counts in senses.items()
    }
    for offset in sorted(kept):
        words, parents = nouns[offset]
        if offset not in class_of:
            words = [word for word in words if offset in common[word.casefold()]]
        irregular = [plural for word in words for plural in plurals.get(word, [])]
        parts = offset, class_of.get(offset, ""), ",".join(map(str, parents))
        lines.append("\t".join([*map(str, parts), ",".join(words), ",".join(irregular)]))
    pathlib.Path(__file__).with_name("wordnet.txt").write_text(
        "\n".join(lines) + "\n", encoding="ascii"
    )
