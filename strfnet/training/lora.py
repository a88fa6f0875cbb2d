"""LoRA of the library peft on the kernels of inflated convolutions."""

from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import Tensor, nn

from strfnet.inflation.splicing import Followed
from strfnet.layers.temporal import TemporalConv

if TYPE_CHECKING:
    from peft import LoraConfig

Config = TypeVar("Config", bound="LoraConfig")


def adapt_inflated(config: Config) -> Config:
    """Lets a ``peft.LoraConfig`` adapt inflated convolutions, in place. Returns it.

    peft adds the output of an adapter to that of a layer. For a convolution with a temporal kernel or a unit behind
    it that would be another function than the merged weights compute. Here the adapter changes the kernel:
    ``weight + B A``, of which temporal kernels and units see the output. Merging therefore keeps the output.

    Args:
        config: with ``target_modules``, either convolutions or layers in them, as ``temporal`` and those of a unit
            behind one. Dropout, DoRA and ``lora_bias`` do not apply to kernels.

    Raises: ValueError when peft meets an inflated convolution under such a setting, or a layer that is no convolution
    and has a unit behind it.
    """
    kind = _kernel_lora()
    config._register_custom_module({TemporalConv: kind, Followed: kind})
    return config


def _kernel_lora() -> Any:
    from peft.tuners.lora import layer as peft

    class KernelLora(peft._ConvNd):
        """Adapters of the kernel of a convolution."""

        def __init__(self, base_layer: nn.Module, adapter_name: str, **settings: Any) -> None:
            if not isinstance(base_layer, nn.Conv2d):
                raise ValueError(
                    f"a unit follows {type(base_layer).__name__}, wanted a convolution or another target"
                )
            super().__init__(base_layer, adapter_name, **settings)
            self.conv_fn = nn.functional.conv3d if base_layer.weight.ndim == 5 else nn.functional.conv2d

        def update_layer(self, adapter_name: str, r: int, lora_alpha: int, config: Any, **settings: Any) -> None:
            wrong = [name for name in ("lora_dropout", "use_dora", "lora_bias") if getattr(config, name)]
            if wrong:
                raise ValueError(f"{wrong[0]} is {getattr(config, wrong[0])}, which does not apply to kernels")
            # peft builds the adapters with the class and the settings of the layer, so it sees a plain convolution.
            layer, self.base_layer = self.base_layer, _plain(self.base_layer)
            try:
                super().update_layer(adapter_name, r, lora_alpha=lora_alpha, config=config, **settings)
            finally:
                self.base_layer = layer

        def forward(self, x: Tensor) -> Any:
            if self.disable_adapters and self.merged:
                self.unmerge()
            if self.disable_adapters or self.merged:
                return self.base_layer(x)
            weight = cast(Tensor, self.base_layer.weight)
            for adapter in self.active_adapters:
                if adapter in self.lora_A:
                    weight = weight + self.get_delta_weight(adapter)
            return torch.func.functional_call(self.base_layer, {"weight": weight}, (x,))

    return KernelLora


def _plain(conv: Any) -> nn.Module:
    """A plain convolution with the kernel of an inflated one."""
    frames = conv.weight.shape[2:-2]
    kind = cast(Any, nn.Conv3d if frames else nn.Conv2d)
    plain = kind(
        conv.in_channels,
        conv.out_channels,
        (*frames, *conv.kernel_size),
        groups=conv.groups,
        bias=conv.bias is not None,
        device="meta",
    )
    plain.weight, plain.bias = conv.weight, conv.bias
    return plain
