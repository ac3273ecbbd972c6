"""``--part K/N``: every test is in one part, and a part is whole files."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]


@pytest.fixture
def suite(pytester: pytest.Pytester, request: pytest.FixtureRequest) -> pytest.Pytester:
    """Ten files of two tests, with our conftest."""
    pytester.makeconftest((request.path.parent / "conftest.py").read_text().replace("from browser", "# from browser"))
    pytester.makepyfile(**{f"test_{i}": "def test_a(): pass\ndef test_b(): pass" for i in range(10)})
    return pytester


def collected(suite: pytest.Pytester, *given: str) -> set[str]:
    found = suite.runpytest_inprocess("--collect-only", "-q", *given)
    return {line for line in found.outlines if "::" in line}


def test_the_parts_are_all_tests_once_and_whole_files(suite: pytest.Pytester) -> None:
    parts = [collected(suite, "--part", f"{k}/3") for k in (1, 2, 3)]
    assert sum(map(len, parts)) == 20
    assert set.union(*parts) == collected(suite)
    for part in parts:
        assert {f"{name}::test_{x}" for name in {one.partition("::")[0] for one in part} for x in "ab"} == part


@pytest.mark.parametrize("given", ["0/8", "9/8", "1", "a/b", "-1/8", "1/0", ""])
def test_what_is_no_part_is_refused(given: str, suite: pytest.Pytester) -> None:
    found = suite.runpytest_inprocess("--collect-only", f"--part={given}")
    assert found.ret == pytest.ExitCode.USAGE_ERROR
    assert "it is K/N, such as 1/8" in "".join(found.errlines)
