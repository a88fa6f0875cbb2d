"""A ResNet-50 that takes clips: inflated, more units spliced in, its cost, and taken apart again."""

import torch
from torchvision.models import resnet50

import strfnet

image_network = resnet50()
network = strfnet.inflate(image_network, last_stride=1)  # STRF on P3D-C, as in the paper
network = strfnet.splice(network, {"layer2.3": strfnet.NonLocalBlock})  # and a non-local block after a stage

clip = torch.randn(1, 3, 8, 128, 64)
with torch.inference_mode():
    print("logits of a clip:", tuple(network.eval()(clip).shape))
print(strfnet.profile(network, (1, 3, 8, 256, 128)).table(depth=1))

back = strfnet.deflate(network).state_dict()
print("taken apart:", all(torch.equal(back[key], value) for key, value in image_network.state_dict().items()))
