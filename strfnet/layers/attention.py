"""Softmax attention in forms that are equal but for rounding, and the choice of one for a device.

A layer calls the form that it holds and never looks at its device. `choose_attention` sets the forms of a network,
for training and for deployment; `set_attention` sets one by name.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from strfnet.system.compat import multiplies_bfloat16
from strfnet.system.names import check_choice

AttentionForm = Literal["fused", "chunked", "recomputed", "rounded", "plain"]
CHUNK = 512  # queries
LARGEST_HEAD = 256  # of flash attention on CUDA


class Attending(nn.Module):
    """A layer that attends: the softmax over keys of query times key, without scaling, times values.

    Attributes:
        attention_form: ============ ==========================================================================
                        "fused"      PyTorch's fused attention, with linear memory; the default
                        "chunked"    products of matrices for 512 queries at a time, recomputed in the backward
                                     pass: linear memory, and sums in a fixed order, so that gradients repeat
                        "recomputed" "chunked" with logits in the type of the query
                        "rounded"    "recomputed" for inference alone: nothing is recomputed
                        "plain"      one product for all queries, which holds the matrix of all logits; the form
                                     for ``torch.func`` and gradients of gradients
                        ============ ==========================================================================

    "fused", "chunked" and "plain" compute the logits in float32 where the query is float16 or bfloat16.
    """

    attention_form: AttentionForm = "fused"

    def attend(self, query: Tensor, key: Tensor, value: Tensor, exists: Tensor | None = None) -> Tensor:
        """Returns ``softmax(query key^T) value`` over the keys that exist, (b, windows, queries, d of values)."""
        return FORMS[self.attention_form](query, key, value, exists)

    def attention_sizes(self) -> tuple[int, int, bool] | None:
        """Returns the sizes of a key and of a value, and whether some keys do not exist; None without a softmax."""
        raise NotImplementedError(f"{type(self).__name__} has no attention_sizes")


def fused(query: Tensor, key: Tensor, value: Tensor, exists: Tensor | None) -> Tensor:
    return F.scaled_dot_product_attention(query, key, value, exists, scale=1.0)


def plain(query: Tensor, key: Tensor, value: Tensor, exists: Tensor | None) -> Tensor:
    whole = torch.promote_types(query.dtype, torch.float32)
    return _weighed(query.to(whole), key.to(whole), value, exists)


def chunked(query: Tensor, key: Tensor, value: Tensor, exists: Tensor | None) -> Tensor:
    return recomputed(query, key.to(torch.promote_types(key.dtype, torch.float32)), value, exists)


def recomputed(query: Tensor, key: Tensor, value: Tensor, exists: Tensor | None) -> Tensor:
    return torch.cat(
        [
            checkpoint(
                _weighed, chunk.to(key.dtype), key, value, exists, use_reentrant=False, preserve_rng_state=False
            )
            for chunk in query.split(CHUNK, dim=2)
        ],
        dim=2,
    )


def rounded(query: Tensor, key: Tensor, value: Tensor, exists: Tensor | None) -> Tensor:
    return torch.cat([_weighed(chunk, key, value, exists) for chunk in query.split(CHUNK, dim=2)], dim=2)


FORMS: dict[AttentionForm, Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]] = {
    "fused": fused,
    "chunked": chunked,
    "recomputed": recomputed,
    "rounded": rounded,
    "plain": plain,
}


def _weighed(query: Tensor, key: Tensor, value: Tensor, exists: Tensor | None) -> Tensor:
    # Autocast would round the logits. The meta device has none.
    with nullcontext() if query.is_meta else torch.autocast(query.device.type, enabled=False):
        logits = query @ key.mT
        if exists is not None:
            logits = logits.masked_fill(~exists, float("-inf"))
        return logits.softmax(dim=-1).to(value.dtype) @ value


def width_of(layer: Any) -> int:
    """Returns the number of outputs of a convolution or a linear layer, also of a quantised one, without a weight."""
    return layer.out_channels if isinstance(layer, nn.Conv2d) else layer.out_features


def set_attention(network: nn.Module, form: AttentionForm) -> int:
    """Sets the form of attention of all layers that attend, in place. Returns their number.

    Raises: ValueError for an unknown form.
    """
    check_choice("form", form, get_args(AttentionForm))
    layers = [module for module in network.modules() if isinstance(module, Attending)]
    for layer in layers:
        layer.attention_form = form
    return len(layers)


def choose_attention(
    network: nn.Module,
    *,
    dtype: torch.dtype | None = None,
    training: bool = False,
    deterministic: bool = False,
) -> int:
    """Sets the form of attention that suits the device of each layer that attends, in place (see `attention_form`).

    Args:
        network: on its device.
        dtype: type of the computation, such as torch.bfloat16 under autocast. Default: that of each layer.
        training: whether there is a backward pass.
        deterministic: whether gradients must repeat bit for bit.

    Returns: the number of layers whose form has changed.
    """
    changed = 0
    for layer in network.modules():
        if not isinstance(layer, Attending) or (sizes := layer.attention_sizes()) is None:
            continue
        weight, (key_size, value_size, masked) = next(layer.parameters(), None), sizes
        if weight is None:  # all are quantised, which runs on CPUs alone
            continue
        form = attention_form(
            weight.device,
            weight.dtype if dtype is None else dtype,
            key_size,
            value_size,
            masked=masked,
            training=training,
            deterministic=deterministic,
        )
        changed += form != layer.attention_form
        layer.attention_form = form
    return changed


def attention_form(
    device: torch.device,
    dtype: torch.dtype,
    key_size: int,
    value_size: int,
    *,
    masked: bool = False,
    training: bool = False,
    deterministic: bool = False,
) -> AttentionForm:
    """Returns the form of attention that suits a device, a type and the sizes of keys and values.

    On CUDA "fused" is chosen where flash attention runs: float16 or bfloat16, keys and values of one size that is a
    multiple of 8 and at most 256, no mask, compute capability 8.0. PyTorch's other fused kernels are slower than
    products of matrices or hold all logits, so the choice is "chunked". On a CPU that multiplies bfloat16 matrices,
    the choice in bfloat16 is "rounded" or, in training, "recomputed". Both are faster there than the fused kernel;
    their logits are rounded to bfloat16, as autocast rounds products. Elsewhere it is "fused".

    Args:
        device: of the computation.
        dtype: of query, key and value.
        key_size: numbers of a key.
        value_size: numbers of a value.
        masked: whether some keys do not exist.
        training: whether there is a backward pass.
        deterministic: whether gradients must repeat bit for bit, which the fused kernels of CUDA do not promise.
    """
    if device.type == "cuda":
        suited = not masked and key_size == value_size <= LARGEST_HEAD and key_size % 8 == 0
        flash = (
            suited and dtype in (torch.float16, torch.bfloat16) and torch.cuda.get_device_capability(device) >= (8, 0)
        )
        return "fused" if flash and not (training and deterministic) else "chunked"
    if device.type == "cpu" and dtype == torch.bfloat16 and multiplies_bfloat16():
        return "recomputed" if training else "rounded"
    return "fused"
