"""Masks and attention captured from a forward pass, and overlays on the frames."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from strfnet.layers.ap3d import AppearancePreserving
from strfnet.layers.clip import check_clip
from strfnet.layers.non_local import NonLocalBlock
from strfnet.layers.strf import STRF
from strfnet.system.modes import evaluation_copy

Images = NDArray[np.floating]
Place = tuple[int, int, int]  # frame, row and column, counted from 0

GREY = (0.299, 0.587, 0.114)  # red, green and blue in the luma of ITU-R BT.601


def masks_of(network: nn.Module, clip: Tensor) -> dict[str, dict[str, Tensor]]:
    """Returns the masks of every STRF unit of a network for a clip.

    A copy of the network in evaluation mode runs once.

    Args:
        network: a network on clips with STRF units.
        clip: (b, 3, t, h, w), as the network expects it.

    Returns: masks (b, 1, t, h, w) in (0, 1) at the resolution of the unit, by the module path of the unit (in the
    order of calls) and the name of the factor.
    Raises: ValueError if the network calls no STRF unit, or if a unit has no masks.
    """
    found = _captured(network, clip, {STRF: STRF.masks})
    if not found:
        raise ValueError(
            f"{type(network).__name__} calls no STRF unit, wanted one with units, such as strf_p3dc_resnet50"
        )
    return found


def attention_of(network: nn.Module, clip: Tensor, place: Place) -> dict[str, Tensor]:
    """Returns the attention of one pixel of a clip in every non-local block and AP3D registration of a network.

    Only one row of the attention matrix is computed, so memory is linear in the number of tokens. A copy of the
    network in evaluation mode runs once.

    Args:
        network: a network on clips.
        clip: (b, 3, t, h, w), as the network expects it.
        place: frame, row and column of a pixel of ``clip``; a block uses the token that covers the pixel.

    Returns: weights (b, t, rows, columns) of the keys, by the module path of the block. Keys are the pixels of its
    maps, after sub-sampling if there is any, or stripes (one column). A frame outside the window of the pixel is
    NaN; with AP3D, that is every frame but the neighbours.
    Raises: ValueError for a place outside the clip, or if the network calls no such block.
    """
    check_clip(clip, name="clip")
    size = tuple(clip.shape[2:])
    if len(place) != 3 or not all(0 <= at < end for at, end in zip(place, size, strict=True)):
        raise ValueError(f"place is {place}, wanted frame, row and column below {size}")

    def at_map(read: Callable[[Any, Tensor, Place], Tensor]) -> Callable[[Any, Tensor], Tensor]:
        def row(block: Any, x: Tensor) -> Tensor:
            t, y, x_ = (at * cells // end for at, cells, end in zip(place, x.shape[2:], size, strict=True))
            return read(block, x, (t, y, x_))

        return row

    found = _captured(
        network, clip, {NonLocalBlock: at_map(non_local_row), AppearancePreserving: at_map(registered_row)}
    )
    if not found:
        wanted = "wanted one with non-local blocks or AP3D, such as ste_nvan_resnet50"
        raise ValueError(f"{type(network).__name__} calls no attention block, {wanted}")
    return found


def non_local_row(block: NonLocalBlock, x: Tensor, place: Place) -> Tensor:
    """Returns the row of ``block.attention(x)`` for one pixel, without the rest of the matrix.

    Args:
        block: the block.
        x: (b, c, t, h, w), the input of the block.
        place: frame, row and column of the maps; with stripes, the stripe that contains the row.

    Returns: (b, t, rows, columns), NaN in the frames of other windows.
    """
    t, h, w = x.shape[2:]
    frame, row, column = place
    token = row * w + column if block.stripes is None else row * block.stripes // h
    query, key, _ = block.project(x)  # (b, t, n, d) each: linear in t h w
    window = t if block.window is None else block.window
    start = frame // window * window
    seen = key[:, start : start + window]
    affinity = torch.einsum("bd,btnd->btn", query[:, frame, token], seen)
    if block.pairing == "dot":
        weights = affinity / (seen.shape[1] * query.shape[2])
    else:
        weights = affinity.flatten(1).softmax(dim=1).view_as(affinity)
    rows = max(h // 2, 1) if block.subsample else h
    row_of_pixel = weights.new_full((len(x), t, key.shape[2]), float("nan"))
    row_of_pixel[:, start : start + window] = weights
    return row_of_pixel.unflatten(2, (rows, -1) if block.stripes is None else (block.stripes, 1))


def registered_row(module: AppearancePreserving, x: Tensor, place: Place) -> Tensor:
    """Returns the rows of AP3D's attention for one pixel of the maps ``x``.

    Returns: (b, t, h, w): weights in the frame's neighbours, each summing to 1, and NaN in all other frames.
    """
    t, h, w = x.shape[2:]
    frame, row, column = place
    mapped = module.semantic(x.movedim(1, -1))
    mapped = F.normalize(mapped, dim=-1, eps=max(1e-12, torch.finfo(mapped.dtype).tiny))  # b t h w d
    row_of_pixel = mapped.new_full(mapped.shape[:4], float("nan"))
    for neighbour in (frame + step for step in module.steps if step):
        if 0 <= neighbour < t:
            cosines = torch.einsum("bd,bhwd->bhw", mapped[:, frame, row, column], mapped[:, neighbour])
            row_of_pixel[:, neighbour] = (module.temperature * cosines).flatten(1).softmax(dim=1).view(-1, h, w)
    return row_of_pixel


def at_frames(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    """Resizes maps (t', h', w') to the size (t, h, w) of the frames, bilinearly in space.

    In time, a map of merged frames is repeated. A single column (of stripes) is repeated for all columns. NaN stays
    in its frame.
    """
    t, h, w = size
    chosen = maps[torch.arange(t, device=maps.device) * len(maps) // t]
    if maps.shape[2] == 1:
        chosen = chosen.expand(-1, -1, w)
        return chosen[:, torch.arange(h, device=maps.device) * maps.shape[1] // h]
    return F.interpolate(chosen[None].float(), size=(h, w), mode="bilinear", align_corners=False)[0]


def lay_over(frames: Images, shares: Images, colours: Callable[[Images], Images], *, opacity: float = 0.6) -> Images:
    """Blends maps as colours over their frames in grey.

    Args:
        frames: RGB (t, h, w, 3) from 0 to 1.
        shares: maps (t, h, w) from 0 to 1; NaN shows the grey frame at half brightness.
        colours: a function from ``shares`` to RGB or RGBA (t, h, w, 3 or 4), such as a colour map of matplotlib.
        opacity: opacity of the colours.

    Returns: RGB (t, h, w, 3) from 0 to 1. Raises: ValueError if the shapes do not fit.
    """
    if frames.shape != (*shares.shape, 3):
        raise ValueError(f"frames are {frames.shape} and shares {shares.shape}, wanted (t, h, w, 3) and (t, h, w)")
    grey = (frames @ np.array(GREY, dtype=frames.dtype))[..., None]
    seen = ~np.isnan(shares)
    colour = colours(np.where(seen, shares, 0.0))[..., :3]
    return np.where(seen[..., None], (1 - opacity) * grey + opacity * colour, grey / 2)


def _captured(network: nn.Module, clip: Tensor, readers: dict[type, Callable[[Any, Tensor], Any]]) -> dict[str, Any]:
    """The results of the readers, each applied to the modules of its type and their inputs, by module path."""
    found: dict[str, Any] = {}

    def reading(path: str, read: Callable[[Any, Tensor], Any]) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            found[path] = read(module, arguments[0])

        return hook

    network = evaluation_copy(network)
    for path, module in network.named_modules():
        reader = next((read for kind, read in readers.items() if isinstance(module, kind)), None)
        if reader is not None:
            module.register_forward_pre_hook(reading(path, reader))
    with torch.no_grad():
        network(clip)
    return found
