"""A real Lightning module and Trainer: plan, optimizer and schedule, logged rates, checkpoint and resume."""

import pytest
import torch
from interop_setup import (
    GROUPS,
    OPTIMIZERS,
    STEPS,
    assert_close,
    is_rate,
    make_model,
    make_plan,
    make_schedule,
    moved,
    planned,
    rows,
    weights,
)

pytest.importorskip("lightning", reason="Lightning is not installed: pip install -e .[interop]")

import lightning
from lightning.pytorch.callbacks import BackboneFinetuning, Callback, LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger

from lrdiff_core import AdamW, param_groups
from lrdiff_core.integrations import lightning_unfreezing
from lrdiff_core.unfreezing import head_down

pytestmark = [
    pytest.mark.interop,
    pytest.mark.filterwarnings("ignore:.*num_workers.*:UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:lightning"),
]

EPOCHS = 3
BATCHES = STEPS // EPOCHS


class Module(lightning.LightningModule):
    """What a user writes: three lines of it are the plan."""

    def __init__(self, optimizer="ours", schedule="Schedule"):
        super().__init__()
        self.names = optimizer, schedule
        self.model = make_model()
        self.plan = make_plan(self.model)
        self.seen = []

    def training_step(self, batch, index):
        self.seen.append([group["lr"] for group in self.optimizers().param_groups])
        x, y = batch
        loss = (self.model(x) - y).square().mean()
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        optimizer = OPTIMIZERS[self.names[0]](self.plan.groups())
        schedule = make_schedule(self.names[1], self.plan, optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def fit(module, folder, *, epochs=EPOCHS, resume=None, callbacks=()):
    """Train; return the trainer and the rates that Lightning's own monitor logged."""
    monitor = LearningRateMonitor(logging_interval="step")
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=epochs,
        gradient_clip_val=1.0,
        logger=CSVLogger(folder),
        log_every_n_steps=1,
        callbacks=[monitor, *callbacks],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = torch.utils.data.TensorDataset(*rows(8 * BATCHES))
    trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=8), ckpt_path=resume)
    return trainer, monitor.lrs


@pytest.mark.parametrize("schedule", ["Schedule", "LambdaLR"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_rates_applied_and_logged_are_the_plans(tmp_path, optimizer, schedule):
    module = Module(optimizer, schedule)
    before = weights(module.model)
    _, logged = fit(module, tmp_path)
    assert len(module.seen) == STEPS
    for step, rates in enumerate(module.seen):
        assert all(map(is_rate, rates, planned(module.plan, step))), step
    assert len(logged) == len(module.plan.groups()) == GROUPS
    for group, values in enumerate(logged.values()):
        assert all(is_rate(value, planned(module.plan, step)[group]) for step, value in enumerate(values))
    assert moved(before, weights(module.model)) == set(before) - {"0.bias"}


def test_the_same_weights_as_with_torchs_optimizer(tmp_path):
    ours, theirs = Module("ours"), Module("torch", "LambdaLR")
    fit(ours, tmp_path / "ours")
    fit(theirs, tmp_path / "theirs")
    assert_close(weights(ours.model), weights(theirs.model))


@pytest.mark.parametrize("then", OPTIMIZERS)
def test_a_run_goes_on_from_a_checkpoint(tmp_path, then):
    """With our optimizer bit for bit; torch's own reads the checkpoint as well."""
    whole, first, second = Module(), Module(), Module(then)
    fit(whole, tmp_path / "whole")
    fit(first, tmp_path / "first", epochs=2)[0].save_checkpoint(tmp_path / "first.ckpt")
    with torch.no_grad():
        for parameter in second.model.parameters():
            parameter.zero_()  # all of it must come from the checkpoint
    trainer, _ = fit(second, tmp_path / "second", resume=tmp_path / "first.ckpt")
    assert trainer.global_step == STEPS
    assert second.seen == whole.seen[2 * BATCHES :]
    if then == "ours":
        assert not moved(weights(whole.model), weights(second.model))
    else:
        assert_close(weights(second.model), weights(whole.model))


class Unfreeze(Callback):
    def on_train_epoch_start(self, trainer, module):
        if trainer.current_epoch == 1:
            module.plan.unfreeze(trainer.optimizers[0], "0.bias")


def test_unfreezing_midway_changes_no_group(tmp_path):
    module = Module()
    before = weights(module.model)
    trainer, logged = fit(module, tmp_path, callbacks=[Unfreeze()])
    assert moved(before, weights(module.model)) == set(before)
    assert len(trainer.optimizers[0].param_groups) == len(logged) == GROUPS


class Layers(Callback):
    """Which layers moved in each epoch."""

    def __init__(self):
        self.moved = []

    def on_train_epoch_start(self, trainer, module):
        self.before = weights(module.model)

    def on_train_epoch_end(self, trainer, module):
        self.moved.append("".join(sorted({name[0] for name in moved(self.before, weights(module.model))})))


@pytest.mark.parametrize("interval", ["epoch", "step"])
def test_layers_are_unfrozen_from_the_head_down(tmp_path, interval):
    def unfreezing():
        every = 1 if interval == "epoch" else BATCHES
        return lightning_unfreezing(
            lambda module: module.plan, every=every, stages=lambda module: head_down(module.model), interval=interval
        )

    module, layers = Module(), Layers()
    trainer, _ = fit(module, tmp_path / "whole", callbacks=[unfreezing(), layers])
    assert layers.moved == ["4", "24", "024"]
    assert len(trainer.optimizers[0].param_groups) == GROUPS
    first, second, rest = Module(), Module(), Layers()
    fit(first, tmp_path / "first", epochs=2, callbacks=[unfreezing()])[0].save_checkpoint(tmp_path / "first.ckpt")
    fit(second, tmp_path / "second", resume=tmp_path / "first.ckpt", callbacks=[unfreezing(), rest])
    assert rest.moved == ["024"]
    assert not moved(weights(module.model), weights(second.model))


def test_rates_are_logged_by_the_names_of_the_plan(tmp_path):
    module = Module()
    _, logged = fit(module, tmp_path)
    names = [group["name"] for group in module.plan.groups()]
    assert [key.rpartition("/")[2] for key in logged] == names
    assert len(set(names)) == GROUPS


class Backbone(lightning.LightningModule):
    """A pretrained body that Lightning's own callback freezes, and a head with a plan."""

    def __init__(self):
        super().__init__()
        self.backbone = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 8))
        self.head = torch.nn.Linear(8, 1)

    def training_step(self, batch, index):
        x, y = batch
        return (self.head(self.backbone(x)) - y).square().mean()

    def configure_optimizers(self):
        return AdamW(param_groups(self.head, lr=1e-2).groups(names=False))


def test_lightnings_backbone_finetuning_adds_its_group_to_a_plans(tmp_path):
    module = Backbone()
    before = [weight.clone() for weight in module.backbone.parameters()]
    torch.manual_seed(0)
    data = torch.utils.data.TensorDataset(torch.randn(32, 4), torch.randn(32, 1))
    trainer = lightning.Trainer(
        max_epochs=4, accelerator="cpu", default_root_dir=tmp_path, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
        callbacks=[BackboneFinetuning(unfreeze_backbone_at_epoch=2)],
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=8))
    head, backbone = trainer.optimizers[0].param_groups
    assert (len(head["params"]), head["lr"]) == (2, 1e-2)
    assert len(backbone["params"]) == 4
    assert all(not torch.equal(old, new) for old, new in zip(before, module.backbone.parameters(), strict=True))
