import sys

import pytest

from experiments import console


class Terminal:
    """What rich needs of a terminal."""

    encoding = "utf-8"

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass

    def isatty(self):
        return True


def count(n=3):
    with console.progress("kernel") as progress:
        for done in range(1, n + 1):
            progress(done, n)


def test_quick_work_prints_nothing(capsys):
    count()
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_long_work_prints_plain_lines_to_stderr(capsys, monkeypatch):
    monkeypatch.setattr(console, "_SECONDS_BEFORE_A_LINE", 0.0)
    count()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [f"  kernel: {done} of 3" for done in (1, 2, 3)]


def test_lines_are_seconds_apart(capsys, monkeypatch):
    clock = iter(range(100))  # one second per look
    monkeypatch.setattr(console.time, "monotonic", lambda: next(clock))
    count(n=9)
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["  kernel: 4 of 9", "  kernel: 8 of 9"]


def test_a_terminal_shows_a_bar_that_goes_away(monkeypatch, capsys):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    count()
    assert "kernel" in terminal.text
    assert "3/3" in terminal.text
    assert terminal.text.rstrip().endswith("\x1b[2K")  # its line is erased
    assert capsys.readouterr().out == ""


def test_an_error_passes_through_the_progress():
    with pytest.raises(ZeroDivisionError):
        with console.progress("kernel") as progress:
            progress(1, 1 // 0)
