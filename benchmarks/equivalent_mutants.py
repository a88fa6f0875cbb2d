"""Mutants that change nothing that a test could see, by file, line of code and change: why each is equivalent."""

EQUIVALENT: dict[tuple[str, str, str], str] = {}
