"""Networks deployed in OpenVINO and ONNX Runtime compute what their originals do, where they are faster."""

import copy
import importlib.util
import threading
import warnings
from typing import NamedTuple

import pytest
import torch
from strategies import wake
from torch import nn

from strfnet.deployment import optimizer as deployment
from strfnet.deployment.deployed import Deployed
from strfnet.deployment.optimizer import optimize
from strfnet.deployment.runtimes import RUNTIMES

SHAPE = (2, 3, 2, 16, 8)


class Output(NamedTuple):
    embedding: torch.Tensor
    logits: torch.Tensor | None
    maps: dict[str, torch.Tensor]


class Small(nn.Module):
    """A convolution of frames and one over time, with an output of several tensors."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv3d(3, 8, (1, 3, 3), padding=(0, 1, 1), bias=False), nn.BatchNorm3d(8)
        self.temporal = nn.Conv3d(8, 8, (3, 1, 1), padding=(1, 0, 0))
        wake(self)

    def forward(self, clip):
        maps = self.temporal(self.norm(self.conv(clip)).relu())
        return Output(maps.mean(dim=(2, 3, 4)), None, {"last": maps, "first": maps[:, :, 0]})


def clip(shape=SHAPE, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def agree(output, expected, bound=1e-5):
    assert type(output) is type(expected) and output.logits is None and list(output.maps) == list(expected.maps)
    pairs = [(output.embedding, expected.embedding), *((output.maps[n], expected.maps[n]) for n in expected.maps)]
    for one, other in pairs:
        assert one.dtype == other.dtype and one.shape == other.shape
        assert (one - other).abs().max() <= bound * other.abs().max()


@pytest.fixture
def seconds(monkeypatch):
    """Sets the seconds of calls by the form of the network."""
    known = {"openvino": 2.0, "onnxruntime": 3.0, "fused": 4.0, "compiled": 5.0}
    measured = deployment._timed

    def timed(calls, x):
        taken, outputs = measured(calls, x)
        return {name: known.get(getattr(call, "form", name), taken[name]) for name, call in calls.items()}, outputs

    monkeypatch.setattr(deployment, "_timed", timed)
    return known


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_runtime_computes_what_the_network_does(runtime, seconds):
    made = Small().train()
    before = copy.deepcopy(made.state_dict())
    deployed = optimize(made, SHAPE, backend=runtime)
    assert deployed.form == runtime and set(deployed.seconds) == {"network", "fused", runtime}
    assert [trial.name for trial in deployed.passes][-2:] == [runtime, "cuda_graphs"]
    assert 0 <= deployed.error < 1e-5 and made.training
    torch.testing.assert_close(made.state_dict(), before, rtol=0, atol=0)
    made.eval()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        outputs = [deployed(clip(seed=seed)) for seed in range(3)]
        for seed, output in enumerate(outputs):  # no output is written over by a later call
            agree(output, made(clip(seed=seed)))
        agree(deployed(clip().double()), Output(*deployed(clip().double())))
        assert deployed(clip().double()).embedding.dtype == torch.float64
    with torch.no_grad(), pytest.warns(UserWarning, match=r"clips of \(1, 3, 5, 12, 8\) run without compilation"):
        agree(deployed(clip((1, 3, 5, 12, 8))), made(clip((1, 3, 5, 12, 8))))
    with pytest.warns(UserWarning, match=f"does not use {runtime}; optimize the network again"):
        twin = copy.deepcopy(deployed)
    with torch.no_grad():
        assert twin.form == "fused" and agree(twin(clip()), made(clip())) is None


def test_threads_share_a_runtime(seconds):
    made = Small().eval()
    deployed, found = optimize(made, SHAPE, backend="openvino"), {}

    def work(seed):
        found[seed] = [deployed(clip(seed=seed)) for _ in range(20)]

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with torch.no_grad():
        for seed, outputs in found.items():
            for output in outputs:
                agree(output, made(clip(seed=seed)))
    assert len(found) == 3


def test_the_fastest_is_chosen_of_all_that_are_installed(seconds, monkeypatch):
    made = Small().eval()
    monkeypatch.setattr(Deployed, "compile_for", lambda *_: "not in this test")
    seconds["onnxruntime"] = 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "optimize drops compile: RuntimeError: not in")
        deployed = optimize(made, SHAPE, backend="auto")
    trials = {trial.name: trial for trial in deployed.passes}
    assert list(trials)[-4:] == ["compile", "openvino", "onnxruntime", "cuda_graphs"]
    assert deployed.form == "onnxruntime" and trials["onnxruntime"].before == 2.0 and trials["onnxruntime"].kept
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "openvino" else found(name))
    seconds["onnxruntime"] = 4.1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "optimize drops compile: RuntimeError: not in")
        deployed = optimize(made, SHAPE, backend="auto")  # a slower runtime is no reason to warn
    assert deployed.form == "fused" and "openvino" not in [trial.name for trial in deployed.passes]


def test_a_requested_runtime_that_is_not_used_warns(seconds, monkeypatch):
    made = Small().eval()
    seconds["openvino"] = 9.0
    with pytest.warns(UserWarning, match="optimize drops openvino: slower, before 4000.0 ms, after 9000.0 ms"):
        assert optimize(made, SHAPE, backend="openvino").form == "fused"
    with pytest.warns(
        UserWarning, match=r"drops onnxruntime: needs torch.float32 on a CPU, .* is torch.float64 on cpu"
    ):
        optimize(made.double(), SHAPE, backend="onnxruntime")

    def fail(*_, **__):
        raise RuntimeError("no such operator\nand more")

    monkeypatch.setattr("torch.onnx.export", fail)
    with pytest.warns(UserWarning, match="drops openvino: RuntimeError: no such operator$"):
        assert optimize(Small(), SHAPE, backend="openvino").form == "fused"


def test_openvino_computes_in_bfloat16(seconds, monkeypatch):
    import openvino

    given = []
    compile_model = openvino.Core.compile_model
    monkeypatch.setattr(openvino.Core, "compile_model", lambda *args: given.append(args[3]) or compile_model(*args))
    monkeypatch.setattr(deployment, "_judge", lambda *_: (True, "kept for this test"))
    made = Small().eval()
    deployed = optimize(made, SHAPE, dtype=torch.bfloat16, backend="openvino")
    assert given[0]["INFERENCE_PRECISION_HINT"] == "bf16" and deployed.form == "openvino"
    assert given[0]["INFERENCE_NUM_THREADS"] == torch.get_num_threads()
    with torch.no_grad():
        agree(deployed(clip()), made(clip()), 0.05)


def test_impossible_backends_are_refused(monkeypatch):
    made = Small()
    with pytest.raises(ValueError, match="backend must be one of inductor, openvino, onnxruntime, auto"):
        optimize(made, SHAPE, backend="tensorrt")
    with pytest.raises(ValueError, match="compiled is False, but backend 'openvino' compiles"):
        optimize(made, SHAPE, backend="openvino", compiled=False)
    found = importlib.util.find_spec
    for runtime, extra in (("openvino", "openvino"), ("onnxruntime", "onnx")):
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name, runtime=runtime: None if name == runtime else found(name)
        )
        with pytest.raises(ImportError, match=rf'{runtime} needs {runtime}: pip install "strfnet\[{extra}\]"'):
            optimize(made, SHAPE, backend=runtime)
