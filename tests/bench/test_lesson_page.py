"""The lesson in Chromium: a reader's hands on it, its numbers against Python's, and what axe-core says."""

from __future__ import annotations

import re

import numpy as np
import pytest
from browser import accessibility_faults

from lrdiff_bench.cli import main
from lrdiff_bench.lesson.data import AXIS
from lrdiff_core import PRESETS, load_table, make_config, set_up, train
from lrdiff_core.population import PopulationOptions, population_task, train_population

pytestmark = pytest.mark.slow

EPS = float(np.finfo(np.float32).eps)
PATIENCE = 120_000  # milliseconds: 4096 trainings on a busy machine


@pytest.fixture(scope="module")
def lesson(tmp_path_factory):
    file = tmp_path_factory.mktemp("lesson") / "lesson.html"
    assert main(["lesson", "--seeds", "12", "--out", str(file)]) in (0, None)
    return file


@pytest.fixture(scope="module")
def config():
    return make_config({**PRESETS["seed"], "device": "cpu"})


def plain(text: str) -> str:
    return text.replace("\u2212", "-").replace("\u00a0", " ")


def settled(page):
    """When the workers have compared the pair on all seeds."""
    page.locator("#answers article").nth(2).wait_for()
    return page


def epoch_table(page) -> list[list[str]]:
    return [plain(row).split("\t") for row in page.locator("#epochs tbody").inner_text().splitlines()]


def number(value: float) -> str:
    return f"{value:#.3g}"


def test_the_epoch_table_is_python_s_run(lesson, open_page, config):
    seen = train(set_up(load_table("seed"), config)).observations
    rows = epoch_table(settled(open_page(lesson)))
    assert len(rows) == 1 + config.epochs
    for column, part in ((1, "train"), (2, "validation")):
        losses = [row.loss for row in seen if row.split == part]
        assert [row[column] for row in rows[1:]] == [number(loss) for loss in losses]


def test_the_map_under_the_pointer_is_python_s(lesson, open_page, config):
    page = open_page(lesson)
    page.locator("#map-status", has_text="workers in").wait_for(timeout=PATIENCE)
    task, rates = population_task(config), np.geomspace(*AXIS)
    options = PopulationOptions(epochs=config.epochs, **task.options)
    box = page.locator("#cells").bounding_box()
    for x, y in ((20, 30), (3, 40), (40, 12)):
        page.locator("#plane").hover(
            position={"x": (x + 0.5) / 64 * box["width"], "y": (1 - (y + 0.5) / 64) * box["height"]}, force=True
        )
        shown = plain(page.locator("#readout").inner_text())
        pair = [[rates[x], rates[y]]]
        found = train_population(task.model, {0: task.rows(0)}, pair, 0, options)
        assert number(found.held_loss[0, -1].item()) in shown
        assert f"{rates[x]:.3g}" in shown
        distance = re.search(r"differs by\s+([\d.e-]+)", shown)
        assert distance is not None
        assert float(distance[1]) < 1e-5
    share = re.search(r"(\d+) % are within 0.0001", plain(page.locator("#distance").inner_text()))
    assert share is not None
    assert int(share[1]) >= 75


def test_a_reader_needs_no_pointer(lesson, open_page):
    page = settled(open_page(lesson))
    before = page.locator("#ending").inner_text()
    walked = []
    for _ in range(40):
        page.keyboard.press("Tab")
        name = page.evaluate("document.activeElement.id")
        walked.append(name)
        if name == "slider2":
            page.keyboard.press("ArrowRight")
            page.keyboard.press("ArrowRight")
        if name == "plane":
            break
    assert [name for name in walked if name][:3] == ["number1", "slider1", "number2"]
    assert page.locator("#number2").input_value() == "0.00126"
    assert page.locator("#slider2").get_attribute("aria-valuetext") == "0.00126"
    page.locator("#ending").filter(has_not_text=before).wait_for()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Shift+ArrowLeft")
    rates = np.geomspace(*AXIS)
    x, y = (round(np.log10(r / 1e-4) / 5 * 63) for r in (0.01, 0.00126))
    assert page.locator("#number1").input_value() == f"{rates[x - 5]:.3g}"
    assert page.locator("#number2").input_value() == f"{rates[y + 1]:.3g}"


def test_typed_rates_seeds_and_the_linked_rate(lesson, open_page):
    page = settled(open_page(lesson))
    page.fill("#number1", "nothing")
    assert page.locator("#number1").get_attribute("aria-invalid") == "true"
    page.fill("#number1", "0,05")
    page.locator("#epochs caption", has_text="0.05").wait_for()
    page.check("#linked")
    assert page.locator("#number2").input_value() == "0.05"
    page.click("#to-single")
    page.locator("#verdict", has_text="NO DIFFERENCE").wait_for()  # one rate against itself
    assert "median 0.00 [0.00, 0.00]" in plain(page.locator("#gains-text").inner_text())
    page.select_option("#seed", "7")
    page.locator("#stage1", has_text="seed 7").wait_for()


def test_a_row_that_the_reader_edits_and_the_file_that_is_downloaded_agree(lesson, open_page, tmp_path):
    import onnx
    import onnxruntime

    page = settled(open_page(lesson))
    page.click("#row-next")
    fields = page.locator("#row-inputs input")
    row = [0.5, -1.2, 0.3, 2.0, 1.0, 0.0, -0.5, 3.0, 0.25, 1.5]
    for i, value in enumerate(row):
        fields.nth(i).fill(str(value))
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    shown = re.search(r"class 1: ([\d.e-]+)", plain(page.locator("#predicted").inner_text()))
    assert shown is not None
    with page.expect_download() as download:
        page.click("#download")
    file = tmp_path / "model.onnx"
    download.value.save_as(file)
    onnx.checker.check_model(onnx.load(file), full_check=True)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    ((answer,),) = session.run(None, {"rows": np.array([row], np.float32)})[0]
    assert float(shown[1]) == pytest.approx(float(answer), rel=6e-3)
    page.click("#row-reset")
    assert "edited" not in page.locator("#row-name").inner_text()


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (800, "light"), (1400, "dark")])
def test_the_page_fits_and_is_accessible(lesson, open_page, width, scheme):
    page = settled(open_page(lesson, width=width, scheme=scheme))
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert accessibility_faults(page) == []
    charts = """Object.fromEntries(["network", "curves", "gains", "legend", "forest"].map((id) => {
      const picture = document.querySelector(`#${id} svg`);
      return [id, [picture.getBoundingClientRect().height, picture.getAttribute("aria-label")]]; }))"""
    for name, (height, said) in page.evaluate(charts).items():
        assert height > 30, name
        assert re.search(r"\d", said), name
    texts = page.evaluate("document.body.innerText")
    assert not re.search(r"\bNaN\b|undefined|\[object", texts)


def test_onnx_runtime_predicts_in_the_page(javascript, open_page, tmp_path):
    file = tmp_path / "with.html"
    main(["lesson", "--seeds", "1", "--with-runtime", "--out", str(file)])
    page = settled(open_page(file))
    page.click("#run-onnx")
    page.locator("#onnx-result", has_text="differ").wait_for()
    said = re.search(r"predicted 150 test rows.*at most ([\d.e-]+)", plain(page.locator("#onnx-result").inner_text()))
    assert said is not None
    assert float(said[1]) <= 16 * EPS
