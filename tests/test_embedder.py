"""Tracklets embedded by a network with its preprocessing."""

from dataclasses import replace

import pytest
import torch

from strfnet import create_model
from strfnet.data import evaluation_sampler, read_folder
from strfnet.data.synthetic import write_walkers
from strfnet.inference import Embedder, embed
from strfnet.models import Preprocessing
from strfnet.system.compat import tf32_is_allowed
from strfnet.training.sharing import join_processes

CLIPS = ("evenly", 4)


@pytest.fixture
def tracklets(tmp_path):
    write_walkers(tmp_path / "walkers", identities=2, cameras=2, frames=5, height=32)
    return read_folder(tmp_path / "walkers")


@pytest.fixture
def embedder():
    torch.manual_seed(0)
    network = create_model("p3dc_resnet8", num_classes=None)
    return Embedder(network, "p3dc_resnet8", Preprocessing(40, 24, "bicubic"), batch=3, workers=1)


def test_an_embedder_applies_its_preprocessing(embedder, tracklets):
    clips = evaluation_sampler("evenly", frames=4)
    expected = embed(embedder.network, tracklets, clips=clips, size=(40, 24), interpolation="bicubic", batch=3)
    assert torch.equal(embedder.embed(tracklets, CLIPS), expected)


@pytest.mark.slow  # it compiles
@pytest.mark.filterwarnings("ignore:optimize drops compile.* slower")  # on a busy machine
def test_an_optimized_network_embeds_alike_and_its_shards_are_its_own(embedder, tracklets):
    fast = replace(embedder, optimize=True)
    torch.testing.assert_close(fast.embed(tracklets, CLIPS), embedder.embed(tracklets, CLIPS), rtol=1e-3, atol=1e-3)
    assert embedder._made_by(CLIPS) != fast._made_by(CLIPS)


@pytest.mark.parametrize("changes", [{"batch": 0}, {"workers": -1}])
def test_wrong_numbers_are_refused(embedder, tracklets, changes):
    with pytest.raises(ValueError, match="wanted at least 1 and 0"):
        replace(embedder, **changes).embed(tracklets, CLIPS)


def test_precision_sets_the_type_and_tf32(embedder, tracklets, monkeypatch):
    expected, seen = embedder.embed(tracklets, CLIPS), []
    forward = type(embedder.network).forward

    def watched(network, clip, *arguments):
        seen.append((clip.dtype, tf32_is_allowed()))
        return forward(network, clip, *arguments)

    monkeypatch.setattr(type(embedder.network), "forward", watched)
    half = replace(embedder, precision="bf16").embed(tracklets, CLIPS)
    assert {dtype for dtype, _ in seen} == {torch.bfloat16} and half.dtype == torch.float32
    assert 1e-5 < (half - expected).abs().max() < 0.05 * expected.abs().max()
    assert next(embedder.network.parameters()).dtype == torch.float32
    for precision in ("fp32", "tf32"):
        del seen[:]
        assert torch.equal(replace(embedder, precision=precision).embed(tracklets, CLIPS), expected)
        assert set(seen) == {(torch.float32, precision == "tf32")}
    assert "precision" not in embedder._made_by(CLIPS)
    assert replace(embedder, precision="bf16")._made_by(CLIPS)["precision"] == "bf16"
    with pytest.raises(ValueError, match="precision must be one of fp32, tf32, bf16, got 'int8'"):
        replace(embedder, precision="int8")


@pytest.mark.parametrize(
    ("device", "built", "warned"), [(None, "13.0", True), (None, None, False), ("cpu", "13.0", False)]
)
def test_a_line_says_that_no_gpu_is_seen(monkeypatch, capsys, device, built, warned):
    monkeypatch.setattr(torch.version, "cuda", built)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert join_processes(device).type == "cpu"
    assert ("is built for CUDA 13.0 but sees no GPU" in capsys.readouterr().err) == warned
