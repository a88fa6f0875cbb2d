"""A signal while a frame is read that never comes: the run stops without it, and goes on bit for bit alike."""

import os
import signal
import time

import pytest
from tiny_runs import network_for, objective_for, tiny_recipe, walkers

from strfnet.data.frames import read_pixels
from strfnet.system.signals import Stopped
from strfnet.training import read_log, train
from strfnet.weights.store import CheckpointStore

EPOCHS = {"epochs": 2, "steps_per_epoch": 2, "evaluate_every": 1}


def trained(folder, workers):
    recipe = tiny_recipe(workers=workers, **EPOCHS)
    train(network_for(recipe), objective_for(recipe), walkers(), recipe, folder, evaluate=lambda _: {"mAP": 1.0})
    store = CheckpointStore(folder / "checkpoints")
    return store.load_newest().metadata["sha256"]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("unbroken"), 0)


@pytest.mark.parametrize(
    ("fatal", "workers", "number"),
    [
        (2, 0, signal.SIGTERM),
        (6, 0, signal.SIGINT),
        (10, 0, signal.SIGTERM),
        (2, 1, signal.SIGTERM),
        (6, 1, signal.SIGTERM),
    ],
)  # the first call checks the settings; a step reads four clips, and an epoch ends with an evaluation
def test_a_run_stops_without_the_frame_and_goes_on_alike(tmp_path, monkeypatch, unbroken, fatal, workers, number):
    main, calls = os.getpid(), 0

    def stalled(*args, **settings):
        nonlocal calls
        calls += 1
        if calls == fatal:
            os.kill(main, number)
            time.sleep(20)
            pytest.fail("the frame came")
        return read_pixels(*args, **settings)

    with monkeypatch.context() as patch:
        patch.setattr("strfnet.data.loader.read_pixels", stalled)
        with pytest.raises(Stopped):
            trained(tmp_path, workers)
    [stop] = [line for line in read_log(tmp_path / "log.jsonl") if line["kind"] == "stop"]
    assert stop["signal"] == number.name
    assert CheckpointStore(tmp_path / "checkpoints").numbers()[-1] == stop["step"]
    assert trained(tmp_path, 0) == unbroken
    evaluated = [line["step"] for line in read_log(tmp_path / "log.jsonl") if line["kind"] == "evaluation"]
    assert evaluated == [2, 4]
