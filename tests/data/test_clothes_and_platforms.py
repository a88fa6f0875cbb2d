"""CCVID, AG-VPReID and G2A-VReID: attributes of tracklets beside their cameras."""

import re

import numpy as np
import pytest
from data_trees import write_ag_vpreid_tree, write_ccvid_tree, write_g2a_vreid_tree
from scipy.io import loadmat

from strfnet.data.readers.ag_vpreid import read_ag_vpreid
from strfnet.data.readers.ccvid import read_ccvid
from strfnet.data.readers.mars import read_g2a_vreid
from strfnet.evaluation import PROTOCOLS, gallery_of, queries_of


def refused(read, root, *said):
    with pytest.raises(ValueError, match=".*".join(map(re.escape, map(str, said)))):
        read(root, complete=False)


def test_a_line_of_ccvid_is_a_tracklet_with_its_clothes(tmp_path):
    root = write_ccvid_tree(tmp_path / "CCVID")
    data = read_ccvid(tmp_path, complete=False)
    assert data == read_ccvid(root, complete=False)
    first = data.train[0]
    assert first.frames == tuple(root / f"session1/001_01/{n:05d}.jpg" for n in (1, 2, 3))
    assert (first.identity, first.camera, first.details) == (1, 1, {"clothes": "001_u0_l0_s0_c0_a0"})
    # Cameras of the third session are others.
    assert [item.camera for item in data.train[:6]] == [1, 2, 1, 2, 13, 14]
    assert data.train[4].details == {"clothes": "001_u1_l0_s0_c0_a0"}
    assert data.gallery == tuple(range(10)) and data.query == (10, 11)
    assert [item.identity for item in data.test] == [2] * 5 + [4] * 5 + [2, 4]
    with pytest.raises(
        ValueError, match=r"12 training tracklets \(wanted 948\), 2 training identities \(wanted 75\)"
    ):
        read_ccvid(root)


@pytest.mark.parametrize("line", ["session1/001_01 001", "001_01\t001\tu0", "session1/00101\t001\tu0", "a\tb\tc"])
def test_other_lines_of_ccvid_are_refused(tmp_path, line):
    root = write_ccvid_tree(tmp_path)
    file = root / "query.txt"
    file.write_text(f"{file.read_text()}{line}\n")
    refused(read_ccvid, root, f"line 3 of {file} is {line!r}, wanted a folder such as session1/001_01")


def test_missing_files_of_ccvid_are_named(tmp_path):
    root = write_ccvid_tree(tmp_path)
    (root / "session1/002_01").rename(root / "away")
    refused(read_ccvid, root, f"{root / 'session1/002_01'} is missing")
    (root / "train.txt").unlink()
    refused(read_ccvid, root, f"{root / 'train.txt'} is missing, wanted a list of tracklets")


def test_the_cases_of_ag_vpreid_are_protocols(tmp_path):
    data = read_ag_vpreid(write_ag_vpreid_tree(tmp_path))
    assert {(item.camera, item.details["platform"]) for item in data.train} == {
        (0, "ground"), (2, "ground"), (4, "aerial"), (5, "aerial")
    }  # fmt: skip
    for name, query, gallery in (("aerial_to_ground", 4, 1), ("ground_to_aerial", 3, 5)):
        for rows, camera in (
            (queries_of(data, PROTOCOLS[name]), query),
            (gallery_of(data, PROTOCOLS[name]), gallery),
        ):
            assert [(data.test[row].identity, data.test[row].camera) for row in rows] == [(2, camera), (4, camera)]


def test_other_names_and_platforms_of_ag_vpreid_are_refused(tmp_path):
    root = write_ag_vpreid_tree(tmp_path)
    folder = root / "case1_aerial_to_ground/query/2/tracklet_1"
    frame, other = folder / "P2T230811A1C4E1K1F001.jpg", folder / "P2T230811A1C5E1K1F009.jpg"
    for name in ("0001.jpg", "P2T230811A1C6E1K1F001.jpg"):
        frame.rename(folder / name)
        refused(read_ag_vpreid, root, f"{folder / name} is not named like P1T230811A1C4E1K1F001.jpg")
        (folder / name).rename(frame)
    other.write_bytes(frame.read_bytes())
    refused(read_ag_vpreid, root, f"{folder} holds frames of cameras [4, 5], wanted one")
    other.unlink()
    for number in (1, 2, 3):
        old = folder / f"P2T230811A1C4E1K1F{number:03d}.jpg"
        old.rename(folder / old.name.replace("C4", "C0"))
    refused(read_ag_vpreid, root, f"{folder} is of camera 0, wanted aerial cameras in query")
    (root / "train/1").rename(root / "train/one")
    refused(read_ag_vpreid, root, f"{root / 'train/one'} is not named by an identity")


def test_g2a_vreid_searches_the_other_platform(tmp_path):
    root = write_g2a_vreid_tree(tmp_path)
    data = read_g2a_vreid(root, complete=False)
    protocol = PROTOCOLS["g2a_vreid"]
    assert data.layout == "G2A-VReID" and [data.test[row].camera for row in queries_of(data, protocol)] == [1, 1]
    assert [data.test[row].camera for row in gallery_of(data, protocol)] == [2, 2]
    assert np.array_equal(loadmat(root / "info/query_IDX.mat")["query_IDX"], [[1, 3]])
    with pytest.raises(ValueError, match=r"8 tracklets \(wanted 5576\), 4 identities \(wanted 2788\)"):
        read_g2a_vreid(root)
