"""What every test and every example in a docstring may ask for; pytest loads it as a plugin."""

import contextlib
import doctest
import functools
import importlib
import os
import pathlib
import re
import shutil
import sys
import tomllib

import numpy as np
import pytest

with contextlib.suppress(ImportError):  # whole, before a test takes away what it needs
    import portalocker  # noqa: F401

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# As the commands set it: a process that a test starts must compute as this one does.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")


TESTS = pathlib.Path(__file__).parent
GOLDEN = TESTS / "golden"
# Modules that load large libraries where they are imported: tests/test_examples.py runs their
# examples, so that collecting tests loads none.
LAZY = tomllib.loads((TESTS / "floors.toml").read_text(encoding="utf-8"))["lazy"]
LAZY_FILES = {TESTS.parent / f"{name.replace('.', '/')}.py" for name in LAZY}


def pytest_ignore_collect(collection_path):
    """Look for examples in no file that loads a large library, nor where there are none."""
    if collection_path in LAZY_FILES:
        return True
    if collection_path.suffix == ".py" and collection_path.parent == TESTS:
        if not collection_path.name.startswith("test_"):
            return ">>>" not in collection_path.read_text(encoding="utf-8") or None
    return None


@functools.cache
def builds_networks(path):
    """Whether the tests of a file may load TensorFlow, which takes five seconds and 800 MB.

    They run in two workers: see `trains`. A file is one where a test is marked `keras` or takes
    `small_network`, and where examples in docstrings build networks.
    """
    if path.startswith(("hashnet/network/", "hashnet/train/")):
        return path != "hashnet/network/pretrained.py"
    text = (TESTS.parent / path).read_text(encoding="utf-8")
    return "pytest.mark.keras" in text or "small_network" in text


def trains(path):
    """Whether the networks of such a file learn, or are made of the parts that learn.

    Beside those that are exported and run, they would take a process half a gigabyte more.
    """
    name = path.rpartition("/")[2]
    parts = "test_attention", "test_examples", "test_losses", "test_train_"
    return path.startswith("hashnet/train/") or name.startswith(parts)


# Files whose fast tests use chdb, which takes 350 MB for good: they go together, too.
DATABASE = {
    f"tests/test_{name}.py"
    for name in (
        "clickhouse",
        "clickhouse_texts",
        "contracts",
        "engine_verify",
        "filters",
        "grading",
        "ranking",
        "refit",
        "remove",
        "reranking",
        "sharded",
    )
}


# What such files are together: a worker for each, where there is one more.
TOGETHER = ("networks", "training", "chdb")


def file_of(item):
    """Path of the file of a test, from the root, as in its id."""
    return item.nodeid.split("::")[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """As `--dist loadfile`, but for the files that build networks, or use chdb, which go together.

    They come first, each on a worker that has no memory of other files. It keeps what they took: of
    four workers or more, it runs nothing else.
    """
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid):
            path = nodeid.split("::")[0]
            if builds_networks(path):
                return "training" if trains(path) else "networks"
            return "chdb" if path in DATABASE else path

        def _assign_work_unit(self, node):
            for scope in reversed(TOGETHER):
                if scope in self.workqueue:
                    self.workqueue.move_to_end(scope, last=False)
            super()._assign_work_unit(node)

        def _reschedule(self, node):
            mine = self.assigned_work[node]
            waits = not node.shutting_down and self._pending_of(mine) <= 2
            if self.numnodes > len(TOGETHER) and waits and mine.keys() & set(TOGETHER):
                node.shutdown()
            else:
                super()._reschedule(node)

    return Scheduling(config, log)


class OneWorker:
    """Refuses TensorFlow and chdb to fast tests of other files. It stands first on `sys.meta_path`.

    Attributes:
        item: the test that runs, or None while tests are collected.
    """

    item = None

    def find_spec(self, name, _path=None, _target=None):
        """What Python asks where a module is not loaded yet."""
        item = self.item
        if item and (item.get_closest_marker("slow") or item.get_closest_marker("thorough")):
            return
        if name == "tensorflow" and not (item and builds_networks(file_of(item))):
            pytest.fail(
                "A test that loads TensorFlow is marked pytest.mark.keras, and loads it while it "
                "runs: see tests/lazily.py."
            )
        if name == "chdb" and not (item and file_of(item) in DATABASE):
            pytest.fail("Files whose fast tests use chdb are in DATABASE, in tests/fixtures.py.")


ONE_WORKER = OneWorker()


PEAKS = {}  # name of a process of the tests: the most memory that it or a child of it took, in MB


def pytest_addoption(parser):
    """Told by `make test`."""
    parser.addoption(
        "--most-memory", type=int, metavar="MB", help="fail if a process of the tests takes more"
    )


def peak_memory():
    """The most memory that this process or a child of it took, in MB; 0 where nobody knows."""
    status = pathlib.Path("/proc/self/status")
    if not status.exists():
        return 0
    import resource

    own = int(re.search(r"VmHWM:\s*(\d+)", status.read_text())[1])
    # Workers are children, too, and tell their memory themselves.
    children = 0 if PEAKS else resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return max(own, children) // 1024


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    """A worker is done: keep what it said of its memory."""
    PEAKS[node.gateway.id] = getattr(node, "workeroutput", {}).get("peak", 0)


def pytest_sessionfinish(session):
    """Tell the memory to who started this worker, or fail if a process took too much."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["peak"] = peak_memory()
        return
    PEAKS.setdefault("pytest", peak_memory())
    most = session.config.option.most_memory
    if most and max(PEAKS.values()) > most:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter, config):
    """Say what each process took where there is a bound."""
    if config.option.most_memory:
        took = ", ".join(f"{name} {peak} MB" for name, peak in sorted(PEAKS.items()))
        too_much = max(PEAKS.values()) > config.option.most_memory
        terminalreporter.write_line(
            f"{'TOO MUCH MEMORY' if too_much else 'Memory'}: {took}; "
            f"{config.option.most_memory} MB are allowed.",
            red=too_much,
        )


def pytest_configure():
    """Before tests are collected."""
    sys.meta_path.insert(0, ONE_WORKER)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Mark as thorough each case of a test that its mark `fast` does not name.

    A name that is no case's is an error, unless single tests were asked for: otherwise a test whose
    cases change would silently leave the fast tests.
    """
    unseen = {}
    for item in items:
        mark = item.get_closest_marker("fast")
        if not mark or item.get_closest_marker("slow"):
            continue
        names = unseen.setdefault(item.nodeid.partition("[")[0], set(mark.args))
        if item.callspec.id in mark.args:
            names.discard(item.callspec.id)
        else:
            item.add_marker("thorough")
    wrong = {test: sorted(names) for test, names in unseen.items() if names}
    if wrong and not any("::" in argument for argument in config.args):
        raise pytest.UsageError(f"The mark fast names cases that are not there: {wrong}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Note which test runs, and let a training give back the memory that it frees."""
    ONE_WORKER.item = item
    with pytest.MonkeyPatch.context() as patch:
        if builds_networks(file_of(item)):
            patch.setattr("hashnet.system.keep_freed_memory", bool)
        return (yield)


@pytest.fixture(scope="session", autouse=True)
def networks_are_compiled_once():
    """What OpenVINO made of a small network serves all tests of a process: it takes it 0.1 s."""
    from hashnet.network import runtimes

    whole = runtimes._OpenVINO

    @functools.lru_cache(maxsize=16)
    def compiled(files, *settings):
        return whole(list(files), *settings)

    class Kept(whole):
        def __new__(cls, files, num_threads, concurrent, single, precision="float32"):
            make = compiled if sum(map(len, files)) < 500_000 else compiled.__wrapped__
            return make(tuple(files), num_threads, concurrent, single, precision)

        # What `__new__` gives is of another class, so that nothing is done to it again.

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtimes, "_OpenVINO", Kept)
        yield


@pytest.fixture(scope="session")
def shared_data():
    """The folder of real images beside a developer's checkout; absent elsewhere."""
    folder = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the folder of real images lies beside a developer's checkout only")
    return folder


@pytest.fixture(scope="session")
def bundle_folder(tmp_path_factory):
    """The golden bundle, 32 bits at 64 pixels: a copy, so that no test can damage it."""
    folder = tmp_path_factory.mktemp("bundle") / "small"
    return shutil.copytree(GOLDEN / "bundle_v1", folder)


@pytest.fixture(scope="session")
def unsupervised_bundle(bundle_folder, tmp_path_factory):
    """The golden bundle as if its codes had been fitted without labels, and its mean kept."""
    import json

    from hashnet.network import bundle

    folder = shutil.copytree(bundle_folder, tmp_path_factory.mktemp("bundle") / "unsupervised")
    description = folder / bundle.DESCRIPTION
    described = json.loads(description.read_text())
    origin, mean = {"codes": bundle.LABEL_FREE}, np.full(64, 0.05, np.float32)
    described |= bundle._described(bundle.load(folder).config, origin, mean)
    description.write_text(json.dumps(described))
    return folder


@pytest.fixture(scope="module")
def stub_bundles(tmp_path_factory):
    """Two bundles of the stub of a backbone, which is known while they are used; 12 bits."""
    from hashnet.network import backbones
    from tests.stub_backbone import STUB

    folder = shutil.copytree(GOLDEN / "stubs", tmp_path_factory.mktemp("golden") / "stubs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(backbones.BACKBONES, "stub", STUB)
        yield folder / "one", folder / "other"


@pytest.fixture(scope="session")
def small_network(bundle_folder):
    """The network of the golden bundle, in Keras: (model, config)."""
    from hashnet.network import bundle

    opened = bundle.load(bundle_folder)
    return opened.load_model(), opened.config


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """A folder of 4 x 6 pictures with an obvious answer: patterns `a`..`d`, slightly varied."""
    from hashnet import images

    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    ys, xs = np.mgrid[0:80, 0:100]
    patterns = {
        "checks": ((ys // 10 + xs // 10) % 2)[..., None] * np.array([250, 220, 40]),
        "stripes": (ys // 8 % 2)[..., None] * np.array([30, 90, 250]),
        "disc": ((ys - 40) ** 2 + (xs - 50) ** 2 < 900)[..., None] * np.array([240, 30, 30]),
        "ramp": (xs * 2.5)[..., None] * np.array([0.2, 1.0, 0.3]),
    }
    for name, pattern in patterns.items():
        (folder / name).mkdir()
        for number in range(6):
            noisy = pattern + rng.normal(0, 12, pattern.shape)
            image = np.clip(noisy, 0, 255).astype(np.uint8)
            images.write(folder / name / f"{number}.png", image)
    return folder


@pytest.fixture(scope="session")
def chdb_folder(tmp_path_factory):
    """Where chdb works: it opens one folder in the life of a process, so tests share it."""
    for package in ("clickhouse_connect", "chdb"):
        pytest.importorskip(package, reason='pip install "hashnet[clickhouse]"')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield tmp_path_factory.mktemp("chdb")


@pytest.fixture(autouse=True)
def _doctest_world(request, doctest_namespace):
    """A folder for each example in a docstring, and names that it may use.

    These are `np`, `bundle_folder` and `index_folder`.
    """
    if not hasattr(request.node, "dtest"):
        return
    doctest_namespace["np"] = np
    folder = request.getfixturevalue("tmp_path")
    # What an example writes stays there.
    request.getfixturevalue("monkeypatch").chdir(folder)
    source = request.node.dtest.docstring
    if any(word in source for word in ("bundle_folder", "index_folder", "cat.png")):
        request.getfixturevalue("doctest_folder")
        doctest_namespace["bundle_folder"] = request.getfixturevalue("bundle_folder")
        doctest_namespace["index_folder"] = folder / "pets.index"


@pytest.fixture
def doctest_folder(bundle_folder, tmp_path):
    """A folder with cat.png and dog.png, and an index of the two."""
    from hashnet import images
    from hashnet.retrieval.index import Index

    rng = np.random.default_rng(1)
    paths = [tmp_path / "cat.png", tmp_path / "dog.png"]
    for path in paths:
        images.write(path, rng.integers(0, 256, (40, 50, 3), dtype=np.uint8))
    index = Index.create(tmp_path / "pets.index", bundle_folder)
    index.add(paths, ids=["cat", "dog"], labels=["cat", "dog"])
    return tmp_path


@pytest.fixture
def run_examples(bundle_folder, doctest_folder, monkeypatch):
    """Run the examples in the docstrings of a module that is named; gives how many failed."""
    monkeypatch.chdir(doctest_folder)

    def run(name):
        found = doctest.testmod(
            importlib.import_module(name),
            extraglobs={"bundle_folder": bundle_folder},
            optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS,
        )
        return found.failed

    return run


@pytest.fixture
def run(capsys):
    """Run a command; gives its status, stdout and stderr."""
    from hashnet import cli

    def run(*arguments):
        capsys.readouterr()
        status = cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture
def kernels():
    """The compiled kernels, loaded now."""
    from hashnet.retrieval.search import compiled

    return compiled.load() or pytest.skip('pip install "hashnet[fast]"')


@pytest.fixture
def plain(monkeypatch):
    """NumPy searches, as where Numba is not installed."""
    from hashnet.retrieval.search import compiled

    monkeypatch.setattr(compiled, "load", lambda: None)


@pytest.fixture(params=["numpy", "compiled"])
def way(request):
    """Both ways to compute, which no answer may tell apart."""
    request.getfixturevalue("plain" if request.param == "numpy" else "kernels")
