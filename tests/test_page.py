"""The page of `hashnet serve`: what its files promise, then what it does in a real browser.

The browser tests are slow ones. They need `pip install playwright axe-playwright-python` and a
Chromium of the system (`apt-get install chromium`); each says what is missing, and skips. With
HASHNET_SCREENSHOTS=FOLDER the screenshots are kept there.
"""

import configparser
import contextlib
import fnmatch
import html.parser
import importlib.util
import io
import itertools
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
import urllib.parse
import urllib.request

import numpy as np
import pytest
from PIL import Image

import hashnet.retrieval
from hashnet import images
from tests import make_images, scenes

PAGE = pathlib.Path(hashnet.retrieval.__file__).parent / "service" / "static"
TEXTS = {path.name: path.read_text(encoding="utf-8") for path in sorted(PAGE.iterdir())}
SCRIPTS = {name: text for name, text in TEXTS.items() if name.endswith(".js")}
# What the strictest policy that a page with scripts can have would still let through.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; require-trusted-types-for 'script'"
)
ODD = 'odd/ü <img src=x onerror="throw 1"> #1 100%?.png'


class Elements(html.parser.HTMLParser):
    """Every element of a document: (tag, attributes); `text` of scripts and styles."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.inline, self.inside = [], "", None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.inside = tag

    def handle_data(self, data):
        if self.inside in ("script", "style"):
            self.inline += data.strip()


DOCUMENT = Elements(TEXTS["index.html"])


def test_nothing_on_the_page_is_inline():
    assert DOCUMENT.inline == ""
    for tag, attributes in DOCUMENT.elements:
        assert tag != "style"
        assert not [name for name in attributes if name == "style" or name.startswith("on")]
        assert not any((value or "").startswith("javascript:") for value in attributes.values())


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_scripts_make_no_code_and_no_markup_from_text(name):
    forbidden = (
        r"\beval\b|new Function|innerHTML|outerHTML|insertAdjacentHTML|document\.write"
        r"|setAttribute\(\s*[\"'](style|on)|set(Timeout|Interval)\(\s*[\"'`]|importScripts"
    )
    assert not re.findall(forbidden, SCRIPTS[name])


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_the_page_asks_no_other_host(name):
    # The one address is the name of a namespace, which nothing fetches.
    text = TEXTS[name].replace("http://www.w3.org/2000/svg", "")
    assert not re.findall(r"(?i)\b[a-z]+://|[\"'(]//|url\(|@import", text)


def test_every_file_is_packaged_used_and_there():
    setup = configparser.ConfigParser()
    setup.read(PAGE.parents[3] / "setup.cfg")
    patterns = setup["options.package_data"]["hashnet.retrieval.service"].replace(",", " ").split()
    used = {"index.html"}
    for tag, attributes in DOCUMENT.elements:
        address = attributes.get("src") or (tag == "link" and attributes.get("href"))
        if address:
            assert address.startswith("static/")
            used.add(address.removeprefix("static/"))
    for text in SCRIPTS.values():
        used.update(re.findall(r'from "\./([\w.]+)"', text))
    assert used == set(TEXTS)
    for name in used:
        assert any(fnmatch.fnmatch(f"static/{name}", pattern) for pattern in patterns)


def test_scripts_and_page_agree_on_ids():
    ids = [attributes["id"] for _, attributes in DOCUMENT.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    asked = set()
    for text in SCRIPTS.values():
        asked.update(re.findall(r'(?:\$|getElementById)\("([\w-]+)"\)', text))
    assert asked and asked <= set(ids)
    for _, attributes in DOCUMENT.elements:
        for name in ("for", "list", "aria-labelledby"):
            assert name not in attributes or attributes[name] in ids


def chromium():
    """Where the system's Chromium is, or a skip."""
    if importlib.util.find_spec("playwright") is None:
        pytest.skip("the browser is driven by playwright: pip install playwright")
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("no chromium on this machine: apt-get install chromium")
    return path


@pytest.fixture(scope="module")
def browser():
    path = chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Chromium's own sandbox refuses root, which containers often are.
        root = hasattr(os, "geteuid") and os.geteuid() == 0
        started = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox"] if root else []
        )
        yield started
        started.close()


@contextlib.contextmanager
def serving(folder):
    """`hashnet serve` on an index as a process of its own; gives its address."""
    program = "from hashnet.cli import main; raise SystemExit(main())"
    command = [sys.executable, "-c", program, "serve", folder, "--port", "0"]
    with folder.with_suffix(".log").open("w+b") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            line = process.stdout.readline()
            address = re.search(r"http://\S+/", line)
            if address is None:
                log.seek(0)
                pytest.fail(f"hashnet serve did not start: {line}{log.read().decode()}")
            yield address[0]
        finally:
            process.terminate()
            process.communicate(timeout=60)


@pytest.fixture(scope="module")
def served(bundle_folder, photos, tmp_path_factory):
    """The address of `hashnet serve` on an index of `photos` and one image with an odd id."""
    chromium()
    from hashnet.retrieval.index import Index

    folder = tmp_path_factory.mktemp("served")
    odd = folder / "odd.png"
    odd.write_bytes(make_images.encoded(make_images.photo(), "PNG"))
    paths = sorted(photos.glob("*/*.png"))
    index = Index.create(folder / "photos.index", bundle_folder)
    ids = [f"{path.parent.name}/{path.name}" for path in paths]
    labels = [path.parent.name for path in paths]
    index.add([*paths, odd], ids=[*ids, ODD], labels=[*labels, "odd"])
    with serving(index.store.folder) as address:
        yield address


@pytest.fixture(scope="module")
def textured():
    """A photo that is full of points, and a part of it that is taken from nearer."""
    coarse = np.random.default_rng(0).integers(0, 256, (20, 26, 3), dtype=np.uint8)
    whole = images.resize(coarse, (200, 260))
    return whole, images.resize(whole[20:190, 30:250], (204, 264))


@pytest.fixture(scope="module")
def served_parts(bundle_folder, textured, tmp_path_factory):
    """As `served`, of scenes with regions and local features, and of a photo with texture."""
    chromium()
    pytest.importorskip("cv2", reason="needs OpenCV: pip install hashnet[delf]")
    from hashnet.retrieval.index import Index

    folder = tmp_path_factory.mktemp("parts")
    with scenes.bright_regions():
        index = Index.create(folder / "index", bundle_folder, local="sift", regions=3)
    for number, place in enumerate(scenes.PLACES):
        images.write(folder / f"{number}.png", scenes.scene(number, *place))
    images.write(folder / "textured.png", textured[0])
    assert index.update([folder]).added == 5
    with serving(index.store.folder) as address:
        yield address


@pytest.fixture(scope="module")
def shots(tmp_path_factory):
    """The folder of the screenshots."""
    kept = os.environ.get("HASHNET_SCREENSHOTS")
    folder = pathlib.Path(kept) if kept else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def visit(browser, served):
    """visit(address="", **context options): the page, opened; nothing in it may complain."""
    contexts, complaints = [], []

    def opened(address="", **options):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: heard(message))
        page.goto(urllib.parse.urljoin(served, address))
        return page

    def heard(message):
        # Chromium reports every status above 399 itself; the tests of errors ask for those.
        # And it advises on how the tests read the pixels of a canvas.
        expected = ("Failed to load resource", "Canvas2D")
        if message.type in ("error", "warning") and not message.text.startswith(expected):
            complaints.append(message.text)

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []


def upload(page, image, name="photo.png", kind="image/png"):
    page.set_input_files("#file", {"name": name, "mimeType": kind, "buffer": image})


def until(page, condition):
    """Wait for a JavaScript expression to hold.

    Playwright's own wait evaluates it inside the page, where the policy of the service forbids it.
    """
    for _ in range(400):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"this never became true: {condition}")


def settled(page):
    """Wait until no search is under way."""
    until(page, "document.getElementById('results').ariaBusy === 'false'")


def query_photo(photos):
    return (photos / "disc" / "0.png").read_bytes()


def ids(page):
    return page.locator(".hit").evaluate_all("tiles => tiles.map(tile => tile.dataset.id)")


def violations(page):
    """Serious and critical findings of axe-core."""
    found = importlib.util.find_spec("axe_playwright_python")
    if found is None:
        pytest.skip("accessibility is checked with axe-core: pip install axe-playwright-python")
    script = pathlib.Path(found.origin).parent / "axe.min.js"
    page.evaluate(script.read_text(encoding="utf-8") + ";0")
    result = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    assert result["passes"]  # it did look
    return [
        (finding["id"], [node["html"] for node in finding["nodes"]])
        for finding in result["violations"]
        if finding["impact"] in ("serious", "critical")
    ]


slow = pytest.mark.slow


@slow
def test_the_policy_allows_nothing_inline_and_no_other_host(served):
    with urllib.request.urlopen(served) as answer:
        policy = answer.headers["Content-Security-Policy"]
    allowed = dict(part.strip().partition(" ")[::2] for part in policy.split(";") if part.strip())
    assert allowed["default-src"] in ("'none'", "'self'")
    for rule in allowed.values():
        assert "unsafe" not in rule and "http" not in rule and "*" not in rule


@slow
def test_the_page_works_under_the_strictest_policy(visit, served, photos):
    page = visit()

    def stricter(route):
        answer = route.fetch()
        headers = {**answer.headers, "content-security-policy": POLICY}
        route.fulfill(response=answer, headers=headers)

    page.route(served, stricter)
    page.goto(served)
    upload(page, query_photo(photos))
    page.locator(".hit a").first.click()
    page.wait_for_url("**/?id=*")
    settled(page)
    assert page.locator(".hit").count() > 0


@slow
def test_an_uploaded_photo_is_searched_by(visit, photos, shots):
    page = visit()
    page.get_by_text("Drop a photo here").wait_for()
    page.screenshot(path=shots / "welcome.png")
    assert violations(page) == []
    upload(page, query_photo(photos))
    page.locator(".hit").first.wait_for()
    settled(page)
    assert [id.split("/")[0] for id in ids(page)[:6]] == ["disc"] * 6
    assert ids(page)[0] == "disc/0.png"
    assert "0 bits apart" in page.locator(".hit").first.inner_text()
    assert "distance 0.00" in page.locator(".hit").first.inner_text()
    assert re.fullmatch(r"\d+ hits?", page.locator("#results-title").inner_text())
    assert "pool of" in page.get_by_role("status").first.inner_text()
    assert {"encode", "coarse", "fine"} <= set(page.locator("#timings").inner_text().split())
    until(page, "document.querySelector('.hit img').naturalWidth > 0")
    page.screenshot(path=shots / "hits.png")
    assert violations(page) == []


@slow
def test_a_photo_can_be_dropped_and_pasted(visit, photos):
    page = visit()
    give = """([bytes, kind]) => {
      const carried = new DataTransfer();
      carried.items.add(new File([new Uint8Array(bytes)], "given.png", {type: "image/png"}));
      const event = kind === "drop"
        ? new DragEvent("drop", {dataTransfer: carried, bubbles: true, cancelable: true})
        : new ClipboardEvent("paste", {clipboardData: carried, bubbles: true, cancelable: true});
      document.body.dispatchEvent(event);
    }"""
    for kind, folder in (("drop", "disc"), ("paste", "checks")):
        page.evaluate(give, [list((photos / folder / "0.png").read_bytes()), kind])
        page.locator(f".hit[data-id='{folder}/0.png']:first-child").wait_for()
    text = "(() => { const carried = new DataTransfer(); carried.setData('text/uri-list', 'x');"
    text += "document.body.dispatchEvent(new DragEvent('drop', {dataTransfer: carried})); })()"
    page.evaluate(text.replace("dataTransfer: carried", "dataTransfer: carried, bubbles: true"))
    assert "not a file" in page.get_by_role("alert").inner_text()


@slow
def test_a_hit_is_searched_by_and_back_returns(visit, photos):
    page = visit()
    upload(page, query_photo(photos))
    page.locator(".hit").first.wait_for()
    before = ids(page)
    page.locator(".hit a").nth(1).click()
    page.wait_for_url("**/?id=*")
    until(page, f"!document.querySelector('[data-id=\"{before[1]}\"]')")
    settled(page)
    assert before[1] not in ids(page)
    assert page.evaluate("document.activeElement.id") == "results-title"
    second = page.url
    page.locator(".hit a").nth(2).click()
    until(page, f"location.href !== {json.dumps(second)}")
    page.go_back()
    until(page, f"location.href === {json.dumps(second)}")
    until(page, f"!document.querySelector('[data-id=\"{before[1]}\"]')")
    page.go_back()  # to the photo, which this visit still has
    until(page, f"document.querySelector('.hit')?.dataset.id === '{before[0]}'")
    settled(page)
    assert ids(page) == before
    page.go_forward()
    page.wait_for_url(second)
    page.reload()
    page.locator(".hit").first.wait_for()
    assert before[1] not in ids(page)
    page.go_back()  # a reload has forgotten the photo
    page.get_by_text("nothing that is uploaded is kept").wait_for()


@slow
def test_an_id_is_text_whatever_it_holds(visit):
    page = visit()
    page.goto(page.url + "?" + urllib.parse.urlencode({"id": ODD}))
    page.locator(".hit").first.wait_for()
    page.locator("#stage").wait_for()  # its picture was found by this id
    assert page.locator("#query-name").inner_text() == ODD
    page.goto(page.url.split("?")[0] + "?class=one&label=odd&threshold=33")
    tile = page.locator(".hit")
    tile.wait_for()
    assert tile.locator("a").get_attribute("title") == ODD
    until(page, "document.querySelector('.hit img').naturalWidth > 0")
    assert page.locator("img[src=x]").count() == 0


def edges(page):
    boxes = page.locator("#region-form input")
    return boxes.evaluate_all("boxes => boxes.map(box => Number(box.value))")


@slow
def test_a_box_is_drawn_by_mouse_on_the_upright_photo(visit, shots):
    page = visit()
    photo = Image.fromarray(make_images.photo(300, 400))
    exif = Image.Exif()
    exif[0x0112] = 6  # stored on its side: 300 wide, 400 high when upright
    file = io.BytesIO()
    photo.save(file, "JPEG", exif=exif)
    upload(page, file.getvalue(), "turned.jpg", "image/jpeg")
    page.locator("#stage").wait_for()
    settled(page)
    assert page.locator("[name=bottom]").get_attribute("max") == "400"
    assert page.locator("[name=right]").get_attribute("max") == "300"
    frame = page.locator("#overlay").bounding_box()
    assert frame["height"] / frame["width"] == pytest.approx(4 / 3, rel=0.02)
    place = lambda y, x: (frame["x"] + frame["width"] * x, frame["y"] + frame["height"] * y)  # noqa: E731
    page.mouse.move(*place(0.75, 0.5))
    page.mouse.down()
    page.mouse.move(*place(0.5, 0.3))
    with page.expect_response("**/api/search") as answer:
        page.mouse.move(*place(0.25, 0.1))
        page.mouse.up()
    assert answer.value.ok
    settled(page)
    assert edges(page) == pytest.approx([100, 30, 300, 150], abs=4)
    page.screenshot(path=shots / "region.png")
    assert violations(page) == []
    with page.expect_response("**/api/search"):
        page.get_by_role("button", name="Whole photo").click()
    assert edges(page) == [0, 0, 0, 0]
    page.go_back()
    until(page, "document.querySelector('[name=bottom]').value > 0")


@slow
def test_a_box_is_drawn_by_touch_and_does_not_scroll_the_page(visit):
    page = visit("?id=disc/0.png", viewport={"width": 360, "height": 740}, has_touch=True)
    page.locator("#stage").wait_for()
    settled(page)
    frame = page.locator("#overlay").bounding_box()
    touch = page.context.new_cdp_session(page)
    for kind, part in (("Start", 0.8), ("Move", 0.5), ("Move", 0.2), ("End", None)):
        at = part and [
            {"x": frame["x"] + part * frame["width"], "y": frame["y"] + part * frame["height"]}
        ]
        touch.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": at or []})
    until(page, "location.search.includes('region')")
    settled(page)
    assert edges(page) == pytest.approx([16, 20, 64, 80], abs=2)
    assert page.evaluate("scrollY") == 0


@slow
def test_a_box_is_given_by_keyboard_and_refused_when_it_is_none(visit):
    page = visit("?id=disc/0.png")
    page.locator("#stage").wait_for()
    settled(page)
    page.locator("#region summary").focus()
    page.keyboard.press("Enter")
    for edge, value in {"top": 60, "left": 20, "bottom": 10, "right": 80}.items():
        page.locator(f"[name={edge}]").fill(str(value))
    page.keyboard.press("Enter")
    assert "region" not in page.url
    assert page.locator("[name=bottom]").evaluate("box => box.validationMessage")
    page.locator("[name=top]").fill("5")
    with page.expect_response(re.compile("region=5%2C20%2C10%2C80")) as answer:
        page.keyboard.press("Enter")
    assert answer.value.ok
    assert "region=5%2C20%2C10%2C80" in page.url


@slow
def test_a_box_is_in_pixels_of_the_original_of_a_reduced_picture(visit):
    page = visit()
    known = {
        "id": "disc/0.png",
        "label": "disc",
        "height": 800,
        "width": 1000,
    }  # ten times as large
    page.route("**/api/images/disc/0.png", lambda route: route.fulfill(json=known))
    page.route("**/api/search?*region*", lambda route: route.abort())
    page.goto(page.url + "?id=disc/0.png")
    page.locator("#stage").wait_for()
    settled(page)
    frame = page.locator("#overlay").bounding_box()
    page.mouse.move(frame["x"] + frame["width"] / 4, frame["y"] + frame["height"] / 2)
    page.mouse.down()
    page.mouse.move(frame["x"] + frame["width"] / 2, frame["y"] + frame["height"])
    page.mouse.up()
    assert edges(page) == pytest.approx([400, 250, 800, 500], abs=6)


@slow
def test_the_slider_shows_the_pool_that_the_search_then_has(visit, served, shots):
    page = visit("?id=disc/0.png")
    page.locator(".hit").first.wait_for()
    slider = page.get_by_role("slider", name="Threshold")
    assert page.get_by_label("Automatic").is_checked()
    assert page.locator("#histogram rect").count() == 33
    counts = page.request.get(served + "api/search?id=disc/0.png").json()["histogram"]
    # Where images are exactly so many bits apart, "fewer" and "at most" differ.
    edge = [apart for apart, number in enumerate(counts) if number and apart > 0]
    for threshold in (edge[0], edge[-1], 33):
        slider.fill(str(threshold))
        foreseen = page.locator("#pool").inner_text()
        with page.expect_response(re.compile(f"threshold={threshold}(&|$)")) as answer:
            pass
        settled(page)
        answer = answer.value.json()
        assert f"pool of {answer['pool']} of 25 images" in foreseen
        assert page.locator("#pool").inner_text() == foreseen
        assert sum(answer["histogram"]) == 25
        assert slider.get_attribute("aria-valuetext").endswith(
            f"pool of {answer['pool']} of 25 images"
        )
    assert answer["pool"] == 25
    assert not page.get_by_label("Automatic").is_checked()
    page.screenshot(path=shots / "slider.png")
    slider.focus()
    with page.expect_response(re.compile("threshold=32")):
        page.keyboard.press("ArrowLeft")
    page.get_by_label("Automatic").check()
    settled(page)
    assert "threshold" not in page.url


@slow
def test_an_empty_pool_says_so_and_shows_the_way_out(visit, shots):
    page = visit("?class=one&threshold=1")
    page.get_by_text("No image is fewer than 1 bit apart").wait_for()
    page.screenshot(path=shots / "empty.png")
    assert violations(page) == []
    page.get_by_role("button", name="Choose the threshold for me").click()
    page.locator(".hit").first.wait_for()


@slow
def test_names_search_through_the_classes(visit, shots):
    page = visit()
    names = page.get_by_label("Words", exact=True)
    names.wait_for()
    offered = page.locator("#classes option").evaluate_all("all => all.map(one => one.value)")
    labels = ["checks", "disc", "odd", "ramp", "stripes"]
    assert offered == [*labels, "one", "two", "three"]
    names.fill("two")
    names.press("Enter")
    page.locator(".hit").first.wait_for()
    assert "class=two" in page.url
    assert not page.locator("#region").is_visible()
    page.screenshot(path=shots / "names.png")
    names.fill("no such class")
    names.press("Enter")
    page.get_by_text("Nothing is found by these words").wait_for()
    assert "text=no+such+class" in page.url
    assert ids(page) == []  # hits of another query would be taken for the answer
    page.screenshot(path=shots / "error.png")
    assert violations(page) == []
    page.go_back()
    page.locator(".hit").first.wait_for()
    assert names.input_value() == "two"
    names.fill("disc")
    names.press("Enter")
    page.get_by_text("by label").first.wait_for()
    assert not page.get_by_role("alert").is_visible()


@slow
def test_labels_filter(visit):
    page = visit("?id=disc/0.png&threshold=33")
    page.locator(".hit").first.wait_for()
    page.locator("#labels summary").click()
    page.get_by_label("Find a label").fill("ch")
    page.get_by_label(re.compile("^checks")).check()
    until(page, "document.querySelectorAll('.hit').length === 6")
    page.get_by_label("Find a label").fill("")
    page.get_by_label(re.compile("^ramp")).check()
    until(page, "document.querySelectorAll('.hit').length === 12")
    assert {id.split("/")[0] for id in ids(page)} == {"checks", "ramp"}
    assert "label=checks&label=ramp" in page.url
    page.get_by_role("spinbutton", name="Hits").fill("3")
    page.get_by_role("spinbutton", name="Hits").press("Enter")
    until(page, "document.querySelectorAll('.hit').length === 3")
    page.get_by_role("button", name="All", exact=True).click()
    until(page, "!location.search.includes('label')")


@slow
def test_marks_are_sent_and_kept(visit, shots):
    page = visit("?id=disc/0.png&threshold=33")
    page.locator(".hit").first.wait_for()
    yes, no, undone = ids(page)[1], ids(page)[2], ids(page)[3]
    mark = lambda id, name: page.locator(f".hit[data-id='{id}'] [data-action={name}]")  # noqa: E731
    assert not page.get_by_role("group", name="Relevance feedback").is_visible()
    mark(yes, "wrong").click()
    mark(yes, "right").click()  # right and wrong exclude each other
    mark(undone, "right").click()
    mark(undone, "right").click()
    page.locator(f".hit[data-id='{no}'] a").focus()
    page.keyboard.press("w")
    assert page.locator("#marks").inner_text() == "1 right, 1 wrong"
    page.screenshot(path=shots / "feedback.png")
    assert violations(page) == []
    with page.expect_response("**/api/search?*") as answer:
        page.get_by_role("button", name="Search again").click()
    assert answer.value.ok
    sent = urllib.parse.parse_qs(urllib.parse.urlsplit(answer.value.url).query)
    assert (sent["right"], sent["wrong"]) == ([yes], [no])
    settled(page)
    assert page.locator("#marks").inner_text() == "1 right, 1 wrong"
    page.get_by_role("button", name="Clear marks").click()
    settled(page)
    assert page.locator("[aria-pressed=true]").count() == 0


@slow
def test_errors_say_what_and_what_next(visit, photos, shots):
    page = visit()
    alert = page.get_by_role("alert")
    upload(page, b"not a picture", "letter.txt", "text/plain")
    alert.wait_for()
    assert "no preview" in page.locator("#query-name").inner_text()
    page.screenshot(path=shots / "broken_photo.png")

    refuse = {"status": 413, "body": json.dumps({"error": "At most 8 MB."})}
    page.route("**/api/search", lambda route: route.fulfill(**refuse))
    upload(page, query_photo(photos))
    alert.filter(has_text="larger than this service takes. At most 8 MB.").wait_for()
    page.unroute("**/api/search")

    nothing = "new DragEvent('drop', {dataTransfer: new DataTransfer(), bubbles: true})"
    page.evaluate(f"document.body.dispatchEvent({nothing}), 0")
    alert.filter(has_text="not a file").wait_for()
    assert not page.get_by_role("button", name="Try again").is_visible()

    page.route("**/api/search", lambda route: route.abort())
    upload(page, query_photo(photos))
    alert.filter(has_text="does not answer").wait_for()
    page.unroute("**/api/search")
    page.get_by_role("button", name="Try again").click()
    page.locator(".hit").first.wait_for()
    assert not alert.is_visible()


@slow
def test_a_busy_service_is_asked_again_when_it_said(visit, photos, shots):
    page = visit()
    asked = []

    def busy_twice(route):
        asked.append(time.monotonic())
        if len(asked) > 2:
            return route.continue_()
        body = json.dumps({"error": "All places are taken."})
        return route.fulfill(status=503, headers={"Retry-After": "1"}, body=body)

    page.route("**/api/search", busy_twice)
    upload(page, query_photo(photos))
    page.get_by_role("alert").filter(has_text="Trying again in 1 s").wait_for()
    page.screenshot(path=shots / "busy.png")
    page.locator(".hit").first.wait_for()
    assert not page.get_by_role("alert").is_visible()
    assert min(later - first for first, later in itertools.pairwise(asked)) >= 0.9
    assert len(asked) == 3


@slow
def test_the_latest_search_wins(visit):
    page = visit("?id=disc/0.png")
    page.locator(".hit").first.wait_for()
    held = []
    page.route(re.compile(r"class=one"), lambda route: held.append(route))
    page.get_by_label("Words", exact=True).fill("one")
    page.get_by_label("Words", exact=True).press("Enter")
    until(page, "document.getElementById('results').ariaBusy === 'true'")
    assert page.get_by_role("status").first.inner_text() == "Searching…"
    page.get_by_label("Words", exact=True).fill("two")
    page.get_by_label("Words", exact=True).press("Enter")
    settled(page)
    latest = ids(page)
    for route in held:
        route.continue_()
    page.wait_for_timeout(300)
    assert ids(page) == latest and "class=two" in page.url


@slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_screen_needs_no_sideways_scrolling(visit, photos, shots, scheme):
    options = {"viewport": {"width": 360, "height": 740}, "color_scheme": scheme}
    page = visit(has_touch=True, is_mobile=True, **options)
    wide = "[document.documentElement.scrollWidth, document.body.scrollWidth]"
    page.get_by_text("Drop a photo here").wait_for()
    assert max(page.evaluate(wide)) <= 360
    upload(page, query_photo(photos))
    page.locator(".hit").first.wait_for()
    settled(page)
    page.screenshot(path=shots / f"narrow_{scheme}.png")
    page.locator("#settings > summary").tap()
    page.locator("#region > summary").tap()
    page.locator("#labels > summary").tap()
    assert max(page.evaluate(wide)) <= 360
    assert violations(page) == []
    page.screenshot(path=shots / f"narrow_{scheme}_settings.png")
    page.locator("[data-action=right]").first.tap()
    page.locator("[data-action=compare]").first.tap()
    page.locator("dialog[open]").wait_for()
    assert max(page.evaluate(wide)) <= 360
    page.screenshot(path=shots / f"narrow_{scheme}_compare.png")


@slow
def test_dark_follows_the_system_until_the_reader_chooses(visit, photos, shots):
    back = "getComputedStyle(document.documentElement).backgroundColor"
    page = visit(color_scheme="dark")
    dark = page.evaluate(back)
    upload(page, query_photo(photos))
    page.locator(".hit").first.wait_for()
    settled(page)
    page.screenshot(path=shots / "dark.png")
    assert violations(page) == []
    page.emulate_media(color_scheme="light")
    until(page, f"{back} !== '{dark}'")
    light = page.evaluate(back)
    page.get_by_role("button", name="Dark colours").click()
    assert page.evaluate(back) == dark
    page.reload()
    assert page.evaluate(back) == dark
    page.get_by_role("button", name="Light colours").click()
    assert page.evaluate(back) == light


@slow
def test_the_keyboard_reaches_everything(visit):
    page = visit("?id=disc/0.png&threshold=33")
    page.locator(".hit").first.wait_for()
    settled(page)
    focus = "[document.activeElement.id, document.activeElement.className]"
    page.keyboard.press("Tab")
    assert page.evaluate(focus)[0] == "skip"
    assert page.locator(".skip").bounding_box()["y"] >= 0
    reached = []
    for _ in range(25):
        page.keyboard.press("Tab")
        reached.append(page.evaluate(focus)[0] or page.evaluate(focus)[1])
        if reached[-1] == "photo":
            break
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none" or reached[-1] == "file"  # its label shows the ring
    assert {"home", "theme", "file", "class-name", "threshold", "automatic", "k"} <= set(reached)
    tile = "[...document.querySelectorAll('.hit')].indexOf(document.activeElement.closest('.hit'))"
    assert page.evaluate(tile) == 0
    page.keyboard.press("ArrowRight")
    assert page.evaluate(tile) == 1
    page.keyboard.press("ArrowDown")
    below = page.evaluate(tile)
    assert below > 2
    columns = page.evaluate("getComputedStyle(document.getElementById('hits')).gridTemplateColumns")
    assert below - 1 == len(columns.split())
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")  # nothing before the first
    assert page.evaluate(tile) == 0
    page.keyboard.press("c")
    page.locator("dialog[open]").wait_for()
    page.keyboard.press("Escape")
    assert page.evaluate(tile) == 0  # the focus is back where it was


def work(session):
    """What the page has cost so far: seconds of its main thread, and the nodes it holds."""
    metrics = session.send("Performance.getMetrics")["metrics"]
    values = {one["name"]: one["value"] for one in metrics}
    return values["TaskDuration"], values["Nodes"]


@slow
def test_thousands_of_hits_are_there_and_few_are_built_or_fetched(visit, photos):
    page = visit()

    def answer(route):
        hits = [
            {"id": f"many/{n}", "label": None, "bits_apart": 3, "distance": n / 100}
            for n in range(number)
        ]
        stages = {"encode": 1.0, "coarse": 0.1, "fine": 0.1, "verify": None}
        found = {"query": "q", "threshold": 5, "pool": number, "milliseconds": stages}
        route.fulfill(json={**found, "hits": hits, "histogram": [0, 0, 0, number] + [0] * 29})

    fetched = []
    thumb = make_images.encoded(make_images.photo(256, 256), "JPEG")

    def thumbnail(route):
        fetched.append(route.request.url)
        route.fulfill(body=thumb, content_type="image/jpeg")

    page.route("**/thumbnail*", thumbnail)
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    down = """async () => {
      let most = 0;
      for (let frame = 0; frame < 60; frame++) {
        scrollBy(0, 100);
        await new Promise(requestAnimationFrame);
        most = Math.max(most, document.querySelectorAll(".hit").length);
      }
      return most;
    }"""
    page.route("**/api/search", answer)
    costs = {}
    for number in (200, 5000):
        upload(page, query_photo(photos))
        until(page, f"document.querySelector('.hit')?.ariaSetSize === '{number}'")
        settled(page)
        before = work(session)
        assert page.evaluate(down) < 150
        after = work(session)
        costs[number] = after[0] - before[0]
        assert after[1] < 20_000
    # A step of the scroll costs the same whatever lies below.
    assert costs[5000] < 3 * costs[200]
    assert page.locator("#results-title").inner_text() == "5,000 hits"
    assert 0 < len(fetched) < 800
    # Every one has its place: the last is at the end, and no hit lies upon another.
    page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    until(page, "document.querySelector('[data-id=\"many/4999\"] img')?.naturalWidth > 0")
    last = page.locator("[data-id='many/4999']").bounding_box()
    assert 0 < last["y"] < 800 - last["height"]
    boxes = page.locator(".hit").evaluate_all(
        "tiles => tiles.slice(1).map(tile => [tile.offsetLeft, tile.offsetTop])"
    )
    assert len(set(map(tuple, boxes))) == len(boxes)
    assert len(ids(page)) < 150
    page.locator("[data-id='many/4999'] a").focus()
    page.keyboard.press("Home")
    until(page, "document.activeElement.closest('.hit')?.dataset.id === 'many/0'")
    until(page, "scrollY < 200")
    page.keyboard.press("End")
    until(page, "document.activeElement.closest('.hit')?.dataset.id === 'many/4999'")


@slow
def test_the_way_past_the_settings_leaves_the_search_as_it_is(visit, photos):
    page = visit()
    upload(page, query_photo(photos))
    page.locator(".hit").first.wait_for()
    before, address = ids(page), page.url
    page.locator("#skip").focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "results"
    page.wait_for_timeout(300)
    assert ids(page) == before and page.url == address
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "photo"


@slow
def test_the_keyboard_marks_and_searches_again_past_any_number_of_hits(visit):
    page = visit("?id=disc/0.png&threshold=33")
    page.locator(".hit").first.wait_for()
    settled(page)
    assert page.locator(".hit a[tabindex='0']").count() == 1
    page.locator(".hit a").first.focus()
    assert not page.locator("#keys").evaluate("p => getComputedStyle(p).clipPath !== 'none'")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("r")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("w")
    assert page.locator("#marks").inner_text() == "1 right, 1 wrong"
    assert page.locator(".hit a[tabindex='0']").count() == 1
    for name in ("Right", "Wrong", "Compare"):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.title").startswith(name)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "again"
    with page.expect_response("**/api/search?*right=*") as answer:
        page.keyboard.press("Enter")
    assert answer.value.ok


@slow
def test_a_mark_whose_image_has_gone_is_an_error_and_can_be_cleared(visit, shots):
    page = visit("?id=disc/0.png&threshold=33")
    page.locator(".hit").first.wait_for()
    before = ids(page)
    page.locator("[data-action=right]").first.click()
    gone = lambda route: route.continue_(url=route.request.url.replace("right=", "right=gone"))  # noqa: E731
    page.route("**/api/search?*right=*", gone)
    page.get_by_role("button", name="Search again").click()
    page.get_by_role("alert").filter(has_text="holds no image of this id").wait_for()
    assert ids(page) == before  # of the same query: they stay, and so do the marks
    assert page.locator("#marks").inner_text() == "1 right, 0 wrong"
    page.screenshot(path=shots / "feedback_error.png")
    assert violations(page) == []
    page.get_by_role("button", name="Clear marks").click()
    settled(page)
    assert not page.get_by_role("alert").is_visible()
    assert ids(page) == before


@slow
def test_matched_points_are_drawn_between_the_photos(visit, shots):
    page = visit()

    def with_local(route):
        route.fulfill(json={**route.fetch().json(), "local": "sift"})

    points = {"query": {"yx": [[40, 50], [10, 10]]}, "hit": {"yx": [[40, 50], [70, 90]]}}
    page.route("**/api/info", with_local)
    page.route("**/api/matches?*", lambda route: route.fulfill(json={**points, "inliers": 2}))
    page.goto(page.url + "?id=ramp/0.png")
    page.locator(".hit").first.wait_for()
    page.get_by_label("Verify by matched points").wait_for()
    page.locator(".hit a").first.focus()
    page.keyboard.press("c")
    page.get_by_text("2 matched points that one geometry explains.").wait_for()
    page.screenshot(path=shots / "matches.png")
    assert violations(page) == []
    # Photos are 80 x 100 and drawn at one height: each point is known in the canvas.
    colours = """yx => {
      const canvas = document.getElementById("pair"), scale = canvas.height / 80;
      const left = Math.round(canvas.width - 100 * scale);
      return [0, left].map(from => [...canvas.getContext("2d").getImageData(
        from + yx[1] * scale, yx[0] * scale, 1, 1).data]);
    }"""
    one, other = page.evaluate(colours, [40, 50])
    assert one == other
    assert one[0] > 200 and one[1] < 120  # the first colour is a red; ramps are green
    line = "([y, x]) => { const c = document.getElementById('pair');"
    line += "return c.getContext('2d').getImageData(c.width * x, c.height * y, 1, 1).data[3] }"
    assert page.evaluate(line, [0.5, 0.5]) > 0  # between the photos only a line is drawn
    page.get_by_label("Lines").uncheck()
    assert page.evaluate(line, [0.5, 0.5]) == 0
    page.get_by_role("button", name="Close").click()
    assert not page.locator("dialog").is_visible()


@slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_part_that_was_found_is_outlined_on_its_hit(visit, served_parts, shots, scheme):
    width = {"light": 1280, "dark": 360}[scheme]
    options = {"viewport": {"width": width, "height": 800}, "color_scheme": scheme}
    page = visit(served_parts, **options)
    with page.expect_response("**/api/search") as answer:
        upload(page, make_images.encoded(scenes.thing(1), "PNG"))
    [hit] = [hit for hit in answer.value.json()["hits"] if hit["id"].endswith("/1.png")]
    top, left, bottom, right = hit["region"]
    tile = page.locator(".hit[data-id$='/1.png']")
    outline = tile.locator(".part path")
    outline.wait_for()
    # The whole of a scene, 320 x 512 pixels, is as wide as its tile and in the middle of it.
    rectangle = "found => { const { x, y, width, height } = found.getBoundingClientRect();"
    rectangle += "return [x, y, width, height] }"
    x, y, side, _ = tile.locator(".photo").evaluate(rectangle)
    scale = side / 512
    expected = [
        x + left * scale,
        y + (side - 320 * scale) / 2 + top * scale,
        (right - left) * scale,
        (bottom - top) * scale,
    ]
    assert outline.evaluate(rectangle) == pytest.approx(expected, abs=1.5)
    assert tile.locator("img").evaluate("img => getComputedStyle(img).objectFit") == "contain"
    assert outline.evaluate("path => getComputedStyle(path).stroke") == "rgb(255, 255, 255)"
    place = f"found by its part at left {left}, top {top} ({right - left} × {bottom - top} pixels)"
    assert tile.locator("a").get_attribute("aria-label").endswith(place)
    assert "found by a part" in tile.inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert violations(page) == []
    page.screenshot(path=shots / f"part_{scheme}.png")
    tile.locator("[data-action=compare]").click()
    page.get_by_role("dialog").get_by_text(place).wait_for()
    page.get_by_text("No matched points").or_(page.get_by_text("one geometry")).wait_for()
    edge = """([top, left]) => {
      const canvas = document.getElementById("pair"), wide = innerWidth > 600;
      const scale = wide ? canvas.height / 320 : canvas.width / 512;
      const x = wide ? canvas.width - 512 * scale : 0, y = wide ? 0 : canvas.height - 320 * scale;
      return [...canvas.getContext("2d").getImageData(
        Math.round(x + left * scale), Math.round(y + top * scale), 1, 1).data];
    }"""
    assert min(page.evaluate(edge, [(top + bottom) / 2, left])) > 200
    assert max(page.evaluate(edge, [(top + bottom) / 2, left - 20])[:3]) < 100
    page.screenshot(path=shots / f"part_{scheme}_compare.png")
    assert violations(page) == []


@slow
def test_a_hit_of_a_whole_photo_has_no_outline(visit, served_parts):
    page = visit(served_parts)
    upload(page, make_images.encoded(scenes.scene(0, *scenes.PLACES[0]), "PNG"))
    tile = page.locator(".hit[data-id$='/0.png']")
    until(page, "document.querySelector('.hit img')?.naturalWidth > 0")
    page.locator(".part").first.wait_for()  # others are found by their parts
    assert tile.locator(".part").count() == 0
    assert "its part" not in tile.locator("a").get_attribute("aria-label")
    assert tile.locator("img").evaluate("img => getComputedStyle(img).objectFit") == "cover"


@slow
def test_points_of_an_uploaded_photo_and_of_its_box_are_matched(visit, served_parts, textured):
    page = visit(served_parts)
    upload(page, make_images.encoded(textured[1], "PNG"))
    page.locator(".hit[data-id$='/textured.png']").wait_for()
    settled(page)

    def matched():
        with page.expect_response("**/api/matches") as answer:
            page.locator(".hit[data-id$='/textured.png'] [data-action=compare]").click()
        page.get_by_text("matched points that one geometry explains").wait_for()
        page.keyboard.press("Escape")
        points = answer.value.json()
        query, hit = np.array(points["query"]["yx"]), np.array(points["hit"]["yx"])
        assert np.abs(hit * (204 / 170, 264 / 220) - query - (24, 36)).max() < 6
        return query

    whole = matched()
    assert len(whole) > 20 and whole[:, 1].min() < 120
    page.locator("#region summary").click()
    for edge, value in {"top": 10, "left": 130, "bottom": 200, "right": 260}.items():
        page.locator(f"[name={edge}]").fill(str(value))
    page.get_by_role("button", name="Search the box").click()
    settled(page)
    part = matched()
    assert len(part) >= 8 and (part >= (10, 130)).all() and (part <= (200, 260)).all()


@slow
def test_words_have_no_points_to_match(visit, served_parts):
    page = visit(served_parts + "?class=one")
    page.locator("[data-action=compare]").first.click()
    page.get_by_text("search by a hit first").wait_for()


@slow
def test_without_local_features_nothing_of_them_is_offered(visit):
    page = visit("?id=ramp/0.png")
    page.locator(".hit").first.wait_for()
    assert not page.get_by_label("Verify by matched points").is_visible()
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.locator(".hit a").first.focus()
    page.keyboard.press("c")
    page.get_by_text("need an index with local features").wait_for()
    assert not [address for address in asked if "matches" in address]


@pytest.fixture(scope="module")
def served_grades(unsupervised_bundle, photos, tmp_path_factory):
    """As `served`, of an index that grades its hits."""
    chromium()
    from hashnet.retrieval.index import Index

    index = Index.create(tmp_path_factory.mktemp("grades") / "index", unsupervised_bundle)
    paths = sorted(photos.glob("*/*.png"))
    index.add(paths, ids=[f"{path.parent.name}/{path.name}" for path in paths])
    with serving(index.store.folder) as address:
        yield address


@slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_line_where_likeness_ends_is_drawn_and_searched_to(visit, served_grades, shots, scheme):
    page = visit(served_grades + "?id=disc/0.png", color_scheme=scheme)
    until(page, "document.querySelectorAll('.hit').length === 23")
    alike = page.locator(".hit:not(.unlike)").evaluate_all(
        "tiles => tiles.map(tile => tile.dataset.id)"
    )
    assert 0 < len(alike) < 23 and ids(page)[: len(alike)] == alike
    assert {id.split("/")[0] for id in alike} == {"disc"}
    ends = page.locator(".hit.end").evaluate_all("tiles => tiles.map(tile => tile.dataset.id)")
    assert ends == [ids(page)[len(alike)]]
    assert f"{len(alike)} of the hits alike" in page.locator("#status").inner_text()
    assert "no longer alike" in page.locator(".hit.end a").get_attribute("aria-label")
    assert violations(page) == []
    page.screenshot(path=shots / f"likeness_{scheme}.png")
    page.get_by_label("Only hits that are like the query").check()
    until(page, f"document.querySelectorAll('.hit').length === {len(alike)}")
    assert ids(page) == alike and "until_unlike=true" in page.url
    assert page.locator(".hit.unlike, .hit.end").count() == 0
    page.reload()
    until(page, f"document.querySelectorAll('.hit').length === {len(alike)}")
    assert page.get_by_label("Only hits that are like the query").is_checked()
    # Another query keeps the choice, and one that nothing is like says so.
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    upload(page, make_images.encoded(noise, "PNG"))
    page.get_by_text("Nothing that was searched is like the query.").wait_for()


@slow
def test_where_the_index_does_not_grade_no_line_is_offered(visit):
    page = visit("?id=ramp/0.png")
    page.locator(".hit").first.wait_for()
    assert not page.get_by_label("Only hits that are like the query").is_visible()
    assert page.locator(".hit.unlike, .hit.end").count() == 0
    assert "alike" not in page.locator("#results").inner_text()


@slow
def test_the_same_object_is_found_and_what_was_asked_for_last_holds(visit, served_parts, textured):
    page = visit(served_parts)
    upload(page, make_images.encoded(textured[1], "PNG"))
    page.locator("#same-object").check()
    page.get_by_text("local pool of").wait_for()
    first = page.locator(".hit").first
    assert first.get_attribute("data-id").endswith("/textured.png")
    page.locator("#verify").check()
    page.get_by_text("fewer than").first.wait_for()
    assert not page.locator("#same-object").is_checked()
    page.locator("#same-object").check()
    page.get_by_text("local pool of").wait_for()
    assert not page.locator("#verify").is_checked()
    page.locator("#automatic").uncheck()
    until(page, "document.querySelector('#status').textContent.includes('fewer than')")
    assert not page.locator("#same-object").is_checked()
