"""``python -m benchmarks.boost``, small."""

import pytest

from benchmarks.boost.__main__ import main


def test_the_page_is_written(tmp_path, capsys):
    page = tmp_path / "boost.md"
    status = main(["--scripts", "plain,foreach", "--steps", "6", "--rounds", "6", "--out", str(page)])
    text = page.read_text()
    assert status in (0, 1)
    assert "| plain | A plain loop. | 1 of 1 |" in text
    assert "| foreach | Another implementation, asked for. | 0 of 1 |" in text
    assert ("No script is slower for certain." in text) == (status == 0)
    assert "Written by `python -m benchmarks.boost --scripts plain,foreach --steps 6" in text


def test_an_unknown_script_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["--scripts", "nothing"])
    assert "there are: accumulate" in capsys.readouterr().err
