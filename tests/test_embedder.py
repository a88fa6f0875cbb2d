"""Tracklets embedded by a network with its preprocessing."""

from dataclasses import replace

import pytest
import torch

from strfnet import create_model
from strfnet.data import evaluation_sampler, read_folder
from strfnet.data.synthetic import write_walkers
from strfnet.inference import Embedder, embed
from strfnet.models import Preprocessing

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
def test_an_optimized_network_embeds_alike_and_its_shards_are_its_own(embedder, tracklets):
    fast = replace(embedder, optimize=True)
    torch.testing.assert_close(fast.embed(tracklets, CLIPS), embedder.embed(tracklets, CLIPS), rtol=1e-3, atol=1e-3)
    assert embedder._facts(CLIPS) != fast._facts(CLIPS)


@pytest.mark.parametrize("changes", [{"batch": 0}, {"workers": -1}])
def test_wrong_numbers_are_refused(embedder, tracklets, changes):
    with pytest.raises(ValueError, match="wanted at least 1 and 0"):
        replace(embedder, **changes).embed(tracklets, CLIPS)
