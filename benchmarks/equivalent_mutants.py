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
}
