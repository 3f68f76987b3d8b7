import re
import subprocess
import sys

import pytest

from experiments import cli

from .commands import ROOT


def equintk(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "experiments.cli", *arguments],
        cwd=ROOT, capture_output=True, text=True, env=environment or None,
    )  # fmt: skip


def test_help_begins_with_examples_and_names_every_command(capsys):
    assert cli.main([]) == 0
    said = capsys.readouterr().out
    assert said.index("equintk run kernel=mc") < said.index("Commands")
    for name in cli.COMMANDS:
        assert re.search(rf"^  {name} ", said, re.MULTILINE)


def test_a_mistyped_command_is_answered_with_the_nearest(capsys):
    assert cli.main(["statsu"]) == 2
    assert "Did you mean `equintk status`?" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted({*cli.COMMANDS} - {"run", "completion"}))
def test_every_command_says_how_to_use_it(name, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([name, "--help"])
    assert stop.value.code == 0
    said = capsys.readouterr().out
    usage, example, *_ = filter(None, said.split("\n"))
    assert usage.startswith(f"usage: equintk {name} ")
    assert example.startswith(f"  equintk {name} ")
    assert "python -m" not in said


def test_commands_answer_without_jax():
    done = equintk("status", "nowhere")
    assert done.returncode == 1
    imported = re.findall(r"^import time:.*\| +(\S+)$", done.stderr, re.MULTILINE)
    assert "experiments.progress" in imported
    assert {"jax", "pandas"}.isdisjoint(imported)


def test_a_refused_value_of_run_is_answered_as_by_the_module(tmp_path):
    done = equintk("run", f"output_dir={tmp_path}", "kernal=mc")
    assert done.returncode == 1
    assert "`kernal` is no key: did you mean `kernel`" in done.stderr


@pytest.mark.parametrize(
    "line, expected",
    [("equintk ", set(cli.COMMANDS)), ("equintk re", {"report", "rerun"}),
     ("equintk run kern", {"kernel=", "kernel."}),
     ("equintk run claims.", {"claims.heartbeat=", "claims.stale="})],
)  # fmt: skip
def test_a_line_can_be_completed(line, expected):
    assert set(cli.candidates(line)) == expected


def test_choices_of_a_group_are_completed():
    assert {"kernel=exact", "kernel=mc"} <= set(cli.candidates("equintk run kernel="))


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_is_told_how_to_ask(shell, capsys):
    assert cli.main(["completion", shell]) == 0
    assert "equintk completion query" in capsys.readouterr().out


def test_bash_completes_by_what_it_is_told(tmp_path):
    # as bash itself calls it, with a stand-in for the installed script
    script = tmp_path / "equintk"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m experiments.cli "$@"\n')
    script.chmod(0o755)
    program = (
        f'export PATH={tmp_path}:$PATH; eval "$(equintk completion bash)"\n'
        'COMP_LINE="equintk run kernel=m"; COMP_POINT=${#COMP_LINE}\n'
        "COMP_WORDS=(equintk run kernel=m); COMP_CWORD=2; _equintk 2>/dev/null\n"
        'echo "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-c", program], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout.strip() == "kernel=mc"
