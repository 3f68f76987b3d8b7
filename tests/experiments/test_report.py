import json
import re
from html.parser import HTMLParser

import pytest

from experiments import page
from experiments.analyze import analyze
from experiments.report import main
from experiments.screen import Table
from tests.experiments.browser import CHROMIUM, visit
from tests.experiments.fake_runs import write_failed, write_study

ANALYSIS = {
    "question": "Does it <converge> & stay?",
    "x": "model.width",
    "expect": {
        "divergence": {
            "metric": "relative_divergence_test",
            "slope": [-1.2, -0.6],
            "published": "-1 (Lee et al. 2019)",
        },
        "drift": {"metric": "kernel_drift", "slope": [0.1, 0.2]},
    },
}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "widths"
    runs = write_study(path, (32, 64, 128), noise=0.05, analysis=ANALYSIS)
    write_failed(path)
    for i, run in enumerate(runs):
        record = {"python": "3.11.7", "packages": {"jax": f"0.10.{2 + (i == 0)}"}}
        record |= {"finished": "2026-11-27T10:00:00+0000", "seconds": 2.0}
        (run / "provenance.json").write_text(json.dumps(record))
    analyze(path)
    return path


@pytest.fixture(scope="module")
def text(study):
    return (study / "report.html").read_text(encoding="utf-8")


class _Visible(HTMLParser):
    def __init__(self):
        super().__init__()
        self.words, self.tags = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)


def read(text):
    parser = _Visible()
    parser.feed(text)
    return " ".join("".join(parser.words).split()), parser.tags


def test_the_page_tells_question_verdict_results_configuration_and_origin(text):
    words, _ = read(text)
    assert "Does it <converge> & stay?" in words
    assert "Of 2 expectations 1 met, 1 not met." in words
    assert "slope of relative_divergence_test" in words
    assert "-1.2 to -0.6" in words and "-1 (Lee et al. 2019)" in words
    assert re.search(r"9 runs; mean \[95 % interval\] over seeds", words)
    assert re.search(r"model.width\s*32, 64, 128", words)
    assert re.search(r"kernel.name\s*exact", words)
    assert "packages jax0.10.2 (8 runs); 0.10.3 (1 run)" in words
    assert re.search(r"time of all runs\s*18 s", words)
    assert "Skipped 1 failed run" in words


def test_the_page_has_its_pictures_inside_and_refers_to_nothing_else(text):
    _, tags = read(text)
    pictures = [attributes for tag, attributes in tags if tag == "img"]
    assert len(pictures) == 2
    for attributes in pictures:
        assert attributes["src"].startswith("data:image/png;base64,")
        assert "relative divergence" in attributes["alt"]
    assert not [tag for tag, _ in tags if tag in ("script", "iframe", "object", "form")]
    addresses = [a[k] for _, a in tags for k in ("src", "href") if k in a]
    assert all(address.startswith("data:") for address in addresses)
    assert not re.search(r"https?://|@import|url\(", text)


def test_a_table_marks_what_was_met_and_what_was_not_in_words_and_colour():
    words = frozenset({0})
    html = page.table(Table("t", ["a", "b"], [["met", "1"], ["NOT met", "-2"]], words))
    assert '<td class="word good">met</td>' in html
    assert '<td class="word bad">NOT met</td><td class="number">-2</td>' in html


def test_the_command_writes_the_page_where_it_is_told_to(study, tmp_path, capsys):
    out = tmp_path / "sub" / "page.html"
    assert main([str(study), "--out", str(out)]) == 0
    assert f"Wrote {out}: of 2 expectations 1 met" in capsys.readouterr().out
    assert out.read_text() == (study / "report.html").read_text()
    assert main([str(tmp_path)]) == 2
    assert "There are no runs" in capsys.readouterr().err


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed")
def test_a_browser_shows_figures_and_tables_fetches_nothing_and_complains_of_nothing(
    study, tmp_path
):
    address = (study / "report.html").as_uri()
    seen = visit(
        address,
        [
            "Promise.all([...document.images].map(i => i.decode())).then(() => "
            "[...document.images].map(i => [i.naturalWidth, i.width, i.alt]))",
            "[...document.querySelectorAll('table')].map(t => t.rows.length)",
            "document.documentElement.scrollWidth - window.innerWidth",
            "document.querySelector('h1').textContent",
        ],
        tmp_path / "profile",
    )
    images, tables, overhang, title = seen.answers
    assert len(images) == 2
    assert all(wide > 900 and shown > 500 and alt for wide, shown, alt in images)
    assert tables[:2] == [3, 4]  # header and expectations; header and widths
    assert overhang <= 0 and title == "Does it <converge> & stay?"
    assert seen.complaints == []
    outside = [a for a in seen.requested if a != address]
    assert [a for a in outside if not a.startswith("data:")] == []
