"""The code of docs/which_prediction.md runs, and gives the shapes that it says."""

import ast
import re
from pathlib import Path

import jax

GUIDE = Path(__file__).parents[3] / "docs" / "which_prediction.md"


def test_code_blocks_run_and_give_the_values_in_their_comments():
    names: dict = {}
    n_compared = 0
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text("utf-8"), re.DOTALL)
    # JAX as it starts, not as strict as the other tests want it.
    with (
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        for block in blocks:
            lines = block.splitlines()
            for statement in ast.parse(block).body:
                # From the tree, since a statement's source lacks its decorators.
                assert statement.end_lineno is not None
                comment = lines[statement.end_lineno - 1].partition("  # ")[2]
                if isinstance(statement, ast.Expr):
                    code = compile(ast.Expression(statement.value), str(GUIDE), "eval")
                    assert repr(eval(code, names)) == comment.strip(), comment
                    n_compared += 1
                else:
                    exec(
                        compile(ast.Module([statement], []), str(GUIDE), "exec"), names
                    )
    assert n_compared == 8
