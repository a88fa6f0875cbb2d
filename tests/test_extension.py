"""An extended module stays what its class makes of it: in copies, pickles and compiled calls."""

import copy
import io
import pickle
import threading

import pytest
import torch
from strategies import normal, wake
from torch import nn
from torch.optim.swa_utils import AveragedModel

import strfnet
from strfnet.inflation.extension import Extension, extend, own_class, retract, set_own_class
from strfnet.inflation.inflated import Inflated
from strfnet.inflation.splicing import Followed

CLIP = normal(2, 3, 3, 8, 6, dtype=torch.float32)


def saved_and_loaded(module):
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


COPIES = {
    "deepcopy": copy.deepcopy,
    "average": lambda network: AveragedModel(network).module,
    "splice": lambda network: strfnet.splice(network, {"0": nn.Identity()}),
    "unsplice": strfnet.inflation.unsplice,
    "save": saved_and_loaded,
    "deflate": lambda network: strfnet.inflate(strfnet.inflation.deflate(network), places=["0"], unit=None),
}


def small():
    torch.manual_seed(0)
    image = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    return wake(strfnet.inflate(image, places=["0"], unit="non_local")).eval()


@pytest.mark.parametrize("at", ["", "0", "2"])
def test_copies_of_a_compiled_module_use_their_own_weights(at):
    torch._dynamo.reset()
    network = small()
    expected = network(CLIP)
    plain = {name: make(small()) for name, make in COPIES.items()}
    report = strfnet.profile(network, CLIP.shape)
    network.get_submodule(at).compile(backend="eager")
    torch.testing.assert_close(network(CLIP), expected)
    for name, make in COPIES.items():
        twin = make(network)
        for number, module in enumerate((twin, plain[name])):
            wake(module, seed=1)
            assert number or not torch.allclose(module(CLIP), expected), name
        torch.testing.assert_close(twin(CLIP), plain[name](CLIP), msg=name)
    assert str(strfnet.profile(network, CLIP.shape)) == str(report)


class Locked(nn.Sequential):
    """Holds a lock, which can be neither copied nor pickled, and makes a new one."""

    def __init__(self, *modules):
        super().__init__(*modules)
        self.lock = threading.Lock()

    def __getstate__(self):
        return {key: value for key, value in vars(self).items() if key != "lock"}

    def __setstate__(self, state):
        super().__setstate__(state)
        self.lock = threading.Lock()


class Reduced(nn.Sequential):
    """Pickles itself by its children."""

    def __reduce__(self):
        return Reduced, tuple(self), {"made": True, **vars(self)}


@pytest.mark.parametrize("kind", [Locked, Reduced])
def test_the_class_says_what_its_copies_and_pickles_hold(kind):
    network = wake(strfnet.inflate(kind(nn.Conv2d(3, 4, 3)), places=["0"], unit="non_local"))
    extend(network, Followed, after=nn.Sequential(nn.Identity()))
    for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network)), saved_and_loaded(network)):
        assert type(twin) is type(network) and isinstance(twin, kind) and isinstance(twin, Inflated)
        assert getattr(twin, "made", True) and getattr(twin, "lock", None) is not getattr(network, "lock", 0)
        assert torch.equal(twin(CLIP), network(CLIP))


class Doubled(Extension):
    times: int

    def forward(self, x):
        return self.times * super().forward(x)


def test_mixins_are_put_on_and_taken_off_in_any_order():
    linear = wake(nn.Linear(3, 3))
    x = normal(2, 3, dtype=torch.float32)
    expected = linear(x)
    extend(linear, Doubled, times=2)
    extend(linear, Followed, after=nn.Sequential(nn.ReLU()))
    assert type(linear).__name__ == "FollowedDoubledLinear" and own_class(linear) is nn.Linear
    assert torch.equal(linear(x), (2 * expected).relu()) and "after" in dict(linear.named_children())
    set_own_class(linear, nn.modules.linear.NonDynamicallyQuantizableLinear)
    assert own_class(linear) is nn.modules.linear.NonDynamicallyQuantizableLinear and isinstance(linear, Followed)
    retract(linear, Doubled)
    assert torch.equal(linear(x), expected.relu()) and not hasattr(linear, "times")
    retract(linear, Followed)
    set_own_class(linear, nn.Linear)
    assert type(linear) is nn.Linear and not list(linear.children()) and torch.equal(linear(x), expected)
