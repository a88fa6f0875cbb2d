import inspect

import pytest
from data_trees import TREES

from strfnet.data.frames import read_clip
from strfnet.data.readers.formats import FORMATS, read_data_set

SPLIT, OWN = ("ilids", "prid"), ("folder", "csv")


def test_the_formats_are_those_that_are_drawn_and_those_that_are_told():
    assert set(FORMATS) == set(TREES)
    assert all(f'"{name}"' in inspect.getdoc(read_data_set) for name in FORMATS)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_read_and_every_query_has_a_match(tmp_path, name):
    data = read_data_set(name, TREES[name](tmp_path / name), complete=False)
    layouts = ["MARS", "DukeMTMC-VideoReID", "LS-VID", "iLIDS-VID", "PRID2011", "CCVID", "AG-VPReID", "G2A-VReID"]
    assert data.layout == dict(zip(FORMATS, [*layouts, None, None], strict=True))[name]
    assert data.layout is None or (data.name != data.layout and data.name.endswith(f"({data.layout} layout)"))
    assert data.train and data.query and data.gallery
    for query in (data.test[row] for row in data.query):
        others = [data.test[row] for row in data.gallery]
        assert any(other.identity == query.identity and other.camera != query.camera for other in others)
    assert not {t.identity for t in data.train} & {t.identity for t in data.test}
    for tracklet in (*data.train, *data.test):
        assert read_clip(tracklet.frames, [len(tracklet.frames) - 1], (8, 4)).isfinite().all()


@pytest.mark.parametrize("name", FORMATS)
def test_complete_is_asked_for_unless_told_otherwise(tmp_path, name):
    root = TREES[name](tmp_path / name)
    if name == "ag_vpreid":  # whose published counts differ from source to source
        assert read_data_set(name, root).name == "AG-VPReID"
    elif name in OWN:
        assert read_data_set(name, root) == read_data_set(name, root, complete=False)
    else:
        with pytest.raises(ValueError, match="as published"):
            read_data_set(name, root)


@pytest.mark.parametrize("name", FORMATS)
def test_splits_are_handed_on_where_there_are_some_and_refused_elsewhere(tmp_path, name):
    root = TREES[name](tmp_path / name)
    if name in SPLIT:
        splits = {str(read_data_set(name, root, split=split, complete=False)) for split in range(10)}
        assert 1 < len(splits) <= 6  # of 4 people
    else:
        with pytest.raises(ValueError, match=f"split is 1, but {name} has one split: wanted 0"):
            read_data_set(name, root, split=1, complete=False)


def test_an_unknown_format_is_refused_with_the_nearest(tmp_path):
    with pytest.raises(ValueError, match=r"no format 'MARS', the nearest is '"):
        read_data_set("MARS", tmp_path)
    with pytest.raises(ValueError, match="the nearest is 'ls_vid'"):
        read_data_set("lsvid", tmp_path)
