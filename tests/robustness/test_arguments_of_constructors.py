"""Constructors of public layers and losses with arguments of other types: one error that names argument and value."""

import inspect
import math
import re

import pytest
import torch
from torch import nn

import strfnet
from strfnet import layers, losses
from strfnet.losses import BatchHardTriplet, CenterLoss, ReIDLoss, strf_loss

CONV = nn.Conv2d(4, 4, 3, padding=1)
# The arguments that each needs, and those that are numbers; every other argument with a bool as default is a flag.
CHANNELS = ("FAM", "FFM", "STRF", "NonLocalBlock", "TemporalAttention", "FrameAttention", "AppearancePreserving")
TEMPORAL = ("C2D", "I3D", "P3DA", "P3DB", "P3DC", "AP3DI", "AP3DA", "AP3DB", "AP3DC")
NEEDED = {
    **{name: {"channels": 4} for name in CHANNELS},
    **{name: {"conv": CONV} for name in TEMPORAL},
    **{name: {} for name in ("GeM", "TemporalReduction", "BatchHardTriplet")},
    "Head": {"channels": 4, "num_classes": 3},
    "CenterLoss": {"num_classes": 3, "channels": 4},
    "ReIDLoss": {"triplet": BatchHardTriplet(), "mined_on": "feature"},
}
COUNTS = ("channels", "inner_channels", "num_classes", "reduction", "window", "grid", "stripes", "heads", "factor")
TIMES = ("time_kernel", "time_stride", "time_dilation")
NUMBERS = ("p", "eps", "temperature", "margin", "smoothing", "weight")
CHOICES = ("unit", "units", "dynamic", "mask", "time_padding", "pairing", "pool", "pooling", "attention", "how")
CHOICES += ("distance", "mined_on")
WRONG_COUNTS = (True, 0, -1, 3.5, "16", float("nan"), [4], torch.tensor(4.0), {})
WRONG_NUMBERS = (True, "3", float("nan"), float("inf"), -1, [1.0], {})
WRONG_FLAGS = (0, 1, "yes", None, 2.5, [])
WRONG_CHOICES = (5, "nothing", 2.5, True, [1], ["nothing"])


def public():
    """The public modules of layers and losses that are constructed."""
    names = [(room, name) for room in (layers, losses) for name in room.__all__]
    found = {name: getattr(room, name) for room, name in names}
    return {name: kind for name, kind in found.items() if isinstance(kind, type) and issubclass(kind, nn.Module)}


def cases():
    for name, kind in public().items():
        if name not in NEEDED:
            continue
        arguments = dict(inspect.signature(kind).parameters)
        if "time" in arguments:  # keywords of the temporal convolution
            arguments |= dict.fromkeys(("time_kernel", "time_stride"))
        for argument, parameter in arguments.items():
            if argument in (*COUNTS, *TIMES):
                wrong = WRONG_COUNTS
            elif argument in NUMBERS:
                wrong = WRONG_NUMBERS if argument != "p" else (0, *(one for one in WRONG_NUMBERS if one != math.inf))
            elif argument in CHOICES:
                wrong = WRONG_CHOICES
            elif parameter is not None and isinstance(parameter.default, bool):
                wrong = WRONG_FLAGS
            else:
                continue
            for value in wrong:
                yield pytest.param(name, argument, value, id=f"{name}({argument}={value!r})")


def test_every_public_module_and_every_argument_is_tried():
    tried = {(case.values[0], case.values[1]) for case in cases()}
    left = {"TemporalConv", "ReIDOutput", "Attending"}  # bases and records
    assert {name for name, _ in tried} == set(public()) - left - {"C2D"}
    others = {"conv", "time", "triplet", "class_weights"}
    for name, needed in NEEDED.items():
        arguments = set(inspect.signature(public()[name]).parameters) | set(needed)
        assert arguments - others <= {argument for one, argument in tried if one == name}


@pytest.mark.parametrize(("name", "argument", "value"), list(cases()))
def test_an_argument_of_another_type_is_refused_by_name_and_value(name, argument, value):
    with pytest.raises(ValueError, match=rf"\b{argument}\b") as caught:
        public()[name](**{**NEEDED[name], argument: value})
    assert repr(value) in str(caught.value) or str(value) in str(caught.value)


@pytest.mark.parametrize("value", [None, 5, "resnet50", [], {}], ids=str)
def test_inflate_takes_a_module_or_a_builder_alone(value):
    wanted = f"network must be a module or build one, got {type(value).__name__}"
    with pytest.raises(TypeError, match=re.escape(wanted)):
        strfnet.inflate(value)


FEATURES = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
LABELS = {
    "a list": [0, 0, 1, 1],
    "floats": torch.tensor([0.0, 0, 1, 1]),
    "booleans": torch.tensor([True, True, False, False]),
    "a column": torch.tensor([[0], [0], [1], [1]]),
    "too few": torch.tensor([0, 1]),
    "none": None,
    "text": "0011",
}


class Output:
    def __init__(self, features):
        self.embedding = self.feature = self.logits = features


LOSSES = {
    "triplet": BatchHardTriplet(),
    "center": CenterLoss(2, 3),
    "cross-entropy": lambda features, labels: strf_loss()(Output(features), labels),
    "no triplets": lambda features, labels: ReIDLoss(lambda *_: 0.0, mined_on="feature")(Output(features), labels),
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("labels", LABELS)
def test_labels_of_another_kind_are_refused_by_name(loss, labels):
    with pytest.raises(ValueError, match=r"labels must be (a tensor )?\(4,\) of whole numbers"):
        LOSSES[loss](FEATURES, LABELS[labels])


def test_a_cross_entropy_of_no_clips_is_refused_and_not_nan():
    with pytest.raises(ValueError, match="logits and labels are of 0 clips"):
        LOSSES["cross-entropy"](FEATURES[:0], torch.zeros(0, dtype=torch.int64))


@pytest.mark.parametrize("features", [[[1.0]], None, FEATURES.to_sparse(), FEATURES.long()], ids=["list", "", "", ""])
def test_features_of_another_kind_are_refused_by_name(features):
    with pytest.raises(ValueError, match="features must be"):
        BatchHardTriplet()(features, torch.tensor([0, 0, 1, 1]))


def test_one_clip_under_the_bn_neck_in_training_is_refused_with_what_to_do():
    head = layers.Head(4, 2)
    with pytest.raises(ValueError, match=r"x is one clip, and the BN neck in training needs .* at least 2"):
        head(torch.ones(1, 4, 2, 3, 3))
    assert head.eval()(torch.ones(1, 4, 2, 3, 3)).embedding.shape == (1, 4)
