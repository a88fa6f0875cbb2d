"""Applies one STRF unit and one striped non-local block to the features of a clip."""

import torch

from strfnet import STRF, NonLocalBlock

clip = torch.randn(2, 256, 8, 16, 8)  # b, c, t, h, w

unit = STRF(256)
print("a new unit is the identity:", torch.equal(unit(clip), clip))
print("parameters:", sum(parameter.numel() for parameter in unit.parameters()))
for name, mask in unit.masks(clip).items():
    print(f"mask of the {name} unit:", tuple(mask.shape), f"{mask.min():.2f} to {mask.max():.2f}")

block = NonLocalBlock(256, stripes=16, window=2)  # as in STE-NVAN: 16 stripes, pairs of frames
print("non-local block:", tuple(block(clip).shape), "attention:", tuple(block.attention(clip).shape))
