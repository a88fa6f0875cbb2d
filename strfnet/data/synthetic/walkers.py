"""Synthetic walkers and cameras: what a tracklet shows, described by a few numbers.

Lengths are in pixels of a canvas of 64 by 32 pixels. Walkers and cameras are pure functions of a seed and a number.
"""

from dataclasses import dataclass

import numpy as np

from strfnet.data.synthetic.drawing import Array, Colour


@dataclass(frozen=True)
class Static:
    """Colours and pattern of the clothes, visible in any single frame.

    ``stripe_frequency`` is in cycles per pixel, ``stripe_angle`` in radians.
    """

    torso: Colour
    stripes: Colour
    stripe_frequency: float
    stripe_angle: float
    stripe_contrast: float
    legs: Colour


@dataclass(frozen=True)
class Dynamic:
    """Gait, visible only in the order of frames.

    ``frequency`` is in cycles per frame; ``lag`` is the phase of the arms behind the legs in radians.
    """

    frequency: float
    lag: float


@dataclass(frozen=True)
class Coarse:
    """Body proportions: half-widths of shoulders and legs, radius of the head, the torso's share of the height."""

    shoulders: float
    torso_share: float
    head: float
    legs: float


@dataclass(frozen=True)
class Fine:
    """Small marks: a badge, the shoes and the belt.

    ``badge_u`` and ``badge_v`` are in half-widths and heights of the torso.
    """

    badge_u: float
    badge_v: float
    badge_hue: float
    shoe_hue: float
    belt_grey: float


@dataclass(frozen=True)
class Walker:
    """An identity: four factors, each of which can be replaced alone."""

    static: Static
    dynamic: Dynamic
    coarse: Coarse
    fine: Fine


@dataclass(frozen=True)
class Camera:
    """Gain and bias of each colour channel, and the background's colour (RGB)."""

    gain: Array
    bias: Array
    background: Array


@dataclass(frozen=True)
class Nuisances:
    """Variation that is independent of the identity.

    Args:
        occlusion: probability that a block passes in front of the walker for 3 to 9 frames.
        block: whether another block stays in front in every frame and moves from border to border.
        jitter: standard deviation of the vertical position from frame to frame; 0.6 of it horizontally.
        shift: largest offset of the whole tracklet along both axes.
        scale: largest relative change of the walker's size.
        noise: standard deviation of pixel noise; pixel values are in 0 .. 1.
    """

    occlusion: float = 0.4
    block: bool = False
    jitter: float = 0.7
    shift: float = 1.5
    scale: float = 0.08
    noise: float = 0.02


def draw_walker(seed: int, identity: int) -> Walker:
    """Returns walker number ``identity`` of a seed. All factors are sampled uniformly."""
    rng = np.random.default_rng([1, seed, identity])
    uniform = rng.uniform
    saturation, value = uniform(0.3, 0.9), uniform(0.35, 0.9)
    return Walker(
        Static(
            torso=(uniform(), saturation, value),
            stripes=(uniform(), saturation, 1 - 0.6 * value),
            stripe_frequency=uniform(0.08, 0.25),
            stripe_angle=uniform(0, np.pi),
            stripe_contrast=uniform(0, 0.8),
            legs=(uniform(), uniform(0.2, 0.8), uniform(0.2, 0.8)),
        ),
        Dynamic(frequency=uniform(0.05, 0.25), lag=float(rng.choice([-1, 1])) * np.pi / 2),
        Coarse(uniform(3.5, 7), uniform(0.28, 0.46), uniform(2.8, 4.8), uniform(1, 2.4)),
        Fine(uniform(-0.6, 0.6), uniform(0.15, 0.75), uniform(), uniform(), uniform()),
    )


def draw_camera(seed: int, camera: int) -> Camera:
    """Returns camera number ``camera`` of a seed."""
    uniform = np.random.default_rng([2, seed, camera]).uniform
    gain, bias, background = uniform(0.75, 1.25, 3), uniform(-0.08, 0.08, 3), uniform(0.2, 0.8, 3)
    return Camera(*(values.astype(np.float32) for values in (gain, bias, background)))
