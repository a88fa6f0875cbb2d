"""The embeddings of many live tracks, computed in batches over tracks. All of this is ours."""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from torch import Tensor, nn

from strfnet.data.frames import read_clip
from strfnet.inference.exact import network_of
from strfnet.inference.live import AllClips, AllFrames, Frame, LiveForm, SampledClip
from strfnet.system.names import check_choice

Colors = Literal["rgb", "bgr"]
Sampling = Literal["restricted_first", "all_frames"]
Track = int | str


class StreamPool:
    """The embeddings of the frames so far of many tracks; frames arrive as the tracker returns them.

    They equal those that `embed` returns for the frames so far, up to rounding. Tracks whose next computation has
    the same shape share a batch, whatever their lengths. The pool shares the network's weights and does not modify
    it, see `Stream`.

    ===================== ======================= =============================== ===========================
    frames                embedding               kept of a track                 networks
    ===================== ======================= =============================== ===========================
    None                  of all frames, exactly  the last frames, at each layer  those of an exact `Stream`
    n, restricted_first   restricted_first:n      up to ``longest`` frames        all
    n, all_frames         all_frames:n            up to n frames, and a sum       all
    ===================== ======================= =============================== ===========================

    Args:
        network: one of `strfnet.create_model`, or any ``ReIDNetwork``, or one deployed by `strfnet.optimize`, see
            `Stream`.
        colors: order of the channels of the frames, "rgb" or "bgr" (OpenCV).
        frames: number of frames of a clip, n. None: the exact embedding of all frames.
        sampling: the clip sampler where ``frames`` is given: "restricted_first", one clip of n of the frames so far;
            or "all_frames", the mean over clips of n frames, of which only the last is computed again. Its clips
            are padded to a batch, so units of your own have to take ``lengths``.
        size: height and width to which frames are resized, as by `embed`.
        interpolation: "bilinear" or "bicubic", likewise.
        batch: largest number of tracks in a batch.
        max_tracks: largest number of tracks in the pool. None: no limit.
        longest: largest number of frames of a track that "restricted_first" keeps. A longer track is thinned to
            every second frame, a still longer one to every fourth, and so on; its embedding is that of the thinned
            track.

    Raises: ValueError for values out of range, and as `Stream` does; TypeError for another kind of network.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        colors: Colors,
        frames: int | None = None,
        sampling: Sampling = "restricted_first",
        size: tuple[int, int] = (256, 128),
        interpolation: str = "bilinear",
        batch: int = 16,
        max_tracks: int | None = None,
        longest: int = 256,
    ) -> None:
        check_choice("colors", colors, get_args(Colors))
        check_choice("sampling", sampling, get_args(Sampling))
        for name, value in (("frames", frames), ("batch", batch), ("max_tracks", max_tracks), ("longest", longest)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        streamed = network_of(network)
        like = next(streamed.parameters())

        def prepare(images: Sequence[Frame], indices: Sequence[int]) -> Tensor:
            return read_clip(images, indices, size, interpolation=interpolation).to(like.device, like.dtype)

        prepare([np.zeros((1, 1, 3), np.uint8)], [0])  # checks size and interpolation
        self.colors, self.batch, self.max_tracks = colors, batch, max_tracks
        self._form: LiveForm
        if frames is None:
            self._form = AllFrames(streamed, prepare)
        elif sampling == "restricted_first":
            self._form = SampledClip(streamed, prepare, frames, longest)
        else:
            self._form = AllClips(streamed, prepare, frames)
        self._tracks: dict[Track, _Tracked] = {}

    def __len__(self) -> int:
        """Returns the number of tracks."""
        return len(self._tracks)

    @property
    def tracks(self) -> dict[Track, int]:
        """The number of frames so far of each track, in the order of their first frames."""
        return {name: track.frames for name, track in self._tracks.items()}

    def push(self, track: Track, frame: Frame) -> None:
        """Appends a frame to a track; a new name begins one. Most of the work is done in `embeddings`.

        Args:
            track: its number or name; all of a pool are whole numbers, or all are strings.
            frame: the box of the track, uint8 (h, w, 3) of any size; it is copied.

        Raises: TypeError for another kind of track or frame; ValueError for a frame of another shape, or for a new
        track beyond ``max_tracks``. An error leaves the pool unchanged.
        """
        name = self._name(track)
        if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8:
            got = f"an array of {frame.dtype}" if isinstance(frame, np.ndarray) else type(frame).__name__
            raise TypeError(f"the frame of track {name!r} is {got}, wanted a NumPy array of uint8, (h, w, 3)")
        if frame.ndim != 3 or frame.shape[2] != 3 or not frame.size:
            raise ValueError(f"the frame of track {name!r} is {frame.shape}, wanted (h, w, 3), and no empty box")
        if name not in self._tracks and len(self) == self.max_tracks:
            raise ValueError(
                f"track {name!r} is new, but the pool has {len(self)} tracks, its max_tracks; drop one that has ended"
            )
        before = self._tracks.get(name) or _Tracked(self._form.begin())
        with torch.inference_mode():
            if self._form.is_full(before.state):
                full = [other for other in self._tracks if self._form.is_full(self._tracks[other].state)]
                for part in self._batches(full):
                    states = self._form.advanced([self._tracks[other].state for other in part])
                    for other, state in zip(part, states, strict=True):
                        self._tracks[other] = replace(self._tracks[other], state=state)
                before = self._tracks[name]
            rgb = frame.copy() if self.colors == "rgb" else np.ascontiguousarray(frame[..., ::-1])
            state = self._form.add(before.state, rgb)
        self._tracks[name] = replace(before, state=state, frames=before.frames + 1)

    def embeddings(self, tracks: Iterable[Track] | None = None) -> Tensor:
        """Returns the embeddings of the frames so far, float32 (n, d) on the CPU.

        Only tracks with new frames are computed.

        Args:
            tracks: n tracks, in the order of the rows. Default: all, in the order of `tracks`.

        Raises: ValueError for a track that is not in the pool, or for none.
        """
        names = list(self._tracks) if tracks is None else [self._known(track) for track in tracks]
        if not names:
            raise ValueError("tracks are none; push a frame of one first, or name some of the pool")
        found = ((name, self._tracks[name]) for name in dict.fromkeys(names))
        stale = [name for name, track in found if track.basis != self._form.basis(track.state)]
        with torch.inference_mode():
            for part in self._batches(stale):
                states, vectors = self._form.embedded([self._tracks[name].state for name in part])
                for name, state, vector in zip(part, states, vectors.float().cpu(), strict=True):
                    basis = self._form.basis(state)
                    self._tracks[name] = replace(self._tracks[name], state=state, basis=basis, vector=vector.clone())
        return torch.stack([cast(Tensor, self._tracks[name].vector) for name in names])

    def drop(self, track: Track) -> None:
        """Discards a track and frees its memory. Raises: ValueError if it is not in the pool."""
        del self._tracks[self._known(track)]

    def _batches(self, names: Sequence[Track]) -> Iterable[list[Track]]:
        """Yields the tracks in batches of the same stage."""
        alike: dict[Hashable, list[Track]] = {}
        for name in names:
            alike.setdefault(self._form.stage(self._tracks[name].state), []).append(name)
        for group in alike.values():
            yield from (group[at : at + self.batch] for at in range(0, len(group), self.batch))

    def _known(self, track: Track) -> Track:
        name = self._name(track)
        if name not in self._tracks:
            raise ValueError(f"track {name!r} is not in the pool of {len(self)}: it never began, or was dropped")
        return name

    def _name(self, track: Track) -> Track:
        """Returns the track as int or str; NumPy's numbers are among the former."""
        if isinstance(track, bool) or not isinstance(track, str | Integral):
            raise TypeError(f"track is {track!r} ({type(track).__name__}), wanted a whole number or a string")
        name = track if isinstance(track, str) else int(track)
        first = next(iter(self._tracks), name)
        if type(first) is not type(name):
            raise TypeError(
                f"track is {name!r} ({type(name).__name__}), but those of this pool are {type(first).__name__}, such "
                f"as {first!r}; wanted one type, as {name!r} would be another track"
            )
        return name


@dataclass(frozen=True)
class _Tracked:
    """A track: the state of its form, the number of its frames, and its last embedding with what it was made from."""

    state: Any
    frames: int = 0
    basis: Hashable = None
    vector: Tensor | None = None
