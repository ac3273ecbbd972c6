"""``lrdiff boost`` under the trainers of others: the same numbers as with torch's fused step."""

import pytest

from benchmarks.boost.ways import OF_LIBRARIES, expected, fused, numbers, plain, with_ours

pytestmark = [pytest.mark.interop, pytest.mark.filterwarnings("ignore")]
NEEDS = {
    "lightning_module": "lightning",
    "hf_trainer": "transformers",
    "accelerate_loop": "accelerate",
    "peft_lora": "peft",
}


@pytest.mark.slow
@pytest.mark.parametrize("script", OF_LIBRARIES, ids=lambda script: script.stem)
def test_a_script_prints_the_same_as_with_torchs_fused_step(script):
    library = NEEDS[script.stem]
    pytest.importorskip(library, reason=f"{library} is not installed: pip install -e .[interop]")
    replaced, optimizers, _ = expected(script)
    ours, report = with_ours(script)
    assert (len(report.replaced), len(report.records)) == (replaced, optimizers)
    assert ours == fused(script)
    assert len(numbers(ours)) >= 6
    assert numbers(ours) == pytest.approx(numbers(plain(script)), rel=1e-3)
