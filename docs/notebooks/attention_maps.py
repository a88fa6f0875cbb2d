# %% [markdown]
# # Attention maps
#
# What a network looks at: the four masks of STRF, and where one pixel of a non-local network looks. The networks
# here are **not trained**, so the pictures show how it is done and are noise. [Pictures](../pictures.md) has
# trained ones.

# %%
from pathlib import Path

import torch

import strfnet
from strfnet.data.frames import read_clip
from strfnet.data.synthetic.walkers import Nuisances, draw_camera, draw_walker, render
from strfnet.visualization.attention import attention_of, masks_of
from strfnet.visualization.figures import draw_attention, draw_masks
from strfnet.visualization.page import png

torch.manual_seed(0)

# %% [markdown]
# ## A tracklet
#
# A drawn walker behind a block that passes. With your own frames: `read_clip(["0001.jpg", ...], range(4), (256,
# 128))`.

# %%
tracklet = render(draw_walker(0, 17), draw_camera(0, 3), seed=29, nuisances=Nuisances(occlusion=1))
clip = read_clip(tuple(tracklet), [1, 3, 6, 9], (64, 32))
print("clip:", tuple(clip.shape))

# %% [markdown]
# ## STRF's masks
#
# One call runs the network once, in evaluation mode, and leaves it as it was.

# %%
network = strfnet.create_model("strf_p3dc_resnet8", num_classes=None)
masks = masks_of(network, clip[None])
for path, units in masks.items():
    print(path, {unit: tuple(mask.shape[2:]) for unit, mask in units.items()})
Path("masks.png").write_bytes(png(draw_masks(clip, masks, title="untrained: noise")))

# %% [markdown]
# Trained for 20 seconds on drawn walkers, the same picture looks like this:
#
# ![the masks of two STRF units while a block passes in front of a walker](../pictures/masks_block.png)
#
# ## Where a pixel looks
#
# A pixel of the third frame asks. STE-NVAN attends in pairs of frames, so the first two are out of its sight.

# %%
network = strfnet.create_model("ste_nvan_resnet8", num_classes=None)
place = (2, 24, 16)  # frame, row, column
attention = attention_of(network, clip[None], place)
for path, weights in attention.items():
    seen = ~weights[0].isnan().any(dim=(1, 2))
    print(path, tuple(weights.shape[1:]), "frames seen:", seen.tolist(), "sum:", round(weights.nansum().item(), 4))
Path("attention.png").write_bytes(png(draw_attention(clip, attention, place, title="untrained: noise")))

# %% [markdown]
# ## Which mask is which
#
# A check worth doing with every picture of attention: change what one unit must see, and look whether its mask
# follows. In a still clip the dynamic band is zero, so its mask is one number everywhere.

# %%
network = strfnet.create_model("strf_c2d_resnet8", num_classes=None)
still = clip[:, :1].expand(-1, 4, -1, -1)
for name, shown in (("moving", clip), ("still", still)):
    first = next(iter(masks_of(network, shown[None]).values()))["dynamic"]
    print(f"{name:6} dynamic mask from {first.min():.4f} to {first.max():.4f}")
