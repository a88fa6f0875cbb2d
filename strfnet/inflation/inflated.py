"""The class of an inflated network: a 2-D network that runs on the flattened frames of clips."""

import copy
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from strfnet.inflation.extension import Extension
from strfnet.inflation.failures import name_module
from strfnet.inflation.layout import Axes, Item, Layout, described, select
from strfnet.inflation.probing import layout_of_maps
from strfnet.inflation.ragged import Ragged, refuse_lengths
from strfnet.inflation.running_clips import RunningClips, each_frame
from strfnet.inflation.splicing import Replacement
from strfnet.layers.clip import check_clip
from strfnet.layers.lengths import are_known, check_lengths, mean_over_time
from strfnet.layers.temporal import P3D, TemporalConv
from strfnet.system.compat import FilledAfterEmptying, children_of, initialise

Output = Item | Callable[[Any], Any]


class Inflated(FilledAfterEmptying, Extension):
    """Lets a 2-D network take clips: it runs on their flattened frames."""

    _running: RunningClips
    _steps_before: dict[str, dict[str, Any]]
    _output: Output | None
    _layout: Layout | None
    _input: str

    def forward(
        self,
        clip: Tensor | None = None,
        /,
        *others: Any,
        lengths: Tensor | None = None,
        return_lengths: bool = False,
        **named: Any,
    ) -> Any:
        r"""Returns maps as clips, and the mean of vectors over the frames of each clip.

        Args:
            clip: (b, c, t, h, w).
            \*others: further inputs of the 2-D network.
            lengths: (b,), integers in 1..t: only the first ``lengths[i]`` frames of clip i exist. The output is that
                of each clip alone, and in training the statistics of batch norms leave out all other frames. Maps
                past the end of a clip are zeros. None: all frames exist.
            return_lengths: also return the lengths of the maps, (b,); they differ from ``lengths`` where layers merge
                frames.
            \*\*named: further inputs by name.
        """
        if clip is None:
            clip = named.pop(self._input if self._input in named else "clip", None)
        check_clip(cast(Tensor, clip), weight=next(self.parameters(), None), name="clip")
        clip = cast(Tensor, clip)
        if isinstance(clip, Proxy):  # symbols of further inputs stand for none
            clip, lengths, return_lengths = refuse_lengths(clip, lengths), None, False
            others, named = (), {}
        ragged = None
        if lengths is not None:
            check_lengths(lengths, clip)
            if self.training and not are_known(lengths):
                raise ValueError("lengths are traced in training, where batch norms need their values; use eval()")
            ragged = Ragged.of(clip, lengths)
        others = tuple(each_frame(value, clip, ragged) for value in others)
        named = {name: each_frame(value, clip, ragged) for name, value in named.items()}
        returned = super().forward
        try:
            output, ragged = self._running.run(
                lambda frames: select(returned(frames, *others, **named), self._output), clip, ragged
            )
        except Exception as error:
            name_module(error, self, clip)
            raise
        output = per_clip(output, clip, None if self._layout is None else self._layout.axes, ragged)
        return (output, None if ragged is None else ragged.lengths) if return_lengths else output

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        added = _added_state(self)
        if strict and not added.keys() & state_dict.keys():
            if assign and any(value.is_meta for value in added.values()):
                device = next((value.device for value in state_dict.values()), "cpu")
                added = _added_state(copy.deepcopy(self).to_empty(device=device))
            state_dict = {**state_dict, **added}
        return super().load_state_dict(state_dict, strict, assign)

    def initialise_rest(self) -> None:
        """Initialises what inflation and splicing have added, by ``reset_parameters`` of each layer."""
        for module in self.modules():
            for name, child in module.named_children():
                if name in ("after", "appearance") or isinstance(module, Replacement):
                    initialise(child)
            if isinstance(module, P3D):
                module.reset_temporal()


@torch.fx.wrap  # the symbols of torch.fx have no rank: a traced network calls this function when it runs
def per_clip(output: Any, clip: Tensor, axes: Axes | None, ragged: Ragged | None = None) -> Tensor:
    """Returns maps of the frames of ``clip`` as clips, and the mean of vectors (b t, d) over the frames of each clip.

    Args:
        output: of the 2-D network.
        clip: the clip whose frames it was called with.
        axes: of the maps; None to find them by the shape of the clip.
        ragged: the clips at the output, if they are ragged.

    Raises: ValueError for what is neither maps nor vectors.
    """
    if not isinstance(output, Tensor) or output.ndim not in (2, 4):
        raise ValueError(
            f"the 2-D network must return vectors (n, d) or maps (n, c, h, w), got {described(output)}; select "
            "one of several by output="
        )
    if output.ndim == 2 and ragged is not None:
        return mean_over_time(ragged.unflatten(output).mT, ragged.lengths)
    if output.ndim == 2:
        return output.unflatten(0, (clip.shape[0], -1)).mean(dim=1)
    layout = layout_of_maps(output, clip) if axes is None else Layout(axes)
    _, maps = layout.split(output, None)
    if ragged is not None:
        return ragged.unflatten(maps)
    return maps.unflatten(0, (clip.shape[0], -1)).transpose(1, 2)


def _added_state(network: nn.Module) -> dict[str, Tensor]:
    """Returns the part of the state dict that inflation and splicing have added."""
    added = []
    for path, module in network.named_modules():
        children = children_of(module).keys() & {"after", "temporal", "appearance"}
        if isinstance(module, TemporalConv) or "after" in children:
            added += [f"{path}.{child}." for child in children]
        if isinstance(module, Replacement):
            added.append(f"{path}.")
    return {key: value for key, value in network.state_dict().items() if key.startswith(tuple(added))}
