"""Named networks under FSDP2, on one process of a gloo group on the CPU."""

import pytest
import torch
from strategies import normal, wake
from torch import distributed as dist

import strfnet


@pytest.fixture
def group(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("name", ["strf_p3dc_resnet8", "i3d_resnet8", "ste_nvan_resnet8"])
def test_fsdp2_trains_a_named_network(name, group):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(0)
    networks = [wake(strfnet.create_model(name, num_classes=3)) for _ in range(2)]
    alone, sharded = networks
    mesh = init_device_mesh("cpu", (1,))
    for stage in (sharded.backbone.layer1, sharded.backbone.layer2, sharded.backbone.layer3, sharded):
        fully_shard(stage, mesh=mesh)
    clip = normal(3, 3, 4, 64, 32).float()
    for network in networks:
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
        network(clip).logits.square().mean().backward()
        optimizer.step()
    expected = alone.state_dict()
    for key, value in sharded.state_dict().items():
        whole = value.full_tensor() if isinstance(value, dist.tensor.DTensor) else value
        torch.testing.assert_close(whole, expected[key])
