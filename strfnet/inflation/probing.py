"""What the modules of a network return, found by a run on the meta device, where tensors have only shapes."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from strfnet.inflation.layout import MAPS, Axes, Grid, Item, Layout, described, items_of, select
from strfnet.inflation.running_clips import OnFrames, each_frame
from strfnet.profiler.counting import meta_copy, on_meta
from strfnet.system.compat import tree_leaves, tree_map_only

CLIPS, FRAMES = 2, 3  # of the clips of a run
SIZES = (
    (256, 128),
    (224, 224),
    (256, 256),
    (384, 384),
    (64, 32),
)  # of their frames, behind the sizes that a network declares
DECLARED = ("img_size", "image_size")  # attributes in which timm, torchvision and transformers keep a fixed size
SCALES = range(2, 65)  # between a grid and its source
FEW = 16  # prefix tokens; more are believed only if they are as many on frames of another size
REORDERED = "Hiera"  # networks whose tokens are in the order of mask units, not row by row


@dataclass(frozen=True)
class Reading:
    """One way to read the output of a module: its layout and its number of channels."""

    layout: Layout
    channels: int

    def __str__(self) -> str:
        item = "" if self.layout.item is None else f"output={self.layout.item!r} as "
        return f"{item}{self.layout} of {self.channels} channels"


@dataclass
class Run:
    """One forward pass on ``frames`` frames of ``size``.

    ``fewer`` holds the numbers of frames that layers over time made of these. ``outputs`` holds what each module
    returned in each call, with the grids of the convolutions before, by path.
    """

    size: Grid
    frames: int
    fewer: set[int] = field(default_factory=set)
    returned: Any = None
    outputs: dict[str, list[tuple[Any, dict[str, Grid]]]] = field(default_factory=dict)
    grids: dict[str, Grid] = field(default_factory=dict)

    def has(self, frames: int) -> bool:
        """Whether a tensor may hold so many frames."""
        return frames == self.frames or frames in self.fewer


class Probe:
    """How the outputs of a network and of its modules are read. The network is run when this is first asked.

    Where a run on frames of one size leaves several readings, frames of twice the height tell them apart: then the
    number of channels stays and the grid grows.

    Args:
        network: takes clips or frames; it is not modified.
        example: inputs of a call on clips: a clip, a tuple of a clip and further inputs, or a dictionary of keywords;
            only shapes matter. Default: clips in the sizes that the network declares, then in usual ones.
        frames: whether the network takes frames. None: clips are tried first.
    """

    def __init__(self, network: nn.Module, example: Any = None, *, frames: bool | None = None) -> None:
        self._network, self._example, self._frames = network, example, frames
        self._copy: Any = None
        self._runs: list[Run] = []
        self._run = Run((0, 0), 0)
        self._failure: str | None = None  # why the network could not be run

    @property
    def runs(self) -> bool:
        """Whether the network can be run."""
        self._begin()
        return bool(self._runs)

    def returned(self, output: Any) -> Layout | None:
        """Returns the layout of what ``output`` selects of what the network returns; None if it cannot be run.

        Raises: ValueError, naming what the network returns, if it is neither vectors nor maps.
        """
        if not self.runs:
            return None
        chosen = select(self._runs[0].returned, output)
        if isinstance(chosen, Tensor) and chosen.ndim == 2:
            return MAPS
        if not isinstance(chosen, Tensor):
            raise ValueError(
                f"the network returns {described(chosen)}, wanted a tensor: select one by output=, an index, a key, "
                "an attribute, or a function"
            )
        found = self._agreed(lambda run: _maps(select(run.returned, output), run))
        what = f"the network returns {described(chosen)}"
        return self._only(found, what, "vectors (n, d) or maps (n, c, h, w)", "a function as output").layout

    def reading(self, path: str, output: Item | None = None, axes: Axes | None = None) -> Reading:
        """Returns how the output of the module at ``path``, or its item ``output``, is read, with ``axes`` if given.

        Raises: ValueError, naming what the module returns, if it is not called, has no reading, or has several.
        """
        calls = self._first().outputs.get(path)
        if calls is None:
            raise ValueError(f"{path} is not called when the network runs; name a module that is")

        if any(type(module).__name__.startswith(REORDERED) for module in self._copy.modules()):
            raise ValueError(f"{path} has its tokens in the order of mask units, not row by row, so they are no grid")

        def readings(run: Run) -> list[Reading]:
            found = _readings(run.outputs.get(path, []), run, output)
            return [reading for reading in found if axes in (None, reading.layout.axes)]

        found = self._agreed(readings)
        return self._only(
            found,
            f"{path} returns {described(calls[0][0])}",
            "maps or tokens of frames",
            "layout= of splice, or output",
        )

    def _only(self, found: list[Reading], what: str, wanted: str, argument: str) -> Reading:
        if len(found) == 1:
            return found[0]
        run = self._runs[0]
        where = f"{what} for {run.frames} frames of {run.size[0]} x {run.size[1]}"
        if not found:
            raise ValueError(f"{where}, wanted {wanted}; choose or make them by {argument}=")
        raise ValueError(f"{where}, which can be read as {' or as '.join(map(str, found))}; choose by {argument}=")

    def _agreed(self, readings: Callable[[Run], list[Reading]]) -> list[Reading]:
        """The readings of the first run; if they are not sure, those that a second run shares."""
        found = readings(self._first())
        if len(found) < 2 and all(reading.layout.prefix <= FEW for reading in found):
            return found
        shared: list[Reading] = []
        if len(self._runs) > 1 or self._again():
            again = readings(self._runs[1])
            shared = [reading for reading in found if reading in again]
        return shared or (found if len(found) > 1 else [])

    def _first(self) -> Run:
        self._begin()
        if self._failure is not None:
            raise ValueError(f"{self._failure}; give inputs that it takes as example=, or a module and its layout=")
        return self._runs[0]

    def _begin(self) -> None:
        """Runs the network on the first inputs that it takes, once."""
        if self._runs or self._failure is not None:
            return
        self._copy = meta_copy(self._network)
        for path, module in self._copy.named_modules():
            module.register_forward_hook(lambda module, _, output, path=path: self._record(path, module, output))
        reasons = []
        for example in _examples(self._copy) if self._example is None else [self._example]:
            for frames in (False, True) if self._frames is None else (self._frames,):
                self._inputs = _inputs(example, frames=frames)
                if (reason := self._runs_on(*self._inputs)) is None:
                    return
                reasons.append(reason)
        self._failure = f"the network cannot be run on the meta device: {reasons[0] if reasons else 'no inputs'}"

    def _again(self) -> bool:
        """Runs the network on frames of twice the height; a timm network of a fixed size is given that size."""
        rows, columns = self._runs[0].size

        def taller(x: Tensor) -> Tensor:
            return torch.cat([x, x], dim=-2) if x.ndim > 3 and x.shape[-2:] == (rows, columns) else x

        inputs = tree_map_only(Tensor, taller, self._inputs)
        if self._runs_on(*inputs) is not None and hasattr(self._copy, "set_input_size"):
            self._copy.set_input_size(img_size=(2 * rows, columns))
            self._copy.to("meta")
            self._runs_on(*inputs)
        return len(self._runs) > 1

    def _runs_on(self, args: tuple[Any, ...], named: Mapping[str, Any]) -> str | None:
        """Runs the network; returns the reason if it fails."""
        image = next(leaf for leaf in tree_leaves((args, named)) if isinstance(leaf, Tensor))
        self._run = run = Run((image.shape[-2], image.shape[-1]), CLIPS * FRAMES)
        if image.ndim == 5:
            run.frames = image.shape[0] * image.shape[2]
        elif self._example is not None:
            run.frames = image.shape[0]
        try:
            with torch.device("meta"), torch.no_grad(), torch.random.fork_rng(devices=[]):
                run.returned = self._copy(*args, **named)
        except Exception as error:  # a network may raise anything
            return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        self._runs.append(run)
        return None

    def _record(self, path: str, module: nn.Module, output: Any) -> None:
        run = self._run
        if isinstance(module, OnFrames) and isinstance(output, Tensor) and output.ndim == len(module._layout.axes):
            run.fewer.add(module._layout.numbers(output)[0])
        if isinstance(module, nn.Conv2d) and isinstance(output, Tensor) and output.ndim == 4 and run.has(len(output)):
            run.grids.pop(path, None)
            run.grids[path] = (output.shape[-2], output.shape[-1])
        run.outputs.setdefault(path, []).append((output, dict(run.grids)))


def _examples(network: nn.Module) -> Iterator[Tensor]:
    """Clips that a network may take: of 3 channels or as many as its first convolution has, in sizes it declares."""
    like = next((p for p in network.parameters() if p.is_floating_point()), torch.empty(0, device="meta"))
    convs = (module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Conv3d))
    declared = (getattr(module, name, None) for module in network.modules() for name in DECLARED)
    sizes = dict.fromkeys((size, size) if isinstance(size, int) else tuple(size or ()) for size in declared)
    for channels in dict.fromkeys((3, *(conv.in_channels for conv in list(convs)[:1]))):
        for size in dict.fromkeys((*(size for size in sizes if len(size) == 2), *SIZES)):
            yield like.new_empty(CLIPS, channels, FRAMES, *size)


def _inputs(example: Any, *, frames: bool) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call on the meta device, on the frames of the clips if ``frames``."""
    args = example if isinstance(example, tuple) else () if isinstance(example, dict) else (example,)
    named = example if isinstance(example, dict) else {}
    args, named = tree_map_only(Tensor, on_meta, (args, named))
    clip = next((leaf for leaf in tree_leaves((args, named)) if isinstance(leaf, Tensor) and leaf.ndim == 5), None)
    if clip is None:
        raise ValueError("example must hold a clip (b, c, t, h, w), alone, in a tuple of inputs, or in a dictionary")
    if frames:
        args, named = tree_map_only(Tensor, lambda x: each_frame(x, clip), (args, named))
    return args, named


def _readings(calls: list[tuple[Any, dict[str, Grid]]], run: Run, item: Item | None) -> list[Reading]:
    """The readings that all calls of a module share; of each tensor it returns, or of one ``item``."""
    found: list[list[Reading]] = []
    for output, grids in calls:
        held = items_of(output) if item is None else [(item, select(output, item))]
        found.append([])
        for name, tensor in held:
            item_here = None if isinstance(output, Tensor) else name
            readings = [*_maps(tensor, run), *_tokens(tensor, run, grids)]
            found[-1] += [Reading(replace(r.layout, item=item_here), r.channels) for r in readings]
    return [reading for reading in found[0] if all(reading in others for others in found[1:])] if found else []


def _maps(tensor: Any, run: Run) -> list[Reading]:
    """The readings of a tensor as maps, whose rows and columns are to each other as those of the frames."""
    if not isinstance(tensor, Tensor):
        return []
    if tensor.ndim == 5 and tensor.shape[0] < run.frames:
        return [Reading(MAPS, tensor.shape[1])]  # a clip, which a layer on frames passes straight through
    if tensor.ndim != 4 or not run.has(tensor.shape[0]):
        return []
    orders: tuple[tuple[Axes, int, Grid], ...] = (
        ("fchw", tensor.shape[1], (tensor.shape[2], tensor.shape[3])),
        ("fhwc", tensor.shape[3], (tensor.shape[1], tensor.shape[2])),
    )
    for fits in (_to_a_pixel, _roughly):
        if found := [Reading(Layout(axes), channels) for axes, channels, grid in orders if fits(grid, run.size)]:
            return found
    return []


def layout_of_maps(maps: Tensor, clip: Tensor) -> Layout:
    """Returns the layout of what a network returned for a clip. Raises: ValueError if there is not just one."""
    found = _maps(maps, Run((clip.shape[3], clip.shape[4]), len(maps)))
    if len(found) != 1:
        either = " or as ".join(map(str, found)) or "no maps"
        raise ValueError(
            f"the network returns {tuple(maps.shape)}, which reads as {either}; give inflate an example="
        )
    return found[0].layout


def _to_a_pixel(grid: Grid, size: Grid) -> bool:
    """Whether a grid is the frame at some scale, up to rounding."""
    return abs(grid[0] * size[1] - grid[1] * size[0]) <= max(size)


def _roughly(grid: Grid, size: Grid) -> bool:
    """Whether a grid is about as wide as the frame, as behind convolutions without padding."""
    return 1 / 1.5 <= (grid[0] * size[1]) / (grid[1] * size[0]) <= 1.5


def _tokens(tensor: Any, run: Run, grids: dict[str, Grid]) -> list[Reading]:
    """The readings of a tensor as tokens whose number fits a grid."""
    if not isinstance(tensor, Tensor) or tensor.ndim != 3:
        return []
    found = []
    orders: tuple[Axes, ...] = ("fnc", "nfc", "fcn")
    for axes in orders:
        count, channels = tensor.shape[axes.index("n")], tensor.shape[axes.index("c")]
        if run.has(tensor.shape[axes.index("f")]):
            layouts = _in_a_grid(axes, count, grids) if grids else _in_patches(axes, count, run.size)
            found += [Reading(layout, channels) for layout in layouts]
    return found


def _in_patches(axes: Axes, count: int, size: Grid) -> list[Layout]:
    """The layouts of ``count`` tokens, where no convolution made them: square patches that divide the frame."""
    layouts = [Layout(axes, scale=scale) for scale in SCALES if not any(side % scale for side in size)]
    prefixes = [(layout, count - math.prod(layout.grid(size))) for layout in layouts]
    found = [
        replace(layout, prefix=prefix) for layout, prefix in prefixes if prefix == 0 or (prefix > 0 and axes != "fcn")
    ]
    return [layout for layout in found if layout.prefix <= FEW] or found


def _in_a_grid(axes: Axes, count: int, grids: dict[str, Grid]) -> list[Layout]:
    """The layout of ``count`` tokens, by the outputs of the convolutions before; none if they fit no grid.

    A grid of as many tokens comes first; then the largest that leaves a few prefix tokens; then a larger one that was
    merged, as in Swin; then any number of prefix tokens.
    """
    tokens = {path: math.prod(grid) for path, grid in grids.items()}
    exact = [Layout(axes, source=path) for path in tokens if tokens[path] == count]
    fewer = [path for path in tokens if tokens[path] < count and axes != "fcn"]
    source = max(fewer, key=tokens.__getitem__, default="")
    prefixed = [Layout(axes, count - tokens[source], source)] if source else []
    merged = [Layout(axes, source=path, scale=scale) for path in grids for scale in SCALES]
    merged = [layout for layout in merged if math.prod(layout.grid(grids[layout.source])) == count]
    few = [layout for layout in prefixed if layout.prefix <= FEW]
    return (exact or few or merged or prefixed)[:1]
