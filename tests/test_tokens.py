"""Units behind the blocks of token networks, against a clip made by hand: h by w tokens, row by row."""

import copy

import pytest
import timm
import torch
import torchvision
from strategies import wake
from sweeps import sweep
from torch import nn

import strfnet
from strfnet.inflation.layout import Layout, described, replace, select
from strfnet.inflation.probing import Probe

UNITS = {"strf": strfnet.STRF, "non_local": strfnet.NonLocalBlock, "temporal": strfnet.TemporalAttention}
SMALL = {"embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 5}
HF = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 64,
    "patch_size": 16,
}


def vit(name, size, **options):
    return lambda: timm.create_model(name, img_size=size, **{**SMALL, **options})


def hugging_face(name):
    def build():
        transformers = pytest.importorskip("transformers")
        return getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**HF))

    return build


def torchvision_vit():
    return torchvision.models.VisionTransformer(64, 16, 2, 2, 32, 64, num_classes=5)


def torchvision_swin():
    return torchvision.models.SwinTransformer([4, 4], 16, [1, 2], [2, 4], [4, 4], num_classes=5)


def timm_swin():  # 16 rows, columns and channels: only a second size tells which axis is which
    options = {"img_size": 64, "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 2), "window_size": 4}
    return timm.create_model("swin_tiny_patch4_window7_224", num_classes=5, **options)


def tiny_vit():
    options = {"embed_dims": (16, 16, 32, 32), "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2)}
    return timm.create_model("tiny_vit_5m_224", window_sizes=(4, 4, 4, 4), num_classes=5, **options)


# The network, the path of a block, the size of frames, the prefix tokens (None: channels-last maps), the grid.
TOWERS = {
    "timm ViT": (vit("vit_tiny_patch16_224", (64, 32)), "blocks.0", (64, 32), 1, (4, 2)),
    "timm DeiT": (vit("deit_tiny_distilled_patch16_224", (64, 32)), "blocks.0", (64, 32), 2, (4, 2)),
    "timm DINOv2": (vit("vit_small_patch14_reg4_dinov2", (56, 28)), "blocks.0", (56, 28), 5, (4, 2)),
    "timm DINOv3": (vit("vit_small_patch16_dinov3", (32, 64)), "blocks.0", (32, 64), 5, (2, 4)),
    "timm CLIP": (vit("vit_base_patch16_clip_224", (64, 32)), "blocks.0", (64, 32), 1, (4, 2)),
    "timm EVA": (vit("eva02_tiny_patch14_224", (56, 28)), "blocks.0", (56, 28), 1, (4, 2)),
    "timm Swin": (timm_swin, "layers.0.blocks.1", (64, 64), None, (16, 16)),
    "TinyViT": (tiny_vit, "stages.1.blocks.0", (64, 32), None, (8, 4)),
    "torchvision ViT": (torchvision_vit, "encoder.layers.encoder_layer_0", (64, 64), 1, (4, 4)),
    "torchvision Swin": (torchvision_swin, "features.1.0", (64, 32), None, (16, 8)),
    "transformers ViT": (hugging_face("ViT"), "layers.0", (64, 64), 1, (4, 4)),
    "transformers DINOv2": (hugging_face("Dinov2"), "encoder.layer.0", (64, 32), 1, (4, 2)),
    "transformers CLIP": (hugging_face("CLIPVision"), "encoder.layers.0", (64, 64), 1, (4, 4)),
}


def clip_of(size, seed=0):
    return torch.randn(2, 3, 3, *size, generator=torch.Generator().manual_seed(seed))


def tower(name):
    build, path, size, prefix, grid = TOWERS[name]
    torch.manual_seed(0)
    output = "pooler_output" if name.startswith("transformers") else None
    return wake(build()).eval(), path, clip_of(size), prefix, grid, output


def by_hand(network, path, clip, unit, prefix, grid, output):
    """The 2-D network on all frames, whose block at ``path`` is followed by the unit on a clip made by hand."""

    def follow(module, inputs, returned):
        tokens = returned[0] if isinstance(returned, tuple) else returned
        first = 0 if prefix is None else prefix
        flat = tokens.flatten(1, 2) if prefix is None else tokens[:, first:]
        maps = torch.stack([flat[:, row * grid[1] : (row + 1) * grid[1]] for row in range(grid[0])], dim=1)
        clips = torch.stack([maps[at : at + clip.shape[2]] for at in range(0, len(maps), clip.shape[2])])
        new = unit(clips.permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1).reshape(flat.shape)
        new = new.view(tokens.shape) if prefix is None else torch.cat([tokens[:, :first], new], dim=1)
        return (new, *returned[1:]) if isinstance(returned, tuple) else new

    twin = copy.deepcopy(network)
    if unit is not None:
        twin.get_submodule(path).register_forward_hook(follow)
    vectors = select(twin(clip.transpose(1, 2).flatten(0, 1)), output)
    return vectors.unflatten(0, (clip.shape[0], -1)).mean(dim=1)


@pytest.mark.parametrize("name", sweep(TOWERS, quick=7))
@torch.no_grad()
def test_a_unit_behind_a_block_of_tokens_sees_the_clip_made_by_hand(name):
    network, path, clip, prefix, grid, output = tower(name)
    plain = by_hand(network, path, clip, None, prefix, grid, output)
    state = network.state_dict()
    for unit in UNITS:
        inflated = strfnet.inflate(network, unit=UNITS[unit], places=[path], output=output)
        assert torch.equal(inflated(clip), plain), unit
        outcome = inflated.load_state_dict(state)
        assert not outcome.missing_keys and not outcome.unexpected_keys
        image = strfnet.deflate(inflated)
        assert [(p, type(m)) for p, m in image.named_modules()] == [(p, type(m)) for p, m in network.named_modules()]
        assert all(torch.equal(value, state[key]) for key, value in image.state_dict().items())
        assert not strfnet.profile(inflated, clip.shape).uncounted
        wake(inflated.get_submodule(path).after)
        expected = by_hand(network, path, clip, inflated.get_submodule(path).after[0], prefix, grid, output)
        assert (expected - plain).abs().max() > 1e-4
        torch.testing.assert_close(inflated(clip), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(copy.deepcopy(inflated)(clip), expected, rtol=1e-5, atol=1e-5)


def test_gradients_reach_units_and_image_weights_also_when_blocks_are_computed_again():
    network = timm.create_model("vit_tiny_patch16_224", img_size=(64, 32), **SMALL)
    inflated = wake(strfnet.inflate(network, unit=strfnet.TemporalAttention, places=["blocks.0"])).double()
    clip, found = clip_of((64, 32)).double(), []
    for again in (False, True):
        inflated.set_grad_checkpointing(again)
        found.append(torch.autograd.grad(inflated(clip).square().sum(), list(inflated.parameters())))
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-12)
    assert all(gradient.any() for gradient in found[0])


def test_two_graphs_whose_grids_differ_are_told_apart_or_refused():
    network = timm.create_model("vit_tiny_patch16_224", img_size=(64, 32), dynamic_img_size=True, **SMALL)
    inflated = strfnet.inflate(network, unit=strfnet.TemporalAttention, places=["blocks.0"])
    unit = inflated.blocks[0].after
    tall, wide = inflated(clip_of((64, 32))), inflated(clip_of((48, 64)))
    assert unit(torch.zeros(6, 9, 32)).shape == (6, 9, 32) and unit(torch.zeros(6, 13, 32)).shape == (6, 13, 32)
    flat = inflated(clip_of((32, 64)))
    with pytest.raises(ValueError, match=r"of 2 in a grid \(2, 4\) or 2 in a grid \(4, 2\) clips"):
        unit(torch.zeros(6, 9, 32))
    assert (tall + wide + flat).requires_grad


def test_a_unit_that_merges_frames_is_refused_beside_prefix_tokens_and_allowed_without():
    network = timm.create_model("vit_tiny_patch16_224", img_size=(64, 32), **SMALL).eval()
    inflated = strfnet.inflate(network, unit=lambda channels: strfnet.TemporalReduction(), places=["blocks.0"])
    with pytest.raises(ValueError, match=r"blocks\.0.*returns 4 frames.*1 prefix tokens that pass by have 6"):
        inflated(clip_of((64, 32)))
    inflated = strfnet.inflate(torchvision_swin().eval(), unit=None, places=[])
    inflated = strfnet.splice(inflated, {"features.1.0": strfnet.TemporalReduction()})
    assert inflated(clip_of((64, 32))).shape == (2, 5)


def test_a_network_of_channels_last_maps_returns_clips():
    network = timm_swin().eval()
    network.head = nn.Identity()
    network.norm = nn.Identity()
    maps = network(clip_of((64, 64)).transpose(1, 2).flatten(0, 1))
    answer = strfnet.inflate(network, unit=None, places=[])(clip_of((64, 64)))
    assert torch.equal(answer, maps.unflatten(0, (2, 3)).permute(0, 4, 1, 2, 3)) and answer.shape == (2, 32, 3, 8, 8)


class TokensFirst(nn.Module):
    """The order (n, b, c) of OpenAI's CLIP, tuples, and a block that gives several tensors."""

    def __init__(self, pick=lambda tokens: tokens):
        super().__init__()
        self.patches, self.block, self.pick = nn.Conv2d(3, 8, 4, 4), Returning(pick), pick

    def forward(self, x):
        tokens = self.patches(x).flatten(2).permute(2, 0, 1)
        tokens = self.block(torch.cat([tokens.mean(0, keepdim=True), tokens]))
        return (tokens if torch.is_tensor(tokens) else tokens[0]).mean(0)


class Returning(nn.Module):
    def __init__(self, pick):
        super().__init__()
        self.linear, self.pick = nn.Linear(8, 8), pick

    def forward(self, x):
        return self.pick(self.linear(x))


@torch.no_grad()
def test_tokens_before_frames_and_one_of_several_tensors():
    clip, unit = clip_of((16, 8)), wake(strfnet.TemporalAttention(8))
    expected = strfnet.splice(strfnet.inflate(TokensFirst(), places=[], unit=None), {"block": unit})(clip)
    for pick, item in ((lambda x: (x, "note"), None), (lambda x: (x, x + 1), 0), (lambda x: [x], None)):
        network = TokensFirst(pick)
        plain = strfnet.inflate(network, places=[], unit=None)
        spliced = strfnet.splice(plain, {"block": unit}, output=item)
        assert (spliced(clip) - plain(clip)).abs().max() > 1e-3
    assert expected.shape == (2, 8)
    with pytest.raises(ValueError, match=r"block returns a tuple of \[0\] .* as output=0 as .* or as output=1 as "):
        strfnet.splice(strfnet.inflate(TokensFirst(lambda x: (x, x + 1)), places=[], unit=None), {"block": unit})


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (lambda x: x[:3], ["block returns a tensor (3, 6, 8) for 6 frames of 256 x 128", "wanted maps or tokens"]),
        (lambda x: {"a": x.sum()}, ["block returns a dict of 'a': ()"]),
    ],
)
def test_what_is_neither_maps_nor_tokens_is_refused_when_spliced(module, words):
    class Beside(TokensFirst):
        def forward(self, x):
            maps = self.patches(x)
            self.block(maps.flatten(2).permute(2, 0, 1))
            return maps

    network = Beside(module)
    with pytest.raises(ValueError) as caught:
        strfnet.inflate(network, places=["block"])
    assert all(word in str(caught.value) for word in words), caught.value


def test_two_readings_are_named_and_one_can_be_chosen():
    class Square(nn.Module):  # of one size only, so that no second size can tell
        def __init__(self):
            super().__init__()
            self.conv, self.block = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 8)

        def forward(self, x):
            return self.block(self.conv(x).view(-1, 8, 8, 8)).mean((1, 2))

    inflated = strfnet.inflate(Square(), places=[], unit=None, example=clip_of((32, 32)))
    both = (
        r"can be read as \(f, c, h, w\) of 8 channels or as \(f, h, w, c\) of 8 channels; choose by layout= of splice"
    )
    with pytest.raises(ValueError, match=both):
        strfnet.splice(inflated, {"block": strfnet.TemporalAttention}, example=clip_of((32, 32)))
    for layout in ("fchw", "fhwc"):
        spliced = strfnet.splice(
            inflated, {"block": strfnet.TemporalAttention}, layout=layout, example=clip_of((32, 32))
        )
        assert torch.equal(spliced(clip_of((32, 32))), inflated(clip_of((32, 32))))


def test_tokens_have_no_grid_where_some_were_dropped_or_reordered():
    with torch.device("meta"):
        dropping = timm.create_model("vit_tiny_patch16_224", patch_drop_rate=0.4)
        hiera = timm.create_model("hiera_tiny_224")
    with pytest.raises(ValueError, match=r"blocks\.0 returns a tensor \(6, 118, 192\).*wanted maps or tokens"):
        strfnet.inflate(dropping.train(), places=["blocks.0"])
    with pytest.raises(ValueError, match="in the order of mask units"):
        strfnet.inflate(hiera, places=["blocks.2"])


def test_grids_come_from_the_clip_where_patches_are_made_without_a_convolution():
    with torch.device("meta"):
        network = timm.create_model("naflexvit_base_patch16_gap", embed_dim=32, depth=2, num_heads=2)
    reading = Probe(network, frames=True).reading("blocks.0")
    assert reading.channels == 32 and reading.layout == Layout("fnc", prefix=4, source="", scale=16)


def test_items_of_records_are_selected_replaced_and_described():
    from collections import namedtuple

    pair = namedtuple("Pair", ["first", "second"])
    x, y = torch.zeros(2, 3), torch.ones(1)
    for output, item in (
        ((x, y), 0), ([x, y], 0), ({"a": x, "b": y}, "a"), (pair(x, y), 0), (pair(x, y), "first"),
    ):  # fmt: skip
        assert select(output, item) is x
        changed = replace(output, item, y)
        assert select(changed, item) is y and select(output, item) is x and type(changed) is type(output)
    assert described(pair(x, y)) == "a Pair of 'first': (2, 3), 'second': (1,)"
    with pytest.raises(ValueError, match=r"output is 'c', which is not in a dict of 'a': \(2, 3\)"):
        select({"a": x}, "c")
