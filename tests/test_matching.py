"""Regions that match: equal to hiding each region by hand, for networks of maps, of tokens and of no known kind."""

import pytest
import torch
from strategies import normal, wake
from torch import nn

import strfnet
from strfnet.visualization.matching import match_regions


class Pixels(nn.Module):
    """An embedding that is linear in the pixels, with as many numbers as it has pixels."""

    def forward(self, clip):
        return clip.sum(dim=2).flatten(1)


class Tokens(nn.Module):
    """A 2-D transformer on 8 x 8 patches, with a class token."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 8, 8)
        self.first = nn.Parameter(torch.randn(1, 1, 8))
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.5)

    def forward(self, x):
        tokens = self.patches(x).flatten(2).mT
        return self.block(torch.cat([self.first.expand(len(tokens), -1, -1), tokens], dim=1)).mean(dim=1)


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("kind", ["maps", "tokens", "own"])
def test_regions_are_those_of_clips_with_a_region_hidden(kind, distance):
    torch.manual_seed(0)
    network = {
        "maps": lambda: wake(strfnet.create_model("nvan_resnet8")),
        "tokens": lambda: wake(strfnet.inflate(Tokens(), unit="temporal_attention", places=["block"])),
        "own": Pixels,
    }[kind]().double()
    query, gallery = normal(3, 2, 16, 8), normal(3, 3, 16, 8, seed=1)
    found = match_regions(network, query, gallery, grid=(2, 2), distance=distance, batch=3)

    def vector(clip):
        with torch.no_grad():
            output = network.eval()(clip[None])
        vector = getattr(output, "embedding", output)[0]
        return vector / vector.norm() if distance == "cosine" else vector

    def hidden(clip, row, column):
        clip = clip.clone()
        clip[:, :, 8 * row : 8 * row + 8, 4 * column : 4 * column + 4] = 0
        return clip

    def similarity(one, other):
        return one @ other if distance == "cosine" else -(one - other).square().sum() / 2

    q, g = vector(query), vector(gallery)
    torch.testing.assert_close(found.similarity, float(similarity(q, g)))
    cells = [(row, column) for row in range(2) for column in range(2)]
    for cell in cells:
        less = vector(hidden(query, *cell))
        torch.testing.assert_close(found.query[cell], similarity(q, g) - similarity(less, g))
        torch.testing.assert_close(
            found.gallery[cell], similarity(q, g) - similarity(q, vector(hidden(gallery, *cell)))
        )
        for other in cells:
            expected = (q - less) @ (g - vector(hidden(gallery, *other)))
            torch.testing.assert_close(found.pairs[(*cell, *other)], expected)
    assert found.query.std() > 0 and found.gallery.std() > 0


def test_equal_regions_are_paired_and_modes_are_restored():
    query, gallery = torch.zeros(3, 2, 16, 8), torch.zeros(3, 2, 16, 8)
    query[:, :, 8:12, 0:2] = gallery[:, :, 8:12, 0:2] = 1.0  # region (2, 0)
    query[:, :, :4, 6:] = 0.5  # region (0, 3) of the query alone
    network = Pixels().train()
    found = match_regions(network, query, gallery, grid=(4, 4))
    assert found.strongest(5) == [((2, 0), (2, 0), pytest.approx(float(found.pairs.max())))]
    assert found.query.argmax() == 8 and found.query[0, 3] < 0 and network.training


def test_other_inputs_are_refused():
    clip = torch.zeros(3, 2, 16, 8)
    with pytest.raises(ValueError, match=r"grid is \(17, 4\), wanted rows and columns from 1 to \(16, 8\) of query"):
        match_regions(Pixels(), clip, clip, grid=(17, 4))
    with pytest.raises(ValueError, match="gallery must be a clip"):
        match_regions(Pixels(), clip, clip[0])
    with pytest.raises(ValueError, match=r"the network returns Tensor, wanted embeddings \(8, d\)"):
        match_regions(nn.Identity(), clip, clip)
