"""The console script: `equintk COMMAND ...`, from any directory.

Each command is a module's own, `equintk run` is `python -m experiments.run`. Nothing is
imported before it is needed.
"""

import difflib
import os
import sys
from collections.abc import Sequence
from importlib import import_module

COMMANDS = {
    "run": "one run, or a sweep of them",
    "status": "where sweeps stand, from any terminal",
    "analyze": "runs -> tables, verdicts, figures",
    "report": "a study as one page to send",
    "compare": "two studies, or two runs",
    "export": "finished runs for other tools",
    "rerun": "compute a run again, compare every number",
    "completion": "what makes the Tab key complete: bash, zsh or fish",
}

_MODULES = {"compare": "compare_runs"}
HELP = f"""How far is a trained network from its kernel's prediction?

  equintk run                                    one run on real data
  equintk run kernel=mc proj_dim=100,1000 -m     a sweep: -m, commas
  equintk run experiment=width_scaling           a question, which sweeps by itself
  equintk status --watch                         where it stands, from another terminal
  equintk analyze outputs/width_scaling          tables, verdicts, figures
  equintk report outputs/width_scaling           one page with all of it
  equintk rerun r0123456789ab                    the same numbers again?

Commands (equintk COMMAND --help tells more):

{chr(10).join(f"  {name:<11} {what}" for name, what in COMMANDS.items())}

`python -m experiments.COMMAND` is the same. Tab completes commands, keys and values
after: eval "$(equintk completion bash)"
"""

_SHELLS = {
    "bash": """_equintk() {
    local IFS=$'\\n'
    COMPREPLY=($(COMP_LINE="${COMP_LINE:0:$COMP_POINT}" equintk completion query))
    [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} != *[=./] ]] && compopt +o nospace
}
COMP_WORDBREAKS=${COMP_WORDBREAKS//=}
complete -o nospace -o default -F _equintk equintk
""",
    "fish": """complete -c equintk -f \
-a '(COMP_LINE=(commandline -cp) equintk completion query)'
""",
}
_SHELLS["zsh"] = f"autoload -U +X bashcompinit && bashcompinit\n{_SHELLS['bash']}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit code."""
    name, *rest = [*(sys.argv[1:] if arguments is None else arguments)] or ["--help"]
    if name in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        meant = f" Did you mean `equintk {near[0]}`?" if near else ""
        print(
            f"`{name}` is no command; there are {', '.join(COMMANDS)}.{meant}",
            file=sys.stderr,
        )
        return 2
    if name == "completion":
        return _completion(rest)
    if name == "run":
        return _run(rest)
    module = import_module(f"experiments.{_MODULES.get(name, name)}")
    return module.main(rest, prog=f"equintk {name}")


def _run(arguments: Sequence[str]) -> int:
    # Hydra reads the arguments itself.
    sys.argv = ["equintk run", *arguments]
    # As with `python -m`: a model of the user's own lies in the working directory.
    sys.path.insert(0, os.getcwd())
    from experiments.run import main as run

    run()
    return 0


def _completion(arguments: Sequence[str]) -> int:
    """Print what a shell needs, or, asked by it, how a line may go on."""
    if arguments == ["query"]:
        print("\n".join(candidates(os.environ.get("COMP_LINE", ""))))
        return 0
    if len(arguments) != 1 or arguments[0] not in _SHELLS:
        print(
            'Type eval "$(equintk completion bash)" in ~/.bashrc, the same with zsh in '
            "~/.zshrc, or equintk completion fish | source in fish.",
            file=sys.stderr,
        )
        return 2
    print(_SHELLS[arguments[0]], end="")
    return 0


def candidates(line: str) -> list[str]:
    """How the last word of a command line may go on."""
    words = line.split()[1:]
    if not line.endswith(" ") and words:
        word = words.pop()
    else:
        word = ""
    if not words:
        return [name for name in COMMANDS if name.startswith(word)]
    if words[0] == "run":
        return _keys_and_values(" ".join([*words[1:], word]))
    if words[0] == "rerun":
        from pathlib import Path

        found = {path.parent.name for path in Path("outputs").glob("**/r*/status.json")}
        return sorted(name for name in found if name.startswith(word))
    return []  # paths, which the shell completes


def _keys_and_values(line: str) -> list[str]:
    """As Hydra completes a line of overrides."""
    import contextlib
    import io

    from experiments.run import main as run

    sys.argv = ["equintk", "-sc", "query=bash"]
    os.environ["COMP_LINE"] = f"equintk {line}"
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        run()
    word = line.rpartition(" ")[2]
    # Schemas are for the configs, not for people.
    return [
        c for c in said.getvalue().split()
        if c.startswith(word) and not c.startswith("schema")
    ]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
