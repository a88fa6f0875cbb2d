import copy
from contextlib import suppress
from math import prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode, flop_registry
from torchvision.models import resnet50

from strfnet.profiler import profile

CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


class Call(nn.Module):
    """A module that does what the given function does."""

    def __init__(self, function, **children):
        super().__init__()
        self.function = function
        for name, child in children.items():
            self.add_module(name, child)

    def forward(self, x):
        return self.function(self, x)


def counts_of(function, shape=(1,)):
    return profile(Call(lambda _, x: function(x)), shape).total


def own(result):
    return {row.path: row.own for row in result.rows}


# Products


def test_convolutions_match_hand_arithmetic():
    grouped = nn.Conv2d(8, 12, 3, stride=2, padding=1, groups=4)  # 16 x 10 to 8 x 5, 2 channels each
    assert profile(grouped, (2, 8, 16, 10)).total.convolution == 2 * 12 * 8 * 5 * 2 * 9
    dilated = nn.Conv2d(3, 5, (3, 1), dilation=(2, 1))  # 9 x 4 to 5 x 4
    assert profile(dilated, (1, 3, 9, 4)).macs == 5 * 5 * 4 * 3 * 3
    temporal = nn.Conv3d(4, 6, (3, 1, 1), padding=(1, 0, 0))
    assert profile(temporal, (2, 4, 8, 5, 3)).macs == 2 * 6 * 8 * 5 * 3 * 4 * 3
    assert profile(temporal, (4, 8, 5, 3)).macs == 6 * 8 * 5 * 3 * 4 * 3  # no batch


@given(data=st.data())
@settings(deadline=None, max_examples=50)
def test_any_convolution_matches_the_plain_formula(data):
    axes = data.draw(st.integers(1, 3))
    transposed = data.draw(st.booleans())
    per_axis = st.tuples(*[st.tuples(*map(st.integers, (1, 1, 0, 1), (3, 3, 2, 2)))] * axes)
    kernel, stride, padding, dilation = zip(*data.draw(per_axis), strict=True)
    size = data.draw(st.tuples(*[st.integers(5, 9)] * axes))
    batch, groups, c_in, c_out = data.draw(st.tuples(*[st.integers(1, 3)] * 4))
    make = (TRANSPOSED if transposed else CONVS)[axes]
    conv = make(
        c_in * groups, c_out * groups, kernel, stride=stride, padding=padding, dilation=dilation, groups=groups
    )
    written = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True)
    ]
    places = prod(size if transposed else written)  # each meets the whole kernel once
    expected = batch * places * prod(kernel) * groups * c_in * c_out
    total = profile(conv, (batch, c_in * groups, *size)).total
    assert (total.convolution, total.macs) == (expected, expected)
    assert total.parameters == prod(kernel) * groups * c_in * c_out + groups * c_out


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("permuted", [True, False])
def test_a_linear_layer_is_linear_however_it_is_called(bias, frozen, permuted):
    linear = nn.Linear(8, 5, bias=bias).requires_grad_(not frozen)
    model = Call(lambda self, x: self.linear(x.mT if permuted else x), linear=linear)
    total = profile(model, (3, 8, 4) if permuted else (3, 4, 8)).total
    assert (total.linear, total.products) == (3 * 4 * 8 * 5, 0)
    assert total.parameters == 8 * 5 + 5 * bias


def test_products_of_two_computed_tensors_are_products_and_those_with_a_weight_linear():
    assert counts_of(lambda x: x @ x.mT, (2, 3, 4)).products == 2 * 3 * 4 * 3
    assert counts_of(lambda x: torch.baddbmm(x @ x.mT, x, x.mT), (2, 3, 4)).products == 2 * (2 * 3 * 4 * 3)
    assert counts_of(lambda x: torch.einsum("bcn,bcm->bnm", x, x), (2, 3, 4)).products == 2 * 3 * 4 * 4
    assert counts_of(lambda x: (x @ x.mT).baddbmm_(x, x.mT), (2, 3, 4)).products == 2 * (2 * 3 * 4 * 3)
    assert counts_of(lambda x: torch.addbmm(x[0, :, :3], x, x.mT), (2, 3, 4)).products == 2 * 3 * 4 * 3
    assert counts_of(lambda x: x @ x, (7,)).products == 7
    assert counts_of(lambda x: x @ x[0], (7, 6)).linear == 7 * 6
    assert counts_of(lambda x: torch.addmv(x[:, 0], x, x[0]), (7, 6)).linear == 7 * 6
    model = Call(lambda self, x: torch.einsum("bcthw,dc->bdthw", x, self.map.weight), map=nn.Linear(3, 7))
    total = profile(model, (2, 3, 4, 5, 6)).total
    assert (total.linear, total.products) == (2 * 4 * 5 * 6 * 3 * 7, 0)


@pytest.mark.parametrize(("heads", "shared"), [((), ()), ((4,), (4,)), ((4,), (2,))], ids=["3-D", "4-D", "gqa"])
@pytest.mark.parametrize(("d", "dv"), [(32, 32), (256, 256), (512, 512), (30, 17)])
@pytest.mark.parametrize("mask", ["none", "float", "bool", "causal"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_attention_counts_both_of_its_products(heads, shared, d, dv, mask, dtype, context):
    def attend(x):
        query, key, value = (
            x.new_empty(shape, dtype=dtype) for shape in [(2, *heads, 6, d), (2, *shared, 9, d), (2, *shared, 9, dv)]
        )
        masks = {"float": x.new_empty((6, 9), dtype=dtype), "bool": x.new_empty((6, 9), dtype=torch.bool)}
        with context():
            return functional.scaled_dot_product_attention(
                query, key, value, masks.get(mask), is_causal=mask == "causal", enable_gqa=heads != shared
            )

    total = counts_of(attend)
    assert total.macs == total.products == 2 * prod(heads) * 6 * 9 * (d + dv)


def test_composite_operators_of_inference_mode_are_taken_apart():
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 5))

    def infer(self, x):
        with torch.inference_mode():
            return self.layers(x)

    result = profile(Call(infer, layers=layers), (2, 3, 4, 4))
    assert result.total == profile(layers, (2, 3, 4, 4)).total
    assert result.uncounted == ()


# Elementwise operations


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.ReLU(inplace=True), 2 * 4 * 6 * 6),
        (nn.Hardswish(inplace=True), 2 * 4 * 6 * 6),
        (nn.ReLU6(inplace=True), 2 * 4 * 6 * 6),
        (nn.BatchNorm2d(4), 2 * 4 * 6 * 6),
        (nn.GroupNorm(2, 4), 2 * 4 * 6 * 6),
        (nn.LayerNorm(6), 2 * 4 * 6 * 6),
        (nn.Softmax(dim=-1), 2 * 4 * 6 * 6),
        (nn.Upsample(scale_factor=2), 2 * 4 * 12 * 12),  # written
        (nn.Upsample(size=3, mode="bilinear"), 2 * 4 * 3 * 3),
        (nn.AvgPool2d(2), 2 * 4 * 6 * 6),  # read
        (nn.MaxPool2d(3, stride=2), 2 * 4 * 6 * 6),
        (nn.AdaptiveAvgPool2d(1), 2 * 4 * 6 * 6),
        (nn.AdaptiveMaxPool2d(2), 2 * 4 * 6 * 6),
        (nn.Flatten(), 0),  # moved
        (nn.PixelShuffle(2), 0),
        (nn.ReplicationPad2d(1), 0),
        (nn.Dropout(), 0),
    ],
    ids=str,
)
def test_elementwise_operations_follow_the_rule(layer, expected):
    result = profile(layer, (2, 4, 6, 6))
    assert (result.total.elementwise, result.macs, result.uncounted) == (expected, 0, ())


def test_reductions_read_comparisons_write_and_moves_are_free():
    assert counts_of(lambda x: x.sum(dim=0), (3, 5)).elementwise == 15
    assert counts_of(lambda x: x.amax(), (3, 5)).elementwise == 15
    assert counts_of(lambda x: x.norm(dim=1), (3, 5)).elementwise == 15
    assert counts_of(lambda x: torch.max(x, x[:1]), (3, 5)).elementwise == 15
    assert counts_of(lambda x: x[:, None] + x, (3, 5)).elementwise == 45
    assert counts_of(lambda x: x // 2, (3, 5)).elementwise == 15
    assert counts_of(lambda x: x.masked_fill_(x > 0, x[0, 0]), (3, 5)).elementwise == 30
    moves = counts_of(lambda x: torch.cat([x.T.clone(), x[:, [2, 0, 1]].T, torch.zeros_like(x.mT)]).roll(1), (3, 5))
    assert (moves.elementwise, moves.macs) == (0, 0)


# Modules


def test_counts_belong_to_the_module_that_does_the_work():
    inner = Call(lambda self, x: self.fc(x) @ x.mT, fc=nn.Linear(4, 4))
    model = Call(lambda self, x: self.inner(x) + 1, inner=inner, unused=nn.Linear(5, 5))
    result = profile(model, (2, 3, 4))
    rows = own(result)
    assert list(rows) == ["", "inner", "inner.fc", "unused"]
    assert (rows["inner.fc"].linear, rows["inner.fc"].parameters) == (2 * 3 * 16, 20)
    assert (rows["inner"].products, rows["inner"].parameters) == (2 * 3 * 3 * 4, 0)
    assert (rows[""].elementwise, rows[""].macs) == (2 * 3 * 3, 0)
    assert (rows["unused"].macs, rows["unused"].parameters) == (0, 30)
    subtree = {row.path: row.subtree for row in result.rows}
    assert subtree["inner"] == rows["inner"] + rows["inner.fc"]
    assert [row.class_name for row in result.rows] == ["Call", "Call", "Linear", "Linear"]


def test_a_shared_module_counts_each_call_and_shared_parameters_count_once():
    shared = nn.Linear(4, 4)
    block = Call(lambda self, x: self.first(self.second(x)), first=shared, second=shared)
    tied = nn.Linear(4, 4)
    tied.weight = shared.weight
    rows = own(profile(nn.Sequential(block, shared, tied), (3, 4)))
    assert list(rows) == ["", "0", "0.first", "2"]
    assert (rows["0.first"].linear, rows["2"].linear) == (3 * (3 * 16), 3 * 16)
    assert (rows["0.first"].parameters, rows["2"].parameters) == (20, 4)


def test_after_a_caught_failure_work_is_the_callers_again():
    def attempt(self, x):
        with suppress(RuntimeError):
            self.child(x)
        return x

    guarded = Call(attempt, child=nn.Linear(9, 9))
    rows = own(profile(Call(lambda self, x: self.guarded(x) + 1, guarded=guarded), (3, 4)))
    assert [rows[path].elementwise for path in ("", "guarded", "guarded.child")] == [12, 0, 0]


def test_resnet50_agrees_with_torch_and_with_its_published_size():
    result = profile(resnet50(), (8, 3, 256, 128))
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        resnet50().eval()(torch.empty(8, 3, 256, 128))
    assert result.flops == counter.get_total_flops()
    assert result.parameters == 25_557_032
    assert result.total.linear == 8 * 2048 * 1000
    assert result.uncounted == ()
    by_path = {row.path: row.subtree for row in result.rows}
    assert by_path["layer1.0.conv2"].macs == 8 * 64 * 32 * 64 * 64 * 9


# What cannot be counted


@torch.library.custom_op("strfnet_tests::triple", mutates_args=())
def triple(x: torch.Tensor) -> torch.Tensor:
    return 3 * x


@triple.register_fake
def _(x):
    return torch.empty_like(x)


def test_unknown_operators_are_named_with_module_and_calls():
    sorting = Call(lambda _, x: triple(torch.sort(torch.sort(x)[0])[0]))
    result = profile(nn.Sequential(nn.Linear(4, 4), sorting), (2, 4))
    found = [(entry.operator, entry.path, entry.calls) for entry in result.uncounted]
    assert found == [("aten.sort.default", "1", 2), ("strfnet_tests.triple.default", "1", 1)]
    assert result.macs == 32


def test_a_formula_registered_with_torch_is_used(monkeypatch):
    packet = torch.ops.strfnet_tests.triple
    monkeypatch.setitem(flop_registry, packet, lambda x, out_val: 2 * x.numel() + 1)
    result = profile(Call(lambda _, x: triple(x)), (2, 4))
    assert (result.total.products, result.uncounted) == (9, ())  # a half MAC is rounded up


# The caller's model


def refuse(*_):
    raise AssertionError("the profiler may neither copy a tensor nor run a hook")


def test_the_model_is_neither_copied_nor_changed(monkeypatch):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout())
    model[1].eval()
    model(torch.ones(1, 3, 2, 2)).sum().backward()
    model[0].last_output = model[0](torch.ones(1, 3, 2, 2))  # held outside the buffers, with a history
    handles = [
        model[0].register_forward_hook(refuse),
        model[1].register_forward_pre_hook(refuse, with_kwargs=True),
        model.register_forward_hook(refuse, always_call=True),
    ]
    tensors = [*model.state_dict(keep_vars=True).values(), *(p.grad for p in model.parameters())]
    values = [tensor.clone() for tensor in tensors]
    versions = [tensor._version for tensor in tensors]
    hooks = [copy.copy(vars(m)[name]) for m in model.modules() for name in vars(m) if "_hooks" in name]
    attributes = [set(vars(m)) for m in model.modules()]
    for kind in (torch.Tensor, nn.Parameter):
        monkeypatch.setattr(kind, "__deepcopy__", refuse)
    assert profile(model, (1, 3, 2, 2)).macs == 48
    assert [m.training for m in model.modules()] == [True, True, False, True]
    assert all(map(torch.equal, tensors, values))
    assert versions == [tensor._version for tensor in tensors]
    assert hooks == [vars(m)[name] for m in model.modules() for name in vars(m) if "_hooks" in name]
    assert attributes == [set(vars(m)) for m in model.modules()]
    assert len(handles) == 3 and all(p.device.type == "cpu" and p.requires_grad for p in model.parameters())
    assert torch.is_grad_enabled()


def test_a_network_too_large_for_any_memory_is_profiled():
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(200_000, 200_000), nn.ReLU())
    result = profile(model, (2, 200_000))
    assert result.macs == 2 * 200_000**2
    assert result.parameters == 200_000**2 + 200_000


def test_the_clip_has_the_type_of_the_first_floating_parameter():
    seen = []

    def see(self, x):
        seen.append((x.dtype, x.device.type, tuple(x.shape)))
        return x

    model = Call(see, norm=nn.BatchNorm1d(3).to(torch.bfloat16))
    profile(model, [2, 3])
    model.norm = nn.Identity()
    profile(model, torch.Size([5]))
    assert seen == [(torch.bfloat16, "meta", (2, 3)), (torch.float32, "meta", (5,))]
    assert profile(nn.Conv2d(3, 4, 1).to(torch.bfloat16), (1, 3, 2, 2)).macs == 48


def test_recurrent_and_attention_modules_of_torch_are_profiled():
    assert profile(nn.LSTM(8, 5), (3, 2, 8)).total.linear == 3 * 2 * 4 * 5 * (8 + 5)
    total = profile(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), (2, 5, 16)).total
    assert total.linear == 2 * 5 * (4 * 16 * 16 + 2 * 16 * 32)
    assert total.products == 2 * 5 * 5 * 32


# Errors


@pytest.mark.parametrize("shape", [7, "1, 3", None, torch.ones(3), {1}, (), (0, 3), (1, 3.0), (True, 3), ("1",)])
def test_a_clip_shape_other_than_positive_numbers_is_refused(shape):
    error = ValueError if isinstance(shape, tuple) else TypeError
    with pytest.raises(error, match=r"clip_shape is .*positive whole numbers such as \(1, 3, 8, 256, 128\)"):
        profile(nn.ReLU(), shape)


@pytest.mark.parametrize("model", [nn.ReLU, torch.relu, None], ids=["class", "function", "nothing"])
def test_what_is_no_module_is_refused(model):
    with pytest.raises(TypeError, match=r"model is .*torch.nn.Module"):
        profile(model, (1, 3))


def test_a_failure_names_the_module_and_keeps_the_cause():
    model = nn.Sequential(nn.ReLU(), nn.Sequential(nn.Conv2d(4, 4, 1)))
    with pytest.raises(ValueError, match=r"clip_shape \(1, 3, 2, 2\) failed in '1.0', a Conv2d\(4, 4") as caught:
        profile(model, (1, 3, 2, 2))
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert "meta device" not in str(caught.value)


@pytest.mark.parametrize("choose", [lambda _, x: x if x.sum() > 0 else -x, lambda _, x: x[x > 0]])
def test_a_failure_by_values_says_so(choose):
    with pytest.raises(ValueError, match=r"failed in '0', a Call\(\)(.|\n)*depend on shapes, not on values"):
        profile(nn.Sequential(Call(choose)), (2, 3))
    with pytest.raises(ValueError, match="failed in 'model'"):
        profile(Call(choose), (2, 3))


def test_models_that_cannot_be_copied_to_meta_are_refused():
    with pytest.raises(ValueError, match="weight in '1' has no shape yet"):
        profile(nn.Sequential(nn.ReLU(), nn.LazyLinear(3)), (2, 3))
    with pytest.raises(ValueError, match="cannot be copied: cannot pickle 'generator' object"):
        profile(Call(n for n in range(3)), (2, 3))
    stubborn = type("Stubborn", (nn.Linear,), {"__deepcopy__": lambda self, memo: nn.Linear(3, 3)})
    with pytest.raises(ValueError, match="'weight' stays on cpu"):
        profile(stubborn(3, 3), (2, 3))
