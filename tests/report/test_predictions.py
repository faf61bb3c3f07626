"""``densenet predict --html``: the contents of the page, its security, and its behavior in a browser."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from densenet_cli.images.preprocessing import DecodedImage
from densenet_cli.images.previews import Thumbnail
from densenet_cli.images.sources import Source
from densenet_cli.report import predictions
from densenet_cli.report.predictions import BLOCK_SIZE, MAX_THUMBNAILS, PredictionReport
from densenet_cli.results import Failure, Prediction, Score
from tests.report.conftest import HOSTILE, LABELS, read
from tests.support.command import densenet, restore_sigint
from tests.support.images import encode, photograph


@pytest.fixture
def images(tmp_path):
    """Four images, one of them empty, with unusual names."""
    folder = tmp_path / "images"
    folder.mkdir()
    names = [f"{HOSTILE}.png", os.fsdecode(b"caf\xe9\n.png"), "plain.png"]
    for name, photo in zip(names, ("chelsea", "coffee", "rocket"), strict=True):
        (folder / name).write_bytes(encode(photograph(photo, (300, 200)), "PNG"))
    (folder / "zbroken.jpg").write_bytes(b"")
    return folder


def test_page_shows_images_labels_and_errors(weights, images, tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    output = tmp_path / "report.html"
    result = densenet("predict", images, "--weights", weights, "--html", output, "-k", 3)
    assert result.status == 1 and result.out.count("Probability") == 3
    page = read(output)
    assert len(page.rows()) == 4 and [row["class"].split()[-1] for row in page.rows()].count("failed") == 1
    assert "4 images" in page.text and "November 14, 2023, 22:13 UTC" in page.text
    for text in (
        f"{HOSTILE}.png",
        r"caf\xe9\n.png",
        "zbroken.jpg",
        "UnreadableImage",
        "The file is empty.",
        "top k",
        HOSTILE,
    ):
        assert text in page.text
    sources = [attributes["src"] for attributes in page.of("img")]
    assert len(sources) == 3 and all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert len(page.of("script")) == len(page.of("style")) == 1 and not page.of("b bee")
    records = json.loads(densenet("predict", images, "--weights", weights, "--format", "json", "-k", 3).out)
    for record in records[:3]:
        for score in record["predictions"]:
            assert score["label"] in page.text and f"{score['probability']:.2%}" in page.text
    again = tmp_path / "again.html"
    densenet("predict", images, "--weights", weights, "--html", again, "-k", 3)
    assert again.read_bytes() == output.read_bytes()


def test_content_security_policy_and_no_external_resources(weights, images, tmp_path):
    densenet("predict", images, "--weights", weights, "--html", tmp_path / "report.html")
    page = read(tmp_path / "report.html")
    (policy,) = [meta["content"] for meta in page.of("meta") if meta.get("http-equiv")]
    assert policy.startswith("default-src 'none'; img-src data:; ") and "unsafe" not in policy and "http" not in policy
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") or name == "style" for name in attributes), (tag, attributes)
        for name in ("src", "href", "action", "srcset"):
            assert attributes.get(name, "data:").startswith("data:"), (tag, attributes)


def test_records_do_not_depend_on_the_page(weights, images, tmp_path):
    arguments = ("predict", images, "--weights", weights, "--format", "jsonl", "-o")
    densenet(*arguments, tmp_path / "without.jsonl")
    assert densenet(*arguments, tmp_path / "with.jsonl", "--html", tmp_path / "report.html").status == 1
    assert (tmp_path / "with.jsonl").read_bytes() == (tmp_path / "without.jsonl").read_bytes()
    assert len(read(tmp_path / "report.html").rows()) == 4


def test_thumbnail_of_standard_input(weights, tmp_path):
    data = encode(photograph("coffee", (300, 200)), "PNG")
    assert densenet("predict", "-", "--weights", weights, "--html", tmp_path / "r.html", stdin=data).status == 0
    assert len(read(tmp_path / "r.html").of("img")) == 1


def test_isolated_decoding_gives_the_same_page(weights, images, tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    arguments = ("predict", images, "--weights", weights, "--html")
    densenet(*arguments, tmp_path / "usual.html")
    assert densenet(*arguments, tmp_path / "isolated.html", "--isolate").status == 1
    assert (tmp_path / "isolated.html").read_bytes() == (tmp_path / "usual.html").read_bytes()


def test_invalid_outputs_are_rejected_before_loading(weights, images, tmp_path, monkeypatch):
    existing = tmp_path / "existing.html"
    existing.write_text("mine")
    csv = tmp_path / "x.csv"
    for arguments, status, mentioned in (
        ((existing,), 2, "existing.html"),
        ((existing, "--overwrite", "--resume", "-o", csv), 2, "--resume"),
        ((tmp_path / "new.html", "--resume", "-o", csv), 2, "--resume"),
        (("-",), 2, "html"),
        (("",), 2, "html"),
        ((csv, "-o", csv), 2, "x.csv"),
        ((tmp_path / "missing" / "r.html",), 4, "missing"),
        (("/dev/null",), 4, "/dev/null"),
    ):
        result = densenet("predict", images, "--weights", tmp_path / "missing.h5", "--html", *arguments)
        assert (result.status, result.out) == (status, "") and mentioned in result.err, (arguments, result.err)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    result = densenet("predict", images, "--weights", tmp_path / "missing.h5", "--html", tmp_path / "new.html")
    assert result.status == 2 and "SOURCE_DATE_EPOCH" in result.err
    assert existing.read_text() == "mine" and not csv.exists()


def test_overwrite(weights, images, tmp_path):
    page = tmp_path / "r.html"
    page.write_text("old")
    missing = densenet("predict", images, "--weights", tmp_path / "missing.h5", "--html", page, "--overwrite")
    assert missing.status == 3 and page.read_text() == "old"
    assert densenet("predict", images, "--weights", weights, "--html", page, "--overwrite").status == 1
    assert len(read(page).rows()) == 4


def test_report_modules_are_imported_only_when_needed(weights, images, tmp_path):
    script = (
        "import sys; from densenet_cli import cli\n"
        "try: cli.main(sys.argv[1:])\n"
        "finally: print([name for name in sys.modules if 'jinja' in name or '.report' in name])"
    )
    command = [sys.executable, "-c", script, "predict", images / "plain.png", "--weights", weights]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_full_disk(weights, images, tmp_path, monkeypatch):
    class Full:
        def __init__(self, **settings) -> None:
            self.file = open("/dev/full", "wb", buffering=0)  # noqa: SIM115

        def __getattr__(self, name):
            return getattr(self.file, name)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

    monkeypatch.setattr(predictions, "TemporaryFile", Full)
    result = densenet("predict", images, "--weights", weights, "--html", tmp_path / "r.html")
    assert result.status == 4 and "r.html" in result.err and "No space left on device" in result.err
    assert not (tmp_path / "r.html").exists()


def test_interrupted_run_shows_finished_images(weights, images, tmp_path):
    page, names = tmp_path / "r.html", tmp_path / "names"
    os.mkfifo(names)
    command = [
        sys.executable,
        "-m",
        "densenet_cli",
        "predict",
        "--files-from",
        names,
        "--weights",
        weights,
        "--html",
        page,
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, preexec_fn=restore_sigint
    )
    with open(names, "w") as file:
        file.write(f"{images}/plain.png\n" * 2)
        file.flush()
        for _ in range(2):  # the second table is printed after the first image was added to the page
            while "Probability" not in process.stdout.readline():
                pass
        assert not page.exists() and not list(tmp_path.glob("*.part"))
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode == 130
    assert len(read(page).rows()) in (1, 2) and "interrupted" in read(page).text


def test_killed_run_leaves_no_files(weights, images, tmp_path):
    folder, names = tmp_path / "pages", tmp_path / "names"
    folder.mkdir()
    os.mkfifo(names)
    command = [sys.executable, "-m", "densenet_cli", "predict", "--files-from", names, "--weights", weights, "--html"]
    process = subprocess.Popen([*command, folder / "r.html"], stdout=subprocess.PIPE, text=True)
    with open(names, "w") as file:
        file.write(f"{images}/plain.png\n")
        file.flush()
        while "Probability" not in process.stdout.readline():
            pass
        process.kill()
        process.communicate(timeout=30)
    assert list(folder.iterdir()) == []


def write(path: Path, count: int, jpegs: list[bytes]) -> None:
    """Write a page of made-up results."""
    scores = tuple(Score(rank, rank, f"n{rank:08}", f"label number {rank}", 0.5 / rank) for rank in range(1, 6))
    sources = (Source(f"some/folder/of/images/image_{number:07}.jpg", None, "path") for number in range(count))
    with PredictionReport(path, "densenet121", {"top_k": 5}) as report:
        for number, source in enumerate(sources):
            preview = Thumbnail(jpegs[number % len(jpegs)]) if number < MAX_THUMBNAILS else None
            failure = Failure("UnreadableImage", "The file is empty.") if number % 97 == 96 else None
            report.add(Prediction(source.name, "densenet121", () if failure else scores, failure), preview)


@pytest.fixture(scope="session")
def large(tmp_path_factory):
    """A page of 2,001 images of noise, the worst case for the size of thumbnails."""
    path = tmp_path_factory.mktemp("large") / "large.html"
    rng = np.random.default_rng(0)
    jpegs = []
    for _ in range(50):
        noise = Image.fromarray(rng.integers(0, 256, (160, 160, 3), dtype=np.uint8))
        jpegs.append(Thumbnail.make(DecodedImage.at_full_scale(noise)).jpeg)
    write(path, MAX_THUMBNAILS + 1, jpegs)
    return path


def test_page_of_two_thousand_noise_images_is_under_25_mb(large):
    assert 10e6 < large.stat().st_size < 25e6


def test_only_the_first_two_thousand_images_have_thumbnails(large, tmp_path):
    page = read(large)
    assert len(page.rows()) == 2001 and len(page.of("img")) == 2000
    assert "first 2,000 images" in page.text
    write(tmp_path / "few.html", 3, [b"x"])
    assert "2,000" not in read(tmp_path / "few.html").text


def test_memory_is_independent_of_the_number_of_images(tmp_path):
    script = f"""
import resource, sys
from pathlib import Path
sys.path[:0] = {[str(Path(__file__).parents[2])]!r}
from tests.report.test_predictions import write
peaks = []
for count in (2_500, 7_500):
    write(Path({str(tmp_path)!r}) / f"{{count}}.html", count, [b"x" * 5000])
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(peaks[1] - peaks[0])
"""
    grown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert int(grown.stdout) < 3000  # KiB; the file grows by 10 MB


def test_markup_in_names_stays_text(browser, weights, images, tmp_path):
    densenet("predict", images, "--weights", weights, "--html", tmp_path / "r.html", "-k", 10)
    browser.open(tmp_path / "r.html")
    assert browser.visible_texts("h2")[0].endswith(f"/{HOSTILE}.png")
    assert set(browser.visible_texts(".image li span")) == set(LABELS)
    injected = "return document.querySelectorAll('img:not([src^=\"data:\"]), main script, main b b').length"
    assert browser.run(injected) == 0
    assert browser.run("return document.querySelector('#label option:nth-child(2)').value") in LABELS


def open_demo(browser, tmp_path, **settings):
    """Open a page of six images with two labels; two images are uncertain and one failed."""
    path = tmp_path / "demo.html"
    rows = (("b/cat 10.jpg", "cat", 0.9), ("b/cat 9.jpg", "cat", 0.3), ("a/dog.jpg", "dog", 0.7),
            ("a/other.jpg", "dog", 0.45), ("c/Broken.jpg", None, 0), ("c/zebra.jpg", "cat", 0.99))  # fmt: skip
    with PredictionReport(path, "densenet121", {}) as report:
        for name, label, best in rows:
            scores = (Score(1, 0, None, label, best), Score(2, 1, None, "mouse", 0.01)) if label else ()
            report.add(Prediction(name, "m", scores, None if label else Failure("ImageTooLarge", "Too large.")))
    browser.open(path, **settings)


def open_findings(browser, tmp_path, threshold=0.5):
    """Open a page of a multi-label model: four images with two, one, no, and no label from 50%."""
    path = tmp_path / "findings.html"
    rows = {"1": (0.9, 0.7), "2": (0.6, 0.4), "3": (0.3, 0.2), "4": ()}
    with PredictionReport(path, "chest", {}, is_multi_label=True, threshold=threshold) as report:
        for name, probabilities in rows.items():
            labels = ("Edema", "Mass") if name == "1" else ("Mass", "Edema")
            scores = (
                Score(rank, rank, None, *score)
                for rank, score in enumerate(zip(labels, probabilities, strict=False), start=1)
            )
            report.add(Prediction(f"{name}.jpg", "chest", tuple(scores)))
    browser.open(path)


def test_labels_of_a_multi_label_model(browser, tmp_path):
    open_findings(browser, tmp_path)
    assert names(browser) == ["1", "2", "3", "4"]
    assert browser.visible_texts(".segmented span") == ["All 4", "Labeled 2", "Unlabeled 2", "Failed 0"]
    options = "return [...document.querySelectorAll('#label option')].map(option => option.textContent)"
    assert browser.run(options) == ["Any", "Mass (2)", "Edema (1)"]
    assert browser.visible_texts("li.below span") == ["Edema", "Mass", "Edema"]
    for selector, value, shown in (
        ("#label", "Mass", ["1", "2"]),
        ("#label", "Edema", ["1"]),
        ("#threshold", "40", ["1", "2"]),
        ("#threshold", "95", []),
        ("#threshold", "50", ["1"]),
        ("#label", "", ["1", "2", "3", "4"]),
        ("[name=show][value=uncertain]", "", ["3", "4"]),
        ("[name=show][value=confident]", "", ["1", "2"]),
    ):
        choose(browser, selector, value)
        assert names(browser) == shown, (selector, value)
    open_findings(browser, tmp_path, threshold=0.29)
    assert browser.visible_texts("output") == ["29%"]
    assert browser.visible_texts(".segmented span")[1:3] == ["Labeled 3", "Unlabeled 1"]


def test_filters_of_guarantees(browser, tmp_path):
    path = tmp_path / "sets.html"
    scores = tuple(Score(rank, rank, None, name, 0.5 / rank) for rank, name in enumerate(("cat", "dog", "elk"), 1))
    with PredictionReport(path, "m", {}, has_sets=True, has_decisions=True) as report:
        for number, (size, unsure) in enumerate([(1, False), (2, True), (3, True), (0, True), (2, False)]):
            report.add(Prediction(f"{number}.jpg", "m", scores[:1], set=scores[:size], unsure=unsure))
        report.add(Prediction("broken.jpg", "m", error=Failure("ImageTooLarge", "Too large.")))
    browser.open(path)
    options = "return [...document.querySelectorAll('#set-size option')].map(option => option.textContent)"
    assert browser.run(options) == ["Any", "0 (1)", "1 (1)", "2 (2)", "3 (1)"]
    assert browser.visible_texts(".image li span").count("elk") == 1
    for selector, value, shown in (
        ("#set-size", "2", ["1", "4"]),
        ("#decision", "unsure", ["1"]),
        ("#set-size", "", ["1", "2", "3"]),
        ("#decision", "labeled", ["0", "4"]),
        ("#decision", "", ["0", "1", "2", "3", "4", "broken"]),
    ):
        choose(browser, selector, value)
        assert names(browser) == shown, (selector, value)
    choose(browser, "#set-size", "2")
    browser.run("document.querySelector('#reset').click()")
    browser.wait_for_frames()
    assert len(names(browser)) == 6


def names(browser):
    return [name.rpartition("/")[2].removesuffix(".jpg") for name in browser.visible_texts("h2")]


def choose(browser, element, value):
    """Change the value of a control, as a user would."""
    browser.run(
        """const [id, value] = arguments, element = document.querySelector(id);
        if (element.type === "radio") element.click(); else element.value = value;
        element.dispatchEvent(new Event("input", {bubbles: true}));""",
        element,
        value,
    )
    browser.wait_for_frames()


def test_filters(browser, tmp_path):
    open_demo(browser, tmp_path)
    all_names = ["cat 10", "cat 9", "dog", "other", "Broken", "zebra"]
    assert names(browser) == all_names
    for selector, value, shown in (
        ("#search", "ZEBRA", ["zebra"]),
        ("#search", "dog", ["dog", "other"]),
        ("#search", "cat 9", ["cat 9"]),
        ("#search", "mouse b/", ["cat 10", "cat 9"]),
        ("#search", "nowhere", []),
        ("#search", "", all_names),
        ("#label", "dog", ["dog", "other"]),
        ("[name=show][value=uncertain]", "", ["other"]),
        ("#threshold", "80", ["dog", "other"]),
        ("#label", "", ["cat 9", "dog", "other"]),
        ("[name=show][value=confident]", "", ["cat 10", "zebra"]),
        ("[name=show][value=failed]", "", ["Broken"]),
        ("#threshold", "100", ["Broken"]),
    ):
        choose(browser, selector, value)
        assert names(browser) == shown, (selector, value)
        count = browser.visible_texts("#result-count")[0]
        assert count == ("6 images" if shown == all_names else f"{len(shown)} of 6 images")
    assert browser.visible_texts(".segmented span") == ["All 6", "Confident 0", "Uncertain 5", "Failed 1"]
    browser.run("document.querySelector('#reset').click()")
    browser.wait_for_frames()
    assert names(browser) == all_names and browser.visible_texts("output") == ["50%"]
    assert browser.run("return [...document.querySelectorAll('.uncertain h2')].length") == 2
    options = browser.run("return [...document.querySelectorAll('#label option')].map(option => option.textContent)")
    assert options == ["Any", "cat (3)", "dog (2)"]


def test_sort_orders(browser, tmp_path):
    open_demo(browser, tmp_path)
    for order, expected in {
        "most-confident": ["zebra", "cat 10", "dog", "other", "cat 9", "Broken"],
        "least-confident": ["cat 9", "other", "dog", "cat 10", "zebra", "Broken"],
        "name": ["dog", "other", "cat 9", "cat 10", "Broken", "zebra"],
        "input": ["cat 10", "cat 9", "dog", "other", "Broken", "zebra"],
    }.items():
        choose(browser, "#order", order)
        assert names(browser) == expected


def test_keyboard_navigation(browser, tmp_path):
    from selenium.webdriver import ActionChains, Keys

    open_demo(browser, tmp_path)
    focused = "return document.activeElement.id || document.activeElement.value || document.activeElement.tagName"
    ActionChains(browser.chrome).send_keys("/dog").perform()
    browser.wait_for_frames()
    assert names(browser) == ["dog", "other"]
    focus_order = []
    for _ in range(6):
        ActionChains(browser.chrome).send_keys(Keys.TAB).perform()
        focus_order.append(browser.run(focused))
    assert focus_order == ["label", "order", "all", "threshold", "reset", "SUMMARY"]
    assert browser.run("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
    ActionChains(browser.chrome).key_down(Keys.SHIFT).send_keys(Keys.TAB).key_up(Keys.SHIFT).send_keys(
        Keys.ENTER
    ).perform()
    browser.wait_for_frames()
    assert len(names(browser)) == 6 and browser.run(focused) == "search"


@pytest.mark.parametrize("dark", [False, True])
def test_color_themes(browser, tmp_path, dark):
    open_demo(browser, tmp_path, dark=dark)
    background = "return getComputedStyle(document.documentElement).backgroundColor"
    light, night = "rgb(244, 245, 247)", "rgb(14, 17, 21)"
    assert browser.run(background) == (night if dark else light)
    for theme, expected in (("light", light), ("dark", night), ("auto", night if dark else light)):
        browser.run("document.querySelector('#theme').click()")
        assert browser.visible_texts("#theme span") == [theme] and browser.run(background) == expected


def test_page_fits_a_phone(browser, weights, images, tmp_path):
    (images / ("x" * 200 + ".png")).write_bytes(encode(photograph("rocket", (300, 200)), "PNG"))
    densenet("predict", images, "--weights", weights, "--html", tmp_path / "r.html")
    browser.open(tmp_path / "r.html", 390, 844)
    assert browser.run("return document.documentElement.scrollWidth") == 390
    heights = browser.run(
        """return [...document.querySelectorAll("button, input:not(.segmented input), select, .segmented label")]
        .filter(element => element.checkVisibility()).map(element => element.getBoundingClientRect().height)"""
    )
    assert min(heights) >= 36


def test_filter_buttons_fit_a_phone(browser, large):
    browser.open(large, 340, 844)
    sizes = "const {scrollWidth, clientWidth} = document.querySelector('.segmented'); return [scrollWidth, clientWidth]"
    scroll_width, client_width = browser.run(sizes)
    assert scroll_width <= client_width


def test_page_without_javascript(browser, tmp_path):
    browser.chrome.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        open_demo(browser, tmp_path)
    finally:
        browser.chrome.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert len(names(browser)) == 6 and browser.visible_texts(".toolbar") == []
    assert "3 confident, 2 uncertain" in browser.visible_texts("noscript")[0]


def test_two_thousand_images_open_and_filter_quickly(browser, large):
    """Blocks outside the viewport are not laid out. Full blocks fill complete rows of two or three columns."""
    start = time.monotonic()
    browser.open(large)
    assert browser.run("return document.querySelectorAll('.image').length") == 2001
    blocks = "return [...document.querySelectorAll('#images > .images')].map(block => block.children.length)"
    initial = browser.run(blocks)
    assert initial == [BLOCK_SIZE] * 66 + [21] and BLOCK_SIZE % 6 == 0
    laid_out = "return document.querySelectorAll('.image h2')[1500].checkVisibility({contentVisibilityAuto: true})"
    assert not browser.run(laid_out)
    assert browser.run("return document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
    choose(browser, "[name=show][value=failed]", "")
    assert len(names(browser)) == 20
    choose(browser, "[name=show][value=all]", "")
    assert browser.run(blocks) == initial and not browser.run(laid_out)
    assert time.monotonic() - start < 30
