"""Checkouts of the published code, timed with the same weights; none of it is part of this project.

STE-NVAN is recognised by its ``net/models.py``, which holds ``CNN``; AP3D by its ``models/ResNet.py`` and
``models/AP3D.py``, which hold ``ResNet503D`` and its convolutions. Parameters are matched by
the names in published_names.py. The published constructors fetch ImageNet weights; here both get random ones.
"""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from cases import ERROR, Settings, awake, normal
from figures import Figure
from interleaved import difference
from published_names import published_state
from torch import Tensor, nn

STE = {
    "{}_fpl": "resnet50_s1",
    "nvan_{}": "resnet50_NL",
    "nvan_spatial_{}": "resnet50_NL_stripe",
    "nvan_temporal_{}": "resnet50_NL_hr",
    "ste_nvan_{}": "resnet50_NL_stripe_hr",
}
AP3D = {"c2d_{}": "C2D", "i3d_{}": "I3D", "p3da_{}": "P3DA", "p3db_{}": "P3DB", "p3dc_{}": "P3DC"}
PLACES = [[], [0, 2], [0, 2, 4], []]


def found(checkout: Path) -> dict[str, str]:
    """Which of our networks the checkout computes, and what they are called there.

    Raises: ValueError if it is neither of the two repositories.
    """
    if (checkout / "net" / "models.py").is_file():
        return STE
    if (checkout / "models" / "ResNet.py").is_file():
        return AP3D
    raise ValueError(f"{checkout} holds neither net/models.py (of STE-NVAN) nor models/ResNet.py (of AP3D)")


def compared(checkout: Path, form: str, settings: Settings) -> list[Figure]:
    """Our eager network against the checkout's own, with the same weights.

    Raises: ValueError if the checkout's network does not take the clip, as one revision of STE-NVAN does not.
    """
    case = f"{form.format(settings.depth)}, peer"
    network = awake(form.format(settings.depth), settings)
    theirs = with_weights_of(network, build(checkout, form))
    clip = normal(settings, *settings.clip_shape(1))
    with torch.inference_mode():
        try:
            expected = embedding(theirs, form, clip)
        except (RuntimeError, IndexError) as error:
            shape = tuple(clip.shape)
            raise ValueError(
                f"{checkout}: {found(checkout)[form]} does not take a clip of {shape}: {error}"
            ) from error
        apart = difference(network(clip).embedding, expected)
        calls = {"peer": partial(embedding, theirs, form, clip), "eager": partial(network, clip)}
        timings = settings.time(calls)
    return [
        Figure(case, "eager: output differs", apart, goal=ERROR, at_most=True),
        Figure.spread(case, "eager: the checkout takes", timings.ratio("peer", "eager"), "x"),
        *(Figure.spread(case, name, timings.of(name), "s") for name in calls),
    ]


def build(checkout: Path, form: str) -> nn.Module:
    """The checkout's network, made by its own code. Raises: ValueError naming what was not found or did not work."""
    kind = found(checkout)[form]
    with _importing(checkout), _random_weights():
        try:
            if form in STE:
                cnn = importlib.import_module("net.models").CNN
                options = {"non_layers": [0, 2, 3, 0], "stripes": [16] * 4, "temporal": "Done"}
                return cnn(2048, model_type=kind, num_class=625, **options)
            resnet = importlib.import_module("models.ResNet").ResNet503D
            conv = getattr(importlib.import_module("models.AP3D"), kind)
            return resnet(625, conv, [[]] * 4 if kind == "C2D" else PLACES, [[]] * 4)
        except (ImportError, AttributeError, TypeError) as error:
            raise ValueError(f"{checkout} does not build {kind} as it should: {error}") from error


def with_weights_of(network: Any, theirs: nn.Module) -> nn.Module:
    """``theirs`` in evaluation, in place, with the weights of ``network``; a classifier keeps its own.

    Raises: ValueError naming parameters that only one of the two has.
    """
    ours, state = published_state(network), theirs.state_dict()
    odd = {name for name in ours.keys() ^ state.keys() if not name.startswith("classifier.")}
    if odd:
        raise ValueError(f"{len(odd)} parameters are not on both sides, such as {', '.join(sorted(odd)[:3])}")
    shaped = {name: value.reshape(state[name].shape) for name, value in ours.items()}
    theirs.load_state_dict({**state, **shaped})
    return theirs.to(next(network.parameters()).device).eval()


def embedding(theirs: Any, form: str, clip: Tensor) -> Tensor:
    """(b, d) of the checkout's network for a clip (b, c, t, h, w), handed over in the order that it wants."""
    b = clip.shape[0]
    if form in AP3D:  # in evaluation it gives features by frame, and the caller applies the neck
        return theirs.bn(theirs(clip).reshape(b, -1, theirs.bn.num_features).mean(dim=1))
    frames = clip.transpose(1, 2).contiguous()
    if form == "{}_fpl":
        frames = frames.flatten(0, 1)
    return theirs(frames).reshape(b, -1, theirs.bottleneck.num_features).mean(dim=1)


@contextmanager
def _importing(checkout: Path) -> Iterator[None]:
    """Modules come from the checkout first, and are forgotten again."""
    path, before = list(sys.path), set(sys.modules)
    sys.path.insert(0, str(checkout.resolve()))
    try:
        yield
    finally:
        sys.path[:] = path
        for name in set(sys.modules) - before:
            if name.partition(".")[0] in ("net", "models"):
                del sys.modules[name]


@contextmanager
def _random_weights() -> Iterator[None]:
    """Weights that would be downloaded are those of a new ResNet-50."""
    from torchvision.models import resnet50

    def state(*_: Any, **__: Any) -> dict[str, Tensor]:
        return resnet50().state_dict()

    places = ("torch.hub", "torchvision.models._api")
    patches = [patch(f"{place}.load_state_dict_from_url", state) for place in places]
    with patches[0], patches[1], patch("torch.utils.model_zoo.load_url", state):
        yield
