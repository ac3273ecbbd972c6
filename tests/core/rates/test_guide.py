"""The guide on rates: its code runs from top to bottom and prints what it says."""

import contextlib
import io
import re
from pathlib import Path

GUIDE = Path(__file__).parents[3] / "docs" / "guide" / "rates.md"
BLOCKS = re.findall(
    r"^```python\n(.*?)^```\n(?:```text\n(.*?)^```)?", GUIDE.read_text("utf-8"), re.DOTALL | re.MULTILINE
)


def test_the_guide_has_examples():
    assert len(BLOCKS) > 10


def test_the_examples_print_what_the_guide_says():
    namespace: dict = {}
    for code, expected in BLOCKS:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, str(GUIDE), "exec"), namespace)
        assert printed.getvalue() == expected, code


def test_every_scheme_is_in_the_guide_with_its_source():
    import lrdiff_core.rates as package

    text = GUIDE.read_text("utf-8")
    public = [getattr(package, name) for name in package.__all__]
    scales = [
        x for x in public if isinstance(x, type) and callable(getattr(x, "factors", None)) and x is not package.Scale
    ]
    assert scales
    for scale in scales:
        assert scale.__name__ in text
        for source in re.findall(r"arXiv:[\d.]+\d", scale.__doc__):
            assert source in text, (scale, source)
