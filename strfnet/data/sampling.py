"""Which frames of a tracklet a network gets to see."""


def restricted_first(length: int, chunks: int) -> list[int]:
    """The first frame of each chunk, when a tracklet is cut into as many chunks as the clip has frames.

    Chunks hold ceil(length / chunks) frames; where they run past the end, the last frame is repeated. So 9
    frames in 8 chunks give 0 2 4 6 8 8 8 8, which is not an even spread, but the published one.

    Returns: ``chunks`` indices, never decreasing, in 0 .. length - 1.
    Raises: ValueError if either number is below 1.
    Source: restricted random sampling as tested in Liu et al., STE-NVAN, BMVC 2019.
    """
    if length < 1 or chunks < 1:
        raise ValueError(f"got {length} frames in {chunks} chunks, wanted at least 1 of each")
    stride = -(-length // chunks)
    return [min(chunk * stride, length - 1) for chunk in range(chunks)]
