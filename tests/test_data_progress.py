import io

from rich.console import Console

from proco_jax.common import progress as module
from proco_jax.common.progress import progress


def test_lines_tell_share_and_time_left_by_the_speed_of_this_run(monkeypatch):
    times = iter([0.0, 10.0, 40.0, 50.0, 80.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(times))
    lines: list[str] = []
    with progress("digging", 200, lines.append, done=100) as advance:
        for _ in range(4):
            advance(20)
    # At 40 s, 40 of this run's 100 are done; at 80 s, 80 of them.
    assert lines == ["digging: 70%, about 60 s left", "digging: 90%, about 20 s left"]


def test_a_bar_is_drawn_on_a_terminal_and_no_line_is_logged(monkeypatch):
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=100)
    monkeypatch.setattr(module, "Console", lambda stderr: terminal)
    lines: list[str] = []
    with progress("digging", 10, lines.append) as advance:
        advance(10)
    assert lines == []
    assert "digging" in screen.getvalue() and "100%" in screen.getvalue()
