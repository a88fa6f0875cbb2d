import numpy as np
import pytest

from strfnet.data.randomness import generator


def test_the_same_arguments_draw_the_same_and_others_do_not():
    asked = [
        (purpose, seed, epoch, position)
        for purpose in ("batches", "clip")
        for seed in (0, 1, 2**32 - 1)
        for epoch in (0, 1, 7)
        for position in (0, 1, 40_000)
    ]
    drawn = [
        [generator(purpose, seed=seed, epoch=epoch, position=position).random(4).tolist() for _ in range(2)]
        for purpose, seed, epoch, position in asked
    ]
    assert all(one == again for one, again in drawn)
    assert len({tuple(one) for one, _ in drawn}) == len(asked)


def test_numbers_of_numpy_are_numbers():
    assert generator("clip", seed=np.int64(3), epoch=0).random() == generator("clip", seed=3, epoch=0).random()


@pytest.mark.parametrize("name", ["seed", "epoch", "position"])
@pytest.mark.parametrize("value", [-1, 2**32, 1.0, None, "1"])
def test_what_no_generator_can_be_made_from_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value!r}, wanted a whole number from 0"):
        generator("clip", **{"seed": 0, "epoch": 0} | {name: value})
