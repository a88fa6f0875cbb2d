"""The choices of the data package by name. This file imports nothing, so that a `Recipe` is cheap to read."""

from typing import Literal

TrainingSampling = Literal[
    "restricted_random", "balanced_random", "strided", "strided_ragged", "random_sorted", "consecutive", "evenly"
]
Interpolation = Literal["bilinear", "bicubic"]
Change = Literal["crop", "flip", "erasing"]  # of an augmentation, in the order in which they are applied
Batches = Literal["every_identity", "groups", "distinct"]
Kind = Literal["unreadable", "damaged", "one_frame", "one_camera", "duplicate"]  # of a finding of `check_data`
