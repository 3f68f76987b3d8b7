"""Pieces of a web page that needs nothing but itself: no script, no file beside it."""

import base64
import html
from collections.abc import Iterable, Mapping

from experiments.screen import BAD, GOOD, Table

_STYLE = """
:root { color-scheme: light; --ink: #1b1f24; --soft: #57606a; --line: #d0d7de;
  --good: #0b6e4f; --bad: #a40e26; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 72rem; color: var(--ink);
  background: #fff; font: 16px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans",
  sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0.2rem 0 0.6rem; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 0.6rem; padding-bottom: 0.2rem;
  border-bottom: 1px solid var(--line); }
p { margin: 0.4rem 0; }
.soft { color: var(--soft); }
.verdict { padding: 0.6rem 0.9rem; border-left: 0.35rem solid var(--soft);
  background: #f6f8fa; font-weight: 600; }
.verdict.good { border-color: var(--good); }
.verdict.bad { border-color: var(--bad); }
.wide { overflow-x: auto; margin-bottom: 1.4rem; }
table { border-collapse: collapse; font-size: 0.86rem;
  font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); padding: 0 0 0.3rem; }
th, td { padding: 0.28rem 0.7rem 0.28rem 0; text-align: right; vertical-align: top; }
th { border-bottom: 1.5px solid var(--ink); vertical-align: bottom; font-weight: 600; }
td { border-bottom: 1px solid var(--line); }
td.number { white-space: nowrap; }
th.word, td.word { text-align: left; }
td.good { color: var(--good); font-weight: 600; white-space: nowrap; }
td.bad { color: var(--bad); font-weight: 600; white-space: nowrap; }
td.good::before { content: "\\2713\\00a0"; }
td.bad::before { content: "\\2717\\00a0"; }
figure { margin: 1rem 0 1.6rem; }
figure img { max-width: 100%; height: auto; display: block; }
figcaption { color: var(--soft); font-size: 0.9rem; margin-bottom: 0.3rem; }
dl { display: grid; grid-template-columns: minmax(9rem, max-content) 1fr;
  gap: 0.1rem 1.2rem; margin: 0.4rem 0; font-size: 0.86rem; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
code { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: 0.86rem;
  overflow-wrap: anywhere; }
@media screen and (max-width: 40rem) { body { font-size: 15px; }
  figure { overflow-x: auto; } figure img { max-width: none; width: 44rem; }
  dl { grid-template-columns: 1fr; } dd { margin-bottom: 0.4rem; } }
@media print { body { max-width: none; padding: 0; font-size: 10pt; }
  .wide { overflow: visible; } table { font-size: 7.5pt; }
  td.number { white-space: normal; }
  h2, caption, figcaption { break-after: avoid; } figure, tr { break-inside: avoid; } }
"""


def page(title: str, body: Iterable[str]) -> str:
    """A whole document; its policy forbids a browser to fetch anything."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<link rel="icon" href="data:,">',
            f"<title>{html.escape(title)}</title>",
            f"<style>{_STYLE}</style>",
            "</head>",
            "<body>",
            *body,
            "</body>",
            "</html>",
            "",
        ]
    )


def heading(text: str, level: int = 2) -> str:
    """A heading."""
    return f"<h{level}>{html.escape(text)}</h{level}>"


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph; `kind` is a class of the style."""
    attribute = f' class="{kind}"' if kind else ""
    return f"<p{attribute}>{html.escape(text)}</p>"


def command(text: str) -> str:
    """A line to type."""
    return f"<p><code>{html.escape(text)}</code></p>"


def table(content: Table) -> str:
    """A table, which scrolls by itself where the window is narrow."""
    head = "".join(
        f"<th{_class('', i in content.left)}>{_breakable(name)}</th>"
        for i, name in enumerate(content.header)
    )
    rows = [
        "<tr>"
        + "".join(
            f"<td{_class(cell, i in content.left)}>{_breakable(cell)}</td>"
            for i, cell in enumerate(row)
        )
        + "</tr>"
        for row in content.rows
    ]
    return "\n".join(
        [
            '<div class="wide"><table>',
            f"<caption>{html.escape(content.title)}</caption>",
            f"<thead><tr>{head}</tr></thead>",
            "<tbody>",
            *rows,
            "</tbody></table></div>",
        ]
    )


def figure(png: bytes, width: int, caption: str, description: str) -> str:
    """A picture inside the page, so many CSS pixels wide where there is room."""
    data = base64.b64encode(png).decode()
    return (
        f"<figure><figcaption>{html.escape(caption)}</figcaption>"
        f'<img src="data:image/png;base64,{data}" width="{width}" '
        f'alt="{html.escape(description)}"></figure>'
    )


def definitions(items: Mapping[str, str]) -> str:
    """Names and values."""
    pairs = (
        f"<dt>{_breakable(name)}</dt><dd>{html.escape(value)}</dd>"
        for name, value in items.items()
    )
    return "<dl>" + "".join(pairs) + "</dl>"


def _class(cell: str, is_word: bool) -> str:
    names = ["word"] if is_word else []
    names += ["good"] if cell in GOOD else ["bad"] if cell in BAD else []
    # an interval is read at a glance only where it is not torn
    names += ["number"] if cell[:1] in set("-0123456789") and cell else []
    return f' class="{" ".join(names)}"' if names else ""


def _breakable(text: str) -> str:
    """Escaped text that may be broken after the joints of a long name."""
    escaped = html.escape(text)
    for joint in "_/":
        escaped = escaped.replace(joint, f"{joint}<wbr>")
    return escaped
