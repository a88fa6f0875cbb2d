"""Random clips whose shape and seed hypothesis draws, random weights, and golden vectors."""

from pathlib import Path

import torch
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

ORDERS = ("contiguous", "channels_last", "strided")


@st.composite
def clips(
    draw: st.DrawFn,
    *,
    channels: int,
    max_batch: int = 3,
    max_frames: int = 7,
    max_height: int = 9,
    max_width: int = 7,
    min_height: int = 1,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Draws a clip (b, c, t, h, w) of normal numbers, of a small shape and in any memory order."""
    b, t = draw(st.integers(1, max_batch)), draw(st.integers(1, max_frames))
    h, w = draw(st.integers(min_height, max_height)), draw(st.integers(1, max_width))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    clip = torch.randn(b, channels, t, h, w, generator=generator, dtype=dtype)
    return reordered(clip, draw(st.sampled_from(ORDERS)))


def reordered(clip: Tensor, order: str) -> Tensor:
    """Returns the same clip in another memory order."""
    if order == "channels_last":
        return clip.contiguous(memory_format=torch.channels_last_3d)
    if order == "strided":
        wide = clip.new_zeros(*clip.shape[:4], 2 * clip.shape[4])
        wide[..., ::2] = clip
        return wide[..., ::2]
    return clip


def wake(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Fills all parameters and norm statistics with random numbers, in place.

    A unit that starts as the identity hides its errors; a woken one shows them.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if not tensor.is_floating_point():
                continue
            noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            if name.endswith("running_var"):
                noise = noise.abs() + 0.5
            elif tensor.ndim > 1:
                noise = noise / tensor[0].numel() ** 0.5
            tensor.copy_(noise)
    return module


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Returns normal numbers, equal for equal seeds."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def golden(name: str) -> dict[str, Tensor]:
    """Returns the golden vectors ``tests/golden/{name}``, computed by a published implementation in float64."""
    tensors = load_file(Path(__file__).parent / "golden" / f"{name}.safetensors")
    return {key: value.double() if value.is_floating_point() else value for key, value in tensors.items()}


def assert_golden(output: Tensor, published: Tensor) -> None:
    """Asserts that an output equals a golden vector, which is stored in float32."""
    torch.testing.assert_close(output, published, rtol=1e-6, atol=2e-7 * (1 + published.abs().max().item()))
