"""Tables of the page."""

import dataclasses

import pytest

from keras_distill.experiment import table as text_table
from keras_distill.experiment.latency import Latency
from keras_distill.experiment.model_result import ModelResult, Run
from keras_distill.report import tables
from tests.report import samples
from tests.report.pages import plain


def texts(table):
    return [[plain(text) for text, _ in row] for row in table.rows]


def column(table, heading, part=0):
    place = table.headings.index(heading)
    return [plain(row[place][part]) for row in table.rows]


@pytest.mark.parametrize("make", [samples.results, samples.regression])
def test_results_have_the_cells_of_the_text_table(make):
    sample = make()
    table = tables.results_table(sample)
    expected = [text_table.cells(sample, row) for row in sample.table()]
    for heading in table.headings:
        place = text_table.headings(sample).index(heading)
        assert column(table, heading) == [plain(cells[place]) for cells in expected]
    assert ("size" in table.headings) == (make is samples.results)


def test_small_print_of_the_results():
    table = tables.results_table(samples.results())
    assert column(table, "accuracy", 1) == ["1 seed", "5 seeds", "5 seeds"]
    # 1,200,000 / 31,415
    assert column(table, "parameters", 1) == ["", "38x smaller", "38x smaller"]
    assert column(table, "ms/example", 1) == ["0.117 to 0.133", "0.0117 to 0.0133", "0.0117 to 0.0133"]
    (comparison,) = samples.results().comparisons
    teacher, baseline, _ = samples.results().models
    gap = teacher.mean() - baseline.mean()
    low, high = (100 * bound / gap for bound in comparison.interval)
    assert column(table, "gap recovered", 1) == ["", "", f"{low:.0f} to {high:.0f} %"]


def test_comparisons_have_their_numbers():
    sample = samples.results(seeds=6)
    (comparison,) = sample.comparisons
    sample.comparisons = [dataclasses.replace(comparison, example_interval=(-0.001, 0.03))]
    table = tables.comparisons_table(sample)
    low, high = (100 * bound for bound in comparison.interval)
    assert texts(table) == [
        [
            "distilled - baseline",
            f"{100 * comparison.difference:+.2f} points",
            f"{low:+.2f} to {high:+.2f}",
            "< 0.001",
            "0.031",
            "-0.10 to +3.00",
        ]
    ]
    assert len(table.headings) == 6 and "over test examples" in table.headings[-1]


def test_comparisons_of_one_seed_have_no_interval():
    table = tables.comparisons_table(samples.results(seeds=1))
    assert table.headings == ("comparison", "difference in accuracy")
    assert tables.comparisons_table(samples.results(comparisons=[])).rows == []


def test_profiles_have_the_score_of_the_task():
    sample = samples.results(profiles=samples.profiles())
    table = tables.profiles_table(sample)
    assert column(table, "accuracy") == ["98.50 %", "95.60 ± 0.14 %", "–", "97.25 ± 0.07 %", "96.95 ± 0.21 %"]
    assert column(table, "file")[4] == "5. distilled" and column(table, "file", 1)[4] == "litert_int8"
    assert column(table, "compression")[4] == "117.1x" and column(table, "size")[0] == "4.8 MB"
    assert column(table, "ms median / p95")[0] == "1.25 / 1.5"
    assert column(table, "ms median / p95", 1) == ["1 thread", "1 thread", "", "1 thread", "1 thread"]
    regression = samples.regression()
    regression.profiles = [dataclasses.replace(each, model="baseline") for each in samples.profiles()[1:2]]
    assert column(tables.profiles_table(regression), "RMSE") == ["0.956 ± 0.0014 °C"]


def test_the_caption_names_data_batch_size_and_hardware():
    sample = samples.results(machine={"cores": 4, "processor": "A processor", "accelerators": []}, split="validation")
    caption = tables.measurement(sample)
    assert "Accuracy on 10,000 examples of the validation split: mean ± sample standard deviation" in caption
    assert "batch size 128, on A processor, 4 cores" in caption and "Gap recovered" in caption
    sample.machine["accelerators"] = ["H200", "H200"]
    assert "on H200, H200." in tables.measurement(sample)
    sample = samples.results(
        models=[ModelResult("a", "baseline", None, [Run(0, 0.5)])], num_examples=None, examples=[], machine={}
    )
    assert tables.measurement(sample) == "Accuracy on the test split: mean over the seeds."
    regression = tables.measurement(samples.regression())
    assert "RMSE on 1,250 examples" in regression and "Lower is better." in regression


def test_two_batch_sizes_are_both_named():
    sample = samples.results()
    sample.models[0].latency = Latency(1.0, 0.9, 1.1, 1)
    assert "batch size 1 and 128" in tables.measurement(sample)


def test_wide_tables_become_cards_earlier():
    layouts = [tables.text_table([str(n) for n in range(count)], []).layout for count in (3, 5, 6, 10, 11)]
    assert layouts == ["phone", "phone", "tablet", "tablet", "cards"]


def test_abbreviations_keep_their_first_letter():
    assert [tables.capitalize(text) for text in ("accuracy", "macro F1", "mIoU", "RMSE", "")] == [
        *("Accuracy", "Macro F1", "mIoU", "RMSE", ""),
    ]


def test_typeset():
    text = "“T-1”: (-0.5 points, -1 to -.2, 3.0 ± 0.1 %), paired t-test p = 0.1, 2024-05-01"
    assert tables.typeset(text) == (
        "“T-1”: (−0.5 points, −1 to −.2, 3.0\u00a0±\u00a00.1\u00a0%), paired t\u2011test p\u00a0=\u00a00.1, 2024-05-01"
    )
