import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import rich.console
from fake_runs import TARGETS, write_run
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, r2_score

from metanet import report
from metanet.report import Options
from metanet.reporting import figures, findings, page, record, tables
from metanet.reporting.comparison import compare, difference
from metanet.reporting.tables import Cell, Column, Table
from metanet.targets import Target


@pytest.fixture
def runs(tmp_path):
    folder = tmp_path / "runs"
    for model, skill in (("gnn", 0.9), ("dmc", 0.5), ("majority", 0.0)):
        for seed in (0, 1):
            write_run(folder, model, seed, skill, epochs=0 if model == "majority" else 6)
    return folder


def comparisons(folder: Path, split: str = "test"):
    return compare(record.find(folder), split)


def made(folder: Path, **options) -> str:
    report.main(Options(str(folder), str(folder.parent / "report.html"), **options))
    return (folder.parent / "report.html").read_text()


# Numbers.


def test_scores_are_scikit_learns_accuracy_and_r2_averaged_over_seeds(runs):
    (found,) = comparisons(runs)
    gnn = next(entry for entry in found.entries if entry.name == "gnn")
    for target, oracle in zip(TARGETS, (accuracy_score, r2_score, r2_score), strict=True):
        expected = []
        for run in gnn.runs:
            rows = run.table.filter((pc.field("target") == target.name) & (pc.field("split") == "test"))
            true, predicted = (rows[name].to_numpy() for name in ("true", "predicted"))
            expected.append(oracle(*((np.log10(v) if target.log else v) for v in (true, predicted))))
        np.testing.assert_allclose(gnn.scores[target.name].seeds, expected, rtol=1e-9)
        assert gnn.scores[target.name].value == pytest.approx(np.mean(expected))
    assert gnn.mean.value == pytest.approx(np.mean([gnn.scores[target.name].value for target in TARGETS]))


def test_an_interval_holds_its_score_and_narrows_with_more_nets(tmp_path):
    for name, lineages in (("few", 20), ("many", 320)):
        write_run(tmp_path / name, "gnn", num_lineages=lineages)
    few, many = (comparisons(tmp_path / name)[0].entries[0].mean for name in ("few", "many"))
    for score in (few, many):
        assert score.interval[0] <= score.value <= score.interval[1]
    width = [score.interval[1] - score.interval[0] for score in (few, many)]
    assert width[1] < width[0] / 2  # a sixteenth of the variance


def test_a_model_does_not_differ_from_itself_and_differs_from_a_worse_one(runs):
    (found,) = comparisons(runs)
    gnn, dmc, _ = found.entries
    itself = difference(gnn, gnn)
    assert (itself.value, itself.low, itself.high, itself.verdict) == (0, 0, 0, "unclear")
    assert difference(gnn, dmc).verdict == "better"
    assert difference(dmc, gnn, "optimizer").verdict == "worse"


def test_models_come_by_score_and_controls_last(runs):
    write_run(runs, "statistics", 0, 0.99)
    (found,) = comparisons(runs)
    assert [entry.name for entry in found.entries] == ["gnn", "dmc", "statistics", "majority"]
    assert found.best().name == "statistics"
    assert found.reference.name == "gnn"


def test_equal_scores_share_the_best_place(tmp_path):
    for model in ("gnn", "dmc"):
        write_run(tmp_path, model, skill=0.8)
    write_run(tmp_path, "majority", skill=0.1)
    table = findings.scores(comparisons(tmp_path)[0])
    assert all([cell.meaning for cell in row[1:4]] == ["best", "best", ""] for row in table.rows)
    assert {row[-1].text for row in table.rows} == {"dmc, gnn"}


@pytest.mark.parametrize(("value", "text"), [(-0.0004, "0.000"), (-0.0006, "−0.001"), (float("nan"), "n/a")])
def test_numbers_are_rounded_without_a_negative_zero(value, text):
    assert findings.number(value) == text


def test_a_change_that_all_runs_of_a_model_share_is_left_out_of_its_name(tmp_path):
    write_run(tmp_path, "gnn", changes="depth=2-epochs=6")
    write_run(tmp_path, "gnn", changes="epochs=6")
    write_run(tmp_path, "dmc", changes="max_seconds=9")
    write_run(tmp_path, "majority", changes="epochs=6")
    (found,) = comparisons(tmp_path)
    assert {entry.name for entry in found.entries} == {"gnn", "gnn-depth=2", "dmc", "majority"}
    assert found.reference.name == "gnn"
    changed = {row[0].text: row[6].text for row in findings.costs(found).rows}
    assert changed == {
        "gnn": "epochs=6",
        "gnn-depth=2": "depth=2, epochs=6",
        "dmc": "max_seconds=9",
        "majority": "epochs=6",
    }


def test_an_unfinished_run_moves_no_number_and_is_named(runs):
    before = [entry.mean.value for entry in comparisons(runs)[0].entries]
    write_run(runs, "gnn", 7, finished=False)
    assert [entry.mean.value for entry in comparisons(runs)[0].entries] == before
    assert "gnn-seed7" in findings.warnings([], [r for r in record.find(runs) if r.result is None])[0]
    assert "gnn-seed7" in made(runs)


def test_rows_may_be_stored_in_any_order(runs):
    before = comparisons(runs)[0]
    path = runs / "gnn-seed1" / "predictions.parquet"
    table = pq.read_table(path)
    pq.write_table(table.take(np.random.default_rng(0).permutation(len(table))), path)
    (after,) = comparisons(runs)
    assert after.entries[0].mean.interval == pytest.approx(before.entries[0].mean.interval)


# What may stand in one table.


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"first_net": 1}, "test nets: (1) 40 nets, 80 snapshots"),
        ({"targets": TARGETS[:2]}, "targets: (1)"),
        ({"zoo": "zoos/other"}, "zoo: (1) tiny; (2) other"),
    ],
)
def test_runs_on_other_nets_targets_or_zoos_get_a_table_of_their_own_and_a_warning(runs, changed, said):
    write_run(runs, "sane", 0, 0.7, **changed)
    found = comparisons(runs)
    assert sorted(len(each.entries) for each in found) == [1, 3]
    warnings = findings.warnings(found, [])
    assert any("cannot be put into one table" in line for line in warnings)
    assert any(line.startswith(said) for line in warnings)
    assert [each.title[:3] for each in found] == ["(1)", "(2)"]
    assert "cannot be put into one table" in made(runs)


def test_runs_with_other_splits_stand_apart(runs):
    path = write_run(runs, "sane", 0, 0.7) / "config.yaml"
    path.write_text(path.read_text().replace("column: null", "column: conv_depth"))
    assert len(comparisons(runs)) == 2


def test_models_with_other_seeds_are_compared_with_a_warning(runs):
    write_run(runs, "sane", 5, 0.7)
    found = comparisons(runs)
    assert len(found) == 1
    assert "different numbers of seeds" in findings.warnings(found, [])[0]


# Mistakes.


@pytest.mark.parametrize(
    ("spoil", "error", "said"),
    [
        (shutil.rmtree, FileNotFoundError, "no such folder of runs"),
        (lambda runs: [shutil.rmtree(path) for path in runs.iterdir()], FileNotFoundError, "no run in it"),
        (
            lambda runs: [(p / "result.json").unlink() for p in runs.iterdir()],
            ValueError,
            "none of its 6 runs has finis",
        ),
        (
            lambda runs: (runs / "gnn-seed0/predictions.parquet").unlink(),
            FileNotFoundError,
            "predictions.parquet: miss",
        ),
        (
            lambda runs: (runs / "gnn-seed0/predictions.parquet").write_text("?"),
            ValueError,
            "not a table of predictions",
        ),
        (lambda runs: (runs / "gnn-seed0/schema.json").write_text("{"), ValueError, "schema.json: not JSON"),
        (lambda runs: (runs / "gnn-seed0/log.jsonl").write_text("{}\n{"), ValueError, "log.jsonl, line 2: not JSON"),
        (lambda runs: (runs / "gnn-seed0/config.yaml").write_text("a: [1"), ValueError, "config.yaml: not YAML"),
        (lambda runs: (runs / "gnn-seed0/config.yaml").write_text("a: 1"), ValueError, "lacks model, zoo, seed"),
        (
            lambda runs: shutil.copytree(runs / "gnn-seed0", runs / "again/gnn-seed0"),
            ValueError,
            "two runs of gnn with",
        ),
    ],
)
def test_a_mistake_is_named_and_no_report_is_written(runs, spoil, error, said):
    spoil(runs)
    with pytest.raises(error, match=re.escape(said)):
        made(runs)
    assert not (runs.parent / "report.html").exists()


def test_a_split_without_predictions_and_a_wrong_file_name_are_mistakes(runs):
    with pytest.raises(ValueError, match="has no rows of target 'optimizer' in split 'train'"):
        made(runs, split="train")
    with pytest.raises(ValueError, match=r"expected a name that ends in \.html"):
        report.main(Options(str(runs), "report.pdf"))


# The forms of the report.


class Elements(HTMLParser):
    """Every attribute of a page, and the text of its scripts by id."""

    def __init__(self, text: str):
        super().__init__()
        self.attributes: list[tuple[str, str, str | None]] = []
        self.scripts: list[str] = []
        self.inside = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, key, value) for key, value in attrs]
        self.inside = tag == "script"
        if self.inside:
            self.scripts.append("")

    def handle_data(self, data):
        if self.inside:
            self.scripts[-1] += data

    def handle_endtag(self, tag):
        self.inside = self.inside and tag != "script"


def test_the_page_fetches_nothing_and_holds_plotly_once(runs):
    text = made(runs)
    found = Elements(text)
    fetching = [each for each in found.attributes if each[1] in ("src", "srcset", "href", "data", "action")]
    assert fetching == [("link", "href", "data:,")]
    assert not re.search(r"@import|url\(", page.CSS)
    assert sum("plotly.js v" in script for script in found.scripts) == 1
    assert len(text) < 8e6


def test_every_figure_is_one_that_plotly_accepts(runs):
    found = Elements(made(runs))
    drawn = json.loads(found.scripts[0])
    places = [int(value or -1) for _, key, value in found.attributes if key == "data-figure"]
    assert places == list(range(len(drawn)))
    assert len(drawn) == 4 + 3 * 3 + 2  # intervals of mean and targets; predictions; curves of what has epochs
    for figure in drawn:
        go.Figure(figure)  # raises at an unknown property or a wrong value


def test_every_target_can_be_chosen_and_one_is_seen_at_first(runs):
    found = Elements(made(runs)).attributes
    choices = [value for _, key, value in found if key == "data-choice"]
    assert choices == [target.name for target in TARGETS]
    assert [value for tag, key, value in found if (tag, key) == ("option", "value")] == choices
    assert sum(key == "hidden" for _, key, _ in found) == len(choices) - 1


def test_names_cannot_break_the_page(tmp_path):
    wicked = Target("</script><b>", "classification", ("<i>", "</script>"))
    write_run(tmp_path / "runs", "gnn", targets=(wicked,))
    found = Elements(made(tmp_path / "runs"))
    assert len(found.scripts) == 3
    assert json.loads(found.scripts[0])[-2]["data"][0]["x"] == ["<i>", "</script>"]


def test_a_score_that_is_not_a_number_is_drawn_as_nothing_and_written_as_such(tmp_path):
    constant = Target("constant", "regression", mean=1.0, std=0.0)
    write_run(tmp_path / "runs", "gnn", targets=(TARGETS[0], constant), skill=1.0)
    made(tmp_path / "runs")
    assert "n/a" in (tmp_path / "report.md").read_text()


def test_markdown_holds_the_same_scores_and_the_commands(runs):
    made(runs)
    text = (runs.parent / "report.md").read_text()
    (found,) = comparisons(runs)
    for entry in found.entries:
        for target in TARGETS:
            assert findings.number(entry.scores[target.name].value) in text
    assert "python -m metanet.train -m model=gnn zoo=zoos/tiny seed=0,1" in text
    assert "How to read this" in text


def test_a_command_has_its_sections_back(tmp_path):
    write_run(tmp_path, "gnn", 0, changes="depth=2-epochs=1e-3-target=optimizer")
    write_run(tmp_path, "dmc", 0, changes="target=_a_b_-0a1b2c")
    (found,) = comparisons(tmp_path)
    commands = {entry.runs[0].model: findings.command(entry) for entry in found.entries}
    said = "python -m metanet.train model=gnn zoo=zoos/tiny model.depth=2 training.epochs=1e-3 target=optimizer seed=0"
    assert commands["gnn"] == said
    assert commands["dmc"].endswith("see its config.yaml")  # a hash took the place of the value


def test_the_terminal_shows_every_score_at_80_columns_and_intervals_where_they_fit(runs):
    (found,) = comparisons(runs)
    for width, fits in ((30, False), (80, False), (200, True)):
        console = rich.console.Console(width=width, record=True, file=io.StringIO())
        tables.print_to(console, findings.scores(found), "Scores")
        text = console.export_text()
        assert all(findings.number(entry.mean.value) in text for entry in found.entries)
        assert ("seeds ±" in text) == fits


@given(st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=4))
def test_tables_keep_any_text_in_html(texts):
    table = Table([Column(str(n)) for n in range(len(texts))], [[Cell(text) for text in texts]])

    class Texts(HTMLParser):
        seen = ""

        def handle_data(self, data):
            Texts.seen += data

    Texts(convert_charrefs=True).feed(tables.to_html(table))
    assert Texts.seen == "".join(map(str, range(len(texts)))) + "".join(texts).replace("\r\n", "\n")


def test_a_cell_of_markdown_cannot_end_its_row():
    text = tables.to_markdown(Table([Column("a|b")], [[Cell("c|d", ("e|f",), "best")]]))
    assert text.splitlines()[2] == "| **c\\|d** <small>e\\|f</small> |"


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30))
def test_shares_of_a_confusion_matrix_sum_to_one_in_every_class_that_occurs(pairs):
    counts = np.zeros((4, 4), dtype=np.int64)
    np.add.at(counts, tuple(np.array(pairs).T), 1)
    (cells,) = figures.confusion(counts, list("abcd"))["data"]
    np.testing.assert_allclose(np.sum(cells["z"], axis=1), counts.any(axis=1), atol=1e-3)


def test_colours_of_models_and_controls_differ():
    palette = figures.colours(list("abcdef"), list("xyz"))
    assert len(set(palette.values())) == 9


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_a_browser_draws_the_page_without_a_message(runs, tmp_path):
    made(runs)
    words = "--headless --no-sandbox --disable-gpu --disable-background-networking --enable-logging=stderr --dump-dom"
    page_url = f"file://{runs.parent / 'report.html'}"
    command = ["chromium", *words.split(), "--virtual-time-budget=10000", "--window-size=1280,9000", page_url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    assert "CONSOLE" not in done.stderr, done.stderr
    assert done.stdout.count('class="main-svg"') >= 4
