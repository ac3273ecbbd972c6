"""One honest look at each workload: does it do what its file says it does?"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from lrdiff_bench.study.workloads import controls, distortion, rare_tokens, relearn, ring, seed, splats, width
from lrdiff_bench.study.workloads.parts import digits
from lrdiff_bench.study.workloads.parts.side_by_side import SideBySide
from lrdiff_bench.study.workloads.workload import Trials, Workload
from lrdiff_core import PRESETS, load_table, make_config, set_up, train
from lrdiff_core.population import PopulationOptions, train_population
from lrdiff_core.rates import WidthScale, param_groups


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def last(
    workload: Workload, scheme: str, base_rates: list[float], *, seeds: int, judged_on: str = "validation"
) -> np.ndarray:
    """Metric after the last step, [rates, seeds]."""
    chosen = next(one for one in workload.schemes if one.name == scheme)
    rates = np.outer(base_rates, [chosen.ratios[group] for group in workload.groups])
    trials = Trials(
        rates=np.repeat(rates, seeds, axis=0),
        seeds=np.tile(np.arange(seeds), len(rates)),
        scheme=chosen,
        judged_on=judged_on,
    )
    return workload.train(trials).metric[:, -1].reshape(len(rates), seeds)


# W1


@pytest.mark.parametrize(("optimizer", "rates"), [("adam", (0.01, 0.001)), ("sgd", (0.3, 0.1))])
def test_a_trial_of_the_seed_ends_where_a_run_of_the_preset_ends(optimizer: str, rates: tuple[float, float]) -> None:
    workload = {"adam": seed.seed_adam, "sgd": seed.seed_sgd}[optimizer]()
    config = make_config({**PRESETS["seed"], "optimizer": optimizer})
    for split in ("validation", "test"):
        found = workload.train(
            Trials(rates=np.array([rates]), seeds=np.array([6]), scheme=workload.schemes[0], judged_on=split)
        )
        setup = set_up(
            load_table("seed", seed=6), config, seed=6, rates=dict(zip(("layer1", "layer2"), rates, strict=True))
        )
        run = train(setup)
        assert found.metric[0, -1] == pytest.approx(run.last(split).loss, rel=1e-4)
        losses = [row.loss for row in run.observations if row.split == "train"]
        np.testing.assert_allclose(found.train_loss[0], losses, rtol=1e-4)
        assert found.evaluated_after.tolist() == [28 * epoch for epoch in range(1, 11)]


# W2


def test_fine_tuning_wins_in_distribution_and_loses_out_of_it_as_the_paper_says() -> None:
    workload = distortion.distortion()
    rates = np.geomspace(0.005, 0.5, 9).tolist()
    inside, outside = {}, {}
    for scheme in ("single", "head only", "head 30x", "probe, then tune"):
        chosen_on = np.nan_to_num(last(workload, scheme, rates, seeds=20), nan=np.inf)
        best = int(np.median(chosen_on, axis=1).argmin())
        inside[scheme] = chosen_on[best]
        outside[scheme] = last(workload, scheme, [rates[best]], seeds=20, judged_on="test")[0]
    single_in, single_out = np.median(inside["single"]), np.nanmedian(outside["single"])
    assert single_in < 0.7 * np.median(inside["head only"])
    assert np.nanmedian(outside["head only"]) < 0.7 * single_out
    for careful in ("probe, then tune", "head 30x"):
        assert np.median(inside[careful]) < 1.05 * single_in
        assert np.nanmedian(outside[careful]) < 0.7 * single_out


def test_the_body_of_the_distortion_starts_near_the_true_one_and_rows_lie_in_the_subspace() -> None:
    workload = distortion.distortion()
    _, body, head, basis = distortion.truth(3)
    np.testing.assert_allclose(body @ body.T, np.eye(distortion.BODY), atol=1e-12)
    assert np.linalg.norm(head) == pytest.approx(1)
    asked = Trials(rates=np.zeros((1, 2)), seeds=np.array([3]), scheme=workload.schemes[0], judged_on="test")
    near = workload.network(asked)(3)[0].weight.detach().double().numpy()
    assert np.linalg.norm(near - body) == pytest.approx(distortion.BODY_ERROR * np.linalg.norm(body), rel=1e-5)
    outside = np.eye(distortion.FEATURES) - basis @ basis.T
    data = workload.rows(3, "test")
    np.testing.assert_allclose(data.inputs.double().numpy() @ outside, 0, atol=1e-5)
    np.testing.assert_allclose(workload.rows(3, "validation").held_inputs.double().numpy() @ outside, 0, atol=1e-5)
    assert np.abs(data.held_inputs.double().numpy() @ outside).max() > 1
    assert float(data.held_targets.var()) == pytest.approx(1, abs=0.25)


def test_the_probe_leaves_the_body_alone_until_it_ends() -> None:
    workload = distortion.distortion()
    probe = next(scheme for scheme in workload.schemes if scheme.options)
    asked = Trials(rates=np.array([[0.02, 0.02]]), seeds=np.array([1]), scheme=probe, judged_on="validation")
    both = workload.train(asked)
    head = workload.train(replace(asked, rates=asked.rates * [0, 1], scheme=workload.schemes[0]))
    half = int(np.flatnonzero(both.evaluated_after == workload.steps // 2)[0])
    np.testing.assert_array_equal(both.metric[0, : half + 1], head.metric[0, : half + 1])
    assert both.metric[0, half + 1] != head.metric[0, half + 1]
    assert both.evaluated_after.tolist() == head.evaluated_after.tolist()


# W3


@pytest.mark.parametrize("wide", [64, 512])
def test_factors_are_those_of_width_scaling(wide: int) -> None:
    net, base = (digits.relu_network(64, size, size, 10, bias=False) for size in (wide, width.TUNED_AT))
    plan = param_groups(net, lr=1.0, scale=[WidthScale(base)])
    assert list(width.factors("mup", wide).values()) == [entry.lr for entry in plan]
    assert width.factors("mup", width.TUNED_AT) == width.factors("none", wide)


def test_searches_run_narrow_and_reports_wide_unless_the_scheme_is_tuned_there() -> None:
    workload = width.width_128()
    for scheme in workload.schemes:
        there = scheme.name == "single, tuned here"
        for split, wanted in (("validation", 128 if there else 32), ("test", 128)):
            asked = Trials(rates=np.ones((1, 3)), seeds=np.array([0]), scheme=scheme, judged_on=split)
            assert workload.network(asked)(0)[2].weight.shape == (wanted, wanted)


@pytest.mark.slow
def test_a_rate_that_is_large_for_the_narrow_network_is_too_large_for_the_wide_one_but_not_with_mup() -> None:
    workload = replace(width.width_128(), steps=60)
    losses = {name: np.median(last(workload, name, [0.1], seeds=4, judged_on="test")) for name in ("single", "muP")}
    assert losses["muP"] < 0.5 * losses["single"]


# W4


def test_pretraining_knows_the_digits_and_new_names_undo_that() -> None:
    workload = relearn.relearn_sgd()
    start = last(workload, "single", [0.0], seeds=6, judged_on="test")
    assert start.mean() < 0.3  # a permutation of ten names keeps one on average
    pixels, labels = digits.load_digits()
    right = []
    for number in range(6):
        net = digits.relu_network(*relearn.SIZES)
        net.load_state_dict(workload.known[number])
        test = workload.parts_of(number)[-1]
        right.append((net(torch.from_numpy(pixels[test])).argmax(1).numpy() == labels[test]).mean())
    assert np.mean(right) > 0.92


def test_a_pretrained_body_relearns_better_than_one_that_knows_nothing() -> None:
    workload = relearn.relearn_sgd()
    pretrained = last(workload, "frozen body", [0.05], seeds=6)
    fresh = relearn.relearn_sgd()
    for number in range(6):
        torch.manual_seed(number)
        fresh.known[number] = digits.relu_network(*relearn.SIZES).state_dict()
    assert pretrained.mean() > last(fresh, "frozen body", [0.05], seeds=6).mean() + 0.2


# W5


def test_gradients_of_rare_tokens_are_small() -> None:
    workload = rare_tokens.tokens_sgd()
    data = workload.rows(0, "validation")
    asked = Trials(rates=np.ones((1, 2)), seeds=np.array([0]), scheme=workload.schemes[0], judged_on="validation")
    net = workload.network(asked)(0)
    nn.functional.cross_entropy(net(data.inputs), data.targets).backward()
    size = net[0].weight.grad.norm(dim=0)  # [tokens]
    tenth = rare_tokens.TOKENS // 10
    assert float(size[-tenth:].median()) < 0.1 * float(size[:tenth].median())
    assert float(size.median()) < 0.01 * float(net[1].weight.grad.norm())
    seen = (data.inputs > 0).float().mean(dim=0)
    assert float(seen[0]) > 0.9
    assert float(seen[-tenth:].mean()) < 0.02


def test_a_linear_layer_over_shares_is_an_embedding_bag() -> None:
    workload = rare_tokens.tokens_sgd()
    asked = Trials(rates=np.ones((1, 2)), seeds=np.array([0]), scheme=workload.schemes[0], judged_on="validation")
    net = workload.network(asked)(0)
    shares = torch.from_numpy(rare_tokens.make_bags(4, 3)[0])
    counts = (shares * rare_tokens.BAG).round().long()
    for row, count in zip(shares, counts, strict=True):
        tokens = torch.repeat_interleave(torch.arange(rare_tokens.TOKENS), count)
        bag = nn.functional.embedding_bag(tokens[None], net[0].weight.T.contiguous(), mode="mean")
        torch.testing.assert_close(net[0](row)[None], bag)


def test_the_embedding_wants_a_larger_rate_under_sgd() -> None:
    workload = rare_tokens.tokens_sgd()
    single = np.nan_to_num(last(workload, "single", np.geomspace(0.2, 5, 6).tolist(), seeds=3), nan=np.inf)
    faster = np.nan_to_num(last(workload, "embedding 100x", np.geomspace(2, 50, 6).tolist(), seeds=3), nan=np.inf)
    assert np.median(faster, axis=1).min() < np.median(single, axis=1).min()


# W6


@pytest.mark.slow
@pytest.mark.parametrize("make", [controls.control_classes, controls.control_pixels])
def test_a_frozen_body_is_a_handicap_of_the_controls(make) -> None:
    workload = make()
    single, frozen = (last(workload, name, [0.01, 0.03], seeds=4).mean(axis=1).max() for name in ("single", "frozen"))
    assert single > frozen + 0.1


def test_controls_change_what_they_say() -> None:
    pixels, labels = digits.load_digits()
    classes, shuffled = controls.control_classes(), controls.control_pixels()
    before, *after = classes.parts_of(0)
    assert set(labels[before]) == {0, 1, 2, 3, 4}
    assert {int(label) for part in after for label in labels[part]} == {5, 6, 7, 8, 9}
    assert set(classes.rows(0, "test").held_targets.tolist()) == {0, 1, 2, 3, 4}
    moved = shuffled.rows(0, "test").inputs.numpy()
    plain = pixels[shuffled.parts_of(0)[1]]
    assert not np.array_equal(moved, plain)
    np.testing.assert_array_equal(np.sort(moved, axis=1), np.sort(plain, axis=1))


@pytest.mark.parametrize("make", [controls.control_classes, controls.control_pixels])
def test_new_classes_come_with_a_new_head_and_shuffled_pixels_with_the_old_one(make) -> None:
    workload = make().tiny()
    asked = Trials(rates=np.zeros((1, 3)), seeds=np.array([0]), scheme=workload.schemes[0], judged_on="validation")
    workload.prepare(asked)
    net = workload.network(asked)(0).state_dict()
    kept = {name for name, value in workload.known[0].items() if torch.equal(value, net[name])}
    heads = {"4.weight", "4.bias"}
    assert kept == (set(net) - heads if workload.shift == "classes" else set(net))


@pytest.mark.parametrize(
    "parts", [relearn.relearn_adam().parts_of, controls.control_classes().parts_of, controls.control_pixels().parts_of]
)
def test_pretraining_shares_no_row_with_what_comes_after(parts) -> None:
    for number in (0, 1):
        rows = np.concatenate(parts(number))
        assert len(np.unique(rows)) == len(rows) == 1797


# W7, W8: trials side by side


def stepped(workload: SideBySide, rates: dict[str, float], losses) -> dict[str, torch.Tensor]:
    """Parameters after all steps of torch's own Adam; ``losses`` gives one loss for the parameters of each network."""
    given = workload.given(5, "validation")
    own = {name: value.clone().requires_grad_() for name, value in workload.start(5).items()}
    groups = [
        {"params": [own[name] for name, column in workload.columns().items() if column == i], "lr": rates[group]}
        for i, group in enumerate(workload.groups)
    ]
    optimizer = torch.optim.Adam(groups, betas=workload.betas)
    for t in range(workload.steps):
        slopes = {}
        for names, loss in losses(own, given, t):
            slopes |= dict(zip(names, torch.autograd.grad(loss, [own[name] for name in names]), strict=True))
        for name, value in own.items():
            value.grad = slopes[name]
        optimizer.step()
    return {name: value.detach() for name, value in own.items()}


def side_by_side(workload: SideBySide, rates: dict[str, float]) -> dict[str, torch.Tensor]:
    row = [rates[group] for group in workload.groups]
    asked = Trials(
        rates=np.array([row, row]), seeds=np.array([4, 5]), scheme=workload.schemes[0], judged_on="validation"
    )
    return {name: values[1] for name, values in workload.train_tile(asked, slice(None))[3].items()}


def test_the_ring_ends_where_torchs_adam_takes_it_alone() -> None:
    workload = ring.ring().tiny()

    def losses(own, given, t):
        def logits(values):
            return ring.call(own, "discriminator", values)

        entropy = nn.functional.binary_cross_entropy_with_logits
        ones = torch.ones(ring.BATCH, 1)
        fake = ring.call(own, "generator", given["latents"][t])
        generator, discriminator = ([n for n in own if n.startswith(net)] for net in ("generator", "discriminator"))
        yield generator, entropy(logits(fake), ones)
        yield discriminator, entropy(logits(given["batches"][t]), ones) + entropy(logits(fake.detach()), 0 * ones)

    rates = {"generator": 0.01, "discriminator": 0.03}
    alone, together = stepped(workload, rates, losses), side_by_side(workload, rates)
    for name in alone:
        torch.testing.assert_close(together[name], alone[name], rtol=1e-3, atol=1e-4)


def test_the_energy_distance_charges_for_a_lost_mode_what_the_smallest_difference_is() -> None:
    random = np.random.default_rng(0)
    full, again = (torch.from_numpy(ring.points(random, 1500)) for _ in range(2))
    around = full - torch.tensor(ring.CENTRE, dtype=full.dtype)
    seven = full[torch.atan2(around[:, 1], around[:, 0]).abs() > math.pi / 8]
    assert abs(float(ring.energy_distance(full, again))) < 0.006
    assert float(ring.energy_distance(seven, again)) == pytest.approx(ring.ring().smallest_difference, rel=0.25)


@pytest.mark.slow
def test_the_generator_learns_the_ring() -> None:
    workload = replace(ring.ring(), steps=300)
    start, end = last(workload, "discriminator 4x", [0.0, 0.003], seeds=4)
    assert np.median(end) < 0.25 * np.median(start)


def test_splats_end_where_torchs_adam_takes_them_alone() -> None:
    workload = splats.splats().tiny()

    def losses(own, given, t):
        yield list(own), (by_hand(own, given["places"]) - given["colours"]).square().mean()

    rates = {"position": 0.01, "scale": 0.02, "colour": 0.03, "opacity": 0.1}
    alone, together = stepped(workload, rates, losses), side_by_side(workload, rates)
    for name in alone:
        torch.testing.assert_close(together[name], alone[name], rtol=1e-3, atol=1e-4)


def by_hand(own: dict[str, torch.Tensor], places: torch.Tensor) -> torch.Tensor:
    """Front to back, one Gaussian after the other."""
    colours, passing = torch.zeros(len(places), 3), torch.ones(len(places))
    for i in range(len(own["opacity"])):
        away = (places - own["position"][i]) / own["scale"][i].exp()
        alpha = (torch.sigmoid(own["opacity"][i]) * (-away.square().sum(1) / 2).exp()).clamp(max=splats.MOST_OPAQUE)
        colours = colours + (passing * alpha)[:, None] * own["colour"][i]
        passing = passing * (1 - alpha)
    return colours


def test_splats_fit_their_picture() -> None:
    places, colours = splats.picture(np.random.default_rng(0))
    assert places.shape == (400, 2)
    assert colours.shape == (400, 3)
    assert colours.min() >= 0
    assert colours.max() <= 1
    workload = replace(splats.splats(), steps=150)
    start, end = last(workload, "single", [0.0, 0.05], seeds=2)
    assert (end < 0.2 * start).all()


# Frozen parameters


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_weight_decay_at_a_rate_of_0_moves_nothing(optimizer: str) -> None:
    workload = relearn.relearn_adam().tiny()
    asked = Trials(rates=np.zeros((1, 2)), seeds=np.array([0]), scheme=workload.schemes[0], judged_on="validation")
    workload.prepare(asked)
    data = workload.rows(0, "validation")
    found = train_population(
        workload.network(asked),
        data,
        [[0.0, 0.1]],
        0,
        PopulationOptions(optimizer=optimizer, steps=3, batch_size=20, weight_decay=0.1, keep_weights=True),
        groups=workload.columns(),
    )
    for name, value in workload.known[0].items():
        assert torch.equal(found.weights[name][0], value) == (not name.startswith("4.")), name
