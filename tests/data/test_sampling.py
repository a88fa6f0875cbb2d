from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from strfnet.data.sampling import restricted_first

GOLDEN = Path(__file__).parents[1] / "golden" / "sampling.safetensors"


def test_picks_are_those_of_the_published_code():
    golden = load_file(GOLDEN)
    picks = [restricted_first(int(length), 8) for length in golden["lengths"]]
    assert picks == golden["rrs.S8.test"].tolist()


@settings(deadline=None)
@given(length=st.integers(1, 300), chunks=st.integers(1, 40))
def test_picks_agree_with_the_rule_in_words(length, chunks):
    frames, stride = list(range(length)), 1
    while stride * chunks < length:
        stride += 1
    while len(frames) < stride * chunks:
        frames.append(length - 1)
    assert restricted_first(length, chunks) == [frames[chunk * stride] for chunk in range(chunks)]


@pytest.mark.parametrize(("length", "chunks"), [(0, 8), (8, 0), (-1, 8)])
def test_nothing_to_pick_from_is_refused(length, chunks):
    with pytest.raises(ValueError, match=f"got {length} frames in {chunks} chunks"):
        restricted_first(length, chunks)
