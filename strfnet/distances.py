"""Distances between the embeddings of queries and those of a gallery."""

import torch
from torch import Tensor


def euclidean_distances(query: Tensor, gallery: Tensor) -> Tensor:
    """The length of the difference of every pair.

    Differences are formed one by one: the quicker |q|^2 + |g|^2 - 2 q g loses a small spread under a large
    offset.

    Shape: query (n, d) and gallery (m, d) to (n, m); float32, or float64 where an input is.
    Raises: ValueError if the two are not floating-point matrices of one width on one device.
    """
    query, gallery = _comparable(query, gallery)
    return torch.cdist(query, gallery, compute_mode="donot_use_mm_for_euclid_dist")


def cosine_distances(query: Tensor, gallery: Tensor) -> Tensor:
    """1 - cos of the angle of every pair: 0 for one direction, 1 for a right angle, 2 for opposite ones.

    A vector of zeros has no direction and gets the distance 1 to everything. Lengths do not matter, be they
    1e-30 or 1e30. Products are summed in float64, since 1 - cos cancels where vectors are nearly parallel.

    Shape: query (n, d) and gallery (m, d) to (n, m); float32, or float64 where an input is.
    Raises: ValueError if the two are not floating-point matrices of one width on one device.
    """
    query, gallery = _comparable(query, gallery)
    cosines = _directions(query.double()) @ _directions(gallery.double()).T
    return (1 - cosines).clamp(0, 2).to(query.dtype)


def _directions(vectors: Tensor, eps: float = 1e-12) -> Tensor:
    """Vectors of length 1; zeros stay zeros, with a gradient, for ``eps`` stands inside the root."""
    largest = vectors.detach().abs().amax(dim=1, keepdim=True)
    scaled = vectors / torch.where(largest > 0, largest, 1)
    return scaled / (scaled.square().sum(dim=1, keepdim=True) + eps).sqrt()


def _comparable(query: Tensor, gallery: Tensor) -> tuple[Tensor, Tensor]:
    for name, vectors in (("query", query), ("gallery", gallery)):
        if vectors.ndim != 2 or not vectors.shape[1] or not vectors.is_floating_point():
            raise ValueError(f"{name} is {tuple(vectors.shape)} of {vectors.dtype}, wanted (n, d) of floats")
    if query.shape[1] != gallery.shape[1]:
        raise ValueError(f"query has width {query.shape[1]} and gallery {gallery.shape[1]}, wanted the same")
    if query.device != gallery.device:
        raise ValueError(f"query is on {query.device} and gallery on {gallery.device}, wanted one device")
    dtype = torch.promote_types(torch.promote_types(query.dtype, gallery.dtype), torch.float32)
    return query.to(dtype), gallery.to(dtype)
