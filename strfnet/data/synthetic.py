"""Walking figures, drawn: tracklets whose every cue is known, and can be had without any data set.

A figure is described on a canvas of 64 by 32 pixels; a larger height draws the same scene with finer pixels.
Everything is a pure function of its arguments, so a seed tells a whole data set.
"""

import colorsys
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]
Colour = tuple[float, float, float]  # hue, saturation, value, each 0 .. 1

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
    walker: Walker, camera: Camera, *, frames: int = 16, seed: int | tuple[int, ...] = 0, height: int = 64
) -> NDArray[np.uint8]:
    """One tracklet: the walker as the camera saw it, with nuisances drawn from ``seed``.

    The start of the gait, size, place, background, jitter, noise and (in 2 of 5 tracklets) a block that
    passes in front are nuisances: they tell nothing of who walks.

    Args:
        walker: who is seen.
        camera: whose colours the scene has.
        frames: t, how many.
        seed: of the nuisances.
        height: h in pixels; the width w is half of it.

    Returns: RGB (t, h, w, 3). Raises: ValueError for no frames, or a height below 8 or odd.
    """
    if frames < 1 or height < 8 or height % 2:
        raise ValueError(f"got {frames} frames of height {height}, wanted 1 or more, even and at least 8")
    rng = np.random.default_rng(seed if isinstance(seed, int) else list(seed))
    canvas = _Canvas(_background(camera, frames, height, rng), height / _HEIGHT)
    _paint_walker(canvas, walker, rng)
    if rng.uniform() < 0.4:
        _paint_block(canvas, rng)
    image = canvas.image * camera.gain + camera.bias
    image += 0.02 * rng.standard_normal(image.shape, dtype=np.float32)
    return (image.clip(0, 1) * 255).round().astype(np.uint8)


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
    root = Path(root)
    if min(identities, cameras, tracklets) < 1:
        raise ValueError(f"got {identities=}, {cameras=}, {tracklets=}, wanted at least 1 of each")
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise ValueError(f"{root} is there already, wanted a new or empty folder to draw walkers into")
    unfinished = root.with_name(f".{root.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    for identity, camera, tracklet in np.ndindex(identities, cameras, tracklets):
        folder = unfinished / f"walker{identity + 1}" / f"camera{camera + 1}" / f"tracklet{tracklet + 1}"
        clip = render(
            draw_walker(seed, identity),
            draw_camera(seed, camera),
            frames=frames,
            seed=(3, seed, identity, camera, tracklet),
            height=height,
        )
        _write_jpegs(folder, clip)
    unfinished.replace(root)


def _write_jpegs(folder: Path, clip: NDArray[np.uint8]) -> None:
    from PIL import Image

    folder.mkdir(parents=True)
    for number, frame in enumerate(clip, start=1):
        Image.fromarray(frame).save(folder / f"{number:04d}.jpg", quality=95)


class _Canvas:
    """An image (t, h, w, 3) and the places of its pixels: ``y`` (t, h, 1) and ``x`` (t, 1, w)."""

    def __init__(self, image: Array, pixels_per_unit: float) -> None:
        t, h, w, _ = image.shape
        self.image = image
        self.y = np.tile((np.arange(h, dtype=np.float32)[:, None] + 0.5) / pixels_per_unit, (t, 1, 1))
        self.x = np.tile((np.arange(w, dtype=np.float32) + 0.5) / pixels_per_unit, (t, 1, 1))
        self.sharpness = 2.5 * pixels_per_unit

    def cover(self, distance: Array) -> Array:
        """How much of a pixel lies within a shape, from the distance to its edge (inside: positive)."""
        return 1 / (1 + np.exp(-(self.sharpness * distance).clip(-30, 30)))[..., None]

    def paint(self, distance: Array, colour: Array) -> None:
        """Lay a colour (.., 3) over the inside of a shape (t, h, w)."""
        self.image += self.cover(distance) * (colour - self.image)


def _paint_walker(canvas: _Canvas, walker: Walker, rng: np.random.Generator) -> None:
    frames = len(canvas.image)
    zoom, shift = rng.uniform(0.92, 1.08), rng.uniform(-1.5, 1.5, 2)
    offset = (shift + rng.normal(0, (0.42, 0.7), (frames, 2))).astype(np.float32)[:, :, None, None]
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
        canvas.paint(_limb(u, v, hips, _BODY, side * build.shoulders / 4, foot, build.legs), legs)
    middle = (neck + hips) / 2
    canvas.paint(_box(u, v - middle, build.shoulders, hips - middle), torso)
    for side in (-1, 1):
        hand = side * 0.35 * (hips - neck) * np.sin(phase + walker.dynamic.lag)
        arm = _limb(u, v, neck, hips, side * build.shoulders, hand, 1.1)
        canvas.paint(arm, 0.7 * _rgb(walker.static.torso))
    canvas.paint(build.head - np.hypot(u, v - build.head), _rgb(_SKIN))


def _torso_colour(canvas: _Canvas, u: Array, v: Array, walker: Walker) -> Array:
    """Stripes that move with the body, the badge and, in the lowest 2 pixels, the belt: (t, h, w, 3)."""
    static, fine, build = walker.static, walker.fine, walker.coarse
    neck, height = 2 * build.head, build.torso_share * _BODY
    along = u * np.cos(static.stripe_angle) + v * np.sin(static.stripe_angle)
    waves = np.sin(2 * np.pi * static.stripe_frequency * along)
    stripe = static.stripe_contrast / (1 + np.exp(-7.5 * waves))[..., None]
    colour = _rgb(static.torso) + stripe * (_rgb(static.stripes) - _rgb(static.torso))
    badge = _box(u - fine.badge_u * build.shoulders, v - (neck + fine.badge_v * height), 1.6, 1.6)
    colour += canvas.cover(badge) * (_rgb((fine.badge_hue, 0.8, 0.9)) - colour)
    return colour + canvas.cover(v - (neck + height - 2)) * (fine.belt_grey - colour)


def _legs_colour(canvas: _Canvas, v: Array, walker: Walker) -> Array:
    """Trousers, and shoes in the lowest 3 pixels: (t, h, 1, 3)."""
    trousers, shoes = _rgb(walker.static.legs), _rgb((walker.fine.shoe_hue, 0.7, 0.5))
    return trousers + canvas.cover(v - (_BODY - 3)) * (shoes - trousers)


def _paint_block(canvas: _Canvas, rng: np.random.Generator) -> None:
    """A coloured block that moves by up to 1 pixel per frame, in front of the walker for 3 to 9 frames."""
    frames = len(canvas.image)
    length = min(int(rng.integers(3, 10)), frames)
    start = int(rng.integers(frames - length + 1))
    half = rng.uniform((4, 8), (10, 22))
    place, velocity = rng.uniform((0, 0), (_WIDTH, _HEIGHT)), rng.uniform(-1, 1, 2)
    time = np.arange(frames, dtype=np.float32)[:, None, None]
    x, y = place[:, None, None, None] + velocity[:, None, None, None] * (time - start)
    distance = _box(canvas.x - x, canvas.y - y, *half)
    distance[:start] = distance[start + length :] = -np.inf
    canvas.paint(distance, rng.uniform(size=3))


def _background(camera: Camera, frames: int, height: int, rng: np.random.Generator) -> Array:
    """The camera's colour, blurred colour noise (8 x 4 cells) and three boxes, the same in all frames."""
    cells = rng.uniform(size=(8, 4, 3))
    rows, columns = _between(8, height), _between(4, height // 2)
    noise = np.einsum("yi,xj,ijc->yxc", rows, columns, cells)
    canvas = _Canvas((0.65 * camera.background + 0.35 * noise)[None].astype(np.float32), height / _HEIGHT)
    for _ in range(3):
        place, half = rng.uniform((0, 0), (_WIDTH, _HEIGHT)), rng.uniform((1, 3), (5, 17))
        canvas.paint(_box(canvas.x - place[0], canvas.y - place[1], *half), rng.uniform(size=3))
    return np.repeat(canvas.image, frames, axis=0)


def _between(cells: int, pixels: int) -> Array:
    """Weights (pixels, cells) of linear interpolation between cells' centres; flat beyond the outer ones."""
    at = (np.arange(pixels) + 0.5) * cells / pixels - 0.5
    return (1 - abs(at.clip(0, cells - 1)[:, None] - np.arange(cells))).clip(0).astype(np.float32)


def _box(u: Array, v: Array, half_width: float, half_height: float) -> Array:
    """The distance to the edge of a box around (0, 0), positive inside."""
    return np.minimum(half_width - abs(u), half_height - abs(v))


def _limb(u: Array, v: Array, top: float, bottom: float, start: float, swing: Array, half: float) -> Array:
    """The same for a bar that hangs from ``start`` and whose lower end is swung aside."""
    middle = start + swing * (v - top) / (bottom - top)
    return np.minimum(half - abs(u - middle), np.minimum(v - top, bottom - v))


def _rgb(colour: Colour) -> Array:
    return np.array(colorsys.hsv_to_rgb(*colour), dtype=np.float32)
