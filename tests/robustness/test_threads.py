"""Threads that use one network at a time get what each gets alone, and leave the network as it was."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from strategies import wake
from torch import nn

from strfnet import create_model, load, save
from strfnet.data import DataSet
from strfnet.data.synthetic import draw_camera, draw_walker, render
from strfnet.data.tracklet import Tracklet
from strfnet.evaluation import PROTOCOLS, evaluate_protocols
from strfnet.inference import Embedder, Stream, embed
from strfnet.models import Preprocessing
from strfnet.system.compat import allow_tf32, tf32_is_allowed
from strfnet.system.modes import evaluation_copy
from strfnet.visualization import attention_of, masks_of
from strfnet.weights.file import read_weights

SIZE = (32, 16)
CLIP = torch.randn(2, 3, 3, *SIZE, generator=torch.Generator().manual_seed(0))


def walker(identity, camera):
    return Tracklet(
        tuple(render(draw_walker(0, identity), draw_camera(0, camera), frames=4, seed=(identity, camera))),
        identity,
        camera,
    )


@pytest.fixture(scope="module")
def tracklets():
    return [walker(identity, camera) for identity in range(3) for camera in range(2)]


@pytest.fixture
def network():
    """A network as `create_model` returns it, in training mode, but for one frozen norm."""
    torch.manual_seed(0)
    made = wake(create_model("strf_c2d_resnet8", num_classes=3, pooling="max_mean"))
    made.backbone.bn1.eval()
    return made


def embedded(network, tracklets, folder):
    return embed(network, tracklets, frames=2, size=SIZE, batch=2)


def embedded_by_workers(network, tracklets, folder):
    embedder = Embedder(network, "strf", Preprocessing(*SIZE), batch=4, workers=2, precision="fp32")
    return embedder.embed(tracklets, ("evenly", 2))


def evaluated(network, tracklets, folder):
    data = DataSet("walkers", (), tuple(tracklets), (0, 2, 4), (1, 3, 5))
    embedder = Embedder(network, "strf", Preprocessing(*SIZE), workers=0)
    (result,) = evaluate_protocols(embedder.embed, data, [PROTOCOLS["mars"]])
    return torch.tensor([result.mean_average_precision, *result.cmc])


def streamed(network, tracklets, folder):
    stream = Stream(network, frames=2)
    for at in range(CLIP.shape[2]):
        stream.push(CLIP[:, :, at : at + 1])
    return stream.embedding()


def masked(network, tracklets, folder):
    return next(iter(next(iter(masks_of(network, CLIP).values())).values()))


def saved_and_loaded(network, tracklets, folder):
    path = folder / "one.safetensors"  # the same for all threads
    save(network, path)
    with torch.no_grad():
        return load(path).eval()(CLIP).embedding


USES = [embedded, embedded_by_workers, evaluated, streamed, masked, saved_and_loaded]


def state(network):
    tensors = {name: value.clone() for name, value in network.state_dict().items()}
    return tensors, [module.training for module in network.modules()]


def check_state(network, before):
    after = state(network)
    assert after[1] == before[1]
    for name, value in before[0].items():
        assert torch.equal(after[0][name], value), name


@pytest.mark.slow
def test_eight_threads_on_one_network_get_what_each_gets_alone(network, tracklets, tmp_path):
    """The short form of ``python benchmarks/threads.py``."""
    before = state(network)
    alone = [use(network, tracklets, tmp_path) for use in USES]
    start = threading.Barrier(8)

    def work(number):
        start.wait()
        order = [(number + step) % len(USES) for step in range(2 * len(USES))]
        return [(one, USES[one](network, tracklets, tmp_path)) for one in order]

    with ThreadPoolExecutor(8) as pool:
        for outputs in pool.map(work, range(8)):
            for one, output in outputs:
                assert torch.equal(output, alone[one]), USES[one].__name__
    check_state(network, before)
    assert [path.name for path in tmp_path.iterdir()] == ["one.safetensors"]


@pytest.mark.parametrize("use", USES)
def test_no_use_switches_a_mode_of_the_network_not_even_for_a_moment(network, tracklets, tmp_path, use):
    seen = []
    before = state(network)

    def watch(module, *_):
        seen.append((module is network, state(network)[1] == before[1]))

    network.register_forward_hook(watch)  # the copy has it too
    use(network, tracklets, tmp_path)
    assert all(entry == (False, True) for entry in seen)
    assert seen or use is saved_and_loaded, "which runs the network that it has read"
    assert len(network._forward_hooks) == 1 and not any(child._forward_pre_hooks for child in network.modules())
    check_state(network, before)


def test_a_network_in_evaluation_mode_runs_itself(network, tracklets, tmp_path):
    seen = []
    network.eval().register_forward_hook(lambda module, *_: seen.append(module))
    embedded(network, tracklets, tmp_path)
    assert seen and all(module is network for module in seen)


class HoldsALock(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale, self.lock = nn.Parameter(torch.ones(3)), threading.Lock()

    def forward(self, clip):
        return clip.mean(dim=(2, 3, 4)) * self.scale


def test_what_cannot_be_copied_is_embedded_in_evaluation_mode_only(tracklets, tmp_path):
    made = HoldsALock()
    with pytest.raises(ValueError, match=r"HoldsALock is in training mode and cannot be copied .*call its eval\(\)"):
        embedded(made, tracklets, tmp_path)
    assert made.training
    assert embedded(made.eval(), tracklets, tmp_path).shape == (len(tracklets), 3)


def test_an_evaluation_copy_shares_weights_that_change_later(network):
    twin = evaluation_copy(network)
    assert not any(module.training for module in twin.modules())
    with torch.no_grad():
        for value in network.state_dict().values():
            value.copy_(value + 1)
    check_state(twin, (network.state_dict(), state(twin)[1]))
    assert all(one is other for one, other in zip(network.parameters(), twin.parameters(), strict=True))


def test_files_are_read_by_many_threads(tmp_path):
    path = tmp_path / "one.pth"
    torch.save({"state_dict": {"weight": torch.arange(5.0)}, "mAP": np.float64(0.5)}, path)
    before = torch.serialization.get_safe_globals()
    with ThreadPoolExecutor(8) as pool:
        for weights in pool.map(read_weights, [path] * 200):
            assert torch.equal(weights.tensors["weight"], torch.arange(5.0)) and weights.beside == {"mAP": 0.5}
    assert torch.serialization.get_safe_globals() == before


def test_two_precisions_in_two_threads_leave_the_flags_as_they_were(tracklets):
    seen, start = [], threading.Barrier(2)

    class Watches(HoldsALock):
        def forward(self, clip):
            seen.append((clip.shape[2], tf32_is_allowed()))
            return super().forward(clip)

    def work(precision, frames):
        start.wait()
        embedder = Embedder(Watches().eval(), "watches", Preprocessing(*SIZE), batch=1, precision=precision)
        for _ in range(3):
            embedder.embed(tracklets, ("evenly", frames))

    with allow_tf32(False), ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(work, "tf32", 2), pool.submit(work, "fp32", 3)]:
            done.result()
        assert not tf32_is_allowed()
    assert set(seen) == {(2, True), (3, False)}


def test_attention_is_read_from_a_copy():
    torch.manual_seed(0)
    made = create_model("ste_nvan_resnet8", num_classes=3, stripes=4)
    before = state(made)
    first = attention_of(made, CLIP, (0, 3, 3))
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: attention_of(made, CLIP, (0, 3, 3)), range(8)):
            assert all(torch.equal(found[path].nan_to_num(), first[path].nan_to_num()) for path in first)
    check_state(made, before)
