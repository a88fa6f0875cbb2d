"""Work that processes share; that two of them make one whole is seen in tests/test_commands.py."""

import pytest
import torch

from strfnet.training import sharing


@pytest.mark.parametrize(("processes", "items"), [(1, 5), (1, 0), (3, 2)])
def test_one_process_and_few_items_are_not_divided(monkeypatch, processes, items):
    monkeypatch.setattr(sharing, "world_size", lambda: processes)
    seen = []
    rows = sharing.share(
        lambda part: seen.append(part) or torch.zeros(len(part), 2), range(items), torch.device("cpu")
    )
    assert seen == [range(items)] and rows.shape == (items, 2)


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_every_item_is_in_one_part_and_parts_are_in_order(monkeypatch, rank):
    monkeypatch.setattr(sharing, "world_size", lambda: 3)
    monkeypatch.setattr("torch.distributed.get_rank", lambda: rank)
    monkeypatch.setattr(sharing, "gather_rows", lambda rows: rows)
    rows = sharing.share(lambda part: torch.tensor(part), [10, 11, 12, 13, 14, 15, 16], torch.device("cpu"))
    assert rows.tolist() == [[10, 11], [12, 13], [14, 15, 16]][rank]


def test_a_device_that_is_not_there_is_refused():
    assert sharing.join_processes("cpu") == sharing.join_processes() == torch.device("cpu")
    with pytest.raises(ValueError, match="device 'cuda:9' is not available"):
        sharing.join_processes("cuda:9")
