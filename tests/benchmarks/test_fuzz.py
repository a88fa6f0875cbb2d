"""The fuzzer: few inputs of each kind, and faults that it finds."""

import pytest

COUNTS = {
    "configurations": 2,
    "listings": 40,
    "weights": 4,
    "images": 40,
    "logs": 40,
    "runs": 3,
    "embeddings": 40,
    "parquet": 40,
    "numpy": 40,
    "csv": 40,
}


@pytest.mark.parametrize("kind", COUNTS)
def test_no_input_of_a_few_fails(load, tmp_path, kind):
    failures = []
    totals = load("fuzz").fuzz(kind, 5, range(COUNTS[kind]), tmp_path, failures.append)
    assert not failures and sum(totals) == COUNTS[kind]


@pytest.mark.parametrize("error", [KeyError("a"), ValueError("without a name"), MemoryError(), SystemExit(1)])
def test_an_error_of_another_kind_or_without_a_name_fails(load, tmp_path, monkeypatch, error):
    fuzz, failures = load("fuzz"), []
    monkeypatch.setattr(fuzz.tempfile, "gettempdir", lambda: str(tmp_path))
    reader, sound = fuzz.KINDS["logs"], fuzz.read_log

    def read(self):
        if self.path.read_bytes() not in self.contents():
            raise error
        sound(self.path)

    monkeypatch.setattr(reader, "read", read)
    (tmp_path / "inputs").mkdir()
    assert fuzz.fuzz("logs", 0, range(3), tmp_path / "inputs", failures.append) == (
        0,
        3 * isinstance(error, ValueError),
        3,
    )
    assert len(failures) == 3 and "logs --seed 0 --only 0" in failures[0]
    assert len(list((tmp_path / "strfnet-fuzz").iterdir())) == 3


def test_an_input_is_the_same_for_the_same_seed(load):
    fuzz = load("fuzz")
    inputs = [fuzz.damaged([b"a" * 50, b"b" * 50], fuzz.random.Random(f"3 logs {n}")) for n in (1, 1, 2)]
    assert inputs[0] == inputs[1] != inputs[2]
