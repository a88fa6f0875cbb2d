"""What a network attends to: masks and attention captured from a forward pass, and laid over the frames."""

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
from strfnet.system.modes import evaluating

Images = NDArray[np.floating]
Place = tuple[int, int, int]  # frame, row and column, counted from 0

GREY = (0.299, 0.587, 0.114)  # red, green and blue in the luma of ITU-R BT.601


def masks_of(network: nn.Module, clip: Tensor) -> dict[str, dict[str, Tensor]]:
    """The masks of every STRF unit of a network while it sees a clip.

    The network runs once, in evaluation mode; hooks and modes are afterwards as they were.

    Args:
        network: on clips; an inflated one, or any in which STRF units are called with clips.
        clip: (b, 3, t, h, w), as the network wants it.

    Returns: by the path of the unit, in the order in which units are called, and by the name of the factor, its
    mask (b, 1, t, h, w) at the resolution of that place, in (0, 1).
    Raises: ValueError if the network calls no STRF unit, or for one that was built without masks.
    """
    found = _captured(network, clip, {STRF: STRF.masks})
    if not found:
        raise ValueError(
            f"{type(network).__name__} calls no STRF unit, wanted one with units, such as strf_p3dc_resnet50"
        )
    return found


def attention_of(network: nn.Module, clip: Tensor, place: Place) -> dict[str, Tensor]:
    """Where one pixel of a clip looks, at every non-local block and AP3D registration of a network.

    Only the row of the attention matrix that belongs to the pixel is formed, so memory does not grow as the matrix
    would. The network runs once, in evaluation mode; hooks and modes are afterwards as they were.

    Args:
        network: on clips.
        clip: (b, 3, t, h, w), as the network wants it.
        place: frame, row and column of a pixel of ``clip``; at a block it is the token that covers the pixel.

    Returns: by the path of the block the weights (b, t, rows, columns) of its keys: pixels of its maps, those that
    are left after sub-sampling, or stripes (one column). A frame that the pixel cannot look at is NaN: one of
    another window, and with AP3D all but the two neighbours.
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
        raise ValueError(f"{type(network).__name__} calls no block that attends, {wanted}")
    return found


def non_local_row(block: NonLocalBlock, x: Tensor, place: Place) -> Tensor:
    """Where one pixel of the maps ``x`` looks: the row of ``block.attention(x)``, without the rest of the matrix.

    Args:
        block: whose attention it is.
        x: (b, c, t, h, w), what the block is called with.
        place: frame, row and column of the maps; with stripes, the stripe that holds the row asks.

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
    answer = weights.new_full((len(x), t, key.shape[2]), float("nan"))
    answer[:, start : start + window] = weights
    return answer.unflatten(2, (rows, -1) if block.stripes is None else (block.stripes, 1))


def registered_row(module: AppearancePreserving, x: Tensor, place: Place) -> Tensor:
    """Where one pixel of the maps ``x`` finds itself in the previous and the next frame: rows of AP3D's attention.

    Returns: (b, t, h, w), each of the two frames summing to 1, NaN in all others.
    """
    t, h, w = x.shape[2:]
    frame, row, column = place
    mapped = module.semantic(x.movedim(1, -1))
    mapped = F.normalize(mapped, dim=-1, eps=max(1e-12, torch.finfo(mapped.dtype).tiny))  # b t h w d
    answer = mapped.new_full(mapped.shape[:4], float("nan"))
    for neighbour in (frame - 1, frame + 1):
        if 0 <= neighbour < t:
            cosines = torch.einsum("bd,bhwd->bhw", mapped[:, frame, row, column], mapped[:, neighbour])
            answer[:, neighbour] = (module.temperature * cosines).flatten(1).softmax(dim=1).view(-1, h, w)
    return answer


def at_frames(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    """Maps (t', h', w') at the size (t, h, w) of the frames: bilinear over places, each frame's own in time.

    A map of fewer frames, behind merged ones, is repeated for the frames that were merged; a single column (of
    stripes) for all columns. NaN stays in its frame.
    """
    t, h, w = size
    chosen = maps[torch.arange(t, device=maps.device) * len(maps) // t]
    if maps.shape[2] == 1:
        chosen = chosen.expand(-1, -1, w)
        return chosen[:, torch.arange(h, device=maps.device) * maps.shape[1] // h]
    return F.interpolate(chosen[None].float(), size=(h, w), mode="bilinear", align_corners=False)[0]


def lay_over(frames: Images, shares: Images, colours: Callable[[Images], Images], *, opacity: float = 0.6) -> Images:
    """Maps as colours over the grey of their frames, so that all colour is the map's.

    Args:
        frames: RGB (t, h, w, 3) in 0 .. 1.
        shares: (t, h, w) in 0 .. 1; where it is NaN the grey frame is shown, dimmed by half.
        colours: from shares to RGB or RGBA (t, h, w, 3 or 4), such as one of matplotlib's colour maps.
        opacity: of the colours.

    Returns: RGB (t, h, w, 3) in 0 .. 1. Raises: ValueError if the shapes do not fit.
    """
    if frames.shape != (*shares.shape, 3):
        raise ValueError(f"frames are {frames.shape} and shares {shares.shape}, wanted (t, h, w, 3) and (t, h, w)")
    grey = (frames @ np.array(GREY, dtype=frames.dtype))[..., None]
    seen = ~np.isnan(shares)
    colour = colours(np.where(seen, shares, 0.0))[..., :3]
    return np.where(seen[..., None], (1 - opacity) * grey + opacity * colour, grey / 2)


def _captured(network: nn.Module, clip: Tensor, readers: dict[type, Callable[[Any, Tensor], Any]]) -> dict[str, Any]:
    """What ``readers`` make of the clip that each module of their type is called with, by path."""
    found: dict[str, Any] = {}

    def reading(path: str, read: Callable[[Any, Tensor], Any]) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            found[path] = read(module, arguments[0])

        return hook

    handles = []
    try:
        for path, module in network.named_modules():
            reader = next((read for kind, read in readers.items() if isinstance(module, kind)), None)
            if reader is not None:
                handles.append(module.register_forward_pre_hook(reading(path, reader)))
        with evaluating(network), torch.no_grad():
            network(clip)
    finally:
        for handle in handles:
            handle.remove()
    return found
