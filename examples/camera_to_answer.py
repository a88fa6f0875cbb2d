"""The whole way on a drawn scene: video and tracks in, then who is this, where else, and how sure.

python examples/camera_to_answer.py    # two minutes on two cores

Two synthetic cameras see walkers who cross; one walker passes the first camera alone. A tracker's boxes are written
beside each video. Everything else is done by the commands that are printed. Walkers say nothing about people.
"""

import argparse
import csv
import shlex
import sys
from pathlib import Path

import av
import numpy as np

from strfnet.cli import main as strfnet
from strfnet.data.synthetic import draw_set
from strfnet.evaluation import operating_point
from strfnet.inference import load_embeddings

RECIPE = Path(__file__).parent / "recipes" / "few_people.yaml"
PEOPLE, FRAMES = 16, 24  # walkers, and frames that each is seen in
HEIGHT, WIDTH = 112, 224  # of the video, in pixels
GAP = 12  # frames between two walkers


def draw_videos(folder: Path, people: int, *, seed: int = 2) -> list[str]:
    """Draws two cameras' videos, and a tracker's boxes in MOT Challenge text. Returns the cameras' names.

    Walkers come from the left and from the right in turns and cross. Tracks are numbered anew in each camera; who
    they are is in ``truth.csv``: camera, track, identity. The last walker is seen by the first camera only.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tracklets = draw_set(
        train=1, test=people, cameras=2, tracklets=1, distractors=0, junk=0, frames=FRAMES, seed=seed
    ).test
    cameras = sorted({str(tracklet.camera) for tracklet in tracklets})
    truth = [("camera", "track", "identity")]
    for camera in cameras:
        seen = [tracklet for tracklet in tracklets if str(tracklet.camera) == camera]
        seen = seen if camera == cameras[0] else seen[:-1]
        np.random.default_rng([seed, int(camera)]).shuffle(seen)
        boxes = []
        with av.open(str(folder / f"camera{camera}.mp4"), "w") as container:
            stream = container.add_stream("mpeg4", rate=10)
            stream.width, stream.height, stream.pix_fmt, stream.bit_rate = WIDTH, HEIGHT, "yuv420p", 4_000_000
            for number in range(GAP * (len(seen) - 1) + FRAMES):
                picture = np.full((HEIGHT, WIDTH, 3), np.asarray(seen[0].frames[0])[0, 0], np.uint8)
                for track, tracklet in enumerate(seen):
                    at = number - GAP * track
                    if 0 <= at < FRAMES:
                        frame = np.asarray(tracklet.frames[at])
                        h, w, _ = frame.shape
                        step = (WIDTH - w) * at // (FRAMES - 1)
                        left, top = (step, 8) if track % 2 == 0 else (WIDTH - w - step, HEIGHT - h - 8)
                        picture[top : top + h, left : left + w] = frame
                        boxes.append(f"{number + 1},{track + 1},{left + 1},{top + 1},{w},{h},0.9,-1,-1,-1")
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
        (folder / f"camera{camera}.txt").write_text("\n".join(boxes) + "\n")
        truth += [(f"camera{camera}", str(track + 1), str(item.identity)) for track, item in enumerate(seen)]
    with (folder / "truth.csv").open("w", newline="") as file:
        csv.writer(file).writerows(truth)
    return [f"camera{camera}" for camera in cameras]


def label(listing: Path, truth: Path) -> Path:
    """Writes the listing of crops with the identities that its owner would fill in, half of them for training."""
    with truth.open(newline="") as file:
        names = {(row["camera"], row["track"]): row["identity"] for row in csv.DictReader(file)}
    with listing.open(newline="") as file:
        rows = list(csv.DictReader(file))
    people = sorted(set(names.values()), key=int)
    for row in rows:
        row["identity"] = names[row["camera"], row["track"]]
        row["subset"] = "train" if row["identity"] in people[: len(people) // 2] else "test"
    labelled = listing.with_name("labelled.csv")
    with labelled.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return labelled


def threshold_of(embeddings: Path, labelled: Path) -> float:
    """Returns the largest distance of a match at which 1 % of the pairs of different training people match."""
    with labelled.open(newline="") as file:
        known = {
            str(labelled.parent / row["path"]): row["identity"]
            for row in csv.DictReader(file)
            if row["subset"] == "train"
        }
    vectors, tracklets, _ = load_embeddings(embeddings)
    rows = [row for row, one in enumerate(tracklets) if str(Path(one["path"]).parent) in known]
    identities = [known[str(Path(tracklets[row]["path"]).parent)] for row in rows]
    cameras = [tracklets[row]["camera"] for row in rows]
    point = operating_point(
        vectors[rows], vectors[rows], identities, identities, query_cameras=cameras, gallery_cameras=cameras,
        self_match=range(len(rows)), false_positive_rate=0.01,
    )  # fmt: skip
    print(f"\n{point}", flush=True)
    return point.threshold


def run(*arguments: object) -> None:
    """Runs a command of strfnet after printing it."""
    command = [str(argument) for argument in arguments]
    print(f"\n$ strfnet {shlex.join(command)}", flush=True)
    if code := strfnet(command):
        sys.exit(code)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("demo/cameras"), help="folder (default: demo/cameras)")
    parser.add_argument("--epochs", type=int, default=8, help="epochs of the fine-tuning (default: 8)")
    arguments = parser.parse_args()
    out, crops = arguments.out, arguments.out / "crops"
    print(f"drawing {PEOPLE} walkers under two cameras in {out}", flush=True)
    cameras = draw_videos(out, PEOPLE)
    for camera in cameras:
        run("crop", "--video", out / f"{camera}.mp4", "--tracks", out / f"{camera}.txt", "--camera", camera,
            "--out", crops)  # fmt: skip
    listing, gallery = crops / "tracklets.csv", out / "gallery.safetensors"
    run("check", listing, "--format", "csv")
    run("embed", "--data", listing, "--format", "csv", "--model", "walkers", "--device", "cpu", "--out", gallery)
    query = (
        "--device",
        "cpu",
        "--model",
        "walkers",
        "--gallery",
        gallery,
        "--camera",
        cameras[0],
        "--camera-aware",
        "--top",
        3,
    )
    run("search", "--query", crops / cameras[0] / "3", *query, "--picture", out / "hits.png")

    labelled = label(listing, out / "truth.csv")
    threshold = f"{threshold_of(gallery, labelled):.4f}"
    with (out / "truth.csv").open(newline="") as file:
        alone = max(csv.DictReader(file), key=lambda row: int(row["identity"]))
    run("search", "--query", crops / cameras[0] / "3", *query, "--threshold", threshold)
    run("search", "--query", crops / cameras[0] / alone["track"], *query, "--threshold", threshold)

    data = ("--data", labelled, "--format", "csv", "--device", "cpu")
    run("evaluate", "--model", "walkers", *data, "--protocol", "folder")
    run("train", "--config", RECIPE, *data, "--out", out / "run", "--epochs", arguments.epochs)
    run("show", "--report", "--trained", out / "run", *data, "--out", out / "report.html")


if __name__ == "__main__":
    main()
