"""Licences and known vulnerabilities of what an installation brings."""

import subprocess

import pytest

from benchmarks import dependencies


def test_every_licence_here_is_allowed(capsys):
    assert dependencies.main(["--licences"]) == 0
    assert "distributions allow what is done with them" in capsys.readouterr().out


@pytest.mark.parametrize("licence", ["GPL-3.0-or-later", "GNU General Public License v3 (GPLv3)", "Proprietary", ""])
def test_a_licence_that_is_not_on_the_list_fails(licence, monkeypatch, capsys):
    monkeypatch.setattr(dependencies, "licence_of", lambda name: licence if name == "rich" else "MIT")
    assert dependencies.main(["--licences"]) == 1
    assert "rich: licence " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("out", "err", "status", "said"),
    [
        ("", "No module named pip_audit", 0, "not looked for, pip-audit is not installed"),
        ("", "urllib3: no route to host", 0, "not looked for, the index was not reached: urllib3: no route to host"),
        ('{"dependencies": [{"name": "a", "version": "1", "vulns": []}]}', "", 0, "vulnerabilities: 0"),
        (
            '{"dependencies": [{"name": "a", "skip_reason": "no"}]}',
            "",
            0,
            "the index knows nothing of the 1 distributions",
        ),
        (
            '{"dependencies": [{"name": "a", "skip_reason": "no"}, {"name": "b", "version": "1", "vulns": []}]}',
            "",
            0,
            "not looked for in 1 distributions\nvulnerabilities: 0",
        ),
        (
            '{"dependencies": [{"name": "a", "version": "1", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2"]}]}]}',
            "",
            1,
            "a 1: PYSEC-1, mended in 2",
        ),
    ],
)
def test_without_a_network_it_says_so(out, err, status, said, monkeypatch, capsys):
    done = subprocess.CompletedProcess([], 1, out, err)
    monkeypatch.setattr(dependencies.subprocess, "run", lambda *_, **__: done)
    assert dependencies.main([]) == status
    assert said in capsys.readouterr().out
