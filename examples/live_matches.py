"""Compares the people of a video with those who left it before, while it is read; prints matches as they happen.

python examples/live_matches.py video.mp4 tracks.txt                 # the shipped weights, trained on drawings
python examples/live_matches.py video.mp4 tracks.txt --model runs/own --threshold 0.8
"""

import argparse
import time
from collections import defaultdict

from torch import Tensor
from torch.nn.functional import cosine_similarity

from strfnet.data import Box, Video, read_tracks
from strfnet.inference import StreamPool
from strfnet.models import find_network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video")
    parser.add_argument("tracks", help="file of a tracker, see docs/data.md")
    parser.add_argument("--model", default="walkers", help="a training run, a weights file or a model name")
    parser.add_argument("--threshold", type=float, default=0.9, help="least similarity of a match (default: 0.9)")
    arguments = parser.parse_args()
    found, boxes = find_network(arguments.model), read_tracks(arguments.tracks)
    pool = StreamPool(found.network, colors="rgb", frames=8, size=found.preprocessing.size)
    last = {box.track: box.frame for box in boxes}  # of each track, as boxes are in the order of frames
    of_frame: dict[int, list[Box]] = defaultdict(list)
    for box in boxes:
        of_frame[box.frame].append(box)
    ended: dict[str, Tensor] = {}  # the embeddings of tracks that have ended
    matched: dict[str, str] = {}
    video, count, began = Video(arguments.video), 0, time.perf_counter()
    for number, seconds, picture in video.read(lambda number: number in of_frame):
        seen = []
        for box in of_frame[number]:
            left, top, right, bottom = box.in_pixels(video.width, video.height)
            if picture is not None and left < right and top < bottom:
                pool.push(box.track, picture[top:bottom, left:right])
                seen.append(box.track)
        count += len(seen)
        for track, embedding in zip(seen, pool.embeddings(seen) if seen else [], strict=True):
            scores = [(float(cosine_similarity(embedding, other, dim=0)), name) for name, other in ended.items()]
            score, best = max(scores, default=(-1.0, ""))
            if score >= arguments.threshold and matched.get(track) != best:
                matched[track] = best
                print(f"{seconds:7.2f} s: track {track} looks like track {best} ({score:.2f})", flush=True)
        for track in [box.track for box in of_frame[number] if last[box.track] == number]:
            if track in pool.tracks:
                ended[track] = pool.embeddings([track])[0]
                pool.drop(track)
    print(f"{count} boxes of {len(last)} tracks, {count / (time.perf_counter() - began):.0f} boxes a second")


if __name__ == "__main__":
    main()
