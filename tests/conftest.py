"""Settings of the whole suite."""

import torch
from hypothesis import settings

# The first call into torch takes over a second, so hypothesis must not watch the clock.
settings.register_profile("strfnet", deadline=None, print_blob=True)
settings.load_profile("strfnet")

# The suite runs in several processes; each is content with one core.
torch.set_num_threads(1)
