"""Plain text in columns."""

from collections.abc import Sequence


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest entry: the first to the left, others right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            [line[0].ljust(widths[0])]
            + [
                entry.rjust(width)
                for entry, width in zip(line[1:], widths[1:], strict=True)
            ]
        ).rstrip()
        for line in lines
    )
