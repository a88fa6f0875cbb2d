"""Deployed networks answer as their originals do, and say whatever is not as it was asked for."""

import copy
import pickle
import warnings

import pytest
import torch
from strategies import wake
from torch import nn
from torch.nn import functional

import strfnet
from strfnet.deployment import optimizer as deployment
from strfnet.deployment.optimizer import Deployed, optimize
from strfnet.deployment.winograd import Winograd

SHAPE = (2, 3, 4, 64, 32)
# Times on a busy machine are no matter here; what is told of them has a test of its own.
pytestmark = pytest.mark.filterwarnings("ignore:compiling did not help", "ignore:.*slower on this machine")


def network(name="strf_p3dc_resnet8", dtype=torch.float32):
    torch.manual_seed(0)
    made = strfnet.create_model(name, num_classes=3)
    for module in made.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            wake(module)
    return made.to(dtype).eval()


def clip(shape=SHAPE, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def agree(answer, expected, bound):
    difference = (answer.embedding - expected.embedding).abs().max()
    assert difference <= bound * expected.embedding.abs().max(), difference


@pytest.fixture(scope="module")
def compiled():
    """A compiled network and its original; the form is set by hand, whatever the clock said."""
    made = network()
    deployed = optimize(made, SHAPE)
    assert set(deployed.seconds) == {"network", "folded", "compiled"}
    deployed.form = "compiled"
    return deployed, made


def test_a_compiled_network_answers_as_its_original(compiled):
    deployed, made = compiled
    assert deployed.error < 1e-5
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        for seed in range(2):
            agree(deployed(clip(seed=seed)), made(clip(seed=seed)), 1e-5)
        answer = deployed(clip().contiguous(memory_format=torch.channels_last_3d))
        agree(answer, made(clip()), 1e-5)
    assert answer.logits is None and not answer.embedding.requires_grad
    assert len(deployed.state_dict()) == len(deployed.folded.state_dict()), "weights are listed once"


def test_it_is_compiled_once_for_every_kind_of_call(compiled):
    deployed, _ = compiled
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        deployed._told = False
        deployed(clip())
        deployed(clip().double())
        deployed(clip().requires_grad_())
        for context in (torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu")):
            with context():
                deployed(clip())
    assert deployed(clip().double()).embedding.dtype == torch.float64


def test_weights_are_frozen(compiled):
    """Compiled without freezing it would go on reading its kernels; frozen, the program has packed copies."""
    deployed, made = compiled
    kept = {key: value.clone() for key, value in deployed.folded.state_dict().items()}
    with torch.no_grad():
        for parameter in deployed.folded.parameters():
            if parameter.ndim == 4:
                parameter.zero_()
    agree(deployed(clip()), made(clip()), 1e-5)
    deployed.folded.load_state_dict(kept)


def test_another_shape_is_answered_with_folded_norms_and_told_once(compiled, monkeypatch):
    deployed, made = compiled
    deployed._told = False
    monkeypatch.setattr(deployed, "_compiled", None)  # must not be asked
    told = []
    for _ in range(2):
        with warnings.catch_warnings(record=True) as lines:
            warnings.simplefilter("always")
            agree(deployed(clip((1, 3, 6, 64, 32))), made(clip((1, 3, 6, 64, 32))), 1e-5)
        told += [str(line.message) for line in lines]
    (line,) = told
    assert line.endswith("clips of (1, 3, 6, 64, 32) are answered with folded norms only")


def test_other_settings_are_answered_with_folded_norms_and_told(compiled):
    deployed, made = compiled
    threads = torch.get_num_threads()
    deployed._told = False
    try:
        torch.set_num_threads(threads + 1)
        with pytest.warns(UserWarning, match="other settings, such as another number of threads"):
            agree(deployed(clip()), made(clip()), 1e-5)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("name", ["p3da", "i3d", "ste_nvan", "ap3d_nl"])
def test_folded_norms_alone(name):
    made = network(f"{name}_resnet8")
    deployed = optimize(made, SHAPE, compiled=False)
    assert deployed.form == "folded" and "compiled" not in deployed.seconds
    for shape in (SHAPE, (1, 3, 5, 64, 32)):
        agree(deployed(clip(shape)), made(clip(shape)), 1e-5)


@pytest.fixture
def timed(monkeypatch):
    """Says how many seconds each form is to have taken in what follows, whatever the clock said."""

    def settle(**known):
        measured = deployment._timed

        def timed(calls, x, **most):
            seconds, answers = measured(calls, x, **most)
            return {form: known.get(form, taken) for form, taken in seconds.items()}, answers

        monkeypatch.setattr(deployment, "_timed", timed)

    return settle


def test_in_bfloat16_the_answer_has_the_type_of_the_clip(timed):
    timed(network=2.0, folded=1.0)
    made = network("p3dc_resnet8")
    deployed = optimize(made, SHAPE, dtype=torch.bfloat16, compiled=False)
    assert next(deployed.folded.parameters()).dtype == torch.bfloat16
    answer = deployed(clip())
    assert answer.embedding.dtype == torch.float32
    assert 1e-4 < deployed.error < 0.05
    agree(answer, made(clip()), 0.05)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_narrower_type_that_is_slower_is_given_up_and_that_is_told(timed, dtype):
    timed(network=1.0, folded=2.0)
    made = network("p3dc_resnet8")
    with pytest.warns(
        UserWarning, match=rf"torch.float32 is kept: {dtype} is slower .*network 1000.0 ms, folded 2000"
    ):
        deployed = optimize(made, SHAPE, dtype=dtype, compiled=False)
    assert deployed.dtype == torch.float32 and deployed.error < 1e-5
    agree(deployed(clip()), made(clip()), 1e-5)


def test_a_wider_type_is_kept_however_slow(timed):
    timed(network=1.0, folded=2.0)
    deployed = optimize(network("p3dc_resnet8"), SHAPE, dtype=torch.float64, compiled=False)
    assert deployed.dtype == torch.float64


def test_without_a_compiler_norms_are_folded_and_that_is_told(monkeypatch):
    def nothing(*_args):
        raise RuntimeError("no C++ compiler here\nand a long trace")

    monkeypatch.setattr("torch._dynamo.lookup_backend", lambda _name: nothing)
    with pytest.warns(UserWarning, match=r"not compiled \(.*no C\+\+ compiler here"):
        deployed = optimize(network("c2d_resnet8"), SHAPE)
    assert deployed.form == "folded"
    agree(deployed(clip()), network("c2d_resnet8")(clip()), 1e-5)


def test_what_pytorch_goes_by_is_not_called_compiled():
    with torch.compiler.set_stance("force_eager"), pytest.warns(UserWarning, match=r"not compiled \(PyTorch went by"):
        deployed = optimize(network("c2d_resnet8"), SHAPE)
    assert deployed.form == "folded" and "compiled" not in deployed.seconds


def test_more_networks_of_one_class_are_compiled_than_pytorch_compiles_one_code():
    with torch._dynamo.config.patch(recompile_limit=1):
        deployed = [optimize(network("c2d_resnet8"), (1, 3, 1, 16, 8)) for _ in range(2)]
    assert all("compiled" in each.seconds for each in deployed)


@pytest.mark.parametrize(("longest", "least", "rounds"), [(0.0, 1, 1), (0.0, 2, 2), (1e9, 1, 3)])
def test_long_calls_are_timed_less_often(monkeypatch, longest, least, rounds):
    monkeypatch.setattr(deployment, "LONGEST", longest)
    asked = []
    calls = {form: lambda x, form=form: asked.append(form) or x for form in ("network", "folded")}
    seconds, answers = deployment._timed(calls, clip(), least=least)
    assert seconds.keys() == answers.keys() == calls.keys() and torch.equal(answers["folded"], clip())
    assert asked == ["network", "folded"] * rounds


@pytest.mark.parametrize("faster", ["folded", "tiled"])
def test_winograd_convolutions_are_kept_where_they_are_faster(timed, faster):
    timed(tiled=-1.0 if faster == "tiled" else 1e9)
    made = network("p3dc_resnet18")
    deployed = optimize(made, SHAPE, compiled=False)
    assert any(isinstance(module, Winograd) for module in deployed.folded.modules()) == (faster == "tiled")
    assert not any(isinstance(module, Winograd) for module in made.modules())
    for shape in (SHAPE, (1, 3, 5, 96, 40)):
        agree(deployed(clip(shape)), made(clip(shape)), 1e-5)


class ReadsItsKernel(nn.Module):
    """Convolves the first frame, and uses the kernel once more by itself."""

    def __init__(self, use):
        super().__init__()
        self.conv, self.use = nn.Conv2d(128, 128, 3, padding=1), use

    def forward(self, clip):
        return self.conv(clip[:, :, 0]) + self.use(self.conv.weight)


@pytest.mark.parametrize(
    ("use", "why"),
    [
        (lambda weight: weight.sum(), "ValueError: the tiled network answers a random clip"),
        (lambda weight: functional.conv2d(torch.ones(1, 128, 3, 3), weight).sum(), "RuntimeError: "),
    ],
    ids=["number", "convolution"],
)
def test_a_network_that_reads_its_kernel_keeps_it_and_that_is_told(use, why):
    torch.manual_seed(0)
    made = ReadsItsKernel(use).eval()
    with pytest.warns(UserWarning, match=r"without Winograd's algorithm \(" + why):
        deployed = optimize(made, (1, 128, 1, 16, 16), compiled=False)
    assert deployed.error < 1e-5 and not isinstance(deployed.folded.conv, Winograd)


def test_winograd_convolutions_may_be_computed_in_another_type_than_the_network_s():
    made = network("c2d_resnet18", torch.float64)
    deployed = optimize(made, SHAPE, dtype=torch.float32, compiled=False)
    assert deployed.error < 1e-5 and deployed(clip().double()).embedding.dtype == torch.float64


def test_winograd_convolutions_are_compiled(timed):
    timed(tiled=-1.0)
    made = network("strf_p3dc_resnet18")
    deployed = optimize(made, SHAPE)
    deployed.form = "compiled"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agree(deployed(clip()), made(clip()), 1e-5)
    assert deployed.error < 1e-5


def test_what_is_no_faster_is_not_kept_and_is_told():
    deployed = Deployed(network("c2d_resnet8"), SHAPE, torch.bfloat16)
    deployed.form, deployed.seconds = "compiled", {"network": 1.0, "folded": 2.0, "compiled": 3.0}
    lines = deployment._kept(deployed)
    assert deployed.form == "folded"
    assert lines[0].startswith("compiling did not help (network 1000.0 ms, folded 2000.0 ms, compiled 3000.0 ms)")
    assert lines[1].startswith("torch.bfloat16 is slower on this machine than the network as it was")
    deployed.form, deployed.seconds = "compiled", {"network": 1.0, "folded": 0.9, "compiled": 0.8}
    assert deployment._kept(deployed) == [] and deployed.form == "compiled"


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made))], ids=["copy", "pickle"]
)
def test_a_copy_is_not_compiled_until_it_is_asked_to_and_that_is_told(compiled, copied):
    deployed, made = compiled
    with pytest.warns(UserWarning, match="a copy of a deployed network is not compiled"):
        twin = copied(deployed)
    assert (deployed.form, twin.form, twin.seconds, twin.error) == (
        "compiled",
        "folded",
        deployed.seconds,
        deployed.error,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agree(twin(clip()), made(clip()), 1e-5)
        assert twin.compile_for(clip()) is None and twin.form == "compiled"
        agree(twin(clip()), made(clip()), 1e-5)
        assert not copied(Deployed(made, SHAPE, torch.float32)).training


def test_weights_and_their_type_are_settled(compiled):
    deployed, made = compiled
    with pytest.raises(ValueError, match="weights are settled; load them into the network and optimize that"):
        deployed.load_state_dict(deployed.state_dict())
    for changed in (deployed.double, deployed.half, lambda: deployed.to(torch.bfloat16)):
        with pytest.raises(
            ValueError, match=r"deployed in torch.float32 cannot change to .*; optimize it with dtype="
        ):
            changed()
    assert deployed.to("cpu") is deployed.float() is deployed
    agree(deployed(clip()), made(clip()), 1e-5)


class Shared(nn.Module):
    """A network that reads a convolution's answer both before and after the norm: it must not be folded."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x):
        y = self.conv(x)
        return self.norm(y) + y


def test_a_network_that_cannot_be_folded_is_refused_rather_than_changed(monkeypatch):
    monkeypatch.delattr(Deployed, "compile_for")  # before a minute is spent on that
    made = strfnet.inflate(wake(Shared()).eval(), places=[], unit=None)
    with pytest.raises(ValueError, match=r"the folded network answers a random clip .* of the largest value away"):
        optimize(made, (1, 3, 2, 8, 8))


@pytest.mark.parametrize(
    ("shape", "dtype", "words"),
    [
        ((3, 8, 64, 32), None, r"clip_shape is \(3, 8, 64, 32\), wanted \(b, c, t, h, w\)"),
        ((1, 3, 0, 64, 32), None, r"clip_shape is \(1, 3, 0, 64, 32\), wanted"),
        (SHAPE, torch.int8, "dtype is torch.int8, wanted one of torch.float32"),
    ],
)
def test_impossible_calls_are_refused(shape, dtype, words):
    with pytest.raises(ValueError, match=words):
        optimize(network("c2d_resnet8"), shape, dtype=dtype)


def test_a_deployed_network_cannot_be_trained():
    deployed = optimize(network("c2d_resnet8"), SHAPE, compiled=False)
    with pytest.raises(ValueError, match="mode is True, but a deployed network cannot be trained"):
        deployed.train()
    assert not deployed.eval().training
