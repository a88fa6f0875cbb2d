"""A closed terminal and a reader that leaves: work goes on or is saved, and the exit code says which."""

import os
import signal
import sys
import tty

import pytest
from tiny_runs import network_for, objective_for, tiny_recipe, walkers

from strfnet.system.progress import ProgressLine, inform
from strfnet.system.signals import stop_requests
from strfnet.training import train
from strfnet.weights.store import CheckpointStore


def with_stderr(handle, work):
    """The exit code of a fork that works with another stderr, and ends as a Python program does."""
    process = os.fork()
    if process:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    code = 1
    try:
        os.dup2(handle, 2)
        sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
        work()
        sys.stderr.flush()  # as Python does when it exits
        code = 0
    finally:
        os._exit(code)


def without_reader():
    read, write = os.pipe()
    os.close(read)
    return write


def closed_terminal():
    leader, follower = os.openpty()
    tty.setraw(follower)
    os.close(leader)
    return follower


def on_a_read_only_handle():
    return os.open(os.devnull, os.O_RDONLY)


@pytest.mark.parametrize("stderr", [without_reader, closed_terminal, on_a_read_only_handle])
def test_lines_and_progress_go_on_without_a_reader(stderr):
    def work():
        inform("the first line")
        with ProgressLine(3, "batches trained", "images") as line:
            for _ in range(3):
                line.advance(1, 2)
        inform("the last line")

    assert with_stderr(stderr(), work) == 0


def test_a_daemon_has_no_stderr(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    inform("nobody reads this")
    with ProgressLine(1, "batches trained", "images") as line:
        line.advance(1, 2)


def test_training_goes_on_without_a_reader(tmp_path):
    recipe = tiny_recipe(steps_per_epoch=2)

    def work():
        train(network_for(recipe), objective_for(recipe), walkers(), recipe, tmp_path, progress=True)

    assert with_stderr(without_reader(), work) == 0
    assert (tmp_path / "result.json").exists() and CheckpointStore(tmp_path / "checkpoints").numbers()[-1] > 1


@pytest.mark.parametrize("ignored", [True, False])
def test_a_closed_terminal_stops_unless_nohup_ignores_it(ignored):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        with stop_requests() as request:
            os.kill(os.getpid(), signal.SIGHUP)
            assert request.number == (0 if ignored else signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == (signal.SIG_IGN if ignored else signal.SIG_DFL)
    finally:
        signal.signal(signal.SIGHUP, before)
