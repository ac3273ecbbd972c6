"""A real Hugging Face Trainer on a tiny BERT with random weights: no download, no network."""

import pytest
import torch
from interop_setup import OPTIMIZERS, SHAPE, STEPS, assert_close, is_rate, make_schedule, moved, weights

pytest.importorskip("transformers", reason="transformers is not installed: pip install -e .[interop]")
pytest.importorskip("accelerate", reason="accelerate, which the Trainer needs, is not installed")

from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainerCallback, TrainingArguments

from lrdiff_core.integrations import log_rates, transformers_unfreezing
from lrdiff_core.rates import LayerDecay, Rule, param_groups

pytestmark = pytest.mark.interop

BATCH = 8
BASE_RATE = 1e-3


def make_bert():
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=16, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, num_labels=2,
    )  # fmt: skip
    return BertForSequenceClassification(config)


def make_bert_plan(model):
    """The usual way to fine-tune: layer-wise decay, a split of weight decay, embeddings frozen, a faster head."""
    return param_groups(
        model,
        lr=BASE_RATE,
        weight_decay=0.01,
        rules=[Rule("bert.embeddings", freeze=True), Rule("classifier", lr_mult=10)],
        scale=[LayerDecay(0.5)],
        no_weight_decay=["1d"],
    ).apply_freeze()


class Sentences(torch.utils.data.Dataset):
    """Rows of eight words; the label says whether the first is in the lower half."""

    def __init__(self):
        self.words = torch.randint(0, 40, (BATCH * STEPS, 8), generator=torch.Generator().manual_seed(1))

    def __len__(self):
        return len(self.words)

    def __getitem__(self, i):
        return {"input_ids": self.words[i], "labels": int(self.words[i][0] < 20)}


class Watch(TrainerCallback):
    """Keeps the rates as they stand before every step."""

    def __init__(self):
        self.rates = []

    def on_pre_optimizer_step(self, args, state, control, *, optimizer, **_):
        self.rates.append([group["lr"] for group in optimizer.param_groups])


def fit(folder, optimizer="ours", schedule="Schedule", *, resume=None, model=None, callback=None, names=False):
    model = model or make_bert()
    plan = make_bert_plan(model)
    made = OPTIMIZERS[optimizer](plan.groups())
    watch = Watch()
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(folder), max_steps=STEPS, per_device_train_batch_size=BATCH, save_steps=5, logging_steps=1,
            use_cpu=True, report_to=[], disable_tqdm=True, seed=3, max_grad_norm=1.0, dataloader_pin_memory=False,
        ),
        train_dataset=Sentences(),
        optimizers=(made, make_schedule(schedule, plan, made)),
        callbacks=[watch, *([callback(plan)] if callback else [])],
    )  # fmt: skip
    if names:
        log_rates(trainer)
    trainer.train(resume_from_checkpoint=resume)
    return trainer, plan, watch.rates


@pytest.mark.parametrize("schedule", ["Schedule", "LambdaLR"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_rates_applied_and_logged_are_the_plans(tmp_path, optimizer, schedule):
    before = weights(make_bert())
    trainer, plan, rates = fit(tmp_path, optimizer, schedule)
    base = [group["lr"] for group in plan.groups()]
    assert len(rates) == STEPS
    assert sorted(set(base)) == [BASE_RATE * factor for factor in (0.125, 0.25, 0.5, 1, 10)]
    for step, seen in enumerate(rates):
        assert all(is_rate(a, b * SHAPE.factor(step, STEPS)) for a, b in zip(seen, base, strict=True)), step
    logged = [row["learning_rate"] for row in trainer.state.log_history if "learning_rate" in row]
    assert len(logged) == STEPS  # of group 0 alone: all that this trainer logs
    assert all(is_rate(value, base[0] * SHAPE.factor(step, STEPS)) for step, value in enumerate(logged))
    assert set(plan.frozen) == set(before) - moved(before, weights(trainer.model))


def test_the_same_weights_as_with_torchs_optimizer(tmp_path):
    (ours, _, _), (theirs, _, _) = fit(tmp_path / "a"), fit(tmp_path / "b", "torch", "LambdaLR")
    assert_close(weights(ours.model), weights(theirs.model), rate=BASE_RATE)


@pytest.mark.parametrize("then", OPTIMIZERS)
def test_a_run_goes_on_from_a_checkpoint(tmp_path, then):
    whole, _, rates = fit(tmp_path)
    resumed = make_bert()
    with torch.no_grad():
        for parameter in resumed.parameters():
            parameter.zero_()  # all of it must come from the checkpoint
    second, _, later = fit(tmp_path / "second", then, model=resumed, resume=str(tmp_path / "checkpoint-5"))
    assert later == rates[5:]
    if then == "ours":
        assert not moved(weights(whole.model), weights(second.model))
    else:
        assert_close(weights(second.model), weights(whole.model), rate=BASE_RATE)


def test_rates_are_logged_by_the_names_of_the_plan(tmp_path):
    trainer, plan, rates = fit(tmp_path, names=True)
    logged = [row for row in trainer.state.log_history if "learning_rate" in row]
    names = [group["name"] for group in plan.groups()]
    assert len(set(names)) == len(names) > 5
    for row, applied in zip(logged, rates, strict=True):
        assert {key: value for key, value in row.items() if "learning_rate/" in key} == {
            f"learning_rate/{name}": rate for name, rate in zip(names, applied, strict=True)
        }
        assert row["learning_rate"] == applied[0]


def test_layers_are_unfrozen_from_the_head_down(tmp_path):
    stages = ["classifier", "bert.pooler", "bert.encoder.layer.1", "bert.encoder.layer.0", "bert.embeddings"]

    def unfreezing(plan):
        return transformers_unfreezing(plan, every=3, stages=stages)

    whole, plan, _ = fit(tmp_path, callback=unfreezing)
    assert {name for name in plan.frozen if not name.startswith("bert.embeddings")} == set()
    assert [name for name in plan.frozen if name.startswith("bert.embeddings")]  # by the plan, for good
    frozen_first = make_bert()
    second, _, _ = fit(
        tmp_path / "second", model=frozen_first, resume=str(tmp_path / "checkpoint-5"), callback=unfreezing
    )
    assert not moved(weights(whole.model), weights(second.model))
    steps = [int(state["step"]) for state in whole.optimizer.state_dict()["state"].values()]
    assert sorted(set(steps)) == [3, 6, 9, 12]
