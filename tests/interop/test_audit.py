"""The auditor around other people's trainers: silent where all is well, and naming the optimizer that they brought."""

import pytest
import torch
from interop_setup import STEPS, make_model, make_plan, make_schedule, rows
from torch import nn

from lrdiff_core.audit import audit
from lrdiff_core.optim import AdamW

pytestmark = [
    pytest.mark.interop,
    pytest.mark.filterwarnings("ignore:.*num_workers.*:UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:lightning"),
]


def assert_silent(report, rule="AdamW"):
    assert report.passed, report
    rows = [row for row in report.rows if not row.frozen]
    assert {row.rule for row in rows} == {rule}, report
    assert all(row.applied == pytest.approx(row.asked, rel=0.03) for row in rows if row.applied is not None), report
    assert any(row.applied is not None for row in rows)


# -- Lightning ---------------------------------------------------------------------------------------------------------


def lightning_fit(module, **how):
    lightning = pytest.importorskip("lightning", reason="Lightning is not installed: pip install -e .[interop]")
    trainer = lightning.Trainer(
        accelerator="cpu", devices=1, max_epochs=2, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, **how,
    )  # fmt: skip
    data = torch.utils.data.TensorDataset(*rows(8 * STEPS))
    trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=8))


def lightning_module(optimizer, *, schedule="Schedule", manual=False):
    lightning = pytest.importorskip("lightning", reason="Lightning is not installed: pip install -e .[interop]")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = make_model()
            self.plan = make_plan(self.model)
            self.automatic_optimization = not manual
            self.made = optimizer(self.plan.groups())

        def training_step(self, batch, index):
            x, y = batch
            loss = (self.model(x) - y).square().mean()
            if manual:
                self.optimizers().zero_grad()
                self.manual_backward(loss)
                self.optimizers().step()
                self.lr_schedulers().step()
            return loss

        def configure_optimizers(self):
            schedule_made = make_schedule(schedule, self.plan, self.made)
            return {"optimizer": self.made, "lr_scheduler": {"scheduler": schedule_made, "interval": "step"}}

    return Module()


@pytest.mark.parametrize("optimizer", [AdamW, torch.optim.AdamW])
@pytest.mark.parametrize(
    "how", [{"gradient_clip_val": 0.1}, {"accumulate_grad_batches": 2}, {"precision": "bf16-mixed"}]
)
def test_lightning(optimizer, how):
    module = lightning_module(optimizer)
    with audit(module, module.made, module.plan, every=4) as report:
        lightning_fit(module, **how)
    assert_silent(report.report)


def test_lightning_optimized_by_hand():
    module = lightning_module(torch.optim.AdamW, schedule="LambdaLR", manual=True)
    with audit(module.model, module.made, module.plan, every=4) as report:
        lightning_fit(module)
    assert_silent(report.report)


# -- Hugging Face ------------------------------------------------------------------------------------------------------


def hugging_face(folder, model, **how):
    transformers = pytest.importorskip(
        "transformers", reason="transformers is not installed: pip install -e .[interop]"
    )
    from test_hf_trainer import BATCH, Sentences

    optimizers = how.pop("optimizers", (None, None))
    arguments = transformers.TrainingArguments(
        output_dir=str(folder), max_steps=STEPS, per_device_train_batch_size=BATCH, save_strategy="no", use_cpu=True,
        report_to=[], disable_tqdm=True, seed=3, dataloader_pin_memory=False, **how,
    )  # fmt: skip
    return transformers.Trainer(model=model, args=arguments, train_dataset=Sentences(), optimizers=optimizers)


def bert():
    pytest.importorskip("transformers", reason="transformers is not installed: pip install -e .[interop]")
    from test_hf_trainer import make_bert, make_bert_plan

    model = make_bert()
    return model, make_bert_plan(model)


@pytest.mark.parametrize("how", [{"max_grad_norm": 0.1}, {"gradient_accumulation_steps": 2}, {"bf16": True}])
def test_the_trainer_of_hugging_face(tmp_path, how):
    model, plan = bert()
    optimizer = AdamW(plan.groups())
    schedule = make_schedule("LambdaLR", plan, optimizer)
    trainer = hugging_face(tmp_path, model, optimizers=(optimizer, schedule), **how)
    with audit(model, optimizer, plan, every=4) as report:
        trainer.train()
    assert_silent(report.report)


def test_the_trainer_of_hugging_face_with_its_own_optimizer_and_groups(tmp_path):
    model, _ = bert()
    with audit(model, every=4) as report:
        hugging_face(tmp_path, model, weight_decay=0.01, warmup_steps=3, lr_scheduler_type="cosine").train()
    assert_silent(report.report)


def test_an_optimizer_that_was_never_handed_over_is_named(tmp_path):
    model, plan = bert()
    optimizer = AdamW(plan.groups())
    with audit(model, optimizer, plan, every=4) as report:
        hugging_face(tmp_path, model, learning_rate=5e-5).train()
    first = report.findings[0]
    assert first.kind == "other-optimizer"
    assert "AdamW that was asked about never stepped; the model is trained by AdamW (2 groups, 5e-05)" in first.text
    assert "groups-lost" in {finding.kind for finding in report.findings}


# -- Accelerate and PEFT -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("handed_over", ["the optimizer", "what prepare() returned"])
def test_accelerate(handed_over):
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed: pip install -e .[interop]")
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = make_model()
    plan = make_plan(model)
    made = torch.optim.AdamW(plan.groups())
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*rows(8 * STEPS)), batch_size=4)
    prepared, optimizer, loader, schedule = accelerator.prepare(
        model, made, loader, make_schedule("Schedule", plan, made)
    )
    with audit(model, made if handed_over == "the optimizer" else optimizer, plan, every=4) as report:
        for x, y in loader:
            with accelerator.accumulate(prepared):
                accelerator.backward((prepared(x) - y).square().mean())
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(prepared.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
    assert_silent(report.report)


def test_peft():
    peft = pytest.importorskip("peft", reason="PEFT is not installed: pip install -e .[interop]")
    torch.manual_seed(0)
    model = peft.get_peft_model(
        nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 1)), peft.LoraConfig(r=2, target_modules=["0", "2"])
    )
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-2)
    with audit(model, optimizer, every=4) as report:
        for _ in range(STEPS):
            x, y = rows(16)
            optimizer.zero_grad()
            (model(x) - y).square().mean().backward()
            optimizer.step()
    assert_silent(report.report)
    assert sum(row.frozen for row in report.rows) == 4


def test_an_optimizer_made_before_the_adapters_trains_none_of_them():
    peft = pytest.importorskip("peft", reason="PEFT is not installed: pip install -e .[interop]")
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 1))
    optimizer = torch.optim.AdamW(base.parameters(), lr=1e-2)
    model = peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=["0", "2"]))
    with audit(model, optimizer, every=4) as report:
        for _ in range(4):
            x, y = rows(16)
            (model(x) - y).square().mean().backward()
            optimizer.step()
    found = {finding.kind: finding for finding in report.findings}
    assert len(found["no-group"].parameters) == 4
    assert all("lora" in name for name in found["no-group"].parameters)
