import io

from rich.console import Console

from proco_jax.common import progress as module
from proco_jax.common.progress import progress


def log_lines(monkeypatch, times, units, total=200, done=100):
    """Logged lines, where `times[0]` is the start and the others are the ends of the calls."""
    clock = iter(times)
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    lines: list[str] = []
    with progress("digging", total, lines.append, done=done) as advance:
        for number in units:
            advance(number)
    return lines


def test_lines_give_share_and_time_left_by_the_speed_of_this_run(monkeypatch):
    lines = log_lines(monkeypatch, [0.0, 10.0, 40.0, 50.0, 80.0], [20] * 4)
    # At 40 s, 20 units took 30 s and 60 are left; at 80 s, 60 took 70 s and 20 are left.
    assert lines == ["digging: 70%, about 90 s left", "digging: 90%, about 23 s left"]


def test_the_first_call_which_compiles_is_no_part_of_the_speed(monkeypatch):
    lines = log_lines(monkeypatch, [0.0, 300.0, 335.0, 370.0], [10, 10, 10], total=1000, done=0)
    assert lines == [
        "digging: 1%",
        "digging: 2%, about 3,430 s left",
        "digging: 3%, about 3,395 s left",
    ]


def test_calls_without_progress_are_ignored(monkeypatch):
    lines = log_lines(monkeypatch, [0.0, 40.0, 80.0], [0, 50, 0, 25], done=100)
    assert lines == ["digging: 75%", "digging: 88%, about 40 s left"]


def test_a_bar_is_drawn_on_a_terminal_and_no_line_is_logged(monkeypatch):
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=100)
    monkeypatch.setattr(module, "Console", lambda stderr: terminal)
    lines: list[str] = []
    with progress("digging", 10, lines.append) as advance:
        advance(10)
    assert lines == []
    assert "digging" in screen.getvalue() and "100%" in screen.getvalue()
