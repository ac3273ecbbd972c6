"""`lrdiff report` in a real browser: charts, explorer, tables, keyboard, accessibility, no scripts, paper."""

import re

import numpy as np
import pytest
from browser import accessibility_faults
from study_planted import PLAN, WORKLOAD, Planted

from lrdiff_bench import pages
from lrdiff_bench.cli import main
from lrdiff_bench.maps import open_map
from lrdiff_bench.report.parts import write_report
from lrdiff_bench.run.job import run_job
from lrdiff_bench.study.analysis.analyse import analyse
from lrdiff_bench.study.analysis.document import document_of
from lrdiff_bench.study.folder import facts_of
from lrdiff_bench.study.search.engine import run_study
from lrdiff_bench.study.search.ledger import MemoryLedger
from lrdiff_core import make_config
from lrdiff_core.files import write_json

pytestmark = pytest.mark.slow
FOCUSED = """() => {
  const e = document.activeElement;
  return e.tagName + (e.getAttribute("aria-label") || e.textContent).trim().slice(0, 30);
}"""
QUICK = {"epochs": 3, "compare": {"seeds": 10, "tuning_seeds": 1, "searches": 2, "sweep": [0.003, 0.01, 0.03]}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run, two maps, a study and a parity check, and the page of them all."""
    where = tmp_path_factory.mktemp("report")
    run_job(make_config({"device": "cpu", **QUICK}), out=where / "run", stages=["comparison", "step_cost", "export"])
    for name, seeds in (("map", "12"), ("other", "2")):
        more = ["--size", "8", "--seeds", seeds, "--epochs", "2", "--workers", "0", "--out", str(where / name)]
        assert main(["map", *more]) == 0
    assert main(["parity", str(where / "run"), "--backends", "eager,onnxruntime", "--out", str(where / "parity")]) == 0
    workload = Planted(**WORKLOAD)
    study = run_study(workload, PLAN, MemoryLedger())
    document = document_of(study, analyse(study, draws=100), facts_of(workload, PLAN, {"kind": "test"}))
    (where / "study").mkdir()
    write_json(where / "study" / "study.json", document)
    folders = [where / name for name in ("run", "map", "other", "study", "parity")]
    write_report(where / "all.html", [p for f in folders for p in pages.parts_of(f)], title="All", command="a test")
    return where


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 800, 1400])
def test_no_width_or_theme_hides_anything(folder, open_page, width, scheme):
    page = open_page(folder / "all.html", width=width, scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for chart in page.locator("svg.chart").all():
        assert chart.bounding_box()["height"] > 40
    assert page.locator("section.part").count() == 5
    if width == 800:
        assert accessibility_faults(page) == []


def test_the_cursor_reads_what_the_store_holds_and_the_keyboard_moves_it(folder, open_page):
    page = open_page(folder / "all.html")
    dataset = open_map(folder / "map")
    median = np.median(dataset["loss"].values.astype(np.float64), axis=2)
    one = page.locator(".explorer").first
    canvas, said = one.locator("canvas").first, one.locator("output")

    def read():
        return [float(said.get_attribute(f"data-{name}")) for name in ("x", "y", "loss")]

    def stored(x, y):
        i, j = (int(np.abs(np.log(dataset[n].values / at)).argmin()) for n, at in (("x", x), ("y", y)))
        return i, j, median[j, i]

    seen = set()
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    for across, up in ((0.3, 0.4), (0.5, 0.6), (0.35, 0.75), (0.62, 0.5)):
        page.mouse.move(box["x"] + across * box["width"], box["y"] + up * box["height"])
        x, y, loss = read()
        assert loss == stored(x, y)[2]
        seen.add((x, y))
    assert len(seen) == 4
    canvas.focus()
    page.keyboard.press("Home")
    before = stored(*read()[:2])
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowUp")
    after = stored(*read()[:2])
    assert (after[0] - before[0], after[1] - before[1]) == (1, 1)
    assert read()[2] == after[2]
    drawn = canvas.evaluate("c => c.toDataURL()")
    page.keyboard.press("+")
    assert canvas.evaluate("c => c.toDataURL()") != drawn
    page.keyboard.press("0")
    assert canvas.evaluate("c => c.toDataURL()") == drawn
    one.get_by_label("Compare with").select_option(index=1)
    assert "in the other map" in said.inner_text()
    assert one.locator(".other canvas").is_visible()


def test_tables_sort_and_filter_and_everything_is_reached_by_keyboard(folder, open_page):
    page = open_page(folder / "all.html")
    trials = page.locator("table.sortable", has=page.locator("caption", has_text="Trials"))
    column = trials.locator("thead th").nth(2)
    column.get_by_role("button").click()
    values = [float(text) for text in trials.locator("tbody tr td:nth-child(3)").all_inner_texts()]
    assert values == sorted(values)
    column.get_by_role("button").click()
    assert column.get_attribute("aria-sort") == "descending"
    page.get_by_label("Filter rows").last.fill("winner")
    shown = trials.locator("tbody tr:visible")
    assert 0 < shown.count() < len(values)
    assert all("winner" in text for text in shown.all_inner_texts())
    page.reload()
    reached = set()
    for _ in range(400):
        page.keyboard.press("Tab")
        what = page.evaluate(FOCUSED)
        if what.startswith("BODY"):
            break
        reached.add(what)
    assert {"BUTTONCopy the rates", "BUTTONBest pair"} <= reached
    assert any(what.startswith("CANVASMap of the loss") for what in reached)


def test_without_scripts_and_on_paper_the_page_says_the_same(folder, browser, open_page):
    page = open_page(folder / "all.html", java_script_enabled=False)
    text = page.locator("main").inner_text()
    assert "The explorer needs scripts" in text
    assert page.locator("button:visible").count() == 0
    assert page.locator("svg.chart").count() > 8
    finding = page.locator("header").inner_text()
    assert re.search(r"(NO DIFFERENCE|HELPS|HURTS|INCONCLUSIVE)", finding)
    paper = open_page(folder / "all.html")
    paper.emulate_media(media="print")
    assert paper.locator(".tools:visible, button[data-copy]:visible, nav:visible").count() == 0
    assert len(paper.pdf()) > 50_000
