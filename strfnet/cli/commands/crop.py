"""`strfnet crop`."""

from strfnet.cli.commands.inputs import boxes_of
from strfnet.cli.options.crop import Crop
from strfnet.data import crop_video


def run(call: Crop) -> None:
    boxes = boxes_of(call.tracks, call.boxes)
    count = len({box.track for box in boxes})
    written = crop_video(
        call.video, boxes, call.out, camera=call.camera, cropping=call.cropping, quality=call.quality, progress=True
    )
    print(f"{len(written)} of {count} tracks are in {call.out / call.camera}, listed in {call.out / 'tracklets.csv'}")
