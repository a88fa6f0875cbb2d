"""What Accelerate and torch.distributed read from the environment: the variables of ``torchrun`` alone."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from strfnet.system.progress import inform

TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_PREFIXES = ("ACCELERATE_", "FSDP_", "MEGATRON_LM_", "PARALLELISM_CONFIG_", "FORK_LAUNCHED")
_SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")  # of MPI, which Accelerate takes for a launcher


def is_launched() -> bool:
    """Whether all variables of torchrun are set."""
    return all(name in os.environ for name in TORCHRUN)


@contextmanager
def environment_of_torchrun(**set_inside: str) -> Iterator[list[str]]:
    """Hide all other settings of Accelerate; yields the names of those that are hidden, which a line on stderr lists.

    Recipes and arguments say everything that those settings say. The variables of torchrun are hidden too, unless all
    are set: one alone, such as RANK, would make a process wait for others, or leave the work to them.

    Args:
        set_inside: variables that are set inside.
    """
    launched = is_launched()
    hidden = {name: value for name, value in os.environ.items() if name.startswith(_PREFIXES) or name in _SIZES}
    if not launched:
        hidden |= {name: os.environ[name] for name in TORCHRUN[:3] if name in os.environ}
    for name in hidden:
        del os.environ[name]
    if hidden and (not launched or os.environ["RANK"] == "0"):
        inform(f"strfnet: ignored in the environment: {', '.join(sorted(hidden))}")
    os.environ.update(set_inside)
    try:
        yield sorted(hidden)
    finally:
        for name in set_inside:
            del os.environ[name]
        os.environ.update(hidden)
