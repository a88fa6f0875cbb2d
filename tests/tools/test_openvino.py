"""OpenVINO reads the ONNX file of every form of network."""

import openvino
import pytest
import torch
from strategies import normal, wake

import strfnet
from strfnet.deployment import export

QUICK = ("p3dc_resnet8",)
NAMES = [name for name in strfnet.list_models() if "resnet8" in name]


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
)
def test_openvino_reads_an_exported_network(name, tmp_path):
    torch.manual_seed(0)
    network = wake(strfnet.create_model(name, num_classes=None)).eval()
    export(network, tmp_path / "network.onnx", size=(64, 16))
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino.Core().compile_model(tmp_path / "network.onnx", "CPU", settings)
    for b, t in ((1, 1), (2, 8), (3, 5), (1, 4)):
        clip = normal(b, 3, t, 64, 16, seed=t).float()
        with torch.no_grad():
            expected = network(clip).embedding
        output = torch.from_numpy(compiled({"clip": clip.numpy()})["embedding"])
        assert (output - expected).abs().max() <= 1e-5 * expected.abs().max()
