"""Settings of the whole suite."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # the suite runs in several processes, and they start others: one thread each

import signal
import sys

import pytest
import torch
from hypothesis import settings

# No deadline: the first call of an operation in a process may take seconds. Examples are those of every run of a
# test, except with "search", which draws others each time.
settings.register_profile("quick", deadline=None, derandomize=True)
settings.register_profile("thorough", settings.get_profile("quick"), max_examples=1000)
settings.register_profile("search", settings.get_profile("thorough"), derandomize=False, print_blob=True)
settings.load_profile("quick")
torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def hangups():
    """Lets SIGHUP act where nohup has started the suite, too: processes of tests would inherit its setting."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture(autouse=True)
def fresh_accelerate():
    """Resets Accelerate, which otherwise keeps the settings of the first test in a process."""
    yield
    if state := sys.modules.get("accelerate.state"):
        state.AcceleratorState._reset_state(reset_partial_state=True)
        state.GradientState._reset_state()
