"""Inflates a ResNet-50 to clips, inserts a non-local block, prints its cost, and restores the 2-D network."""

import torch
from torchvision.models import resnet50

import strfnet

backbone = resnet50()
network = strfnet.inflate(backbone, last_stride=1)  # STRF on P3D-C, as in the paper
network = strfnet.splice(network, {"layer2.3": strfnet.NonLocalBlock})  # a non-local block after a stage

clip = torch.randn(1, 3, 8, 128, 64)
with torch.inference_mode():
    print("logits of a clip:", tuple(network.eval()(clip).shape))
print(strfnet.profile(network, (1, 3, 8, 256, 128)).table(depth=1))

back = strfnet.deflate(network).state_dict()
print("restored bit for bit:", all(torch.equal(back[key], value) for key, value in backbone.state_dict().items()))
