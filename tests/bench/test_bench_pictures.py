"""Pictures of records: what is in them, and when there is nothing to draw."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lrdiff_bench.measure.engine.process import Effort
from lrdiff_bench.measure.engine.record import Record
from lrdiff_bench.measure.engine.suite import choose_cases, measure_here
from lrdiff_bench.measure.pictures import draw_all, draw_history, draw_roofline
from lrdiff_bench.measure.section import bench_part


@pytest.fixture(scope="module")
def measured() -> Record:
    return measure_here(choose_cases(["optimizer_step"], ["rates=1"])[0], Effort.quick())


def like(record: Record, name: str = "optimizer_step", size: int = 1000, seconds: float = 1e-3, **parameters) -> Record:
    samples = tuple(s.model_copy(update={"seconds": seconds * (1 + s.block / 100)}) for s in record.samples)
    changed = {**record.parameters, **parameters} if name == "optimizer_step" else parameters
    label = f"{name}[{','.join(f'{k}={v}' for k, v in changed.items())}]"
    facts = {**record.facts, "parameters": size, "bytes": 12 * size}
    return record.model_copy(
        update={"name": name, "case": label, "parameters": changed, "samples": samples, "facts": facts}
    )


def run_of(record: Record) -> list[Record]:
    rates = [
        like(record, shapes="thousand", rates=count, implementation=kind, seconds=1e-3 * (1 + 0.01 * count))
        for count in (1, 8, 1000)
        for kind in ("ours", "fused")
    ]
    sizes = [
        like(record, shapes=shapes, rates=rates, implementation=kind, size=size, seconds=size * 3e-9)
        for shapes, size in (("lora_bert", 294_912), ("resnet50", 25_557_032), ("bert_base", 109_482_240))
        for rates in (1, "each")
        for kind in ("ours", "fused")
    ]
    return [*rates, *sizes, like(record, "memory_copy", size=2**26, seconds=0.05, threads=1)]


@pytest.mark.slow
def test_all_three_pictures(measured: Record, tmp_path: Path) -> None:
    run = run_of(measured)
    drawn = draw_all(run, [run] * 3, tmp_path)
    assert {path.name for path in drawn} == {
        f"{name}.{kind}" for name in ("cost-by-rates", "cost-by-size", "history") for kind in ("png", "svg")
    }
    assert all(path.stat().st_size > 10_000 for path in drawn)
    rates, sizes, history = ((tmp_path / f"{n}.svg").read_text() for n in ("cost-by-rates", "cost-by-size", "history"))
    for text in ("lrdiff", "torch fused", "number of distinct rates", "1000 tensors", measured.machine.cpu):
        assert text in rates
    for text in ("lora_bert", "resnet50", "bert_base", "a rate each", "copy limit: 28 bytes a parameter at 15.6 GB/s"):
        assert text in sizes
    assert "first run = 1" in history
    first = [path.read_bytes() for path in drawn]
    assert [path.read_bytes() for path in draw_all(run, [run] * 3, tmp_path)] == first


def test_the_roofline_shows_both_sides_and_both_kinds_of_caches_on_the_fewest_threads(tmp_path: Path) -> None:
    row = {"against": "torch fused", "ratio": [2.0, 1.9, 2.1], "bytes": 2**20, "ours": 1e-4, "theirs": 2e-4}
    left_out = {"against": "DeepSpeed CPUAdam", "ratio": None, "ours": None, "theirs": None}
    rows = [row | {"caches": caches, "threads": threads} for caches in ("hot", "cold") for threads in (1, 2)]
    rows.append(row | left_out | {"caches": "hot", "threads": 1})
    document = {"rows": rows, "bandwidth": {"1": 1e10, "2": 2e10}, "machine": {"cpu": "a processor"}}
    drawn = draw_roofline(tmp_path, document)
    assert [path.name for path in drawn] == ["step-roofline.png", "step-roofline.svg"]
    text = drawn[1].read_text()
    for said in (
        "lrdiff, hot caches",
        "torch fused, cold caches",
        "memory: 10 GB/s",
        "AdamW step, 1 thread, a processor",
    ):
        assert said in text
    assert draw_roofline(tmp_path, document | {"rows": rows[-1:]}) == []


def test_the_part_of_a_report_draws_the_same(measured: Record) -> None:
    run = run_of(measured)
    part = bench_part([run] * 3, "bench")
    assert part.body.count("<svg viewBox") - part.body.count('class="key"') == 3
    assert "A step with 1000 rates takes 10.8" in part.finding
    assert part.body.count('<tr><th scope="row"><bdi>optimizer_step') >= len(run) - 1
    assert "<svg" not in bench_part([[measured]], "bench").body


def test_nothing_to_draw(measured: Record, tmp_path: Path) -> None:
    assert draw_all([measured], [[measured]], tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_both_sides_of_a_comparison_and_other_machines_are_no_history(measured: Record, tmp_path: Path) -> None:
    assert draw_history([[measured, measured]] * 3, tmp_path) == []
    other = measured.model_copy(update={"machine": replace(measured.machine, id="other")})
    assert draw_all([measured], [[measured], [measured], [other]], tmp_path) == []
    assert len(draw_all([measured], [[measured]] * 3, tmp_path)) == 2
