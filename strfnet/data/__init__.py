"""Tracklets: reading, sampling, augmenting and batching them."""

from typing import TYPE_CHECKING

from strfnet.system.lazy import lazy_names

if TYPE_CHECKING:
    from strfnet.data.check import Finding, check_data, write_listing
    from strfnet.data.crops import Cropping, crop_video, read_video
    from strfnet.data.frames import read_clip
    from strfnet.data.identities import identity_batches
    from strfnet.data.joining import join_training
    from strfnet.data.loader import ClipBatch, Draw, TrainingClips, draws, load
    from strfnet.data.readers.csv import read_listing
    from strfnet.data.readers.folder import read_folder, read_folder_data_set
    from strfnet.data.readers.formats import read_data_set
    from strfnet.data.sampling import evaluation_sampler, training_sampler
    from strfnet.data.tracklet import DataSet, Tracklet
    from strfnet.data.tracks import Box, read_tracks
    from strfnet.data.transforms import Augmentation
    from strfnet.data.video import Video

__getattr__, __dir__, __all__ = lazy_names(__name__)
