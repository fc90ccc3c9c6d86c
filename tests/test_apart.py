"""Pictures decoded in other processes: the same pixels, limits that hold, and no harm to others."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from hashnet import images, system
from hashnet.errors import ImageError
from hashnet.images import apart, workers
from tests import make_images

pytestmark = pytest.mark.skipif(not system.has_forks(), reason="pictures are decoded here then")

PHOTO = make_images.photo(300, 400)
LONG = make_images.long_qoi(1500)  # two seconds


@pytest.fixture
def decoders():
    made = []

    def make(**options):
        made.append(apart.Decoders(1, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_a_format_that_its_suffix_tells_is_read_there_too(decoders, tmp_path):
    (tmp_path / "a.tga").write_bytes(make_images.encoded(PHOTO, "TGA"))
    photo = decoders().photo(tmp_path / "a.tga", apart.FULL)
    assert np.array_equal(photo.full(), PHOTO)


@pytest.mark.parametrize("name", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
def test_pixels_are_those_that_are_decoded_here(decoders, tmp_path, name):
    data = make_images.encoded(PHOTO, name, exif=make_images.exif(6))
    (tmp_path / "a").write_bytes(data)
    here = images.Photo(data)
    for source in (data, tmp_path / "a"):
        there = decoders().photo(source, apart.resized(64), apart.FULL, apart.within(100))
        assert there.size == here.size == (400, 300)
        assert there.path == (None if source is data else str(source))
        assert there.exif == here.exif and there.content_hash == here.content_hash
        for ask in (
            lambda photo: photo.full(),
            lambda photo: photo.resized((64, 64)),
            lambda photo: photo.resized((30, 20)),  # was not wished for
            lambda photo: photo.at_least(50),
            lambda photo: photo.within(100),
        ):
            assert np.array_equal(ask(there), ask(here))
        there.full()[:] = 0  # is the caller's
        assert np.array_equal(there.full(), here.full())


def test_what_a_file_says_of_its_photo_comes_along(decoders):
    from PIL import Image

    data = Image.Exif()
    data[0x0110], data[0x010E] = "CAMERA", "A cat, asleep"
    data.get_ifd(0x8769)[0x9003] = "2024:05:06 07:08:09"
    content = make_images.encoded(PHOTO, "JPEG", exif=data.tobytes())
    photo = decoders().photo(content)
    exif = photo.exif
    assert exif == images.Photo(content).exif
    assert photo.description == "A cat, asleep" == images.Photo(content).description
    assert (exif.camera, exif.taken.isoformat()) == ("CAMERA", "2024-05-06T07:08:09")


@pytest.mark.parametrize("data", [b"", b"nothing", make_images.encoded(PHOTO, "JPEG")[:5000]])
def test_what_is_no_picture_is_refused_in_the_same_words(decoders, data):
    with pytest.raises(ImageError) as here:
        images.Photo(data).full()
    with pytest.raises(ImageError) as there:
        decoders().photo(data, apart.FULL)
    assert str(there.value) == str(here.value)


def test_the_limit_of_pixels_holds_there(decoders):
    with pytest.raises(ImageError, match="120000 pixels|400 x 300"):
        decoders().photo(make_images.encoded(PHOTO, "PNG"), max_pixels=100)


def refused(decoders, data, words):
    with pytest.raises(ImageError, match=words):
        decoders.photo(data, apart.FULL)
    good = decoders.photo(make_images.encoded(PHOTO, "PNG"), apart.FULL)
    assert np.array_equal(good.full(), PHOTO)


def test_what_takes_too_long_is_stopped_and_others_are_not(decoders):
    patient = decoders(wall_seconds=0.3, processor_seconds=1)
    start = time.monotonic()
    refused(patient, LONG, "takes longer")
    assert time.monotonic() - start < 5


@pytest.mark.thorough
def test_what_takes_too_much_of_the_processor_is_stopped(decoders):
    refused(decoders(processor_seconds=1), LONG, "takes longer")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits addresses")
def test_what_takes_too_much_memory_is_refused(decoders):
    refused(decoders(memory_mb=40), make_images.png_bomb(7000), "it takes more")


def strike(decoders, times, sign=signal.SIGSEGV):
    """Workers to which this happens once they have a picture, and the thread it comes from."""
    struck = []

    def go():
        while len(struck) < times:
            for worker in [one for one in list(decoders._all) if one.busy and one not in struck]:
                struck.append(worker)
                os.kill(worker._pid, sign)
            time.sleep(0.005)

    thread = threading.Thread(target=go)
    thread.start()
    return struck, thread


def test_a_decoder_that_ends_is_one_refusal(decoders):
    one = decoders()
    one.start()
    struck, striking = strike(one, 2)
    refused(one, LONG, "ended its decoder")
    striking.join()
    assert not one._all & set(struck)


def test_a_picture_whose_decoder_ends_is_tried_once_more(decoders):
    one = decoders()
    one.start()
    [idle] = one._all
    os.kill(idle._pid, signal.SIGKILL)  # as a system does that runs out of memory
    wait_until(lambda: idle._ready.poll(0))
    assert one.photo(make_images.encoded(PHOTO, "PNG"), apart.FULL).size == (300, 400)
    assert idle not in one._all
    struck, striking = strike(one, 1, signal.SIGKILL)
    assert one.photo(LONG, apart.FULL).size == (1500, 1500)
    striking.join()
    assert not one._all & set(struck)


def test_a_picture_whose_decoder_is_stopped_may_come_again(decoders):
    one = decoders(wall_seconds=0.3)
    one.start()
    [worker] = one._all
    os.kill(worker._pid, signal.SIGSTOP)
    with pytest.raises(apart.CrowdedError):
        one.photo(make_images.encoded(PHOTO, "PNG"), apart.FULL)
    assert worker not in one._all


def test_one_that_takes_long_makes_way(decoders):
    """Of three that take two seconds, one process each of both kinds: who comes last gives way or
    has one give way, and one that takes little is answered meanwhile."""
    one = decoders()
    answers = []

    def ask():
        try:
            answers.append(one.photo(LONG, apart.FULL).size)
        except (ImageError, apart.CrowdedError) as error:
            answers.append(type(error))

    asking = [threading.Thread(target=ask) for _ in range(3)]
    for thread in asking:
        thread.start()
    time.sleep(0.2)
    small = make_images.encoded(PHOTO, "JPEG")
    assert one.photo(small, apart.resized(64)).size == (300, 400)
    assert all(thread.is_alive() for thread in asking) or apart.CrowdedError in answers
    one.close()
    for thread in asking:
        thread.join(5)
    assert answers == [apart.CrowdedError] * 3


def test_of_those_that_wait_the_smallest_is_next():
    turns, order = apart._Turns(1), []
    assert turns.take(0, 1)

    def wait(size):
        if turns.take(size, 5):
            order.append(size)
            turns.give()

    threads = [threading.Thread(target=wait, args=[size]) for size in (30, 10, 20)]
    for number, thread in enumerate(threads, 1):
        thread.start()
        wait_until(lambda number=number: turns.waiting == number)
    assert not turns.take(5, 0.01) and turns.waiting == 3  # gave up
    turns.give()
    for thread in threads:
        thread.join()
    assert order == [10, 20, 30] and turns.take(0, 0)


def alive(pid):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().split()[2] != "Z"
    return False


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="a process is looked at there")
def test_nothing_is_left_by_who_closes_or_dies(decoders):
    one = decoders()
    one.photo(make_images.encoded(PHOTO, "PNG"))
    [worker] = one._all
    assert alive(worker._pid)
    one.close()
    wait_until(lambda: not alive(worker._pid))
    with pytest.raises(apart.CrowdedError):
        one.photo(make_images.encoded(PHOTO, "PNG"))
    code = "import sys, time; from hashnet.images import apart; one = apart.Decoders(1); "
    code += "one.start(); [w] = one._all; print(w._pid, flush=True); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    with child:
        pid = int(child.stdout.readline())
        assert alive(pid)
        child.kill()
    wait_until(lambda: not alive(pid))


def wait_until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_workers_are_forked_again_where_their_mother_has_died(decoders):
    one = decoders()
    one.start()
    mother = workers.mother()._process
    mother.kill()
    mother.wait()
    again = decoders()
    assert again.photo(make_images.encoded(PHOTO, "PNG")).size == (300, 400)


def test_as_many_files_may_be_open_as_a_service_has_connections(decoders):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2000:
        pytest.skip("no more files may be opened here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2000), hard))
    try:
        taken = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
        try:
            photo = decoders().photo(make_images.encoded(PHOTO, "PNG"), apart.FULL)
            assert np.array_equal(photo.full(), PHOTO)
        finally:
            for descriptor in taken:
                os.close(descriptor)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_who_had_no_time_for_waiting_may_come_again(decoders):
    one = decoders(wall_seconds=0.2)
    assert one._turns.take(0, 1)
    with pytest.raises(apart.CrowdedError):
        one.photo(make_images.encoded(PHOTO, "PNG"))
    threading.Timer(0.15, one._turns.give).start()
    with pytest.raises(apart.CrowdedError):
        one.photo(LONG, apart.FULL)


def test_who_gets_no_process_may_come_again(decoders, monkeypatch):
    def fails(*_):
        raise BlockingIOError

    monkeypatch.setattr(workers, "mother", fails)
    one = decoders()
    one.start()
    with pytest.raises(apart.CrowdedError):
        one.photo(make_images.encoded(PHOTO, "PNG"))


def test_a_worker_serves_many_and_is_replaced(decoders, monkeypatch):
    monkeypatch.setattr(apart, "_PICTURES_A_WORKER", 2)
    one, pids = decoders(), []
    for _ in range(5):
        one.photo(make_images.encoded(PHOTO, "PNG"))
        pids.append([worker._pid for worker in one._idle])
    assert pids[0] != [] and pids[1] == [] and pids[2] not in (pids[0], [])


def test_where_nothing_forks_pictures_are_decoded_here(decoders, monkeypatch):
    monkeypatch.setattr(system, "has_forks", bool)
    monkeypatch.setattr(workers, "mother", lambda: pytest.fail("it was asked for a process"))
    one = decoders()
    one.start()
    photo = one.photo(make_images.encoded(PHOTO, "PNG"), apart.FULL)
    assert type(photo) is images.Photo and np.array_equal(photo.full(), PHOTO)
