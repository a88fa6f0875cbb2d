"""Frames of a synthetic walker as a camera records them."""

import math

import numpy as np
from numpy.typing import NDArray

from strfnet.data.synthetic.drawing import Array, Canvas, box, cloud, limb, pigment, planes
from strfnet.data.synthetic.walkers import Camera, Nuisances, Walker

_HEIGHT, _WIDTH, _BODY = 64, 32, 52.0  # pixels of the canvas, and of the figure from its crown to its soles
_SKIN = (0.07, 0.45, 0.80)
_DEFAULT = Nuisances()


def render(
    walker: Walker,
    camera: Camera,
    *,
    frames: int = 16,
    seed: int | tuple[int, ...] = 0,
    height: int = 64,
    nuisances: Nuisances = _DEFAULT,
) -> NDArray[np.uint8]:
    """Returns one tracklet, RGB (t, h, w, 3), a pure function of its arguments.

    The phase of the gait, size, position, background, jitter, noise and passing blocks are sampled from ``seed``.
    Two calls that differ in ``nuisances`` alone share the phase, the background and the direction of every shift.

    Args:
        walker: the identity.
        camera: the camera, which sets colours and background.
        frames: number of frames, t.
        seed: seed of the nuisances.
        height: h in pixels, even; w is half of it. A larger height renders the same scene with finer pixels.
        nuisances: strength of each nuisance.

    Raises: ValueError if ``frames`` is below 1, or ``height`` is odd or below 8.
    """
    if frames < 1 or height < 8 or height % 2:
        raise ValueError(f"got {frames} frames of height {height}, wanted 1 or more, even and at least 8")
    rng = np.random.default_rng(seed if isinstance(seed, int) else list(seed))
    canvas = Canvas(_background(camera, frames, height, rng), height / _HEIGHT)
    _paint_walker(canvas, walker, nuisances, rng)
    if rng.uniform() < nuisances.occlusion:
        _paint_passing_block(canvas, rng)
    if nuisances.block:
        _paint_staying_block(canvas, rng)
    image = canvas.image * planes(camera.gain) + planes(camera.bias)
    h, w = canvas.image.shape[2:]
    values = nuisances.noise * rng.standard_normal((frames, h, w, 3), dtype=np.float32)
    for channel, plane in enumerate(image):
        values[..., channel] += plane
    return (values.clip(0, 1) * 255).round().astype(np.uint8)


def _paint_walker(canvas: Canvas, walker: Walker, nuisances: Nuisances, rng: np.random.Generator) -> None:
    frames = canvas.image.shape[1]
    zoom = float(rng.uniform(1 - nuisances.scale, 1 + nuisances.scale))  # a Python float keeps float32
    shift = rng.uniform(-nuisances.shift, nuisances.shift, 2)
    jitter = rng.normal(0, (0.6 * nuisances.jitter, nuisances.jitter), (frames, 2))
    offset = (shift + jitter).astype(np.float32)[:, :, None, None]
    # Body coordinates: u to the right of the middle, v down from the crown.
    u = (canvas.x - _WIDTH / 2 - offset[:, 0]) / zoom
    v = (canvas.y - _HEIGHT / 2 - offset[:, 1]) / zoom + _BODY / 2
    phase = 2 * np.pi * (walker.dynamic.frequency * np.arange(frames) + rng.uniform())
    phase = phase.astype(np.float32)[:, None, None]

    build = walker.coarse
    neck = 2 * build.head
    hips = neck + build.torso_share * _BODY
    legs, torso = _legs_colour(canvas, v, walker), _torso_colour(canvas, u, v, walker)
    for side in (-1, 1):
        foot = side * 0.21 * (_BODY - hips) * np.sin(phase)
        canvas.paint(limb(u, v, hips, _BODY, side * build.shoulders / 4, foot, build.legs), legs)
    middle = (neck + hips) / 2
    canvas.paint(box(u, v - middle, build.shoulders, hips - middle), torso)
    for side in (-1, 1):
        hand = side * 0.35 * (hips - neck) * np.sin(phase + walker.dynamic.lag)
        arm = limb(u, v, neck, hips, side * build.shoulders, hand, 1.1)
        canvas.paint(arm, 0.7 * pigment(walker.static.torso))
    canvas.paint(build.head - np.hypot(u, v - build.head), pigment(_SKIN))


def _torso_colour(canvas: Canvas, u: Array, v: Array, walker: Walker) -> Array:
    """Returns (3, t, h, w): stripes that move with the body, the badge, and the belt in the lowest 2 pixels."""
    static, fine, build = walker.static, walker.fine, walker.coarse
    neck, height = 2 * build.head, build.torso_share * _BODY
    along = u * math.cos(static.stripe_angle) + v * math.sin(static.stripe_angle)
    waves = np.sin(2 * np.pi * static.stripe_frequency * along)
    stripe = static.stripe_contrast / (1 + np.exp(-7.5 * waves))
    colour = pigment(static.torso) + stripe * (pigment(static.stripes) - pigment(static.torso))
    badge = box(u - fine.badge_u * build.shoulders, v - (neck + fine.badge_v * height), 1.6, 1.6)
    colour += canvas.cover(badge) * (pigment((fine.badge_hue, 0.8, 0.9)) - colour)
    return colour + canvas.cover(v - (neck + height - 2)) * (fine.belt_grey - colour)


def _legs_colour(canvas: Canvas, v: Array, walker: Walker) -> Array:
    """Returns (3, t, h, 1): trousers, and shoes in the lowest 3 pixels."""
    trousers, shoes = pigment(walker.static.legs), pigment((walker.fine.shoe_hue, 0.7, 0.5))
    return trousers + canvas.cover(v - (_BODY - 3)) * (shoes - trousers)


def _paint_passing_block(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paints a block that moves by up to 1 pixel per frame and covers the walker for 3 to 9 frames."""
    frames = canvas.image.shape[1]
    length = min(int(rng.integers(3, 10)), frames)
    start = int(rng.integers(frames - length + 1))
    half = rng.uniform((4, 8), (10, 22))
    place, velocity = rng.uniform((0, 0), (_WIDTH, _HEIGHT)), rng.uniform(-1, 1, 2)
    time = np.arange(frames, dtype=np.float32)[:, None, None]
    x, y = place[:, None, None, None] + velocity[:, None, None, None] * (time - start)
    distance = box(canvas.x - x, canvas.y - y, *half)
    distance[:start] = distance[start + length :] = -np.inf
    canvas.paint(distance, planes(rng.uniform(size=3)))


def _paint_staying_block(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paints a block in every frame that moves sideways by 1 to 3 pixels per frame and turns at the borders."""
    time = np.arange(canvas.image.shape[1], dtype=np.float32)[:, None, None]
    half, height = rng.uniform((5, 12), (8, 20)), rng.uniform(18, 48)
    travelled = rng.uniform(0, 2 * _WIDTH) + rng.uniform(1, 3) * time
    x = abs(travelled % (2 * _WIDTH) - _WIDTH)  # a triangle wave with a random phase
    canvas.paint(box(canvas.x - x.astype(np.float32), canvas.y - height, *half), planes(rng.uniform(size=3)))


def _background(camera: Camera, frames: int, height: int, rng: np.random.Generator) -> Array:
    """Returns the background, equal in all frames: the camera's colour, blurred noise (8 x 4 cells), three boxes."""
    image = 0.65 * planes(camera.background) + 0.35 * cloud(rng.uniform(size=(8, 4, 3)), height)
    canvas = Canvas(image.astype(np.float32), height / _HEIGHT)
    for _ in range(3):
        place, half = rng.uniform((0, 0), (_WIDTH, _HEIGHT)), rng.uniform((1, 3), (5, 17))
        canvas.paint(box(canvas.x - place[0], canvas.y - place[1], *half), planes(rng.uniform(size=3)))
    return np.repeat(canvas.image, frames, axis=1)
