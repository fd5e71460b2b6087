import dataclasses
import math

import pandas as pd
import pytest
from scipy.stats import t, ttest_rel

from lora_lab.records import StepRecord
from lora_lab.training.sweep import Sweep
from test_pairing import run, runs

R1 = (0.50, 0.52, 0.47, 0.55, 0.51, 0.49)
R4 = (0.53, 0.56, 0.50, 0.57, 0.56, 0.52)  # a little better
R16 = (0.50, 0.53, 0.48, 0.54, 0.51, 0.50)  # no better


def swept(**settings):
    """A sweep over r: the scores of each value's seeds."""
    return Sweep(
        tuple(run for r, values in settings.items() for run in runs(*values, r=int(r[1:])))
    )


def validated(*losses, rate, value, r):
    """A run a seed with its validation loss."""
    return [
        dataclasses.replace(
            run(seed, value + 0.01 * seed, r=r, learning_rate=rate),
            records=(StepRecord(1, 1.0, rate, 1.0, 8), StepRecord(2, 0.9, rate, 1.0, 8, loss)),
        )
        for seed, loss in enumerate(losses)
    ]


def test_the_summary_has_a_row_a_setting_with_students_interval():
    summary = swept(r1=R1, r4=R4).summary()
    assert list(summary.columns) == ["r", "mean", "low", "high", "seeds", "diverged"]
    assert summary.r.tolist() == [1, 4]
    for row, values in zip(summary.itertuples(), (R1, R4), strict=True):
        values = pd.Series(values)
        assert row.mean == pytest.approx(values.mean())
        interval = t.interval(0.95, 5, values.mean(), values.sem())
        assert (row.low, row.high) == pytest.approx(interval)
    assert summary.seeds.tolist() == [6, 6]


def test_an_interval_of_shares_stays_between_0_and_1_and_that_of_losses_does_not():
    made = swept(r1=(1.0, 1.0, 0.9), r4=(0.0, 0.0, 0.1))
    assert made.summary().high[0] == 1
    assert made.summary().low[1] == 0
    assert made.summary("loss").high[0] > 2


def test_a_setting_with_a_diverged_seed_has_no_mean_and_says_so():
    broken = dataclasses.replace(run(2, 0, r=4), scores=None, status="diverged")
    made = Sweep((*runs(*R1[:3], r=1), *runs(*R4[:2], r=4), broken, *runs(*R16[:3], r=16)))
    summary = made.summary()
    assert math.isnan(summary["mean"][1])
    assert (summary.seeds[1], summary.diverged[1]) == (2, 1)
    table = made.compare("r").table()
    assert table.r.tolist() == [16, 1, 4] or table.r.tolist() == [1, 16, 4]
    assert table.verdict.iloc[-1] == "diverged with some seeds: nothing to compare"
    with pytest.raises(ValueError, match="r=4 diverged with some seeds .+ another value with aga"):
        made.compare("r", against=4)


def test_the_values_of_a_field_are_compared_with_the_first_best_mean_first():
    found = swept(r1=R1, r16=R16, r4=R4).compare("r")
    table = found.table()
    assert table.r.tolist() == [4, 16, 1]
    assert table.verdict.tolist()[0].startswith("r=4 is better by 3.3 points (2.")
    assert table.verdict.tolist()[1].startswith("no difference above 2 points (−")
    assert table.verdict.tolist()[2] == "the others are compared with it"
    assert found.comparisons[4].p_value == pytest.approx(ttest_rel(R4, R1).pvalue)
    assert swept(r1=R1, r4=R4).compare("r", against=4).comparisons[1].result == "worse"


def test_less_of_a_loss_stands_first():
    found = swept(r1=R1, r4=R4).compare("r", of="loss")  # the loss is twice the score here
    assert found.table().r.tolist() == [1, 4]
    assert found.table().verdict[1].startswith("r=4 is worse by 0.06")


def test_several_comparisons_are_corrected_by_holm_and_one_is_not():
    alone = swept(r1=R1, r4=R4).compare("r")
    assert alone.comparisons[4].level == 0.05
    assert alone.notes == ()
    both = swept(r1=R1, r4=R4, r16=R16).compare("r")
    assert both.comparisons[4].level == 0.025  # the smaller p-value
    assert both.comparisons[16].level == 0.05
    assert "2 comparisons in one table: Holm's correction" in both.notes[0]
    assert repr(both).count("Holm") == 1


def test_a_difference_that_one_comparison_would_call_real_is_not_among_many():
    """p = 0.03 alone; the smallest of four has to be below 0.0125."""
    weak = tuple(x + d for x, d in zip(R1, (0.05, -0.01, 0.04, 0.01, 0.03, 0.02), strict=True))
    p = ttest_rel(weak, R1).pvalue
    assert 0.0125 < p < 0.05
    assert swept(r1=R1, r2=weak).compare("r").comparisons[2].result == "better"
    many = swept(r1=R1, r2=weak, r4=R16, r8=R16, r16=R16).compare("r")
    assert many.comparisons[2].result == "not settled"


def test_each_values_learning_rate_is_chosen_on_validation_and_not_by_the_score():
    made = Sweep(
        (
            *validated(0.5, 0.5, rate=1e-3, value=0.60, r=1),
            *validated(0.6, 0.6, rate=3e-3, value=0.90, r=1),  # the better test score, by luck
            *validated(0.7, 0.7, rate=1e-3, value=0.50, r=4),
            *validated(0.4, 0.4, rate=3e-3, value=0.55, r=4),
        )
    )
    found = made.compare("r")
    chosen = dict(zip(found.table().r, found.table().learning_rate, strict=True))
    assert chosen == {1: 1e-3, 4: 3e-3}
    assert found.notes == ("For each r, the least mean validation loss chose learning_rate.",)
    assert found.table()["mean"].tolist() == pytest.approx([0.605, 0.555])


def test_a_rate_that_diverged_is_not_chosen():
    broken = dataclasses.replace(run(1, 0, r=1, learning_rate=0.1), scores=None, status="diverged")
    made = Sweep(
        (
            *validated(0.1, rate=0.1, value=0.9, r=1),
            broken,
            *validated(0.5, 0.5, rate=1e-3, value=0.6, r=1),
            *validated(0.4, 0.4, rate=1e-3, value=0.7, r=4),
        )
    )
    assert made.compare("r").table().learning_rate.tolist() == [1e-3, 1e-3]


def test_nothing_is_chosen_where_no_validation_loss_was_recorded():
    rates = [run for rate in (1e-3, 3e-3) for run in runs(*R1, r=1, learning_rate=rate)]
    with pytest.raises(ValueError, match="hold no validation loss to choose by .+eval_steps=steps"):
        Sweep((*rates, *runs(*R4, r=4))).compare("r")


@pytest.mark.parametrize(
    ("field", "options", "words"),
    [
        ("rank", {}, "'rank' isn't a field of a recipe"),
        ("learning_rat", {}, "did you mean 'learning_rate'"),
        ("lora_alpha", {}, "lora_alpha does not vary between the settings of this sweep; these do"),
        ("seed", {}, "seed does not vary"),
        ("r", {"against": 5}, "against=5 was not tried; r is one of 1, 4"),
        ("r", {"of": "losss"}, "'losss' isn't a score of a run; did you mean 'loss'"),
        ("r", {"of": "strangers"}, "no run has a 'strangers'; train the sweep with evaluate=True"),
        ("r", {"margin": 2}, "margin=2 isn't a difference in 'accuracy'"),
    ],
)
def test_a_comparison_that_cannot_be_made_is_refused(field, options, words):
    with pytest.raises(ValueError, match=words):
        swept(r1=R1, r4=R4).compare(field, **options)


def test_what_is_shown_has_percent_intervals_verdicts_and_the_confounds():
    pairs = [run for r in (1, 4) for run in runs(*(R1 if r == 1 else R4), r=r, lora_alpha=2 * r)]
    found = Sweep(tuple(pairs)).compare("r")
    first = repr(found).splitlines()[1]
    assert first.split()[:6] == ["4", "8", "54", "51.1", "to", "56.9"]
    assert "r and lora_alpha never change alone" in repr(found)
    assert found.confounds == Sweep(tuple(pairs)).confounds()


def test_the_page_shows_the_same_and_escapes_what_a_name_holds():
    made = swept(r1=R1, r4=R4).compare("r")
    page = made._repr_html_()
    assert "r=4 is better by 3.3 points" in page
    odd = dataclasses.replace(made, confounds=("<script>",), measure="<b>")
    assert "<script>" not in odd._repr_html_()
    assert "<b>" not in odd._repr_html_()


def test_a_field_that_may_be_none_is_compared():
    made = Sweep((*runs(*R1, quantize=None), *runs(*R4, quantize="nf4")))
    found = made.compare("quantize")
    assert found.reference is None
    assert found.comparisons["nf4"].result == "better"
    assert "quantize=nf4 is better by" in repr(found)


def on_validation(made):
    """The same runs with their scores called validation's."""
    return Sweep(
        tuple(
            dataclasses.replace(
                run, scores=run.scores and dataclasses.replace(run.scores, split="validation")
            )
            for run in made.runs
        )
    )


def test_the_setting_with_the_best_mean_on_validation_is_chosen():
    best = on_validation(swept(r1=R1, r4=R4, r16=R16)).best()
    assert [(run.recipe.r, run.scores.value) for run in best] == [(4, value) for value in R4]


def test_of_equal_means_the_first_is_chosen():
    made = on_validation(swept(r1=(0.1, 0.5), r4=(0.2, 0.4), r16=(0.3, 0.3)))
    assert {run.recipe.r for run in made.best()} == {1}


def test_of_losses_the_least_is_chosen():
    made = on_validation(swept(r1=R4, r4=R1))
    perplexity = [
        dataclasses.replace(run, scores=dataclasses.replace(run.scores, metric_name="perplexity"))
        for run in made.runs
    ]
    assert {run.recipe.r for run in Sweep(tuple(perplexity)).best()} == {4}


def test_a_setting_with_a_diverged_seed_is_not_chosen():
    broken = dataclasses.replace(run(2, 0, r=4), scores=None, status="diverged")
    made = on_validation(Sweep((*runs(*R1[:3], r=1), *runs(0.9, 0.9, r=4), broken)))
    assert {run.recipe.r for run in made.best()} == {1}
    with pytest.raises(ValueError, match="every setting diverged with some seed; lower the"):
        Sweep((broken,)).best()


def test_a_test_does_not_choose():
    with pytest.raises(ValueError, match="scored on the test, which must not choose"):
        swept(r1=R1, r4=R4).best()
