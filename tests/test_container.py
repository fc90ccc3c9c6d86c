"""The container and the unit of docs/serving.md: what they install, run and ask, without Docker.

Its steps are a script, which runs here as they run there.
"""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest

from hashnet import cli

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
# What python:3.11-slim takes on disk, rounded up, and what the whole image may take, bytes.
BASE_BYTES, MOST_BYTES = 130_000_000, 400_000_000


def instructions(name):
    """The arguments of every instruction of this name, lines joined."""
    joined = DOCKERFILE.replace("\\\n", "")
    return [line.strip() for line in re.findall(rf"^{name} (.*)$", joined, re.MULTILINE)]


def command():
    """What a container starts: its entry point and the default arguments."""
    [entry], [default] = map(instructions, ("ENTRYPOINT", "CMD"))
    return json.loads(entry) + json.loads(default)


def health_check():
    [check] = instructions("HEALTHCHECK")
    return json.loads(check.partition("CMD ")[2])


def test_the_container_starts_a_command_that_can_be_given():
    program, *arguments = command()
    given = cli.parser().parse_args(arguments)
    assert program == "hashnet" and given.run
    assert (given.index, given.host) == ("/index", "0.0.0.0")
    assert instructions("EXPOSE") == [str(given.port)] and instructions("VOLUME") == ["/index"]
    assert f":{given.port}/healthz" in health_check()[-1]


def test_the_container_has_no_rights_that_it_does_not_need():
    [user] = instructions("USER")
    assert re.fullmatch(r"(\d+):\1", user) and int(user.split(":")[0]) > 0
    yaml = pytest.importorskip("yaml")
    composed = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    [service] = composed["services"].values()
    assert service["read_only"] and service["cap_drop"] == ["ALL"]
    assert {volume.split(":")[1].rstrip("}") for volume in service["volumes"]} >= {"/index"}
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])


def test_what_is_copied_into_the_container_is_there():
    kept = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert kept[0] == "*"
    for name in (line[1:] for line in kept if line.startswith("!")):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"/source/(\S+)", DOCKERFILE):
        assert os.access(ROOT / name, os.X_OK), name


def unit():
    page = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    [unit] = re.findall(r"^```ini\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    return unit


def test_the_unit_starts_a_command_that_can_be_given():
    [line] = re.findall("^ExecStart=(.*)$", unit(), re.MULTILINE)
    program, *arguments = line.split()
    assert pathlib.PurePosixPath(program).name == "hashnet"
    assert cli.parser().parse_args(arguments).run


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd")
def test_systemd_takes_the_unit(tmp_path):
    file = tmp_path / "hashnet.service"
    # Verification asks that the program exists.
    file.write_text(re.sub("^ExecStart=\\S+", "ExecStart=/bin/true", unit(), flags=re.M))
    run = subprocess.run(["systemd-analyze", "verify", file], capture_output=True, text=True)
    assert run.returncode == 0 and str(file) not in run.stderr, run.stderr
    file.write_text(file.read_text().replace("[Service]", "[Service]\nNoSuchSetting=1"))
    run = subprocess.run(["systemd-analyze", "verify", file], capture_output=True, text=True)
    assert "NoSuchSetting" in run.stderr


# --- What its steps install, run as the container would -------------------------------------------


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    """What the container holds beside its base: made by its own script from what it is given."""
    folder = tmp_path_factory.mktemp("container")
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    for name in (line[1:] for line in ignored if line.startswith("!")):
        source, target = ROOT / name, folder / "source" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    # Its base has one Python, of this name.
    env["PATH"] = f"{pathlib.Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    script = folder / "source" / "docker" / "install.sh"
    run = subprocess.run([script, folder / "prefix"], env=env, capture_output=True, text=True)
    if run.returncode and "Failed to establish a new connection" in run.stderr:
        pytest.skip("libraries are fetched, and there is no network")
    assert run.returncode == 0, run.stderr
    return folder / "prefix"


@pytest.mark.slow
def test_the_container_is_small_and_trains_nothing(prefix):
    size = sum(file.lstat().st_size for file in prefix.rglob("*") if not file.is_dir())
    assert BASE_BYTES + size <= MOST_BYTES, f"{size / 1e6:.0f} MB beside the base"
    [packages] = prefix.glob("lib/python3*/site-packages")
    for unwanted in ("keras", "tensorflow", "numba", "scipy", "pip"):
        assert not (packages / unwanted).exists(), unwanted


@pytest.mark.slow
def test_the_container_indexes_and_serves_what_its_health_check_asks_for(prefix, photos, tmp_path):
    env = {"PATH": f"{prefix / 'bin'}:{os.environ['PATH']}"}
    volume = tmp_path / "index"
    volume.mkdir()

    def run(*arguments, **options):
        return subprocess.run(arguments, env=env, cwd=tmp_path, text=True, **options)

    done = run(prefix / "bin/hashnet", "index", volume, photos, capture_output=True)
    assert done.returncode == 0 and done.stdout.startswith("24 added"), done.stderr
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    program, *arguments = command()
    arguments[arguments.index("/index")] = str(volume)
    check = [word.replace(":8000/", f":{port}/") for word in health_check()]
    check[0] = str(prefix / "bin" / check[0])
    assert run(*check, capture_output=True).returncode != 0
    serving = subprocess.Popen(
        [prefix / "bin" / program, *arguments, "--port", port],
        env=env,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    )
    with contextlib.ExitStack() as after:
        after.callback(serving.communicate)
        after.callback(serving.terminate)
        assert " at http" in serving.stdout.readline()
        end = time.monotonic() + 30
        while run(*check, capture_output=True).returncode and time.monotonic() < end:
            time.sleep(0.2)
        assert run(*check, capture_output=True).returncode == 0
    assert serving.returncode in (0, -signal.SIGTERM)  # stopped, as it was told
