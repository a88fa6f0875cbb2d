"""Distances between embeddings of queries and of a gallery, as a matrix or tile by tile."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from strfnet.evaluation.protocols import Distance
from strfnet.system.names import check_choice


def euclidean_distances(query: Tensor, gallery: Tensor) -> Tensor:
    """Computes the Euclidean distance of every pair.

    Differences are computed one by one: the faster ``|q|^2 + |g|^2 - 2 q g`` loses a small spread under a large
    offset.

    Shape: query (n, d) and gallery (m, d) to (n, m); float32, or float64 where an input is.
    Raises: ValueError if the two are not floating-point matrices of one width on one device.
    """
    query, gallery = _comparable(query, gallery)
    return torch.cdist(query, gallery, compute_mode="donot_use_mm_for_euclid_dist")


def cosine_distances(query: Tensor, gallery: Tensor) -> Tensor:
    """Computes 1 - cos of every pair: 0 for equal directions, 1 for a right angle, 2 for opposite directions.

    A zero vector has the distance 1 to all others. Lengths do not matter, from 1e-30 to 1e30. Products are summed in
    float64, because 1 - cos cancels where vectors are nearly parallel.

    Shape: query (n, d) and gallery (m, d) to (n, m); float32, or float64 where an input is.
    Raises: ValueError if the two are not floating-point matrices of one width on one device.
    """
    query, gallery = _comparable(query, gallery)
    cosines = _directions(query.double()) @ _directions(gallery.double()).T
    return (1 - cosines).clamp(0, 2).to(query.dtype)


def unit_length(vectors: Tensor) -> Tensor:
    """Scales each row to length 1, so that an inner product of two rows is the cosine.

    Lengths are computed in float64. A zero row stays zero, and a row of length 1 up to rounding is returned as it is,
    so a second call changes nothing.

    Shape: (n, d) to (n, d) of the same floating-point type.
    """
    scaled, eps = torch.empty_like(vectors), torch.finfo(vectors.dtype).eps
    for rows in _slices(len(vectors), 2**10):
        exact = vectors[rows].double()
        factors = _inverse_lengths(exact.clone())[:, None]
        scaled[rows] = torch.where((factors - 1).abs() <= eps, exact, exact * factors)
    return scaled


class StreamedDistances:
    """A matrix of distances that is computed tile by tile, or for given pairs, and never held as a whole.

    Distances are summed in float64, rounded to a grid, and converted to float32. The grid is 2^-30, or for Euclidean
    distances 2^-36 of the largest squared length after centering, which keeps a small spread under a large offset.
    The last bits of a sum depend on the tiles, the number of threads and the library; after rounding, equal
    embeddings have equal distances at any place. The grid is ours.

    Args:
        query: (n, d) floats of any precision, all finite; converted tile by tile.
        gallery: (m, d).
        distance: "cosine" (1 - cos), or "euclidean", which yields squared distances: they rank alike.
        byte_budget: memory for a tile and its two sides.

    Raises: ValueError for other shapes, an unknown distance, or a row with NaN or infinity (naming it).
    """

    def __init__(
        self, query: Tensor, gallery: Tensor, *, distance: Distance = "cosine", byte_budget: int = 2**25
    ) -> None:
        _check_comparable(query, gallery)
        check_choice("distance", distance, get_args(Distance))
        if byte_budget < 1:
            raise ValueError(f"byte_budget must be at least 1, got {byte_budget}")
        self.query, self.gallery, self.distance = query.detach(), gallery.detach(), distance
        self.shape = len(query), len(gallery)
        # A tile of s x s takes 24 bytes an entry while it is computed, each of its two sides 8 d an entry.
        width = 16 * query.shape[1]
        self.side = max(1, int((math.sqrt(width**2 + 96 * byte_budget) - width) / 48))
        self._check_finite()
        sides = self.query, self.gallery
        self._centre, self._grid = None, 2.0**-30
        if distance == "cosine":
            self._of_rows = [self._each(vectors, _inverse_lengths) for vectors in sides]
        else:
            self._centre = centre = self._mean()
            self._of_rows = [
                self._each(vectors, lambda rows: rows.sub_(centre).square_().sum(dim=1)) for vectors in sides
            ]
            largest = max((float(squares.max()) for squares in self._of_rows if len(squares)), default=0.0)
            if 0 < largest < math.inf:
                self._grid = 2.0 ** (math.ceil(math.log2(largest)) - 36)

    def tiles(self) -> Iterator[tuple[slice, slice, NDArray[np.float32]]]:
        """Yields rows, columns and distances of tiles that cover all pairs."""
        for columns in _slices(len(self.gallery), self.side):
            right = self._converted(1, columns)
            for rows in _slices(len(self.query), self.side):
                products = self._converted(0, rows) @ right.T
                yield rows, columns, self._rounded(products, self._of_rows[0][rows, None], self._of_rows[1][columns])

    def of_queries(self, rows: Sequence[int]) -> NDArray[np.float32]:
        """Returns the distances (k, m) of the queries in ``rows`` to all gallery items."""
        chosen = torch.tensor(rows, device=self.query.device)
        left, found = self._converted(0, chosen), np.empty((len(rows), len(self.gallery)), np.float32)
        for columns in _slices(len(self.gallery), self.side):
            products = left @ self._converted(1, columns).T
            found[:, columns] = self._rounded(products, self._of_rows[0][chosen, None], self._of_rows[1][columns])
        return found

    def pairs(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.float32]:
        """Returns the distances (k,) of the pairs (rows[k], columns[k])."""
        found = np.empty(len(rows), np.float32)  # small arrays between large temporaries would fragment memory
        for part in _slices(len(rows), max(1, self.side // 2)):
            r, c = (torch.from_numpy(of[part]).to(self.query.device) for of in (rows, columns))
            products = torch.linalg.vecdot(self._converted(0, r), self._converted(1, c))
            found[part] = self._rounded(products, self._of_rows[0][r], self._of_rows[1][c])
        return found

    def _converted(self, which: int, rows: slice | Tensor) -> Tensor:
        """Rows in float64, normalized for cosines and centered for differences."""
        vectors = (self.query, self.gallery)[which][rows].to(torch.float64, copy=True)
        if self._centre is not None:
            return vectors.sub_(self._centre)
        return vectors.mul_(self._of_rows[which][rows, None])

    def _rounded(self, products: Tensor, left: Tensor, right: Tensor) -> NDArray[np.float32]:
        if self._centre is None:
            distances = products.neg_().add_(1).clamp_(0, 2)
        else:
            distances = products.mul_(-2).add_(left).add_(right).clamp_(min=0)
        return distances.div_(self._grid).round_().mul_(self._grid).float().cpu().numpy()

    def _check_finite(self) -> None:
        for name, vectors in (("query", self.query), ("gallery", self.gallery)):
            for rows in self._rows(vectors):
                good = vectors[rows].isfinite().all(dim=1)
                if not good.all():
                    raise ValueError(f"{name} holds NaN or infinity in row {rows.start + int(good.int().argmin())}")

    def _mean(self) -> Tensor:
        total = torch.zeros(self.query.shape[1], dtype=torch.float64, device=self.query.device)
        for vectors in (self.query, self.gallery):
            for rows in self._rows(vectors):
                total += vectors[rows].double().sum(dim=0)
        return total / (len(self.query) + len(self.gallery))

    def _each(self, vectors: Tensor, number: Callable[[Tensor], Tensor]) -> Tensor:
        """A number for each row, computed in float64 from a copy of some rows at a time."""
        parts = [number(vectors[rows].to(torch.float64, copy=True)) for rows in self._rows(vectors)]
        return torch.cat([vectors.new_zeros(0, dtype=torch.float64), *parts])

    def _rows(self, vectors: Tensor) -> Iterator[slice]:
        """Slices of one side whose temporaries fit the byte budget."""
        return _slices(len(vectors), max(1, self.side // 2))


def _slices(count: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def _inverse_lengths(vectors: Tensor) -> Tensor:
    """The factors that normalize the rows, which are modified; 0 for a zero row."""
    largest = vectors.abs().amax(dim=1)
    lengths = largest * vectors.div_(largest[:, None]).square_().sum(dim=1).sqrt()  # squares of 1e200 overflow
    return torch.where(largest > 0, lengths.reciprocal(), 0)


def _directions(vectors: Tensor, eps: float = 1e-12) -> Tensor:
    """Normalized vectors; ``eps`` inside the root gives zero vectors a finite gradient."""
    largest = vectors.detach().abs().amax(dim=1, keepdim=True)
    scaled = vectors / torch.where(largest > 0, largest, 1)
    return scaled / (scaled.square().sum(dim=1, keepdim=True) + eps).sqrt()


def _comparable(query: Tensor, gallery: Tensor) -> tuple[Tensor, Tensor]:
    _check_comparable(query, gallery)
    dtype = torch.promote_types(torch.promote_types(query.dtype, gallery.dtype), torch.float32)
    return query.to(dtype), gallery.to(dtype)


def _check_comparable(query: Tensor, gallery: Tensor) -> None:
    for name, vectors in (("query", query), ("gallery", gallery)):
        if vectors.ndim != 2 or not vectors.shape[1] or not vectors.is_floating_point():
            raise ValueError(f"{name} is {tuple(vectors.shape)} of {vectors.dtype}, wanted (n, d) of floats")
    if query.shape[1] != gallery.shape[1]:
        raise ValueError(f"query has width {query.shape[1]} and gallery {gallery.shape[1]}, wanted the same")
    if query.device != gallery.device:
        raise ValueError(f"query is on {query.device} and gallery on {gallery.device}, wanted one device")
