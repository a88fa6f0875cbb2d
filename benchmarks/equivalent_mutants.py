"""Mutants that change nothing that a test could see, by file, line of code and change: why each is equivalent."""

EQUIVALENT: dict[tuple[str, str, str], str] = {
    (
        "strfnet/losses/triplet.py",
        "1 - dot * inverse * inverse.index_select(0, rows) for dot, rows in zip(products, several, strict=True)",
        "True -> False",
    ): "the two lists are made with one length",
    (
        "strfnet/losses/triplet.py",
        "def _differences(vectors: Tensor, size: int = 16) -> Tensor:",
        "16 -> 17",
    ): "the size of a block bounds memory alone",
    (
        "strfnet/losses/triplet.py",
        "def _gram(vectors: Tensor, size: int = 32) -> Tensor:",
        "32 -> 33",
    ): "the size of a block decides what is computed once, not what comes out",
    (
        "strfnet/evaluation/nearest.py",
        "_QUERIES = 1024  # queries of a pass over the gallery",
        "1024 -> 1025",
    ): "the size of a block bounds memory alone",
    (
        "strfnet/evaluation/verification.py",
        "self.count, self.mean, self._squares = 0, 0.0, 0.0",
        "0.0 -> 1.0",
    ): "the mean is replaced by that of the first values; the mutant of the squares is killed",
    (
        "strfnet/evaluation/distances.py",
        "return _slices(len(vectors), max(1, self.side // 2))",
        "FloorDiv -> Mult",
    ): "the size of a block bounds memory alone",
    (
        "strfnet/evaluation/nearest.py",
        "_CACHED = 2**22  # bytes of the rows of a product or a comparison, which then stay in the processor's cache",
        "22 -> 23",
    ): "the size of a block bounds memory alone",
    (
        "strfnet/evaluation/nearest.py",
        "distances[part], rows[part] = best.distances.reshape(-1, k), best.rows.reshape(-1, k)",
        "1 -> 2",
    ): "NumPy takes any negative number for the size that is left",
    (
        "strfnet/evaluation/nearest.py",
        "return torch.from_numpy(np.matmul(block.numpy()[:, None], query.T.numpy()).reshape(1, -1))",
        "1 -> 2",
    ): "NumPy takes any negative number for the size that is left",
    (
        "strfnet/evaluation/ranking.py",
        "if start < stop:",
        "Lt -> LtE",
    ): "nothing is added to an empty slice",
    (
        "strfnet/evaluation/reranking.py",
        "byte_budget: int = 2**25,",
        "25 -> 26",
    ): "the size of a block bounds memory alone",
    (
        "strfnet/layers/temporal.py",
        "def check_time(*, time_kernel: int, time_stride: int = 1, time_dilation: int = 1) -> None:",
        "1 -> 2",
    ): "a number that is not given is only checked, and 2 is right too",
}
