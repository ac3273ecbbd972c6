"""`lrdiff report`: one file that needs nothing else, whatever names its data bring."""

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest

from lrdiff_bench.cli import main
from lrdiff_bench.report.charts import Bar, Line, bars, forest, lines
from lrdiff_bench.report.parts import Part, fill_part, report_html

HOSTILE = [
    "<script>alert(1)</script>", "</script><img src=x onerror=alert(1)>", "\"quoted\" & 'more'",
    "emoji \N{GRINNING FACE}",
    "\N{HEBREW LETTER ALEF}\N{HEBREW LETTER BET} right to left", "{{ 7 * 7 }}", "]]>", "\N{RIGHT-TO-LEFT OVERRIDE}txt",
]  # fmt: skip
VOID = {"meta", "br", "img", "input", "link", "hr"}


class Reader(HTMLParser):
    """What a browser would see: elements with their attributes, and the text between them."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.open, self.texts, self.content = [], [], [], {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data):
        if self.open and self.open[-1] in ("script", "style"):
            self.content.setdefault(self.open[-1], []).append(data)
        else:
            self.texts.append(data)


def check_page(text):
    """A page that needs no network, keeps to its own policy, and is well formed; returns what was read."""
    assert len(text) < 6e6
    page = Reader(text)
    assert page.open == []
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], (tag, attributes)
        for name in ("src", "href", "action", "data"):
            assert not re.match(r"(?:https?:)?//", attributes.get(name) or ""), attributes
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {a["href"][1:] for tag, a in page.elements if tag == "a" and a["href"].startswith("#")}
    assert targets <= set(ids)
    (policy,) = [a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    allowed = set(re.findall(r"'sha256-([^']+)'", policy))
    run = [a for tag, a in page.elements if tag == "script" and a.get("type") != "application/json"]
    assert len(run) == 1
    for kind in ("style", "script"):
        own = [t for t in page.content[kind] if not t.startswith(("{", "["))]
        assert {base64.b64encode(hashlib.sha256(t.encode()).digest()).decode() for t in own} <= allowed
    return page


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A run on a table whose columns and classes are named by an enemy."""
    import csv

    folder = tmp_path_factory.mktemp("hostile")
    with open(folder / "rows.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*HOSTILE[:5], "y <b>"])
        for i in range(90):
            writer.writerow([*(f"{(i * (j + 3)) % 17 / 7:.3f}" for j in range(5)), HOSTILE[i % 3]])
    (folder / "run.toml").write_text('name = "evil"\ndata = "rows.csv"\ntarget = "y <b>"\nepochs = 2\n')
    return folder


def test_names_from_data_are_text_and_the_page_needs_nothing_else(hostile, monkeypatch, capsys):
    monkeypatch.chdir(hostile)
    assert main(["train", "run.toml"]) == 0
    written = (hostile / "runs" / "evil" / "report.html").read_text(encoding="utf-8")
    page = check_page(written)
    assert any(HOSTILE[0] in text for text in page.texts)
    assert not [tag for tag, _ in page.elements if tag in ("img", "b", "iframe")]
    capsys.readouterr()
    assert main(["report", "runs/evil", "runs/evil/rates.json", "--out", "two.html"]) == 0
    assert "wrote two.html" in capsys.readouterr().out
    both = check_page((hostile / "two.html").read_text(encoding="utf-8"))
    assert sum(tag == "section" for tag, _ in both.elements) == 2


@pytest.mark.parametrize("text", HOSTILE)
def test_no_name_ends_its_element(text):
    chart = lines(
        [Line(name=text, x=[1, 2], y=[1, None]), Line(name="b", x=[1, 2], y=[2, 3])], label=text, x=text, y=text
    )
    forks = forest([Bar(name=text, value=1, low=0, high=2, text=text)], label=text, x=text, band=1)
    rows = bars([Bar(name=text, value=1.0, text=text)], label=text, x=text, limit=(2.0, text), log=True)
    body = fill_part("rates.html", plan={"chart": chart, "folded": 1, "rows": [[text] * 5]}) + forks.svg + rows.svg
    page = check_page(report_html([Part(title=text, finding=text, body=body, rates=text)], title=text, made_by=text))
    assert any(text in said for said in page.texts)


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize(
    "values", [[1.0], [0.5, 0.5], [1e-9, 1e9], [None, 2.0], [float("nan"), float("inf")], [-1.0, 3.0], []]
)
def test_any_values_can_be_drawn(values, log):
    chart = lines(
        [Line(name="a", x=[i + 1 for i in range(len(values))], y=values)], label="l", x="x", y="y", log_x=log, log_y=log
    )
    assert "nan" not in chart.svg
    assert "inf" not in chart.svg.replace("not finite", "")
    assert len(chart.rows) == len(values)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "there is no nowhere"),
        (["."], "holds nothing that a report can show"),
        ([], "Missing argument"),
    ],
)
def test_what_cannot_be_shown_is_said(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["report", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "\nhelp: " in error
    assert not list(tmp_path.iterdir())
