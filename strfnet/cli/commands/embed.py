"""`strfnet embed`."""

from collections.abc import Sequence
from pathlib import Path

from strfnet.cli.commands.inputs import boxes_of, load, read
from strfnet.cli.commands.output import note, say
from strfnet.cli.options.embed import Embed
from strfnet.cli.options.groups import clip_sampler
from strfnet.data import DataSet, Tracklet, evaluation_sampler, read_folder, read_video
from strfnet.data.readers.folder import test_set
from strfnet.system.files import check_writable


def run(call: Embed) -> None:
    check_writable(call.out)
    data_set = _tracklets(call)
    embedder, _ = load(call.network, call.inference)
    clips = clip_sampler(call.clips)
    width = embedder.embed_into(call.out, data_set.test, clips, metric=call.metric, data_set=data_set)
    say(f"{len(data_set.test)} embeddings of {width} numbers are in {call.out}")


def _tracklets(call: Embed) -> DataSet:
    """The tracklets to embed, as the test set of a data set."""
    data = call.data_set
    if call.video is not None and call.tracks is not None:
        sampler, frames = clip_sampler(call.clips)
        name = f"video {call.video.name}"
        tracklets: Sequence[Tracklet] = read_video(
            call.video,
            boxes_of(call.tracks, call.boxes),
            camera=call.camera,
            cropping=call.cropping,
            clips=evaluation_sampler(sampler, frames=frames),
            progress=True,
        )
    elif data.format == "folder" and call.subset is None:
        name, tracklets = f"folder {Path(str(data.data)).name}", read_folder(str(data.data), layout=data.layout)
    else:
        data_set = read(data)
        if call.subset != "train":
            return data_set
        name, tracklets = f"training of {data_set.name}", data_set.train
    found = test_set(name, tracklets)
    note(f"strfnet: {found.summary}")
    return found
