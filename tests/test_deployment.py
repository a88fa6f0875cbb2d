"""Deployed networks compute what their originals do; passes that fail, differ or slow down are dropped."""

import copy
import functools
import pickle
import warnings

import pytest
import torch
from strategies import wake
from sweeps import sweep
from torch import nn
from torch.nn import functional

import strfnet
from strfnet.deployment import optimizer as deployment
from strfnet.deployment.deployed import Deployed
from strfnet.deployment.optimizer import optimize
from strfnet.deployment.winograd import Winograd
from strfnet.system.modes import in_evaluation

SMALL = (1, 128, 1, 16, 16)
SHAPE = (2, 3, 3, 64, 32)  # maps are at least two pixels wide: oneDNN's bfloat16 kernels are wrong on one, with AMX
# Times on a busy machine do not matter here; warnings about them have tests of their own.
pytestmark = pytest.mark.filterwarnings("ignore:optimize drops (compile|to_dtype).* slower, ")


def network(name="strf_p3dc_resnet8", dtype=torch.float32):
    torch.manual_seed(0)
    made = strfnet.create_model(name, num_classes=3)
    for module in made.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            wake(module)
    return made.to(dtype).eval()


def clip(shape=SHAPE, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def agree(output, expected, bound=1e-5):
    difference = (output.embedding - expected.embedding).abs().max()
    assert difference <= bound * expected.embedding.abs().max(), difference


def kept(deployed):
    return [trial.name for trial in deployed.passes if trial.kept]


def reason(deployed, name):
    return next(trial.reason for trial in deployed.passes if trial.name == name)


@pytest.fixture
def timed(monkeypatch):
    """Sets the seconds that calls take, whatever the clock says."""

    def settle(**known):
        measured = deployment._timed

        def timed(calls, x):
            seconds, outputs = measured(calls, x)
            return {form: known.get(form, taken) for form, taken in seconds.items()}, outputs

        monkeypatch.setattr(deployment, "_timed", timed)

    return settle


@pytest.fixture(scope="module")
def compiled():
    """A compiled network and its original."""
    made = network()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deployment, "_judge", lambda *_: (True, "kept for this test"))
        deployed = optimize(made, SHAPE)
    return deployed, made


def test_a_compiled_network_computes_what_its_original_does(compiled):
    deployed, made = compiled
    assert deployed.form == "compiled" and set(deployed.seconds) == {"network", "fused", "compiled"}
    changed = ["merge_shortcuts", "fuse_batch_norms", "norms_in_place", "add_in_place", "compile"]
    assert kept(deployed) == changed
    unchanged = {trial.name: trial.reason for trial in deployed.passes if not trial.kept}
    assert unchanged.pop("cuda_graphs") == "needs a CUDA GPU, and the network is on cpu"
    assert set(unchanged.values()) == {"nothing to change"}
    assert all(trial.error < 1e-5 and min(trial.before, trial.after) > 0 for trial in deployed.passes if trial.kept)
    assert str(deployed.passes[0]) == "merge_shortcuts: kept, kept for this test"
    assert deployed.error < 1e-5
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        for seed in range(2):
            agree(deployed(clip(seed=seed)), made(clip(seed=seed)))
        output = deployed(clip().contiguous(memory_format=torch.channels_last_3d))
        agree(output, made(clip()))
    assert output.logits is None and not output.embedding.requires_grad
    assert len(deployed.state_dict()) == len(deployed.fused.state_dict()), "weights are listed once"


def test_it_is_compiled_once_for_every_kind_of_call(compiled):
    deployed, _ = compiled
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        deployed._warned = False
        deployed(clip())
        deployed(clip().double())
        deployed(clip().requires_grad_())
        for context in (torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu")):
            with context():
                deployed(clip())
    assert deployed(clip().double()).embedding.dtype == torch.float64


def test_weights_are_frozen(compiled):
    """A frozen program has packed copies of its kernels, and does not read the parameters again."""
    deployed, made = compiled
    before = {key: value.clone() for key, value in deployed.fused.state_dict().items()}
    with torch.no_grad():
        for parameter in deployed.fused.parameters():
            if parameter.ndim == 4:
                parameter.zero_()
    agree(deployed(clip()), made(clip()))
    deployed.fused.load_state_dict(before)


def test_another_shape_or_another_setting_runs_without_compilation_and_warns_once(compiled):
    deployed, made = compiled
    deployed._warned = False
    messages = []
    for _ in range(2):
        with warnings.catch_warnings(record=True) as lines:
            warnings.simplefilter("always")
            agree(deployed(clip((1, 3, 4, 64, 32))), made(clip((1, 3, 4, 64, 32))))
        messages += [str(line.message) for line in lines]
    assert [message.partition(": ")[2] for message in messages] == [
        "clips of (1, 3, 4, 64, 32) run without compilation"
    ]
    threads = torch.get_num_threads()
    deployed._warned = False
    try:
        torch.set_num_threads(threads + 1)
        with pytest.warns(UserWarning, match="other settings, such as another number of threads"):
            agree(deployed(clip()), made(clip()))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("name", ["p3da", "i3d", "ste_nvan", "ap3d_nl"])
def test_without_compilation_every_shape_is_fast(name):
    made = network(f"{name}_resnet8")
    deployed = optimize(made, SHAPE, compiled=False)
    assert in_evaluation(deployed) is deployed, "inference would run a copy, which is not compiled"
    assert deployed.form == "fused" and "compiled" not in deployed.seconds
    for shape in (SHAPE, (1, 3, 5, 64, 32)):
        agree(deployed(clip(shape)), made(clip(shape)))


def test_in_bfloat16_the_output_has_the_type_of_the_clip(timed):
    timed(before=2.0, after=1.0)
    made = network("nvan_resnet8")
    deployed = optimize(made, SHAPE, dtype=torch.bfloat16, compiled=False)
    assert next(deployed.fused.parameters()).dtype == torch.bfloat16
    assert deployed(clip()).embedding.dtype == torch.float32
    names = [trial.name for trial in deployed.passes]
    assert names.index("to_dtype") < names.index("use_winograd"), "which is timed in the type of the computation"
    assert 1e-4 < deployed.error < 0.05
    agree(deployed(clip()), made(clip()), 0.05)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_narrower_type_that_is_slower_is_dropped_with_a_warning(timed, dtype):
    timed(before=1.0, after=2.0)
    made = network("p3dc_resnet8")
    match = rf"drops to_dtype: {dtype}, so torch.float32 stays: slower, before 1000.0 ms, after 2000.0 ms"
    with pytest.warns(UserWarning, match=match):
        deployed = optimize(made, SHAPE, dtype=dtype, compiled=False)
    assert deployed.dtype == torch.float32 and kept(deployed) == [] and deployed.error < 1e-5
    agree(deployed(clip()), made(clip()))


class Unsound(nn.Module):
    """A network whose output in bfloat16 is not a number, as that of some processors' kernels."""

    def __init__(self, sick):
        super().__init__()
        self.conv, self.sick = nn.Conv2d(3, 4, 1), sick

    def forward(self, clip):
        output = self.conv(clip[:, :, 0])
        return self.sick(output) if output.dtype == torch.bfloat16 else output


@pytest.mark.parametrize("sick", [lambda x: x * float("nan"), lambda x: 1.2 * x])
def test_a_type_whose_output_is_not_sound_is_dropped_with_a_warning(timed, sick):
    timed(before=2.0, after=1.0)
    made = Unsound(sick)
    match = r"torch.bfloat16, so torch.float32 stays: the output differs by (nan|2.*e-01) .*, wanted at most 5e-02"
    with pytest.warns(UserWarning, match=match):
        deployed = optimize(made, (1, 3, 1, 8, 8), dtype=torch.bfloat16, compiled=False)
    assert deployed.dtype == torch.float32 and deployed(clip((1, 3, 1, 8, 8))).isfinite().all()


def test_a_wider_type_is_kept_however_slow(timed):
    timed(before=1.0, after=2.0)
    deployed = optimize(network("p3dc_resnet8"), SHAPE, dtype=torch.float64, compiled=False)
    assert deployed.dtype == torch.float64 and kept(deployed) == ["to_dtype"]


def test_what_is_not_compiled_is_dropped_with_a_warning(monkeypatch):
    made = network("c2d_resnet8")
    stance = torch.compiler.set_stance("force_eager")
    with (
        stance,
        pytest.warns(UserWarning, match="drops compile: RuntimeError: torch.compile ran the network without"),
    ):
        deployed = optimize(made, SHAPE)
    assert deployed.form == "fused" and "compiled" not in deployed.seconds

    def nothing(*_args):
        raise RuntimeError("no C++ compiler here\nand a long trace")

    monkeypatch.setattr("torch._dynamo.lookup_backend", lambda _name: nothing)
    with pytest.warns(UserWarning, match=r"drops compile: RuntimeError: .*no C\+\+ compiler here$"):
        deployed = optimize(made, SHAPE)
    agree(deployed(clip()), made(clip()))


def test_more_networks_of_one_class_are_compiled_than_pytorch_compiles_one_code():
    with torch._dynamo.config.patch(recompile_limit=1):
        deployed = [optimize(network("c2d_resnet8"), (1, 3, 1, 16, 8)) for _ in range(2)]
    assert all(each.passes[-2].name == "compile" and each.passes[-2].error < 1e-4 for each in deployed)


@pytest.mark.parametrize(("longest", "rounds"), [(0.0, 2), (1e9, 3)])
def test_long_calls_are_timed_less_often(monkeypatch, longest, rounds):
    monkeypatch.setattr(deployment, "LONGEST", longest)
    called = []
    calls = {form: lambda x, form=form: called.append(form) or x for form in ("before", "after")}
    seconds, outputs = deployment._timed(calls, clip())
    assert seconds.keys() == outputs.keys() == calls.keys() and torch.equal(outputs["after"], clip())
    assert called == ["before", "after"] * rounds


@pytest.mark.parametrize("after", sweep([1.02, 1.0, 1.1], quick=1))
def test_a_pass_that_costs_memory_must_gain_time_and_others_may_be_equal_but_for_noise(timed, after):
    timed(before=1.001, after=after)
    made = network("p3dc_resnet18")
    deployed = optimize(made, SHAPE, compiled=False)
    assert ("use_winograd" in kept(deployed)) == (after == 1.0)
    assert ("fuse_batch_norms" in kept(deployed)) == (after < 1.1)
    assert any(isinstance(module, Winograd) for module in deployed.modules()) == (after == 1.0)
    assert not any(isinstance(module, Winograd) for module in made.modules())
    for shape in (SHAPE, (1, 3, 5, 96, 40)):
        agree(deployed(clip(shape)), made(clip(shape)))


def nothing_of(weight):
    return 0.0


class ReadsItsKernel(nn.Module):
    """Convolves the first frame, and uses the kernel once more by itself."""

    def __init__(self, use=nothing_of):
        super().__init__()
        self.conv, self.use = nn.Conv2d(128, 128, 3, padding=1), use

    def forward(self, clip):
        return self.conv(clip[:, :, 0]) + self.use(self.conv.weight)


def one_convolution():
    torch.manual_seed(0)
    return ReadsItsKernel().eval()


class ReadsBoth(nn.Module):
    """Reads a convolution's output before and after the norm, so neither may change it."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(128, 128, 1), wake(nn.BatchNorm2d(128))

    def forward(self, clip):
        y = self.conv(clip[:, :, 0])
        return self.norm(y) + y


@pytest.mark.parametrize(
    ("made", "drops"),
    [
        (lambda: ReadsItsKernel(lambda weight: weight.sum()), "use_winograd: the output differs by"),
        (
            lambda: ReadsItsKernel(lambda weight: functional.conv2d(torch.ones(1, 128, 3, 3), weight).sum()),
            "use_winograd: RuntimeError: ",
        ),
        (ReadsBoth, "fuse_batch_norms: the output differs by"),
        (ReadsBoth, "norms_in_place: the output differs by"),
    ],
    ids=["number", "convolution", "fused", "in place"],
)
def test_a_network_that_a_pass_does_not_suit_is_left_as_it_is_with_a_warning(made, drops):
    torch.manual_seed(0)
    made = made().eval()
    with pytest.warns(UserWarning, match=f"optimize drops {drops}"):
        deployed = optimize(made, SMALL, compiled=False)
    assert deployed.error < 1e-5
    with torch.no_grad():
        torch.testing.assert_close(
            deployed(clip((1, 128, 1, 9, 9))), made(clip((1, 128, 1, 9, 9))), rtol=1e-4, atol=1e-4
        )


def test_winograd_is_computed_in_another_type_than_the_network_s_and_compiled(timed):
    timed(before=1.0, after=0.5)
    deployed = optimize(one_convolution().double(), SMALL, dtype=torch.float32, compiled=False)
    assert deployed.error < 1e-5 and deployed(clip(SMALL).double()).dtype == torch.float64
    deployed = optimize(one_convolution(), SMALL)
    assert kept(deployed) == ["use_winograd", "compile"] and deployed.error < 1e-5


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made))], ids=["copy", "pickle"]
)
def test_a_copy_is_not_compiled_until_compile_for_and_warns(copied, monkeypatch):
    compiler = torch.compile

    def capturing(*arguments, **named):
        """As Lightning replaces ``torch.compile`` when it is imported."""
        made = compiler(*arguments, **named)
        if isinstance(arguments[0], nn.Module):
            made._compile_kwargs = dict(named)
        return made

    monkeypatch.setattr(torch, "compile", functools.wraps(compiler)(capturing))
    made = one_convolution()
    deployed = Deployed(made, SMALL, torch.float32)
    assert not copied(deployed).training
    assert deployed.compile_for(clip(SMALL)) is None
    expected = made(clip(SMALL)).detach()
    with pytest.warns(UserWarning, match="a copy of a deployed network is not compiled"):
        twin = copied(deployed)
    assert (deployed.form, twin.form) == ("compiled", "fused")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.testing.assert_close(twin(clip(SMALL)), expected)
        assert twin.compile_for(clip(SMALL)) is None and twin.form == "compiled"
        torch.testing.assert_close(twin(clip(SMALL)), expected)


def test_a_network_compiled_before_is_deployed_with_the_weights_it_has_now():
    made = network("nvan_resnet8")
    made.compile(backend="eager")
    made(clip())
    twin = copy.deepcopy(made)
    with torch.no_grad():
        twin.backbone.conv1.weight.neg_()
    deployed = optimize(twin, SHAPE, compiled=False)
    with torch.no_grad():
        agree(deployed(clip()), twin(clip()))
        assert not torch.allclose(deployed(clip()).embedding, made(clip()).embedding)


def test_weights_and_their_type_cannot_be_changed(compiled):
    deployed, made = compiled
    with pytest.raises(ValueError, match="weights are frozen; load them into the network and optimize that"):
        deployed.load_state_dict(deployed.state_dict())
    for changed in (deployed.double, deployed.half, lambda: deployed.to(torch.bfloat16)):
        with pytest.raises(
            ValueError, match=r"deployed in torch.float32 cannot change to .*; optimize it with dtype="
        ):
            changed()
    assert deployed.to("cpu") is deployed.float() is deployed.eval() is deployed
    with pytest.raises(ValueError, match="mode is True, but a deployed network cannot be trained"):
        deployed.train()
    assert not deployed.training
    agree(deployed(clip()), made(clip()))


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
