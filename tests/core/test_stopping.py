"""Training that stops by itself, its extras, and what the populations have of them."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from lrdiff_core import build_model, fit, load_table, make_config, set_up, train
from lrdiff_core.checkpoint import TrainingFile, save_training
from lrdiff_core.config import PRESETS
from lrdiff_core.errors import ConfigError, DataError
from lrdiff_core.loop import NotFinite, TrainingState, evaluate, loss_function, train_epoch, watching
from lrdiff_core.population import PopulationData, PopulationOptions, population_task, train_population
from lrdiff_core.schedules import Schedule
from lrdiff_core.seeds import make_generator
from lrdiff_core.setup import class_weights, make_optimizer


def trained(data="wine", **changes):
    config = make_config({"data": data, "device": "cpu", "epochs": 6, **changes})
    return train(set_up(load_table(data), config))


def test_the_best_epoch_is_kept_and_training_stops_when_patience_ends():
    run = trained("breast_cancer", epochs=60, patience=3, rates={"layer1": 0.03, "layer2": 0.03})
    losses = [row.loss for row in run.observations if row.split == "validation"]
    best = min(range(len(losses)), key=losses.__getitem__) + 1
    assert (run.kept_epoch, run.epochs) == (best, best + 3)
    assert run.epochs < 60
    assert evaluate(run.net, run.setup.rows, "validation").loss == pytest.approx(losses[best - 1], rel=1e-6)
    assert run.last("test").loss == evaluate(run.net, run.setup.rows, "test").loss
    whole = trained("breast_cancer", epochs=best, patience=0, rates={"layer1": 0.03, "layer2": 0.03})
    assert all(torch.equal(value, whole.net.state_dict()[name]) for name, value in run.net.state_dict().items())


def test_the_preset_trains_all_its_epochs_and_keeps_the_last():
    run = train(set_up(load_table("seed"), make_config(PRESETS["seed"])))
    assert (run.epochs, run.kept_epoch, run.setup.patience) == (10, 10, 0)


def test_a_loss_that_is_never_finite_keeps_the_last_weights_and_ends():
    run = trained(optimizer="sgd", patience=2, epochs=30, rates={"layer1": 1e30, "layer2": 1e30})
    assert (run.epochs, run.kept_epoch) == (2, 2)


def test_the_first_loss_that_is_not_finite_is_noted_with_its_layer_and_rate():
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Dropout(), torch.nn.Linear(3, 1))
    groups = [{"params": net[0].parameters(), "lr": 0.1}, {"params": net[2].parameters(), "lr": 0.5}]
    state = TrainingState(optimizer=torch.optim.SGD(groups), order=make_generator(0, "order"))
    seen, rows = watching(net, state, 4, net), torch.ones(5, 2)
    drawn = torch.get_rng_state()
    seen(net[2].bias.sum(), rows)
    assert state.not_finite is None
    torch.nn.init.constant_(net[2].bias, math.inf)
    seen(net[2].bias.sum(), rows)
    seen(net[2].bias.sum(), rows)
    assert state.not_finite == NotFinite(epoch=4, step=2, layer="2", rate=0.5)
    assert net[1].training
    assert not any(one._forward_hooks for one in net)
    assert torch.equal(drawn, torch.get_rng_state())
    torch.nn.init.constant_(net[2].bias, 1e30)
    state.not_finite = None
    watching(net, state, 1, net)((net(rows) * 1e30).square().mean(), rows)
    assert state.not_finite == NotFinite(epoch=1, step=1, layer="2", rate=0.5)
    torch.nn.init.constant_(net[2].bias, math.inf)
    state.not_finite = None
    watching(net, state, 1, None)(net[2].bias.sum(), rows)
    assert state.not_finite == NotFinite(epoch=1, step=1, layer=None, rate=None)


def test_where_a_training_diverged_is_known_after_going_on(tmp_path):
    config = make_config({
        "data": "wine", "device": "cpu", "optimizer": "sgd", "epochs": 3, "patience": 0,
        "rates": {"layer1": 0.001, "layer2": 1e30},
    })  # fmt: skip
    seen, losses, file = [], [], tmp_path / "training.safetensors"

    def keep(net, state):
        seen.append(state.not_finite)
        save_training(file, net, state)

    train(set_up(load_table("wine"), config), on_state=keep)
    setup = set_up(load_table("wine"), config)
    optimizer = make_optimizer("sgd", setup.plan.groups())
    inputs, targets = setup.rows.inputs["train"], setup.rows.targets["train"]
    batches = torch.randperm(len(inputs), generator=make_generator(setup.seed, "order")).split(setup.batch_size)
    train_epoch(
        setup.net.network, optimizer, loss_function("multiclass"), inputs, targets, batches,
        on_loss=lambda loss, rows: losses.append(loss.item()),
    )  # fmt: skip
    step = next(i for i, loss in enumerate(losses, start=1) if not math.isfinite(loss))
    assert step > 1
    assert seen == [NotFinite(epoch=1, step=step, layer="layer2", rate=1e30)] * 3
    again = set_up(load_table("wine"), config)
    state = TrainingState(
        optimizer=make_optimizer("sgd", again.plan.groups()), order=make_generator(again.seed, "order")
    )
    TrainingFile(file).restore(again.net, state)
    assert state.not_finite == seen[0]


@pytest.mark.parametrize("changes", [{"dropout": 0.3}, {"schedule": "cosine", "warmup": 0.2}, {"optimizer": "muon"}])
def test_training_goes_on_from_any_epoch_with_the_same_bits(changes):
    config = make_config({"data": "wine", "device": "cpu", "epochs": 6, "hidden": [8, 8], **changes})
    once = train(set_up(load_table("wine"), config))
    torch.manual_seed(5)
    again = set_up(load_table("wine"), config)
    assert once.observations == train(again).observations
    # halfway: only what the state and the weights hold is taken along
    setup = set_up(load_table("wine"), config)
    optimizer = make_optimizer(config.optimizer, setup.plan.groups())
    shape, steps = config.shape(), 6 * -(-len(setup.rows.split.train) // setup.batch_size)
    schedule = None if shape is None else Schedule(optimizer, total_steps=steps, shape=shape)
    state = TrainingState(optimizer=optimizer, order=make_generator(setup.seed, "order"), schedule=schedule)
    how = {"batch_size": setup.batch_size, "seed": setup.seed, "state": state}
    fit(setup.net, setup.rows, optimizer, epochs=3, **how)
    torch.manual_seed(6)
    fit(setup.net, setup.rows, optimizer, epochs=6, **how)
    assert [row.loss for row in state.observations] == [row.loss for row in once.observations[:-1]]


def test_dropout_trains_otherwise_and_predicts_with_the_whole_network():
    before = torch.get_rng_state()
    plain, dropped = trained(), trained(dropout=0.5)
    assert torch.equal(before, torch.get_rng_state())
    assert plain.observations != dropped.observations
    rows = torch.from_numpy(load_table("wine").features[:20])
    assert not dropped.net.training
    assert torch.equal(dropped.net.predict(rows), dropped.net.predict(rows))


def test_muon_steps_matrices_between_hidden_layers_and_refuses_where_there_are_none():
    setup = set_up(load_table("wine"), make_config({"data": "wine", "hidden": [8, 8], "optimizer": "muon"}))
    used = {name: group["use_muon"] for group in setup.plan.groups() for name in group["param_names"]}
    assert [name for name, muon in used.items() if muon] == ["layer2.weight"]
    with pytest.raises(ConfigError, match="muon finds no matrix"):
        set_up(load_table("wine"), make_config({"data": "wine", "optimizer": "muon"}))


@pytest.mark.parametrize(("settings", "said"), [
    ({"class_weight": "heavy"}, "class_weight"),
    ({"class_weight": {"a": 0.0}}, "class_weight"),
    ({"dropout": 1.0}, "dropout"),
    ({"schedule": "cosin"}, "schedule"),
    ({"patience": -1}, "patience"),
    ({"warmup": 1.0}, "warmup"),
    ({"optimizer": "Muon"}, "optimizer"),
])  # fmt: skip
def test_settings_out_of_their_interval_are_refused_by_name(settings, said):
    with pytest.raises(ConfigError, match=f"^{said}.* is ") as caught:
        make_config(settings)
    assert caught.value.help


def test_balanced_weights_are_those_of_scikit_learn_and_of_a_class_by_name():
    from sklearn.utils.class_weight import compute_class_weight

    setup = set_up(load_table("wine"), make_config({"data": "wine"}))
    table, split = setup.rows.table, setup.rows.split
    known = table.target[split.train]
    wanted = compute_class_weight("balanced", classes=np.arange(3), y=known)
    assert class_weights(table, split, "balanced").tolist() == pytest.approx(list(wanted), rel=1e-6)
    assert class_weights(table, split, {table.classes[1]: 3.0}).tolist() == [1.0, 3.0, 1.0]
    with pytest.raises(ConfigError, match='the class "nobody"'):
        class_weights(table, split, {"nobody": 2.0})


@pytest.mark.slow
@pytest.mark.parametrize("path", ["kernel", "general"])
@pytest.mark.parametrize("data", ["breast_cancer", "wine"])
def test_a_weighted_member_ends_where_the_weighted_loop_ends(data, path):
    """Loss, gradient and evaluation of both tasks on both paths, against the loop, for whole trainings."""
    config = make_config({"data": data, "device": "cpu", "epochs": 2, "patience": 0, "class_weight": "balanced"})
    task = population_task(config)
    rates = dict.fromkeys(task.layers, 0.01)
    options = {**task.options, "path": path, "keep_weights": True}
    found = train_population(
        task.model, task.rows(0), [[0.01] * len(task.layers)], 0, PopulationOptions(epochs=2, **options)
    )
    alone = train(set_up(task.table, config, rates=rates))
    assert found.path == path
    for name, value in alone.net.named_parameters():
        torch.testing.assert_close(found.weights[name][0], value.detach(), atol=2e-5, rtol=1e-4)
    assert found.held_loss[0, -1].item() == pytest.approx(alone.last("validation").loss, rel=1e-4)
    plain = train(set_up(task.table, config.model_copy(update={"class_weight": None}), rates=rates))
    assert plain.last("validation").loss != pytest.approx(alone.last("validation").loss, rel=1e-3)


def test_weights_in_a_population_need_classes_and_are_the_same_for_every_seed():
    rows = {"inputs": torch.ones(2, 1), "targets": torch.ones(2, 1)}
    with pytest.raises(DataError, match="class_weight"):
        PopulationData(**rows, task="regression", class_weight=torch.ones(2))
    data = {seed: PopulationData(**rows, class_weight=torch.tensor([1.0, 1.0 + seed])) for seed in (0, 1)}
    with pytest.raises(DataError, match="class weights"):
        train_population(
            lambda seed: torch.nn.Linear(1, 1), data, [[0.1]] * 2, [0, 1], PopulationOptions(batch_size=2, epochs=1)
        )


def test_the_weighted_loss_is_the_mean_over_rows_and_its_optimum_that_of_scikit_learn():
    logits, targets = torch.tensor([[0.3], [-0.2], [1.0]]), torch.tensor([[1.0], [0.0], [0.0]])
    plain = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    weighted = loss_function("binary", torch.tensor([0.5, 2.0]))(logits, targets)
    assert weighted.item() == pytest.approx(float((plain[:, 0] * torch.tensor([2.0, 0.5, 0.5])).mean()))
    random = torch.Generator().manual_seed(0)
    x = torch.randn(400, 2, generator=random)
    y = (x[:, :1] + torch.randn(400, 1, generator=random) > 1.8).float()
    theirs = LogisticRegression(class_weight="balanced", C=1e9).fit(x.numpy(), y[:, 0].numpy())
    share = y.mean().item()
    loss_of = loss_function("binary", torch.tensor([0.5 / (1 - share), 0.5 / share]))
    w = torch.tensor(theirs.coef_, dtype=torch.float32).T.requires_grad_()
    b = torch.tensor(theirs.intercept_, dtype=torch.float32).requires_grad_()
    loss_of(x @ w + b, y).backward()
    assert max(w.grad.abs().max().item(), b.grad.abs().max().item()) < 1e-3


def test_no_build_draws_from_the_global_generator():
    before = torch.get_rng_state()
    build_model(set_up(load_table("wine"), make_config({"data": "wine", "dropout": 0.1})).net.spec, seed=1)
    assert torch.equal(before, torch.get_rng_state())
