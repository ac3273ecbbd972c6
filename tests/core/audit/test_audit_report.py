"""What the report says, in text, as JSON and as an exception; and that auditing changes nothing."""

import json
import re

import pytest
import torch
from audit_setup import STEPS, audited, backward, batches, fit, make_model, make_plan
from torch import nn

from lrdiff_core.audit import audit
from lrdiff_core.errors import CheckFailed, RateError
from lrdiff_core.optim import AdamW
from lrdiff_core.rates import param_groups
from lrdiff_core.schedules import Schedule, Shape


def lost():
    model = make_model()
    plan = make_plan(model)
    return audited(model, torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1), plan)


def test_the_table_names_parameter_rates_decays_rule_and_step():
    assert (
        str(lost())
        == """\
parameter   asked  applied  decay  applied  rule   differs
0.weight   0.0025    0.001    0.1      0.1  AdamW  since step 1
0.bias     0.0025    0.001      0      0.1  AdamW  since step 1
2.weight    0.005    0.001    0.1      0.1  AdamW  since step 1
2.bias      0.005    0.001      0      0.1  AdamW  since step 1
4.weight     0.01    0.001    0.1      0.1  AdamW  since step 1
4.bias       0.01    0.001      0        -  AdamW  since step 1
6 parameters, 8 steps of AdamW, 6 looked at: 6 differ
differs: 3 rates were asked for (0.0025, 0.005, 0.01), and all 6 parameters of AdamW learn at one, 0.001 since step 1
help: hand plan.groups() to the optimizer that really steps, and give its scheduler a factor, not a rate
differs: 0.bias, 2.bias, 4.bias decay at 0.1 and should not at all
help: give what is not to decay (biases, norms) a group with weight_decay=0"""
    )


def test_check_raises_the_first_finding_with_its_help():
    with pytest.raises(CheckFailed, match=r"3 rates were asked for .*\(and 1 more finding\)") as raised:
        lost().check()
    assert raised.value.help.startswith("hand plan.groups()")
    model = make_model()
    audited(model, torch.optim.AdamW(model.parameters())).check()


def test_the_report_is_plain_json():
    document = json.loads(json.dumps(lost().to_dict()))
    assert document["passed"] is False
    assert document["optimizers"] == {"AdamW": STEPS}
    assert document["parameters"][0]["asked"] == 0.0025
    assert document["findings"][0]["kind"] == "groups-lost"


def test_the_schedule_is_taken_out_of_rates_and_told():
    model = make_model()
    plan = make_plan(model)
    optimizer = AdamW(plan.groups())
    schedule = Schedule(optimizer, total_steps=STEPS, shape=Shape(kind="linear", warmup=4, warmup_start=0.1))
    report = audited(model, optimizer, plan, scheduler=schedule)
    assert "rates times 0.1 to 1 by the schedule: nothing differs" in str(report)
    assert report["0.weight"].applied == pytest.approx(0.0025, rel=1e-3)


def test_of_a_rule_that_is_not_known_the_ratio_of_steps_is_told():
    model = make_model()
    plan = make_plan(model, weight_decay=0.0)
    text = str(audited(model, torch.optim.Adamax(plan.groups()), plan))
    assert re.search(
        r"Adamax has a rule unknown here; rates asked are as 1 : 2 : 4, steps were as 1 : 1\.\d+ : \d", text
    )


def test_equal_rows_of_a_large_model_are_shown_once():
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(30)))
    plan = param_groups(model, lr=1e-3)
    optimizer = torch.optim.AdamW(plan.groups())
    with audit(model, optimizer, plan) as report:
        for _ in range(2):
            optimizer.zero_grad()
            model(torch.randn(8, 4)).square().mean().backward()
            optimizer.step()
    assert "0.weight and " in str(report)
    assert len(str(report).splitlines()) < 12
    assert len(report.report.table(full=True).splitlines()) >= 60


def test_a_report_can_be_read_while_the_training_runs():
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters())
    with audit(model, optimizer) as report:
        assert report.findings[0].kind == "no-step"
        fit(model, optimizer, steps=2)
        assert report.passed
        assert report["0.weight"].rule == "AdamW"
        assert len(report.rows) == 6
        report.check()


@pytest.mark.parametrize("name", ["AdamW", "SGD", "NAdam", "Adamax"])
def test_auditing_changes_no_bit_and_draws_no_random_number(name):
    def trained(watched):
        model = make_model()
        optimizer = getattr(torch.optim, name)(model.parameters(), lr=1e-2)
        torch.manual_seed(5)
        if watched:
            with audit(model, optimizer, every=1):
                fit(model, optimizer)
        else:
            fit(model, optimizer)
        return [*model.parameters(), torch.rand(1)]

    assert all(map(torch.equal, trained(True), trained(False)))


def test_no_hook_is_left_behind_even_after_an_exception():
    from torch.optim import optimizer as hooks

    model = make_model()

    class Foreign:
        param_groups = ({"params": list(model.parameters()), "lr": 0.1},)

        def step(self):
            raise ValueError("their fault")

    foreign = Foreign()
    before = len(hooks._global_optimizer_pre_hooks), len(hooks._global_optimizer_post_hooks)
    with pytest.raises(ValueError, match="their fault"), audit(model, foreign):
        foreign.step()
    assert before == (len(hooks._global_optimizer_pre_hooks), len(hooks._global_optimizer_post_hooks))
    assert "step" not in vars(foreign)


def test_since_and_until_are_exact_for_what_groups_say():
    model = make_model()
    plan = make_plan(model)
    optimizer = torch.optim.AdamW(plan.groups())

    def train():
        for step, batch in enumerate(batches(20), start=1):
            optimizer.param_groups[0]["lr"] = 1e-4 if 5 <= step <= 11 else 0.0025
            backward(model, batch)
            optimizer.step()

    report = audited(model, optimizer, plan, train=train)
    assert (report["0.weight"].since, report["0.weight"].until) == (5, 11)
    assert not report["2.weight"].differs


@pytest.mark.parametrize("every", [0, -1, 1.5, True, "50"])
def test_every_is_a_whole_number_of_steps(every):
    with pytest.raises(RateError, match="every is"), audit(make_model(), every=every):
        pass


def test_a_plan_of_another_model_is_refused_before_training():
    plan = make_plan(make_model())
    with pytest.raises(RateError, match="the plan was made for another model"), audit(nn.Bilinear(2, 2, 2), plan=plan):
        pass


def test_what_another_freezes_after_it_has_learnt_stands_still():
    """As Lightning's finetuning callbacks do to a run that goes on: moments are there, and nothing moves."""
    model = make_model()
    plan = make_plan(model)
    optimizer = torch.optim.AdamW(plan.groups())
    fit(model, optimizer, steps=3)

    def train():
        for parameter in model[0].parameters():
            parameter.grad = None
            parameter.requires_grad_(False)
        fit(model, optimizer)

    found = audited(model, optimizer, plan, train=train).findings
    assert {one.parameters for one in found} == {("0.weight", "0.bias")}
    said = " ".join(one.text for one in found)
    assert "stand still, while the groups say 0.0025" in said
    assert "never moved, for no gradient reached it" in said
