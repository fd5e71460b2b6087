"""Headless: a moved slider gives the curve of the package's schedule, or the recipe's refusal."""

from lora_lab.maths.adalora import budget_schedule
from lora_lab.recipe import Recipe
from lora_lab.widgets.budget_curve import BudgetCurve

RECIPE = Recipe(method="adalora", init_r=6, target_r=1, steps=120)


def test_the_curve_is_that_of_the_recipe_and_follows_the_sliders():
    curve = BudgetCurve(RECIPE, 28)
    phases = {"tinit": 15, "tfinal": 60, "total_step": 120}
    assert curve.budgets == [budget_schedule(s, 168, 28, **phases) for s in range(1, 121)]
    before = curve.view.value
    curve.controls["tinit"].value = 30
    curve.controls["target_r"].value = 2
    phases["tinit"] = 30
    assert curve.budgets == [budget_schedule(s, 168, 56, **phases) for s in range(1, 121)]
    assert curve.view.value == curve.picture.png != before


def test_the_arithmetic_is_told_with_a_step_worked_out():
    curve = BudgetCurve(RECIPE, 28)
    assert curve.said.value == (
        "28 matrices × 6 = 168 triplets up to step 15. Step 37: 0.51 of the way is left, so "
        "28 + 140 × 0.51³ = 46. From step 60 on 28 × 1 = 28."
    )  # (60 - 37) / (60 - 15) = .511; 28 + 140 × .1335 = 46.7, rounded down


def test_what_does_not_fit_together_is_said_in_the_recipes_words_and_the_curve_stays():
    curve = BudgetCurve(RECIPE, 28)
    before = curve.view.value
    curve.controls["target_r"].value = 6
    assert "target_r=6 leaves nothing to prune from init_r=6" in curve.said.value
    assert curve.view.value == before
    curve.controls["target_r"].value = 5
    assert "28 × 5 = 140" in curve.said.value


def test_between_two_allocations_the_budget_stands_still():
    curve = BudgetCurve(RECIPE, 28)
    phases = {"tinit": 15, "tfinal": 60, "total_step": 120}
    curve.controls["deltaT"].value = 10
    for step, allocated in ((19, 0), (20, 20), (29, 20), (30, 30), (59, 50), (60, 60), (75, 75)):
        assert curve.budgets[step - 1] == budget_schedule(allocated, 168, 28, **phases)
    assert "Step 30: 0.67 of the way is left, so 28 + 140 × 0.67³ = 69." in curve.said.value
