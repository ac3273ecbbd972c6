"""Whatever stands in the table of optimizers trains by its name, goes on after a cut, and is named everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lrdiff_bench.run import options
from lrdiff_bench.study.settings import StudySettings
from lrdiff_core import load_table, make_config, set_up, train
from lrdiff_core.checkpoint import TrainingFile, save_training
from lrdiff_core.config import RunConfig
from lrdiff_core.errors import ConfigError
from lrdiff_core.optimizers import OPTIMIZERS, STACKED
from lrdiff_core.population import PopulationOptions
from lrdiff_core.population.kernel_path import CODES

GUIDE = Path(__file__).parents[2] / "docs" / "guide"


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_trains_by_its_name_and_goes_on_where_it_was(name: str, tmp_path: Path) -> None:
    """Cut after the second epoch of four: the same observations and weights as without a cut."""
    rates = {f"layer{i}": 3 * OPTIMIZERS[name].rate for i in (1, 2, 3)}
    given: dict[str, Any] = {"hidden": [6, 5], "rates": rates, "epochs": 4, "patience": 0, "optimizer": name}
    config, table = make_config(given), load_table("seed")

    def keep(net: Any, state: Any) -> None:
        if state.epoch == 2:
            save_training(tmp_path / "training.safetensors", net, state)

    whole = train(set_up(table, config), on_state=keep)
    rest = train(set_up(table, config), go_on=TrainingFile(tmp_path / "training.safetensors").restore)
    losses = [one.loss for one in whole.observations if one.split == "train"]
    assert losses[-1] < losses[0]
    assert rest.observations == whole.observations
    assert all(map(torch.equal, rest.net.state_dict().values(), whole.net.state_dict().values()))


def test_it_is_named_wherever_the_list_stands() -> None:
    words = {
        "settings": (RunConfig.model_fields["optimizer"].description, OPTIMIZERS),
        "studies": (
            StudySettings.model_fields["optimizer"].description,
            [name for name, entry in OPTIMIZERS.items() if not entry.routed],
        ),
        "populations": (PopulationOptions.__doc__, STACKED),
        "command line": (options.OptimizerOption.__metadata__[0].help, OPTIMIZERS),  # type: ignore[attr-defined]
        "guide": ((GUIDE / "main-job.md").read_text(encoding="utf-8"), OPTIMIZERS),
        "guide to estimators": ((GUIDE / "scikit-learn.md").read_text(encoding="utf-8"), OPTIMIZERS),
    }
    for where, (text, names) in words.items():
        assert [name for name in names if name not in str(text)] == [], where
    assert set(CODES) == set(STACKED)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_momentum_is_taken_or_refused(name: str) -> None:
    if OPTIMIZERS[name].momentum:
        assert make_config({"optimizer": name, "momentum": 0.5}).momentum == 0.5
    else:
        with pytest.raises(ConfigError, match="takes none") as refused:
            make_config({"optimizer": name, "momentum": 0.5})
        assert "sgd" in str(refused.value.help)
