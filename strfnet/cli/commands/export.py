"""`strfnet export`."""

from strfnet.cli.commands.inputs import load
from strfnet.cli.options.export import Export
from strfnet.cli.options.groups import Inference, clip_sampler
from strfnet.deployment.exporting import check_target, export


def run(call: Export) -> None:
    check_target(call.out, call.format)
    embedder, _ = load(call.network, Inference(device="cpu"))
    clips, size = clip_sampler(call.clips), embedder.preprocessing.size
    exported = export(
        embedder.network,
        call.out,
        call.format,
        size=size,
        lengths=call.lengths,
        clips=clips,
        distance=call.distance,
    )
    print(exported)
