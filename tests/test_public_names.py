"""The public lists are pinned: adding a name is a decision, losing one breaks somebody's code."""

import importlib
import pkgutil

import pytest

PUBLIC = {
    "lrdiff_core": """
        Adam AdamW BUILTIN_TABLES ColumnSpec CompareConfig HeadMultiplier LayerDecay LoRAPlus LrdiffClassifier
        LrdiffError LrdiffRegressor ModelSpec MuonAdamW Observation PRESETS Predictor RatePlan Rule RunConfig SGD
        Schedule Setup Shape Slices Split Table TabularNet Trained WidthScale build_model choose_device
        compiler_status constant_columns device_status evaluate fit layer_rates load_checkpoint load_config load_table
        make_config param_groups prepare read_features repeatable save_checkpoint score_name set_up split_table train
    """,
    "lrdiff_core.optim": """
        LAMB SGD Adafactor Adagrad Adam AdamW Lion LoadReport MuonAdamW NAdam RAdam RMSprop ScheduleFreeAdamW
        clip_grad_norms_ clipped_step load_state_only
    """,
    "lrdiff_core.population": """
        Gain Population PopulationData PopulationOptions PopulationTask population_task train_population
    """,
    "lrdiff_bench.study.tune": "Answer FoundRates TuneOptions TunedRates find_rates tune_rates",
    "lrdiff_bench.study": "FunctionWorkload Outcomes Scheme Trials Workload training",
    "lrdiff_bench": "RateComparison RunResult compare_single_rates resume_job run_job",
}


@pytest.mark.parametrize("package", PUBLIC)
def test_the_public_list_is_this_one_and_every_name_is_there(package):
    module = importlib.import_module(package)
    assert sorted(module.__all__) == sorted(PUBLIC[package].split())
    for name in module.__all__:
        assert getattr(module, name) is not None
    assert set(module.__all__) <= set(dir(module))
    with pytest.raises(AttributeError, match="nonsense"):
        _ = module.nonsense


@pytest.mark.parametrize("package", ["lrdiff_core", "lrdiff_export", "lrdiff_bench"])
def test_every_module_says_what_it_hands_on(package):
    seen = 0
    top = importlib.import_module(package)
    for info in pkgutil.walk_packages(top.__path__, f"{package}."):
        if info.name.endswith("__main__"):
            continue
        module = importlib.import_module(info.name)
        assert module.__doc__, f"{info.name} has no docstring"
        for name in getattr(module, "__all__", ()):
            assert hasattr(module, name), f"{info.name} promises {name}"
        seen += 1
    assert seen > 5
