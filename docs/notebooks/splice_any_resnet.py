# %% [markdown]
# # Splice units into any ResNet
#
# You hold an image network. It becomes one on clips, gets units where you want them, costs what the table says, and
# can be taken apart again. Nothing that you hold is modified.

# %%
import torch
from torch import nn
from torchvision.models import resnet18

import strfnet

torch.manual_seed(0)
image_network = resnet18().eval()  # or your own, or one of timm's
clip = torch.randn(1, 3, 4, 64, 32)

# %% [markdown]
# ## One line
#
# With nothing but a network: STRF on P3D-C, in every second block of stages 2 and 3. Its answer is still the mean
# of what the image network says to the frames.

# %%
network = strfnet.inflate(image_network)
with torch.inference_mode():
    frames = image_network(clip[0].movedim(1, 0)).mean(dim=0, keepdim=True)
    print("largest difference:", (network(clip) - frames).abs().max().item())
added = set(network.state_dict()) - set(image_network.state_dict())
print("places:", sorted({name.rsplit(".temporal", 1)[0] for name in added if "temporal" in name}))

# %% [markdown]
# ## Your choice of time, unit and place

# %%
network = strfnet.inflate(
    image_network,
    temporal="i3d",
    unit=lambda channels: strfnet.STRF(channels, units=("static", "dynamic")),
    places=["layer2.0", "layer3.1"],
    last_stride=1,
)

# %% [markdown]
# ## More units, and one of your own
#
# What takes and gives clips will do. This one mixes each frame with the mean of all frames, and starts as the
# identity.


# %%
class MeanOfFrames(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.share = nn.Parameter(torch.zeros(channels, 1, 1, 1))

    def forward(self, x):
        return x + self.share * x.mean(dim=2, keepdim=True)


network = strfnet.splice(network, {"layer2.1": strfnet.NonLocalBlock, "layer4.1": MeanOfFrames})
print([name for name, _ in network.named_modules() if name.endswith("after.0")])

# %% [markdown]
# ## What it costs
#
# Counted on a copy without values, for the clip that you will really use.

# %%
size = (1, 3, 8, 256, 128)
before = strfnet.profile(strfnet.inflate(image_network, temporal="c2d", unit=None), size)
after = strfnet.profile(network, size)
print(f"frame by frame: {before.gmacs:6.2f} GMAC  {before.parameters / 1e6:.2f} M parameters")
print(f"now:            {after.gmacs:6.2f} GMAC  {after.parameters / 1e6:.2f} M parameters")

# %% [markdown]
# ## A training step, and apart again
#
# After training `deflate` gives the image network back, with today's weights and none of what was added.

# %%
network.train()(clip.repeat(2, 1, 1, 1, 1)).square().mean().backward()
print("gradients arrive:", all(p.grad is not None for n, p in network.named_parameters() if "temporal" not in n))

plain = strfnet.deflate(strfnet.inflate(image_network)).state_dict()
print("as it was:", all(torch.equal(plain[name], value) for name, value in image_network.state_dict().items()))
