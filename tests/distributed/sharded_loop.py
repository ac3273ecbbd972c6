"""A training loop of one's own under fully_shard, with checkpoints by torch.distributed.checkpoint.

``sharded_loop.py save FOLDER FILE`` trains with every optimizer, keeps each half-way, and goes on to the end;
``sharded_loop.py load FOLDER FILE`` goes on from there in other groups. The first process writes the weights last.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

STEPS = 3  # before and after
RATE = 0.01


def begun(name, *, apart, seed):
    """A module, divided where there are several processes, and an optimizer in groups by layer or by parameter."""
    import torch
    import torch.distributed as dist
    from torch import nn
    from torch.distributed.fsdp import fully_shard

    from lrdiff_core.optimizers import OPTIMIZERS
    from lrdiff_core.rates import LayerDecay, MuonRouter, param_groups
    from lrdiff_core.setup import make_optimizer

    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 7), nn.Tanh(), nn.Linear(7, 1))
    router = MuonRouter(lr=RATE) if OPTIMIZERS[name].routed else None
    plan = param_groups(module, lr=RATE, weight_decay=0.1, scale=[LayerDecay(0.5)], router=router)
    if dist.get_world_size() > 1:
        for layer in (module[0], module[2], module):
            fully_shard(layer)
    groups = plan.groups()  # after what replaces parameters
    if apart:
        groups = [
            {**group, "params": [param], "param_names": [label]}
            for group in groups
            for param, label in zip(group["params"], group["param_names"], strict=True)
        ]
    return module, make_optimizer(name, groups)


def trained(module, optimizer):
    import torch
    import torch.distributed as dist

    rows = torch.randn(24, 5, generator=torch.Generator().manual_seed(1))
    share = rows.chunk(dist.get_world_size())[dist.get_rank()]
    for _ in range(STEPS):
        optimizer.zero_grad()
        (module(share).squeeze(1) - share.sum(1).tanh()).square().mean().backward()
        optimizer.step()


def weights(module):
    return {name: getattr(p, "full_tensor", lambda p=p: p)().detach().clone() for name, p in module.named_parameters()}


def main(what, folder, file):
    import torch.distributed as dist
    import torch.distributed.checkpoint as dcp
    from safetensors.torch import save_file
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict

    from lrdiff_core.optimizers import OPTIMIZERS

    flat = StateDictOptions(flatten_optimizer_state_dict=True)
    dist.init_process_group("gloo")
    found = {}
    for name in (name for name, entry in OPTIMIZERS.items() if entry.sharded):
        module, optimizer = begun(name, apart=what == "load", seed=0 if what == "save" else 7)
        place = Path(folder) / name
        if what == "save":
            trained(module, optimizer)
            model, state = get_state_dict(module, optimizer, options=flat)
            dcp.save({"model": model, "optimizer": state}, checkpoint_id=place)
        else:
            model, state = get_state_dict(module, optimizer, options=flat)
            content = {"model": model, "optimizer": state}
            dcp.load(content, checkpoint_id=place)
            set_state_dict(
                module,
                optimizer,
                model_state_dict=content["model"],
                optim_state_dict=content["optimizer"],
                options=flat,
            )
        trained(module, optimizer)
        found |= {f"{name}/{key}": value for key, value in weights(module).items()}
    if dist.get_rank() == 0:
        save_file(found, file)
    dist.destroy_process_group()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(*sys.argv[1:])
