"""Lightning's own finetuning callbacks and command line beside a plan: its rates hold, or it is told."""

import pytest
import torch
from interop_setup import moved, weights
from torch import nn

pytest.importorskip("lightning", reason="Lightning is not installed: pip install -e .[interop]")

import lightning
from lightning.pytorch.callbacks import BackboneFinetuning, BaseFinetuning, LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger

from lrdiff_core import AdamW, LayerDecay, Schedule, param_groups
from lrdiff_core.audit import audit
from lrdiff_core.errors import RateError

pytestmark = [
    pytest.mark.interop,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*num_workers.*:UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:lightning"),
]

BATCHES, UNFROZEN_AT = 3, 1


class Net(lightning.LightningModule):
    """A body of two layers and a head; ``planned`` says what the plan is of."""

    def __init__(self, planned="head", *, optimizer=AdamW, names=True, schedule=None, epochs=4):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8))
        self.head = nn.Linear(8, 1)
        self.how = planned, optimizer, names, schedule, epochs
        self.seen, self.checks = [], False

    def training_step(self, batch, index):
        self.seen.append([group["lr"] for group in self.optimizers().param_groups])
        x, y = batch
        return (self.head(self.backbone(x)) - y).square().mean()

    def on_train_epoch_start(self):
        if self.checks:  # the line that the page recommends; callbacks have had their turn
            self.plan.verify(self.optimizers().optimizer)

    def configure_optimizers(self):
        planned, optimizer, names, schedule, epochs = self.how
        part = self.head if planned == "head" else nn.ModuleDict({"backbone": self.backbone, "head": self.head})
        self.plan = param_groups(part, lr=1e-2, scale=[LayerDecay(0.5)] if planned == "all" else ())
        made = optimizer(self.plan.groups(names=names))
        if schedule is None:
            return made
        scheduler = schedule(made, epochs * BATCHES)
        return {"optimizer": made, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def linear(optimizer, steps):
    return Schedule(optimizer, total_steps=steps, shape="linear")


def of_torch(optimizer, steps):
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, Schedule(optimizer, total_steps=steps, shape="linear").lambdas()
    )


class Unfreeze(BaseFinetuning):
    """As Lightning's documentation writes it."""

    def __init__(self, at=UNFROZEN_AT):
        super().__init__()
        self.at = at

    def freeze_before_training(self, pl_module):
        self.freeze(pl_module.backbone)

    def finetune_function(self, pl_module, epoch, optimizer):
        if epoch == self.at:
            self.unfreeze_and_add_param_group(pl_module.backbone, optimizer, lr=1e-3)


def fit(net, callback, folder=None, *, epochs=4, resume=None, monitor=None):
    trainer = lightning.Trainer(
        accelerator="cpu", devices=1, max_epochs=epochs, log_every_n_steps=1, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[callback, *([monitor] if monitor else [])],
        logger=CSVLogger(folder) if monitor else False,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(8 * BATCHES, 4, generator=generator)
    data = torch.utils.data.TensorDataset(rows, rows.sum(1, keepdim=True).tanh())
    trainer.fit(net, torch.utils.data.DataLoader(data, batch_size=8), ckpt_path=resume)
    return trainer


@pytest.mark.parametrize("optimizer", [AdamW, torch.optim.AdamW])
def test_a_group_that_is_added_takes_the_schedule_too(tmp_path, optimizer):
    """The rates of the plan stay the plan's; the group goes on from its own rate by the same factors."""
    net = Net(optimizer=optimizer, names=False, schedule=linear)
    before = weights(net)
    monitor = LearningRateMonitor(logging_interval="step")
    trainer = fit(net, Unfreeze(), tmp_path, monitor=monitor)
    assert moved(before, weights(net)) == set(before)
    steps = 4 * BATCHES
    assert [rates[0] for rates in net.seen] == pytest.approx([1e-2 * (1 - step / steps) for step in range(steps)])
    first, *rest = [rates[1] for rates in net.seen if len(rates) == 2]
    assert first == 1e-3
    assert rest == pytest.approx([1e-3 * (1 - step / steps) for step in range(BATCHES + 1, steps)])
    assert [len(group["params"]) for group in trainer.optimizers[0].param_groups] == [2, 4]
    assert len(monitor.lrs) == 2
    assert [len(rates) for rates in monitor.lrs.values()] == [steps, steps - BATCHES]


def test_torchs_schedules_stop_at_a_group_that_is_added():
    with pytest.raises(ValueError, match="zip"):
        fit(Net(names=False, schedule=of_torch), Unfreeze())


def test_groups_with_names_take_none_without(tmp_path):
    """Torch says so itself; the page says what to do."""
    with pytest.raises(ValueError, match="names"):
        fit(Net(), Unfreeze())


@pytest.mark.filterwarnings("ignore:The provided params to be frozen already exist:UserWarning")
def test_a_plan_of_the_whole_model_is_not_added_to_and_overwritten_rates_are_told():
    net = Net("all")
    callback = BackboneFinetuning(unfreeze_backbone_at_epoch=UNFROZEN_AT, backbone_initial_ratio_lr=0.5)
    trainer = fit(net, callback, epochs=UNFROZEN_AT + 1)
    trainer.optimizers[0].step()
    groups = trainer.optimizers[0].param_groups
    assert [group["lr"] for group in groups] == [2.5e-3, 5e-3, 1e-2]  # the plan's: no group was added
    again = Net("all")
    again.checks = True
    callback = BackboneFinetuning(unfreeze_backbone_at_epoch=UNFROZEN_AT, backbone_initial_ratio_lr=0.5)
    with pytest.raises(RateError, match=r"lr of head\.weight is .*, planned 0\.01"):
        fit(again, callback)  # an epoch later it sets the last group's rate, which is the head's


@pytest.mark.filterwarnings("ignore:The provided params to be frozen already exist:UserWarning")
def test_weights_that_lightning_leaves_out_are_told_by_the_audit():
    """It compares by value: a bias of zeros equals another layer's bias of zeros, and is in no group."""
    net = Net(names=False)
    net.backbone.append(nn.Tanh())
    net.backbone.append(nn.Linear(8, 1))
    net.head = nn.Linear(1, 1)
    for bias in (net.head.bias, net.backbone[4].bias):
        nn.init.zeros_(bias)
    net.how = ("head", torch.optim.SGD, False, None, 2)
    with audit(net, every=1) as report:
        fit(net, Unfreeze(at=0), epochs=2)
    found = {one.kind: one.parameters for one in report.findings}
    assert found.get("no-group") == ("backbone.4.bias",), report.report


def test_what_lightning_freezes_again_in_a_resumed_run_is_seen(tmp_path):
    """Its callback freezes before training and comes back to the epoch of unfreezing no more; ours does not do that."""
    whole, first, second = (Net(names=False, schedule=linear) for _ in range(3))
    fit(whole, Unfreeze())
    fit(first, Unfreeze(), epochs=3).save_checkpoint(tmp_path / "first.ckpt")
    with audit(second, every=1) as report:
        fit(second, Unfreeze(), resume=tmp_path / "first.ckpt")
    assert second.seen == whole.seen[3 * BATCHES :]  # the rates are right, and move nothing
    (found,) = report.findings
    assert set(found.parameters) == {name for name in weights(first) if name.startswith("backbone")}
    assert "stand still, while the groups say 0.00025" in found.text
    assert moved(weights(first), weights(second)) == {"head.weight", "head.bias"}


# -- LightningCLI ------------------------------------------------------------------------------------------------------

NAMED = ["--optimizer", "lrdiff_core.AdamW", "--optimizer.lr", "0.003"]


def by_the_command_line(monkeypatch, *words, **how):
    pytest.importorskip("jsonargparse", reason="jsonargparse is not installed: pip install -e .[interop]")
    from lightning.pytorch.cli import LightningCLI

    data = torch.utils.data.TensorDataset(torch.ones(8, 4), torch.ones(8, 1))

    class Fitted(Net):
        def train_dataloader(self):
            return torch.utils.data.DataLoader(data, batch_size=4)

    quiet = ["--trainer.logger=false", "--trainer.enable_checkpointing=false", "--trainer.enable_progress_bar=false"]
    short = [
        "--trainer.max_epochs=1",
        "--trainer.accelerator=cpu",
        "--trainer.enable_model_summary=false",
        "--seed_everything=1",
    ]
    monkeypatch.setattr("sys.argv", ["train"])
    cli = LightningCLI(
        Fitted, args=["fit", "--model.planned=all", *quiet, *short, *words], save_config_callback=None, **how
    )
    return cli.model, cli.trainer.optimizers[0]


def test_the_command_line_keeps_what_configure_optimizers_made(monkeypatch):
    net, optimizer = by_the_command_line(monkeypatch)
    net.plan.verify(optimizer)
    assert [group["lr"] for group in optimizer.param_groups] == [2.5e-3, 5e-3, 1e-2]


def test_an_optimizer_named_on_the_command_line_takes_the_plans_place_and_is_told(monkeypatch):
    with pytest.warns(UserWarning, match=r"configure_optimizers` will be overridden"):
        _, optimizer = by_the_command_line(monkeypatch, *NAMED)
    assert [group["lr"] for group in optimizer.param_groups] == [0.003]
    with pytest.raises(SystemExit):
        by_the_command_line(monkeypatch, *NAMED, auto_configure_optimizers=False)
