"""The Hugging Face Trainer and PEFT together: adapters, head and frozen base learn as planned, or it is told."""

import pytest
import torch
from interop_setup import is_rate, moved, weights

pytest.importorskip("transformers", reason="transformers is not installed: pip install -e .[interop]")
pytest.importorskip("accelerate", reason="accelerate, which the Trainer needs, is not installed")
pytest.importorskip("peft", reason="PEFT is not installed: pip install -e .[interop]")

import peft
from test_hf_trainer import BATCH, Sentences, Watch, make_bert
from transformers import Trainer, TrainingArguments

from lrdiff_core.audit import audit
from lrdiff_core.errors import RateError
from lrdiff_core.optim import AdamW
from lrdiff_core.rates import LoRAPlus, Rule, param_groups

pytestmark = [
    pytest.mark.interop,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),  # PEFT asks for it
]

STEPS, SAVED_AT = 8, 5
BASE_RATE, RATIO, HEAD = 1e-3, 16, 4


@pytest.fixture(autouse=True)
def no_hub(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def adapted():
    model = make_bert()
    config = peft.LoraConfig(task_type="SEQ_CLS", r=2, lora_alpha=4, target_modules=["query", "value"])
    return peft.get_peft_model(model, config)


def make_plan(model):
    """Adapters by LoRA+, the head by a rule; PEFT has frozen the rest before, and the plan keeps that."""
    return param_groups(model, lr=BASE_RATE, rules=[Rule("*.classifier.*", lr_mult=HEAD)], scale=[LoRAPlus(RATIO)])


def kind_of(name):
    return next((kind for kind in ("lora_A", "lora_B", "modules_to_save") if kind in name), None)


RATES = {"lora_A": BASE_RATE, "lora_B": RATIO * BASE_RATE, "modules_to_save": HEAD * BASE_RATE}


class Planned(Trainer):
    """As the Trainer's documentation has people bring an optimizer: made of the model that is there by then."""

    def create_optimizer(self, model=None):
        self.plan = make_plan(self.model)
        self.optimizer = AdamW(self.plan.groups())
        return self.optimizer


def trainer_of(model, folder, *, kind=Trainer, **how):
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=STEPS, per_device_train_batch_size=BATCH, save_steps=SAVED_AT,
        lr_scheduler_type="linear", learning_rate=5e-5, use_cpu=True, report_to=[], disable_tqdm=True, seed=3,
        dataloader_pin_memory=False, max_grad_norm=1.0, logging_steps=STEPS,
    )  # fmt: skip
    watch = Watch()
    made = kind(model, arguments, train_dataset=Sentences(), callbacks=[watch], **how)
    return made, watch


@pytest.mark.parametrize("way", ["handed over", "create_optimizer"])
def test_adapters_and_head_learn_at_their_rates_under_the_trainers_own_schedule(tmp_path, way):
    model = adapted()
    before = weights(model)
    if way == "handed over":
        plan = make_plan(model)
        optimizer = AdamW(plan.groups())
        trainer, watch = trainer_of(model, tmp_path, optimizers=(optimizer, None))
    else:
        trainer, watch = trainer_of(model, tmp_path, kind=Planned)
    trainer.train()
    if way == "create_optimizer":
        plan, optimizer = trainer.plan, trainer.optimizer.optimizer
    plan.verify(optimizer)
    assert {kind_of(entry.name): entry.lr for entry in plan if not entry.frozen} == RATES
    base = [group["lr"] for group in plan.groups()]
    for step, rates in enumerate(watch.rates):
        assert all(is_rate(a, b * (1 - step / STEPS)) for a, b in zip(rates, base, strict=True)), step
    assert len(watch.rates) == STEPS
    assert {kind_of(name) for name in moved(before, weights(model))} == set(RATES)
    assert moved(before, weights(model)) == {entry.name for entry in plan if not entry.frozen}


@pytest.mark.parametrize("how", [{}, {"optimizer_cls_and_kwargs": (AdamW, {"lr": BASE_RATE})}])
def test_a_plan_that_the_trainer_never_gets_is_told(tmp_path, how):
    """Left alone it makes two groups of one rate, of the class of its arguments or of the one that it is given."""
    model = adapted()
    plan = make_plan(model)
    trainer, watch = trainer_of(model, tmp_path, **how)
    with audit(model, plan=plan, every=2) as report:
        trainer.train()
    assert len(set(watch.rates[0])) == 1
    assert "groups-lost" in {one.kind for one in report.findings}, report.report


def test_a_run_goes_on_from_a_checkpoint_of_the_adapters(tmp_path):
    whole, _ = trainer_of(adapted(), tmp_path, kind=Planned)
    whole.train()
    second, watch = trainer_of(adapted(), tmp_path / "second", kind=Planned)
    second.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{SAVED_AT}"))
    assert len(watch.rates) == STEPS - SAVED_AT
    assert not moved(weights(whole.model), weights(second.model))


def test_a_plan_made_before_the_adapters_is_refused():
    model = make_bert()
    plan = param_groups(model, lr=BASE_RATE)
    peft.get_peft_model(model, peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query", "value"]))
    with pytest.raises(RateError, match=r"the model is not as it was when the plan was made; new: .*lora_A"):
        plan.groups()


def test_another_adapter_after_the_plan_is_told():
    model = adapted()
    plan = make_plan(model)
    optimizer = AdamW(plan.groups())
    model.add_adapter("other", peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"]))
    with pytest.raises(RateError, match=r"new: .*lora_A\.other"):
        plan.verify(optimizer)
    model.set_adapter("other")
    again = make_plan(model)
    learning = {entry.name for entry in again if not entry.frozen}
    assert learning == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all(".other." in name for name in learning)
    again.verify(torch.optim.AdamW(again.groups(), lr=BASE_RATE))
