"""torchao acts on named networks as on any module."""

import copy

import torch
from strategies import normal, wake
from torchao import quantization

import strfnet


def test_non_local_networks_run_in_torchao_int8():
    torch.manual_seed(0)
    network, clip = wake(strfnet.create_model("nvan_resnet8", num_classes=3)).eval(), normal(2, 3, 3, 64, 32).float()
    quantized = copy.deepcopy(network)
    quantization.quantize_(quantized, quantization.Int8WeightOnlyConfig())
    with torch.no_grad():
        output, expected = quantized(clip).embedding, network(clip).embedding
    assert 0 < (output - expected).abs().max() < 0.1 * expected.abs().max()
