"""What is left when an index that decodes in other processes is killed: no process, no wrong row.

`python -m tests.test_kills NUMBER` kills that often and says what it found.
"""

import ast
import collections
import contextlib
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
import pytest

from hashnet.cli import main
from hashnet.images import reading
from hashnet.retrieval.index import Index
from hashnet.retrieval.store.folder.store import check
from tests import make_images, needs

GOLDEN = pathlib.Path(__file__).with_name("golden") / "bundle_v1"
VICTIMS = ("index", "mother", "worker")
PATIENCE = 20.0  # seconds


def families():
    """dict of the number of each live process to those of its children."""
    found = collections.defaultdict(list)
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                found[int(parent)].append(int(path.parent.name))
    return found


def below(pid):
    """The generations of live processes below one, from its children on."""
    found, parents = [], [pid]
    children = families()
    while parents := [child for parent in parents for child in children[parent]]:
        found.append(parents)
    return found


def alive(pid):
    with contextlib.suppress(OSError):
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def rows_of(folder):
    """Code and feature by id."""
    with Index.open(folder).store.snapshot() as snapshot:
        rows = np.arange(snapshot.num_items)
        features = snapshot.features(rows)
        return {
            item.id: (snapshot.codes[row].tobytes(), features[row].tobytes())
            for row, item in zip(rows.tolist(), snapshot.items(rows), strict=True)
        }


def started(index, photos, everything_apart=True):
    """A process that indexes a folder, each of whose pictures is decoded in one of its own."""
    pid = needs.fork()
    if pid:
        return pid
    status = 1
    with contextlib.suppress(BaseException):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        reading.is_costly = lambda *_: everything_apart
        status = main(["index", str(index), str(photos), "--bundle", str(GOLDEN)])
    os._exit(status)


class Kills:
    """Kills an index, or one of its processes, at moments drawn from a seed.

    Args:
        folder: pathlib.Path, for all that is written.
        seed: int.
    """

    def __init__(self, folder, seed=0):
        self.rng, self.folder = random.Random(seed), folder
        self.photos = folder / "photos"
        self.photos.mkdir()
        for number in range(16):
            name = ("JPEG", "PNG", "JPEG2000", "WEBP")[number % 4]
            photo = make_images.photo(150 + number, 200)
            data = make_images.encoded(photo, name)
            (self.photos / f"{number}.{name.lower()}").write_bytes(data)
        begun = time.monotonic()
        pid = started(folder / "whole", self.photos)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        self.seconds = time.monotonic() - begun
        self.wanted = rows_of(folder / "whole")
        self.counts = collections.Counter()

    def strike(self):
        """One kill; what was wrong after it, as a list of str."""
        index, problems = self.folder / "struck", []
        pid = started(index, self.photos)
        victim = self.rng.choice(VICTIMS)
        time.sleep(self.rng.uniform(0, self.seconds))
        while True:
            generations = [[pid] if alive(pid) else [], *below(pid)]
            if not generations[0] or len(generations) > VICTIMS.index(victim):
                break
            time.sleep(0.001)  # the process that is to be killed has yet to be started
        family = [one for generation in generations for one in generation]
        killed = 0
        if generations[0]:
            killed = self.rng.choice(generations[VICTIMS.index(victim)])
        else:
            victim = "nothing"
        self.counts[victim] += 1
        if killed:
            with contextlib.suppress(ProcessLookupError):
                os.kill(killed, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if status not in ((0, -9) if victim == "index" else (0,)):
            problems.append(f"{victim} killed: status {status}")
        until = time.monotonic() + PATIENCE
        while left := [one for one in family if alive(one)]:
            if time.monotonic() > until:
                problems.append(f"{victim} killed: processes {left} are left")
                break
            time.sleep(0.01)
        problems += self._of_rows(index, all_of_them=victim != "index")
        shutil.rmtree(index, ignore_errors=True)
        return problems

    def _of_rows(self, index, all_of_them):
        if not all_of_them and not (index / "catalogue.sqlite").exists():
            return []
        problems = [f"check: {one}" for one in check(index)]
        found = rows_of(index)
        wrong = [id for id, row in found.items() if self.wanted.get(id) != row]
        if wrong:
            problems.append(f"wrong rows: {wrong}")
        if all_of_them and len(found) < len(self.wanted):
            problems.append(f"{len(found)} of {len(self.wanted)} rows")
        return problems


@pytest.mark.thorough
@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="processes are found there")
def test_no_kill_leaves_a_process_or_a_wrong_row():
    """In a process without threads, since it forks."""
    command = [sys.executable, "-m", "tests.test_kills", "20"]
    root = pathlib.Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    last = ast.literal_eval(
        "{" + done.stdout.splitlines()[-1].partition("{")[2].partition("}")[0] + "}"
    )
    assert sum(last.values()) - last.get("nothing", 0) > 5


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        kills = Kills(pathlib.Path(place))
        number, found = int(sys.argv[1]), []
        for count in range(1, number + 1):
            found += kills.strike()
            if count % 20 == 0:
                print(count, dict(kills.counts), found, flush=True)
        sys.exit(bool(found))
