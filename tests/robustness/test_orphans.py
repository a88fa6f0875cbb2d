"""Nothing outlives what started it: ranks end with their agent, workers with their run, also while they wait."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from strfnet.data.loader import Draw, TrainingClips, load
from strfnet.data.tracklet import Tracklet

if not hasattr(signal, "sigtimedwait"):
    pytest.skip("processes of Linux", allow_module_level=True)

RANK = """
import os, sys, time
from strfnet.system import signals
signals._LEFT = 1.0
if {early}:
    print(os.getpid(), flush=True)
    while os.getppid() == signals._started_by:
        time.sleep(0.01)
with signals.stop_requests() as request:
    print(os.getpid(), flush=True)
    while not (request.number and {saves}):
        time.sleep(0.05)
    open({place!r}, "w").write(str(request.number))
"""
AGENT = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', sys.argv[1]]); time.sleep(60)"


def is_gone(process, seconds=10):
    """Whether a process ends in time; it may stay as a zombie of a parent that does not wait."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if "\nState:\tZ" in Path(f"/proc/{process}/status").read_text():
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    os.kill(process, signal.SIGKILL)
    return False


@pytest.mark.parametrize(
    ("launched", "saves", "early"),
    [(True, True, False), (True, False, False), (False, True, False), (True, True, True)],
    ids=["torchrun, saves", "torchrun, waits for others", "a shell", "torchrun, before training"],
)
def test_a_rank_ends_with_its_agent_and_saves_before(tmp_path, saves, launched, early):
    script = RANK.format(saves=saves, early=early, place=str(tmp_path / "saved"))
    variables = {"PYTHONPATH": os.pathsep.join(sys.path), **({"TORCHELASTIC_RUN_ID": "none"} if launched else {})}
    environment = {name: value for name, value in os.environ.items() if name != "TORCHELASTIC_RUN_ID"} | variables
    agent = subprocess.Popen([sys.executable, "-c", AGENT, script], stdout=subprocess.PIPE, env=environment)
    rank = int(agent.stdout.readline())
    agent.kill()
    agent.wait()
    assert is_gone(rank, 10 if launched else 1.5) == launched
    assert (tmp_path / "saved").exists() == (saves and launched)
    if saves and launched:
        assert json.loads((tmp_path / "saved").read_text()) == signal.SIGTERM


def test_a_stuck_worker_ends_with_its_run(tmp_path):
    read, write = os.pipe()
    run = os.fork()
    if not run:
        try:

            class Stuck(TrainingClips):
                def read(self, draw):
                    os.write(write, f"{os.getpid()}\n".encode())
                    return os.read(read, 0) or time.sleep(60)

            clips = Stuck([Tracklet((np.zeros((8, 4, 3), np.uint8),), 0)], [0], seed=0, frames=1)
            next(iter(load(clips, [[Draw(0, 0, 0)]], workers=1)))
        finally:
            os._exit(1)
    worker = int(os.read(read, 20))
    os.kill(run, signal.SIGKILL)  # as the second SIGINT does
    os.waitpid(run, 0)
    assert is_gone(worker)
