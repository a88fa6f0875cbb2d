# %% [markdown]
# # A tour of the layers
#
# Every layer takes and gives clips (b, c, t, h, w) and can be used alone. Here each of them meets a clip for which
# one can say beforehand what must come out. [The equations](../layers.md) are on a page of their own.

# %%
import torch
from torch import nn

import strfnet

torch.manual_seed(0)
clip = torch.randn(1, 64, 6, 16, 8)  # one clip of 64 channels, 6 frames of 16 x 8

# %% [markdown]
# ## New layers change nothing
#
# STRF and the non-local block start with a zero last step, so they can join a network that has been trained.

# %%
strf = strfnet.STRF(64).eval()
block = strfnet.NonLocalBlock(64, stripes=16, window=2).eval()  # as in STE-NVAN
print("STRF, new:", torch.equal(strf(clip), clip))
print("non-local block, new:", torch.equal(block(clip), clip))

# %% [markdown]
# ## The four factors of STRF
#
# A still clip has no dynamic factor; a clip that is constant in cells of 2 x 2 pixels has no fine one. The other
# two see both.

# %%
still = clip[:, :, :1].expand(-1, -1, 6, -1, -1)
flat = clip[..., ::2, ::2].repeat_interleave(2, dim=3).repeat_interleave(2, dim=4)
for unit in ("static", "dynamic", "coarse", "fine"):
    factor = strfnet.FFM(64, unit).eval()
    of_still, of_flat = factor(still).abs().max(), factor(flat).abs().max()
    print(f"{unit:8} greatest value in a still clip {of_still:.3f}, in a flat one {of_flat:.3f}")

# %% [markdown]
# Each factor is weighed by a mask: a curve over frames times a map over places.

# %%
masks = strf.masks(clip)
mask = masks["dynamic"][0, 0]
for name, values in masks.items():
    print(f"{name:8} {tuple(values.shape)} from {values.min():.2f} to {values.max():.2f}")
ratio = mask / mask[:1]
same = torch.allclose(ratio, ratio[:, :1, :1].expand_as(ratio), atol=1e-5)
print("one map in all frames, brighter or darker:", same)

# %% [markdown]
# ## Who attends to whom
#
# With `window=2` frames attend in pairs. The matrix is made on request only; its rows sum to 1.

# %%
attention = block.attention(clip)
print("windows, queries, keys:", tuple(attention.shape[1:]), "rows sum to", attention.sum(-1).mean().item())
nn.init.ones_(block.norm.weight)  # awake
changed = clip.clone()
changed[:, :, 0] += 1  # only the first frame
moved = (block(changed) - block(clip)).abs().amax(dim=(0, 1, 3, 4)) > 1e-6
print("frames that notice:", moved.tolist())

# %% [markdown]
# ## Frames merged
#
# The larger of two neighbours, value by value; a last frame without a neighbour stays. With lengths, the frames
# beyond them do not count.

# %%
merge = strfnet.TemporalReduction(2)
print(tuple(merge(clip[:, :, :5]).shape), merge.lengths_after(torch.tensor([5])).tolist())

# %% [markdown]
# ## Convolutions over time
#
# Made from a 2-D convolution, whose answer on every frame they give when they are new.

# %%
conv = nn.Conv2d(64, 32, 3, padding=1, groups=4)
per_frame = torch.stack([conv(frame) for frame in clip.unbind(dim=2)], dim=2)
for kind in (strfnet.C2D, strfnet.I3D, strfnet.P3DA, strfnet.P3DB, strfnet.P3DC, strfnet.AP3DC):
    layer = kind(conv)
    added = sum(value.numel() for value in layer.parameters()) - sum(value.numel() for value in conv.parameters())
    difference = (layer(clip) - per_frame).abs().max()
    print(f"{kind.__name__:6} adds {added:6,} parameters and differs by {difference:.1e}")
