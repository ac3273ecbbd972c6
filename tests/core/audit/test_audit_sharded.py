"""Sharded trainings, two processes on the CPU: each process audits what it holds."""

import pytest
import torch
import torch.distributed as dist
from audit_setup import audited, batches, make_model, make_plan
from torch import nn

from lrdiff_core.audit import audit


def data_parallel(rank):
    model = make_model()
    plan = make_plan(model)
    wrapped = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(plan.groups())
    return audited(wrapped, optimizer, plan)


def fully_sharded(rank, optimizer=torch.optim.AdamW, **options):
    from torch.distributed.fsdp import fully_shard

    model = make_model()
    for layer in (model[0], model[2], model):
        fully_shard(layer)
    plan = make_plan(model)
    return audited(model, optimizer(plan.groups(), **options), plan)


def fully_sharded_sgd(rank):
    return fully_sharded(rank, torch.optim.SGD, momentum=0.9)


def sharded_states(rank):
    """Each process steps its part of the parameters and sends it to the others."""
    from torch.distributed.optim import ZeroRedundancyOptimizer

    model = make_model()
    wrapped = nn.parallel.DistributedDataParallel(model)
    optimizer = ZeroRedundancyOptimizer(model.parameters(), torch.optim.AdamW, lr=1e-2)
    with audit(wrapped, optimizer, every=2) as report:
        for x, y in batches():
            optimizer.zero_grad()
            (wrapped(x) - y).square().mean().backward()
            optimizer.step()
    return report.report


def groups_lost_when_sharded(rank):
    from torch.distributed.fsdp import fully_shard

    model = make_model()
    plan = make_plan(model)
    fully_shard(model)
    return audited(model, torch.optim.AdamW(model.parameters(), lr=1e-3), plan)


pytestmark = pytest.mark.slow

SILENT = [data_parallel, fully_sharded, fully_sharded_sgd, sharded_states]


def work(rank, file, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    told = {}
    for train in [*SILENT, groups_lost_when_sharded]:
        report = train(rank)
        rates = {row.name: (row.asked, row.applied, row.rule) for row in report.rows}
        told[train.__name__] = (report.passed, [one.kind for one in report.findings], rates, str(report))
    torch.save(told, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(work, (folder / "meet", folder), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


@pytest.mark.parametrize("name", [train.__name__ for train in SILENT])
def test_shards_are_read_and_raise_no_alarm(told, name):
    read = set()
    for passed, _, rates, text in (told[rank][name] for rank in (0, 1)):
        assert passed, text
        for parameter, (asked, applied, _) in rates.items():
            if applied is not None:
                read.add(parameter)
                assert applied == pytest.approx(asked, rel=0.03), text
    assert len(read) == 6  # together the two processes have seen every parameter


def test_groups_thrown_away_are_seen_in_shards(told):
    for rank in (0, 1):
        passed, kinds, _, text = told[rank]["groups_lost_when_sharded"]
        assert not passed
        assert "groups-lost" in kinds, text
