"""Exported files of networks with settings of their own: kernels and strides in time, large attention logits."""

import onnxruntime
import pytest
import torch
from strategies import normal, wake
from torch import nn

import strfnet
from strfnet.deployment import export
from strfnet.layers.non_local import NonLocalBlock

SIZE = (32, 16)


def clip(b, t):
    return normal(b, 3, t, *SIZE, seed=b * t, dtype=torch.float32)


def outputs(path, form, given):
    """What the file returns in ONNX Runtime or as a program of PyTorch."""
    if form == "onnx":
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return torch.from_numpy(session.run(["embedding"], {"clip": given.numpy()})[0])
    return torch.export.load(path).module()(given)


def exported(network, form, folder):
    path = folder / f"network.{form}"
    export(network, path, form, size=SIZE)
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "form", "least"),
    [
        ({"time_kernel": 5}, "onnx", 1),
        ({"time_kernel": 5}, "pt2", 1),
        # frames_at_least is 5, but ONNX Runtime takes fewer
        ({"time_kernel": 5, "time_stride": 2}, "onnx", 1),
        ({"time_kernel": 5, "time_stride": 2}, "pt2", 5),
    ],
)
def test_longer_kernels_and_strides_in_time(options, form, least, tmp_path):
    network = wake(strfnet.create_model("p3dc_resnet8", num_classes=None, **options)).eval().requires_grad_(False)
    path = exported(network, form, tmp_path)
    for b, t in ((2, 8), (3, 7), (1, 5), (2, 6), (1, 1), (1, 2)):
        if t >= least:
            expected = network(clip(b, t)).embedding
            output = outputs(path, form, clip(b, t))
            assert output.shape == expected.shape
            assert (output - expected).abs().max() <= 1e-5 * expected.abs().max(), (b, t)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "pt2"])
def test_attention_logits_of_more_than_ten_thousand(form, tmp_path):
    network = wake(strfnet.create_model("nvan_resnet8", num_classes=None)).eval().requires_grad_(False)
    blocks, given, largest = [m for m in network.modules() if isinstance(m, NonLocalBlock)], clip(2, 4), []
    for block in blocks:
        block.query.weight.mul_(300)
    hooks = [block.register_forward_pre_hook(lambda *call: largest.append(largest_logit(*call))) for block in blocks]
    expected = network(given).embedding
    for hook in hooks:
        hook.remove()
    assert len(largest) == len(blocks) and min(largest) > 1e4
    output = outputs(exported(network, form, tmp_path), form, given)
    assert (output - expected).abs().max() <= 1e-5 * expected.abs().max()


def largest_logit(block, args):
    query, key, _ = block.project(*args)
    return (query.flatten(1, 2) @ key.flatten(1, 2).mT).abs().max().item()


class WithTable(nn.Module):
    """Looks vectors up in a table, as the towers of transformers do: an operator has the name of the output."""

    def __init__(self, fixed):
        super().__init__()
        self.table, self.fixed = nn.Embedding(3, 3), fixed

    def forward(self, clip):
        rows = torch.arange(3) if self.fixed else (clip[:, :, 0, 0, 0] > 0).long()
        return (clip.mean(dim=(2, 3, 4))[:, None] @ self.table(rows))[:, 0]


@pytest.mark.parametrize("fixed", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_an_operator_may_have_the_name_of_the_output(fixed, tmp_path):
    network = wake(WithTable(fixed))
    output = outputs(exported(network, "onnx", tmp_path), "onnx", clip(2, 3))
    torch.testing.assert_close(output, network(clip(2, 3)).detach())
