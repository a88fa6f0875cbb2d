"""Unfinished work is resumed for the same frames only, all of them: by name, size and time, or values in memory."""

import os
import shutil
from dataclasses import replace

import pytest
import torch
from PIL import Image
from tiny_runs import network_for, objective_for, tiny_recipe, walkers

from strfnet.data import read_folder
from strfnet.data.fingerprint import fingerprint
from strfnet.data.synthetic import write_walkers
from strfnet.inference import shards as module
from strfnet.inference.shards import Shards
from strfnet.training import train

CPU = torch.device("cpu")


@pytest.fixture
def data(tmp_path):
    write_walkers(tmp_path / "walkers", identities=3, cameras=2, frames=4, height=32)
    return tmp_path / "walkers"


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(module, "SIZE", 2)


def begun(folder, tracklets):
    shards = Shards(folder / "out", tracklets, {}, CPU)
    for number in shards.mine:
        shards.save(number, torch.zeros(2, 3))
    shards.close()


def last_frame(data):
    return read_folder(data)[-1].frames[-1]


def renamed(data):
    frame = last_frame(data)
    frame.rename(frame.with_name("9999.jpg"))


def other_picture(data):
    frame = last_frame(data)
    Image.new("RGB", (16, 32), (200, 0, 0)).save(frame)


def other_picture_of_its_size(data):
    frame = last_frame(data)
    content = bytearray(frame.read_bytes())
    content[-20] ^= 1
    frame.write_bytes(content)
    os.utime(frame, ns=(1, 1))


def all_but_the_first(data):
    for tracklet in read_folder(data):
        for number, frame in enumerate(tracklet.frames[1:]):
            shutil.copy(tracklet.frames[0], frame.with_name(f"new{number}.jpg"))
            frame.unlink()


def swapped(data):
    one, other = read_folder(data)[-1].frames[-2:]
    one.rename(one.with_name("x"))
    other.rename(one)
    one.with_name("x").rename(other)


CHANGES = [renamed, other_picture, other_picture_of_its_size, all_but_the_first, swapped]


@pytest.mark.parametrize("change", CHANGES)
def test_shards_of_other_frames_are_computed_again(data, tmp_path, capsys, change):
    begun(tmp_path, read_folder(data))
    change(data)
    again = Shards(tmp_path / "out", read_folder(data), {}, CPU)
    stale = [0, 1, 2] if change is all_but_the_first else [2]
    assert again.mine == stale
    again.close()
    told = capsys.readouterr().err.splitlines()
    assert len(told) == len(stale)
    assert all(line.endswith("sizes or times than they have now; it is computed again") for line in told)


def test_shards_of_the_same_frames_are_resumed(data, tmp_path):
    begun(tmp_path, read_folder(data))
    again = Shards(tmp_path / "out", read_folder(data), {}, CPU)
    assert again.mine == []
    again.close()


@pytest.mark.parametrize("change", CHANGES)
def test_a_fingerprint_is_that_of_all_frames_wherever_they_are(data, tmp_path, change):
    before = fingerprint(read_folder(data))
    moved = tmp_path / "moved"
    shutil.copytree(data, moved)
    assert fingerprint(read_folder(moved)) == before == fingerprint(read_folder(data))
    change(moved)
    assert fingerprint(read_folder(moved)) != before


def test_a_fingerprint_of_frames_in_memory_is_that_of_their_values():
    first, *rest = walkers()
    changed = [frame.copy() for frame in first.frames]
    changed[-1][0, 0, 0] ^= 1
    assert fingerprint(walkers()) == fingerprint([first, *rest])
    assert fingerprint([replace(first, frames=tuple(changed)), *rest]) != fingerprint([first, *rest])
    one, other = rest[:2]
    joined = replace(one, frames=one.frames + other.frames)
    assert fingerprint([joined]) != fingerprint([one, other])


def test_a_run_is_resumed_on_the_same_frames_only(tmp_path):
    def run(tracklets, epochs):
        recipe = tiny_recipe(steps_per_epoch=1, epochs=epochs)
        return train(network_for(recipe), objective_for(recipe), tracklets, recipe, tmp_path, progress=False)

    run(walkers(), 1)
    first, *rest = walkers()
    changed = [frame.copy() for frame in first.frames]
    changed[-1][0, 0, 0] ^= 1
    with pytest.raises(ValueError, match="frames of the tracklets have other names, sizes or times than they had"):
        run([replace(first, frames=tuple(changed)), *rest], 2)
    assert run(walkers(), 2).epoch == 2
