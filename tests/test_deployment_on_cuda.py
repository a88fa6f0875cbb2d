"""What `optimize` does on CUDA, by fakes of the device: TF32 in checks and calls, CUDA graphs, and no slow passes."""

import contextlib
import warnings

import pytest
import torch
from strategies import wake
from torch import nn
from torch.nn import functional

import strfnet
from strfnet.deployment import allow_tf32, cuda_graphs, norms_in_place, optimize
from strfnet.deployment import deployed as deployed_networks
from strfnet.deployment import optimizer as optimizing
from strfnet.deployment.deployed import Deployed
from strfnet.system.compat import tf32_is_allowed, tree_leaves

SHAPE = (2, 3, 2, 64, 32)
pytestmark = pytest.mark.filterwarnings("ignore:optimize drops (compile|to_dtype).* slower, ")


def network():
    torch.manual_seed(0)
    return wake(strfnet.create_model("c2d_resnet8", num_classes=None)).eval()


def clip(seed=0, shape=SHAPE):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def error(output, expected):
    apart = (output.embedding - expected.embedding).abs().max() / expected.embedding.abs().max()
    return apart.item()


@pytest.fixture
def rounding(monkeypatch):
    """Convolutions that round their factors to 10 bits where TF32 is allowed, as cuDNN does; all passes are kept."""
    exact, seen = functional.conv2d, []

    def rounded(x):
        mantissa, exponent = torch.frexp(x)
        return torch.ldexp((mantissa * 2**11).round() / 2**11, exponent)

    def conv2d(x, weight, *arguments):
        seen.append(tf32_is_allowed())
        return exact(rounded(x), rounded(weight), *arguments) if seen[-1] else exact(x, weight, *arguments)

    monkeypatch.setattr(functional, "conv2d", conv2d)
    monkeypatch.setattr(optimizing, "rounds_to_tf32", lambda device: tf32_is_allowed())
    monkeypatch.setattr(optimizing, "NOISE", 1e9)
    return seen


def test_rewritten_networks_are_checked_without_tf32_and_timed_with_it(rounding, monkeypatch):
    made, timed, measured = network(), [], optimizing._timed

    def timing(calls, x):
        del rounding[:]
        result = measured(calls, x)
        timed.extend(rounding)
        return result

    monkeypatch.setattr(optimizing, "_timed", timing)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        deployed = optimize(made, SHAPE, compiled=False)
    trials = {trial.name: trial for trial in deployed.passes}
    assert trials["fuse_batch_norms"].kept and trials["fuse_batch_norms"].error < 1e-5
    assert timed and all(timed), "under the caller's flags"
    assert 1e-4 < deployed.error < 5e-3, "of a call as it is made"
    assert tf32_is_allowed()


def test_a_form_that_keeps_its_flags_is_checked_with_the_bound_of_tf32(rounding, monkeypatch):
    def compile_for(self, clip):
        self._calls["compiled"], self.form = self.fused.__call__, "compiled"

    monkeypatch.setattr(Deployed, "compile_for", compile_for)
    deployed = optimize(network(), SHAPE)
    trial = next(trial for trial in deployed.passes if trial.name == "compile")
    assert 1e-4 < trial.error < 5e-3 and "differs" not in trial.reason


@pytest.mark.parametrize("tf32", [True, False])
def test_one_argument_sets_tf32_of_all_calls(rounding, tf32):
    made = network()
    with torch.no_grad(), allow_tf32(False):
        expected = made(clip())
    with allow_tf32(not tf32):
        deployed = optimize(made, SHAPE, compiled=False, tf32=tf32)
        del rounding[:]
        output = deployed(clip())
        assert set(rounding) == {tf32} and tf32_is_allowed() != tf32
    assert (error(output, expected) > 1e-4) == tf32


class Stream:
    def wait_stream(self, stream):
        pass


class Graph:
    """Computes the recorded call anew and writes over its output, as a replay does."""

    def replay(self):
        anew = tree_leaves(self.recorded.call(self.recorded.input))
        for old, new in zip(tree_leaves(self.recorded.output), anew, strict=True):
            if isinstance(old, torch.Tensor):
                old.copy_(new)
        self.replays = getattr(self, "replays", 0) + 1


@pytest.fixture
def graphs(monkeypatch):
    """CUDA graphs as far as the package uses them; returns what happened."""
    events = []

    class Recorded(cuda_graphs.RecordedCall):
        def __init__(self, call, like):
            super().__init__(lambda x: (events.append("call"), call(x))[1], like)
            self.graph.recorded = self

    @contextlib.contextmanager
    def recording(graph):
        events.append("record")
        yield
        events.append("recorded")

    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", recording)
    monkeypatch.setattr(deployed_networks, "RecordedCall", Recorded)
    monkeypatch.setattr(optimizing, "has_cuda_graphs", lambda device: True)
    return events


def test_a_recorded_network_is_replayed_for_clips_of_its_shape(graphs):
    made = network()
    deployed = Deployed(made, SHAPE, torch.float32)
    assert deployed.record_for(clip()) is None and deployed.form == "recorded"
    assert graphs == ["call"] * 3 + ["record", "call", "recorded"], "warm-ups come first"
    with torch.no_grad():
        outputs = [deployed(clip(seed)) for seed in range(3)]
        assert deployed._calls["recorded"].graph.replays == 3
        for seed, output in enumerate(outputs):  # all of them still hold their own values
            assert error(output, made(clip(seed))) < 1e-6
        assert deployed(clip().double()).embedding.dtype == torch.float64
        other = clip(shape=(1, 3, 3, 64, 32))
        with pytest.warns(UserWarning, match=r"clips of \(1, 3, 3, 64, 32\) run without"):
            assert error(deployed(other), made(other)) < 1e-6
    with pytest.warns(UserWarning, match=r"a copy of a deployed network is not recorded; record_for\(clip\)"):
        twin = deployed.__getstate__()
    assert twin["form"] == "fused"


@pytest.mark.parametrize(("after", "form"), [(0.5, "recorded"), (2.0, "fused")])
def test_a_graph_is_tried_like_every_pass(graphs, monkeypatch, after, form):
    measured = optimizing._timed

    def timed(calls, x):
        seconds, outputs = measured(calls, x)
        return {name: {"before": 1.0, "after": after}.get(name, taken) for name, taken in seconds.items()}, outputs

    monkeypatch.setattr(optimizing, "_timed", timed)
    monkeypatch.setattr(Deployed, "compile_for", lambda self, clip: "no compiler")
    made = network()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "optimize drops compile")
        deployed = optimize(made, SHAPE)
    trial = deployed.passes[-1]
    assert (trial.name, trial.kept, deployed.form) == ("cuda_graphs", form == "recorded", form)
    assert ("recorded" in deployed.seconds) == (form == "recorded") and deployed.error < 1e-5
    assert error(deployed(clip(1)), torch.inference_mode()(made)(clip(1))) < 1e-5


def test_a_network_that_cannot_be_recorded_keeps_its_form(graphs, monkeypatch):
    def refused():
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", refused)
    deployed = Deployed(network(), SHAPE, torch.float32)
    assert deployed.record_for(clip()) == "RuntimeError: operation not permitted when stream is capturing"
    assert deployed.form == "fused" and deployed.forms == ("fused",)


@pytest.mark.parametrize(("device", "changed"), [("cpu", 1), ("meta", 0)])
def test_norms_are_in_place_on_a_cpu_alone(device, changed):
    assert norms_in_place(nn.Sequential(nn.BatchNorm2d(2, device=device)), SHAPE) == changed


class WithoutFloat64(torch.Tensor):
    """A tensor on a device without float64, such as Apple's MPS."""

    @classmethod
    def __torch_function__(cls, function, types, arguments=(), options=None):
        result = super().__torch_function__(function, types, arguments, options or {})
        if function is torch.Tensor.cpu:
            return result.as_subclass(torch.Tensor)
        assert not (isinstance(result, torch.Tensor) and result.dtype == torch.float64), function
        return result


def test_outputs_are_compared_on_devices_without_float64():
    one, other = torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0])
    on_device = (one.as_subclass(WithoutFloat64), other.as_subclass(WithoutFloat64))
    assert optimizing.largest_error(*on_device) == optimizing.largest_error(one, other) == 0.5
