"""What a module of a 2-D network returns, as the maps of its frames: maps, channels-last maps, and tokens.

The axes are written in letters: f frames of all clips, c channels, h rows, w columns, n tokens. Tokens are prefix
tokens (class, registers, distillation), then the h w tokens of a grid, row by row.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

Axes = Literal["fchw", "fhwc", "fnc", "nfc", "fcn"]
AXES: tuple[Axes, ...] = get_args(Axes)
Item = int | str
Grid = tuple[int, int]


@dataclass(frozen=True)
class Layout:
    """Where the maps of the frames are in what a module returns.

    Args:
        axes: of the tensor, one of ``AXES``.
        prefix: number of tokens before the grid; they pass by unchanged.
        source: path of the module whose last output has the grid of the tokens; "" is the clip itself.
        scale: the grid has 1 / scale of the rows and columns of that output, rounded up.
        item: index, key or attribute of the tensor in the tuple, list, dict or record that the module returns; None
            if it returns the tensor.
    """

    axes: Axes = "fchw"
    prefix: int = 0
    source: str = ""
    scale: int = 1
    item: Item | None = None

    def grid(self, source: Grid) -> Grid:
        """The grid of the tokens, where the source has the grid ``source``."""
        return -(-source[0] // self.scale), -(-source[1] // self.scale)

    def numbers(self, tensor: Tensor) -> tuple[int, int]:
        """The numbers of frames and of tokens; none of maps."""
        tokens = tensor.shape[self.axes.index("n")] if "n" in self.axes else 0
        return tensor.shape[self.axes.index("f")], tokens

    def split(self, tensor: Tensor, grid: Grid | None) -> tuple[Tensor | None, Tensor]:
        """Returns the prefix tokens, (f, p, c), and the maps, (f, c, h, w), of which a clip can be made."""
        if "n" not in self.axes:
            return None, tensor if self.axes == "fchw" else tensor.permute(0, 3, 1, 2)
        tokens = tensor.permute(*(self.axes.index(axis) for axis in "fnc"))
        prefix = tokens[:, : self.prefix] if self.prefix else None
        tokens = tokens[:, self.prefix :]
        if grid is None or tokens.shape[1] != grid[0] * grid[1]:
            raise ValueError(
                f"x of {tuple(tensor.shape)} holds {tokens.shape[1]} tokens behind {self.prefix} prefix tokens, but "
                f"the grid of {self.source or 'the clip'} is {grid}; the network was spliced for other tokens"
            )
        return prefix, tokens.unflatten(1, grid).permute(0, 3, 1, 2)

    def join(self, prefix: Tensor | None, maps: Tensor) -> Tensor:
        """The inverse of `split`."""
        if "n" not in self.axes:
            return maps if self.axes == "fchw" else maps.permute(0, 2, 3, 1)
        tokens = maps.permute(0, 2, 3, 1).flatten(1, 2)
        if prefix is not None:
            if not torch.compiler.is_compiling() and prefix.shape[::2] != tokens.shape[::2]:
                raise ValueError(
                    f"the unit returns {len(tokens)} frames of {tokens.shape[2]} channels, but the {self.prefix} "
                    f"prefix tokens that pass by have {len(prefix)} of {prefix.shape[2]}; a unit must keep both"
                )
            tokens = torch.cat([prefix, tokens], dim=1)
        return tokens.permute(*("fnc".index(axis) for axis in self.axes))

    def __str__(self) -> str:
        tokens = f", {self.prefix} prefix tokens, grid of {self.source or 'the clip'}" if "n" in self.axes else ""
        return f"({', '.join(self.axes)}){tokens}"


MAPS = Layout()


def select(output: Any, item: Item | Callable[[Any], Any] | None) -> Any:
    """Returns the item of a tuple, list, dict or record, or what a function makes of it.

    An index, a key or an attribute leaves a tensor as it is.

    Raises: ValueError naming what ``output`` holds if the item is not in it.
    """
    if callable(item):
        return item(output)
    if item is None or isinstance(output, Tensor):
        return output
    try:
        return output[item] if isinstance(item, int) or isinstance(output, Mapping) else getattr(output, item)
    except (LookupError, AttributeError, TypeError) as error:
        raise ValueError(f"output is {item!r}, which is not in {described(output)}") from error


def replace(output: Any, item: Item | None, tensor: Tensor) -> Any:
    """Returns ``output`` with ``tensor`` as its ``item``; ``output`` is not modified."""
    if item is None:
        return tensor
    if isinstance(output, tuple):
        names = getattr(output, "_fields", ())
        values = [tensor if item in (at, *names[at : at + 1]) else value for at, value in enumerate(output)]
        return type(output)(*values) if names else tuple(values)
    changed = copy.copy(output)
    if isinstance(output, Mapping | list):
        changed[item] = tensor
    else:
        setattr(changed, str(item), tensor)
    return changed


def items_of(output: Any) -> Iterator[tuple[Item | None, Any]]:
    """Yields what a tuple, list, dict or record holds, by item; anything else is one item, None."""
    if isinstance(output, Mapping):
        yield from output.items()
    elif isinstance(output, tuple | list):
        yield from enumerate(output)
    elif is_dataclass(output):
        yield from ((field.name, getattr(output, field.name)) for field in fields(output))
    else:
        yield None, output


def described(output: Any) -> str:
    """A tensor's shape, or the class of ``output`` and the shapes in it, for messages."""
    if isinstance(output, Tensor):
        return f"a tensor {tuple(output.shape)}"
    names = getattr(output, "_fields", ())
    held = []
    for item, value in items_of(output):
        name = names[item] if isinstance(item, int) and names else item
        shape = str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__
        held.append(f"{name!r}: {shape}" if isinstance(name, str) else f"[{name}] {shape}")
    structured = isinstance(output, Mapping | tuple | list) or is_dataclass(output)
    return f"a {type(output).__name__}" + (f" of {', '.join(held)}" if structured else "")
