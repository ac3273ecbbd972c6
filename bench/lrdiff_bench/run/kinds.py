"""What a run is about, a table or a model of one's own: for each stage of the main job the function that does it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrdiff_core.config import RunConfig

__all__ = ["Kind", "kind_of"]

Sections = Iterator[tuple[str, dict[str, Any]]]
OnTraining = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """The stages of a run, in the order in which :mod:`lrdiff_bench.run.job` does them.

    A setup is a :class:`lrdiff_core.setup.Setup` or :class:`lrdiff_bench.run.own_model.setup.OwnSetup`; what is trained
    of it has ``setup``, ``net`` and ``observations``.
    """

    set_up: Callable[[RunConfig], Any]
    data_sections: Callable[[Any], Sections]
    training_section: Callable[[Any], dict[str, Any]]
    tuned: Callable[[Any, dict[str, float]], Any] | None  # the setup with other rates; None: it keeps its own
    name_of: Callable[[Any], str]  # of its rows
    digest: Callable[[Any], str]
    write_settings: Callable[[Path, Any], None]
    train: Callable[..., Any]  # of a setup, and on_epoch, on_state and go_on as lrdiff_core.loop.train has them
    training_sections: Callable[[Any], Sections]
    write: Callable[[Path, Any], None]
    folds: Callable[[Any, OnTraining], dict[str, Any]]
    compare: Callable[[Any, OnTraining], dict[str, Any]]
    step_cost: Callable[[Any], dict[str, Any]]
    export: Callable[[Any, Path, list[str]], dict[str, Any]]
    parity: Callable[[Any, Path], dict[str, Any]]


def kind_of(config: RunConfig) -> Kind:
    """The kind that the settings ask for."""
    return _table() if config.model is None else _own()


def _table() -> Kind:
    from lrdiff_bench.run.compare.chosen_rates import choose_rates, development
    from lrdiff_bench.run.compare.folds import cross_validate
    from lrdiff_bench.run.compare.single_rates import ADAPTIVE, compare_single_rates
    from lrdiff_bench.run.compare.step_cost import measure_step_cost
    from lrdiff_bench.run.files.resuming import digest_of
    from lrdiff_bench.run.files.training_files import write_settings, write_training
    from lrdiff_bench.run.ship import export_trained, parity_of_trained
    from lrdiff_bench.run.summary import data_sections, training_section, training_sections
    from lrdiff_core.data import fold_table
    from lrdiff_core.loop import train
    from lrdiff_core.setup import set_up, with_rates

    def compare(setup: Any, on_training: OnTraining) -> dict[str, Any]:
        config, table = development(setup)
        if config.tune and "sweep" not in config.compare.model_fields_set and config.optimizer != "sgd":
            config = config.model_copy(update={"compare": config.compare.model_copy(update={"sweep": ADAPTIVE})})
        # Resolved settings hold rates always; those of the setup say whether somebody set them.
        set_by_hand = setup.rates_given or not config.tune
        found = compare_single_rates(config, table=table, configured=set_by_hand, on_training=on_training)
        section = found.section()
        chosen = choose_rates(section, configured=setup.rates_given) if config.tune else None
        return section if chosen is None else {**section, "chosen": chosen}

    def made(config: RunConfig) -> Any:
        table = config.load_table()
        if config.cv is not None and table.stream is None:  # too many folds are refused before anything is trained
            fold_table(table, folds=config.cv, validation=config.validation, seed=config.seed)
        return set_up(table, config)

    return Kind(
        set_up=made,
        data_sections=data_sections,
        training_section=training_section,
        tuned=with_rates,
        name_of=lambda setup: str(setup.rows.table.name),
        digest=lambda setup: digest_of(setup.rows.table),
        write_settings=write_settings,
        train=train,
        training_sections=training_sections,
        write=write_training,
        folds=lambda setup, on_fold: cross_validate(setup, on_fold=on_fold),
        compare=compare,
        step_cost=measure_step_cost,
        export=lambda trained, folder, warnings: export_trained(trained, folder, warnings=warnings),
        parity=parity_of_trained,
    )


def _own() -> Kind:
    from lrdiff_bench.run.compare.chosen_rates import choose_rates
    from lrdiff_bench.run.own_model.compare import compare_own
    from lrdiff_bench.run.own_model.development import with_rates
    from lrdiff_bench.run.own_model.files import digest_of_own, write_own_settings, write_own_training
    from lrdiff_bench.run.own_model.setup import set_up_own
    from lrdiff_bench.run.own_model.ship import export_own, parity_of_own
    from lrdiff_bench.run.own_model.step_cost import measure_own_step_cost
    from lrdiff_bench.run.own_model.summary import own_data_sections, own_training_section, own_training_sections
    from lrdiff_bench.run.own_model.training import train_own
    from lrdiff_bench.system.user_code import user_code

    def compare(setup: Any, on_training: OnTraining) -> dict[str, Any]:
        section = compare_own(setup, on_training=on_training).section()
        if "skipped" in section or not setup.config.tune:
            return section
        given = setup.config.rates is not None or setup.user.options.get("plan") is not None
        return {**section, "chosen": choose_rates(section, configured=given)}

    def made(config: RunConfig) -> Any:
        with user_code():
            return set_up_own(config)

    return Kind(
        set_up=made,
        data_sections=own_data_sections,
        training_section=own_training_section,
        tuned=with_rates,
        name_of=lambda setup: str(setup.user.source),
        digest=digest_of_own,
        write_settings=write_own_settings,
        train=train_own,
        training_sections=own_training_sections,
        write=write_own_training,
        folds=lambda setup, on_fold: {},  # set_up_own refuses them
        compare=compare,
        step_cost=measure_own_step_cost,
        export=lambda trained, folder, warnings: export_own(trained.setup, folder, warnings),
        parity=lambda trained, folder: parity_of_own(trained.setup, folder),
    )
