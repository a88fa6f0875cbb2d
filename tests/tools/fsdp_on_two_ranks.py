"""A step of named networks under FSDP2, started on two ranks by test_parallel.py: `fsdp_on_two_ranks.py NAMES`.

Each rank has one of the two clips. Norms are in evaluation, so that a step equals that of one process with both.
"""

import os
import sys
from pathlib import Path

import torch
from torch import distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

sys.path.insert(0, str(Path(__file__).parents[1]))

from strategies import normal, wake

import strfnet


def step(network, clips):
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    network(clips).embedding.square().mean().backward()
    optimizer.step()


def check(name, rank):
    torch.manual_seed(0)
    alone, sharded = (wake(strfnet.create_model(name, num_classes=None)).eval() for _ in range(2))
    sharded.load_state_dict(alone.state_dict())
    for stage in (sharded.backbone.layer1, sharded.backbone.layer2, sharded.backbone.layer3, sharded):
        fully_shard(stage, mesh=init_device_mesh("cpu", (2,)))
    clips = normal(2, 3, 4, 64, 32).float()
    step(alone, clips)
    step(sharded, clips[rank : rank + 1])
    expected, split = alone.state_dict(), 0
    for key, value in sharded.state_dict().items():
        if isinstance(value, dist.tensor.DTensor):
            split += value.to_local().numel() < value.numel()
            value = value.full_tensor()
        torch.testing.assert_close(value, expected[key], rtol=1e-4, atol=1e-5)
    print(f"{name}: rank {rank} holds parts of {split} tensors", flush=True)


if __name__ == "__main__":
    dist.init_process_group("gloo")
    for name in sys.argv[1:]:
        check(name, int(os.environ["RANK"]))
    dist.destroy_process_group()
