"""Walking figures, drawn: tracklets whose every cue is known, and can be had without any data set.

A figure is described on a canvas of 64 by 32 pixels; a larger height draws the same scene with finer pixels.
Everything is a pure function of its arguments, so a seed tells a whole data set.
"""

import math
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from strfnet.data.synthetic.drawing import Array, Canvas, Colour, box, cloud, limb, pigment, planes

_HEIGHT, _WIDTH, _BODY = 64, 32, 52.0  # pixels of the canvas, and of the figure from its crown to its soles
_SKIN = (0.07, 0.45, 0.80)


@dataclass(frozen=True)
class Static:
    """Colours and pattern of the clothes: seen in any one frame. Stripes in cycles per pixel, and radians."""

    torso: Colour
    stripes: Colour
    stripe_frequency: float
    stripe_angle: float
    stripe_contrast: float
    legs: Colour


@dataclass(frozen=True)
class Dynamic:
    """Gait: cycles per frame, and radians by which the arms lag the legs. Only the order of frames tells."""

    frequency: float
    lag: float


@dataclass(frozen=True)
class Coarse:
    """Build: half-widths and radius in pixels, the torso's share of the body's height."""

    shoulders: float
    torso_share: float
    head: float
    legs: float


@dataclass(frozen=True)
class Fine:
    """Small marks: a badge (its place in half-widths and heights of the torso), the shoes and the belt."""

    badge_u: float
    badge_v: float
    badge_hue: float
    shoe_hue: float
    belt_grey: float


@dataclass(frozen=True)
class Walker:
    """An identity, as four factors that can be exchanged one by one."""

    static: Static
    dynamic: Dynamic
    coarse: Coarse
    fine: Fine


@dataclass(frozen=True)
class Camera:
    """A camera: gain and bias of each colour channel, and the colour of the place it looks at (RGB)."""

    gain: Array
    bias: Array
    background: Array


@dataclass(frozen=True)
class Nuisances:
    """What tells nothing of who walks; lengths in pixels of a canvas of 64 by 32.

    Args:
        occlusion: probability that a block passes in front of the walker for 3 to 9 frames.
        block: whether another block stays in front in every frame, moving from border to border.
        jitter: of the walker's place from frame to frame, the standard deviation of the height; 0.6 of it sideways.
        shift: of the walker's place in the whole tracklet, at most, along both axes.
        scale: by which the walker is larger or smaller, at most, as a share.
        noise: standard deviation of the pixels' values, which go from 0 to 1.
    """

    occlusion: float = 0.4
    block: bool = False
    jitter: float = 0.7
    shift: float = 1.5
    scale: float = 0.08
    noise: float = 0.02


def draw_walker(seed: int, identity: int) -> Walker:
    """The walker with this number among those of a seed; all factors are drawn uniformly."""
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
    """The camera with this number among those of a seed."""
    uniform = np.random.default_rng([2, seed, camera]).uniform
    gain, bias, background = uniform(0.75, 1.25, 3), uniform(-0.08, 0.08, 3), uniform(0.2, 0.8, 3)
    return Camera(*(values.astype(np.float32) for values in (gain, bias, background)))


def render(
    walker: Walker,
    camera: Camera,
    *,
    frames: int = 16,
    seed: int | tuple[int, ...] = 0,
    height: int = 64,
    nuisances: Nuisances = Nuisances(),
) -> NDArray[np.uint8]:
    """One tracklet: the walker as the camera saw it, with nuisances drawn from ``seed``.

    The start of the gait, size, place, background, jitter, noise and blocks that pass in front are nuisances:
    they tell nothing of who walks. Of two drawings that differ in the extent of their nuisances alone, each
    shows the same start, background and direction of every shift.

    Args:
        walker: who is seen.
        camera: whose colours the scene has.
        frames: t, how many.
        seed: of the nuisances.
        height: h in pixels; the width w is half of it.
        nuisances: how much of each.

    Returns: RGB (t, h, w, 3). Raises: ValueError for no frames, or a height below 8 or odd.
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


def write_walkers(
    root: str | Path,
    *,
    identities: int = 6,
    cameras: int = 2,
    tracklets: int = 1,
    frames: int = 16,
    seed: int = 0,
    height: int = 128,
) -> None:
    """Tracklets of JPEG frames as ``read_folder`` reads them: ``root/<identity>/<camera>/<tracklet>/*.jpg``.

    The folder appears when all is written, so that a run cut short leaves no half of it.

    Args:
        root: the folder to be made.
        identities: how many walkers.
        cameras: how many; each of them sees everybody.
        tracklets: how many of each walker under each camera.
        frames: how many of each tracklet.
        seed: of walkers, cameras and nuisances.
        height: of the frames in pixels, twice their width.

    Raises: ValueError if ``root`` is there already and not empty, or a number is below 1.
    """
    if min(identities, cameras, tracklets) < 1:
        raise ValueError(f"got {identities=}, {cameras=}, {tracklets=}, wanted at least 1 of each")
    with new_folder(root) as unfinished:
        for identity, camera, tracklet in np.ndindex(identities, cameras, tracklets):
            folder = unfinished / f"walker{identity + 1}" / f"camera{camera + 1}" / f"tracklet{tracklet + 1}"
            clip = render(
                draw_walker(seed, identity),
                draw_camera(seed, camera),
                frames=frames,
                seed=(3, seed, identity, camera, tracklet),
                height=height,
            )
            write_jpegs([folder / f"{number:04d}.jpg" for number in range(1, frames + 1)], clip)


@contextmanager
def new_folder(root: str | Path) -> Iterator[Path]:
    """A hidden folder to fill, which takes the place and name of ``root`` when that went well.

    Raises: ValueError if ``root`` is there already and not empty.
    """
    root = Path(root)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise ValueError(f"{root} is there already, wanted a new or empty folder to draw walkers into")
    unfinished = root.with_name(f".{root.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    yield unfinished
    unfinished.replace(root)


def write_jpegs(paths: Sequence[Path], clip: Iterable[NDArray[np.uint8]]) -> None:
    """Images (h, w, 3) as files, their folders made where there are none."""
    from PIL import Image

    for path, frame in zip(paths, clip, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(frame).save(path, quality=95)


def _paint_walker(canvas: Canvas, walker: Walker, nuisances: Nuisances, rng: np.random.Generator) -> None:
    frames = canvas.image.shape[1]
    zoom = float(rng.uniform(1 - nuisances.scale, 1 + nuisances.scale))  # NumPy's would widen all else
    shift = rng.uniform(-nuisances.shift, nuisances.shift, 2)
    jitter = rng.normal(0, (0.6 * nuisances.jitter, nuisances.jitter), (frames, 2))
    offset = (shift + jitter).astype(np.float32)[:, :, None, None]
    # Figure coordinates: u to the right of the middle, v down from the crown.
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
    """Stripes that move with the body, the badge and, in the lowest 2 pixels, the belt: (3, t, h, w)."""
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
    """Trousers, and shoes in the lowest 3 pixels: (3, t, h, 1)."""
    trousers, shoes = pigment(walker.static.legs), pigment((walker.fine.shoe_hue, 0.7, 0.5))
    return trousers + canvas.cover(v - (_BODY - 3)) * (shoes - trousers)


def _paint_passing_block(canvas: Canvas, rng: np.random.Generator) -> None:
    """A coloured block that moves by up to 1 pixel per frame, in front of the walker for 3 to 9 frames."""
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
    """A coloured block in every frame that moves sideways by 1 to 3 pixels per frame and turns at the borders."""
    time = np.arange(canvas.image.shape[1], dtype=np.float32)[:, None, None]
    half, height = rng.uniform((5, 12), (8, 20)), rng.uniform(18, 48)
    walked = rng.uniform(0, 2 * _WIDTH) + rng.uniform(1, 3) * time
    x = abs(walked % (2 * _WIDTH) - _WIDTH)  # there and back again, any place and either direction at the start
    canvas.paint(box(canvas.x - x.astype(np.float32), canvas.y - height, *half), planes(rng.uniform(size=3)))


def _background(camera: Camera, frames: int, height: int, rng: np.random.Generator) -> Array:
    """The camera's colour, blurred colour noise (8 x 4 cells) and three boxes, the same in all frames."""
    image = 0.65 * planes(camera.background) + 0.35 * cloud(rng.uniform(size=(8, 4, 3)), height)
    canvas = Canvas(image.astype(np.float32), height / _HEIGHT)
    for _ in range(3):
        place, half = rng.uniform((0, 0), (_WIDTH, _HEIGHT)), rng.uniform((1, 3), (5, 17))
        canvas.paint(box(canvas.x - place[0], canvas.y - place[1], *half), planes(rng.uniform(size=3)))
    return np.repeat(canvas.image, frames, axis=1)
