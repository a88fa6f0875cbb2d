"""Settings of the whole suite."""

import sys

import pytest
import torch
from hypothesis import settings

# The first call into torch takes over a second, so hypothesis must not watch the clock.
settings.register_profile("strfnet", deadline=None, print_blob=True)
settings.load_profile("strfnet")

# The suite runs in several processes; each is content with one core.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def fresh_accelerate():
    """Accelerate keeps the first settings of a process for good; which test comes first is not settled."""
    yield
    if state := sys.modules.get("accelerate.state"):
        state.AcceleratorState._reset_state(reset_partial_state=True)
        state.GradientState._reset_state()
