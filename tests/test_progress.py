"""What is told of a long piece of work."""

import pytest

from strfnet.system.progress import ProgressLine


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when they are added."""
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def line_of(total, **options):
    return ProgressLine(total, "tracklets embedded", "frames", **options)


def test_speeds_and_the_time_left_are_of_this_process(clock, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with line_of(1000, done=400) as line:
        clock[0] += 4
        line.advance(10, 90)
    told = capsys.readouterr().err
    assert told.startswith("\r410 of 1000 tracklets embedded, 2.5 tracklets/s, 22.5 frames/s, 3 min 56 s left")
    assert told.endswith("\n")


def test_without_a_terminal_a_line_comes_every_ten_seconds_and_at_the_end(clock, capsys):
    with line_of(6, label="of this share, ") as line:
        for _ in range(6):
            clock[0] += 6
            line.advance(1, 2)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" tracklets")[0] for line in lines] == [f"of this share, {done} of 6" for done in (2, 4, 6)]
    assert lines[0].endswith("0.2 tracklets/s, 0.3 frames/s, 24 s left")


def test_before_anything_is_done_no_time_is_foretold(clock, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with line_of(3) as line:
        line.advance(0, 4)
    assert "0 of 3 tracklets embedded, 0.0 tracklets/s" in (told := capsys.readouterr().err)
    assert "unknown time left" in told


@pytest.mark.parametrize(
    ("left", "words"), [(59.4, "59 s"), (60, "1 min 0 s"), (3599.6, "1 h 0 min"), (11220, "3 h 7 min")]
)
def test_the_time_left_is_told_in_its_two_largest_units(clock, capsys, monkeypatch, left, words):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with line_of(2) as line:
        clock[0] += left
        line.advance(1, 1)
    assert f", {words} left" in capsys.readouterr().err


def test_nothing_is_told_where_it_is_not_wanted(clock, capsys):
    with line_of(1, shown=False) as line:
        line.advance(1, 1)
    assert capsys.readouterr() == ("", "")


def test_the_total_may_change_and_a_note_ends_the_line(clock, capsys):
    with ProgressLine(0, "batches trained", "images") as line:
        line.total = 4
        clock[0] += 11
        line.advance(1, 8, ", loss 0.5000")
    text = "1 of 4 batches trained, 0.1 batches/s, 0.7 images/s, 33 s left, loss 0.5000\n"
    assert capsys.readouterr().err == text
