"""Small data sets of synthetic walkers, in the layout of each published data set, of folders and of CSV files.

Every builder fills a new folder and returns the root that ``read_data_set`` takes with ``complete=False``. Training
has at least 2 identities with 4 tracklets each (2 where the layout allows no more), which make a batch.
"""

import csv
import json
from pathlib import Path

import h5py
import numpy as np
from PIL import Image
from scipy.io import savemat

from strfnet.data.synthetic import draw_camera, draw_walker, render

HEIGHT = 32


def write_frames(paths, identity, camera, seed=0):
    """Writes one tracklet: a walker seen by a camera, in the file format of each path's suffix."""
    clip = render(draw_walker(0, identity), draw_camera(0, camera), frames=len(paths), seed=seed, height=HEIGHT)
    for path, image in zip(paths, clip, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return paths


def write_mars_tree(root, *, train=(1, 3), test=(2, 4), cameras=2, tracklets=2, frames=3):
    """Writes MARS: some tracklets of each identity and camera, two junk tracklets and one distractor."""
    _write_mars_part(root, "train", [(pid, c) for pid in train for c in range(1, cameras + 1)] * tracklets, frames)
    people = [(pid, camera) for pid in test for camera in range(1, cameras + 1)] * tracklets
    table = _write_mars_part(root, "test", [(-1, 1), (-1, 2), (0, 1), *people], frames)
    pairs = [tuple(row) for row in table[:, 2:].tolist()]
    query = [row + 1 for row, pair in enumerate(pairs) if pair[0] > 0 and pairs.index(pair) == row]
    savemat(root / "info" / "query_IDX.mat", {"query_IDX": np.array([query], dtype=np.uint16)})
    return root


def _write_mars_part(root, part, views, frames):
    names, table = [], []
    for number, (identity, camera) in enumerate(sorted(views), start=1):
        folder = "00-1" if identity == -1 else f"{identity:04d}"
        # The first tracklet of each part has one frame; the lengths of the others differ.
        length = 1 if number == 1 else frames + number % 2
        of_tracklet = [f"{folder}C{camera}T{number:04d}F{frame:03d}.jpg" for frame in range(1, length + 1)]
        write_frames([root / f"bbox_{part}" / folder / name for name in of_tracklet], identity + 1, camera, number)
        table.append((len(names) + 1, len(names) + length, identity, camera))
        names += of_tracklet
    info = root / "info"
    info.mkdir(exist_ok=True)
    (info / f"{part}_name.txt").write_text("".join(f"{name}\n" for name in names))
    table = np.array(table, dtype=np.int32)
    savemat(info / f"tracks_{part}_info.mat", {f"track_{part}_info": table})
    return table


def write_duke_tree(root, *, underscores=True, frames=3):
    """Writes DukeMTMC-VideoReID: queries are in the gallery too, identity 9 has no query, numbers have gaps."""
    line = "_" if underscores else ""

    def write(part, identity, tracklet, camera, kind="X"):
        numbers = [2, *range(9, 9 + frames - 1)]
        names = [f"{identity:04d}{line}C{camera}{line}F{n:04d}{line}{kind}{n + 30000:05d}.jpg" for n in numbers]
        folder = root / part / f"{identity:04d}" / f"{tracklet:04d}"
        write_frames([folder / name for name in names], identity, camera, tracklet)

    for identity in (1, 7):
        for tracklet in (1, 2, 3, 4):
            write("train", identity, tracklet, camera=1 + tracklet % 2)
    for identity in (2, 6):
        for tracklet in (1, 2, 3):
            write("gallery", identity, tracklet, camera=tracklet)
        write("query", identity, 2, camera=2)
    write("gallery", 9, 1, camera=8, kind="D")
    return root


def write_ilids_tree(root, *, people=("person001", "person002", "person004", "person010"), splits=10, frames=3):
    """Writes iLIDS-VID: the splits are random orders of 1-based indices into the sorted identities."""
    for camera in (1, 2):
        for at, person in enumerate(people):
            folder = root / "i-LIDS-VID" / "sequences" / f"cam{camera}" / person
            numbers = range(98, 98 + frames)  # not padded: 98, 99, 100
            write_frames([folder / f"cam{camera}_{person}_{number}.png" for number in numbers], at, camera)
    rng = np.random.default_rng(0)
    table = np.stack([rng.permutation(len(people)) + 1 for _ in range(splits)]).astype(np.uint16)
    (root / "train-test people splits").mkdir()
    savemat(root / "train-test people splits" / "train_test_splits_ilidsvid.mat", {"ls_set": table})
    return root


def write_prid_tree(
    root, *, people=("person_0001", "person_0003", "person_0006", "person_0020"), splits=10, frames=3
):
    """Writes PRID2011: each camera has one identity that the other camera lacks."""
    for camera, stranger in (("cam_a", "person_0300"), ("cam_b", "person_0700")):
        for at, person in enumerate((*people, stranger)):
            folder = root / "prid_2011" / "multi_shot" / camera / person
            write_frames([folder / f"{number:04d}.png" for number in range(1, frames + 1)], at, len(camera))
    rng = np.random.default_rng(0)
    orders = [[people[at] for at in rng.permutation(len(people))] for _ in range(splits)]
    parts = [{"train": order[: len(people) // 2], "test": order[len(people) // 2 :]} for order in orders]
    (root / "splits_prid2011.json").write_text(json.dumps(parts))
    return root


def write_ls_vid_tree(root, *, frames=3):
    """Writes LS-VID: the table of queries is a MATLAB 7.3 file, a header followed by HDF5."""
    lists = root / "list_sequence"
    lists.mkdir(parents=True)
    for part, people in (("train", (1, 3)), ("test", (2, 4)), ("val", (5,))):
        lines = []
        for identity in people:
            for camera, tracklet in ((2, 0), (2, 1), (15, 2), (15, 3)):
                prefix = f"tracklet_{part}/{identity:04d}/{identity:04d}_{tracklet:03d}_{camera:02d}_"
                write_frames([root / f"{prefix}{n:04d}.jpg" for n in range(frames)], identity, camera, tracklet)
                lines.append(f"{prefix} {identity}\n")
        (lists / f"list_seq_{part}.txt").write_text("".join(lines))
    write_query_numbers(root / "test" / "data" / "info_test.mat", [[1, 3, 5, 7], [9, 9, 9, 9]])
    return root


def write_ccvid_tree(root, *, frames=3):
    """Writes CCVID: two sessions with the same views, and clothes that change from session to session."""
    lines = {part: [] for part in ("train", "query", "gallery")}
    for identity, part in ((1, "train"), (3, "train"), (2, "test"), (4, "test")):
        for session in (1, 2, 3):
            for view in (1, 2):
                folder = f"session{session}/{identity:03d}_{view:02d}"
                write_frames([root / folder / f"{n:05d}.jpg" for n in range(1, frames + 1)], identity, view, session)
                clothes = "u0_l0_s0_c0_a0" if session < 3 else "u1_l0_s0_c0_a0"
                where = part if part == "train" else ("gallery", "query")[(session, view) == (1, 1)]
                lines[where].append(f"{folder}\t{identity:03d}\t{clothes}\n")
    for part, of_part in lines.items():
        (root / f"{part}.txt").write_text("".join(of_part))
    return root


def write_ag_vpreid_tree(root, *, frames=3):
    """Writes AG-VPReID: in each case, queries of one platform and a gallery of the other."""

    def write(part, identity, tracklet, camera):
        names = [f"P{identity}T230811A1C{camera}E1K1F{n:03d}.jpg" for n in range(1, frames + 1)]
        folder = root / part / str(identity) / f"tracklet_{tracklet}"
        write_frames([folder / name for name in names], identity, camera, tracklet)

    for identity in (1, 3):
        for tracklet, camera in enumerate((0, 2, 4, 5)):
            write("train", identity, tracklet, camera)
    for identity in (2, 4):
        write("case1_aerial_to_ground/query", identity, 1, 4)
        write("case1_aerial_to_ground/gallery", identity, 1, 1)
        write("case2_ground_to_aerial/query", identity, 2, 3)
        write("case2_ground_to_aerial/gallery", identity, 2, 5)
    return root


def write_g2a_vreid_tree(root):
    """Writes G2A-VReID: the layout of MARS, two cameras, one tracklet of each identity and camera."""
    _write_mars_part(root, "train", [(pid, c) for pid in (1, 3) for c in (1, 2)], 3)
    table = _write_mars_part(root, "test", [(pid, c) for pid in (2, 4) for c in (1, 2)], 3)
    query = [row + 1 for row, camera in enumerate(table[:, 3].tolist()) if camera == 1]
    savemat(root / "info" / "query_IDX.mat", {"query_IDX": np.array([query], dtype=np.uint16)})
    return root


def write_query_numbers(path, table, name="query"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, mode="w", userblock_size=512) as file:
        file[name] = np.array(table, dtype=np.float64)
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")


def write_folder_tree(root, *, parts=("train", "test"), cameras=2, frames=3):
    """Writes folders: the parts share no identity, except query and gallery; one test identity has one tracklet."""
    for part in parts:
        people = ("ann", "bob") if part == "train" else ("cyd", "dan")
        for at, person in enumerate(people):
            for camera in range(1, cameras + 1):
                for tracklet in (1, 2):
                    seen = (f"cam{camera}",) if cameras > 1 else ()
                    folder = root.joinpath(part, person, *seen, f"{part} {tracklet}")
                    paths = [folder / f"{number}.jpg" for number in range(8, 8 + frames)]
                    write_frames(paths, at + 9 * (part != "train"), camera, (tracklet, parts.index(part)))
    if "test" in parts:
        write_frames([root.joinpath("test", "eve", *(["cam1"] if cameras > 1 else []), "only", "1.jpg")], 5, 1)
    return root


def write_csv_tree(root):
    """Writes the folders and a CSV file that lists half of them as folders, half as patterns."""
    write_folder_tree(root)
    rows = [("path", "identity", "camera", "subset")]
    for subset in ("train", "test"):
        for at, folder in enumerate(sorted({path.parent for path in (root / subset).rglob("*.jpg")})):
            _, identity, camera, _ = place = folder.relative_to(root).parts
            rows.append(("/".join(place) + ("/*.jpg" if at % 2 else ""), identity, camera, subset))
    return write_rows(root / "tracklets.csv", rows)


def write_rows(path, rows):
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


TREES = {
    "mars": write_mars_tree,
    "duke": write_duke_tree,
    "ls_vid": write_ls_vid_tree,
    "ilids": write_ilids_tree,
    "prid": write_prid_tree,
    "ccvid": write_ccvid_tree,
    "ag_vpreid": write_ag_vpreid_tree,
    "g2a_vreid": write_g2a_vreid_tree,
    "folder": write_folder_tree,
    "csv": write_csv_tree,
}
