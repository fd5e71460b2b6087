"""Headless: what the studio shows equals what lab.estimate, lab.compare and PEFT say."""

import dataclasses
import threading

import pandas as pd
import pytest
import torch
from peft import PeftModel

import lora_lab as lab
from lora_lab import plots
from lora_lab.machine import resources
from lora_lab.places import NotPrepared
from lora_lab.recipe import Recipe
from lora_lab.records import Scores
from lora_lab.training.confounds import confounds_of
from lora_lab.training.evaluation import evaluate
from lora_lab.training.loop import Training
from lora_lab.training.store import Run
from lora_lab.widgets import following, kept_runs, live_lab
from lora_lab.widgets.kept_runs import MOST, KeptRuns
from lora_lab.widgets.live_lab import LiveLab
from lora_lab.widgets.recipe_controls import RecipeControls
from lora_lab.widgets.studio import FIELDS, IN_SIGHT
from tiny import letters_task, recipe, tiny_base

LIMIT = 120  # seconds that `wait` may take on a busy machine
LETTERS = letters_task()
TASK = dataclasses.replace(  # trained and scored in no time
    LETTERS, recipe=recipe(steps=3), validation=LETTERS.validation[:2], test=LETTERS.test[:3]
)


@pytest.fixture(scope="module")
def base():
    return tiny_base(hidden=64)


@pytest.fixture
def studio(base):
    made = lab.studio(base, TASK)
    made.wait(LIMIT)
    yield made
    made.close()


def run_of(seed=0, value=0.5, **changes):
    scores = Scores("exact match", value, {}, 1.0, 0.5, 2.0, (), "test")
    return Run(
        recipe=recipe(seed=seed, **changes),
        records=(),
        scores=scores,
        base_name="tiny",
        task_name="letters",
        path=None,
    )


@pytest.fixture
def kept(monkeypatch):
    """Kept runs whose time is not looked at."""
    monkeypatch.setattr(kept_runs.Kept, "seconds", 1.0)
    return KeptRuns()


# --- what the choices take ------------------------------------------------------------------


def test_beside_the_choices_stands_what_lab_estimate_says(studio, base):
    studio.live.controls.choose(r=2, lora_alpha=8)
    studio.wait(LIMIT)
    estimated = lab.estimate(base, studio.live.recipe, studio.live.part)
    assert studio.costs.budget == estimated
    words = studio.costs.words.value
    assert f"trains <b>{estimated.trainable_parameters / 1000:.1f} K</b> of" in words
    assert "scaling: α/r = 8/2 = <b>4</b>" in words
    least, most = studio.costs.seconds
    assert 0 < least < most
    assert "3 steps: about <b>1 s</b> on an idle machine" in words
    bars = studio.costs.memory
    assert [*bars] == ["as chosen", "on 4 bits", "full"]
    for name, changes in (("on 4 bits", {"quantize": "nf4"}), ("full", {"method": "full"})):
        other = dataclasses.replace(studio.live.controls.recipe, **changes)
        assert bars[name] == lab.estimate(base, other, studio.live.part).memory
    size = (420, 240)
    assert studio.costs.bars.value == plots.png(plots.draw_memory, bars, size=size)


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"use_rslora": True, "r": 4}, "α/√r = 7/√4 = <b>3.5</b>"),
        ({"method": "adalora", "init_r": 14}, "α/init_r = 7/14 = <b>0.5</b>"),
        ({"method": "full"}, "no adapter, so no scaling"),
    ],
)
def test_the_scaling_is_that_of_the_method(studio, choices, words):
    studio.live.controls.choose(**choices, steps=8)
    studio.wait(LIMIT)
    assert words in studio.costs.words.value


def test_choices_that_do_not_fit_are_told_in_words_until_they_are_mended(studio, monkeypatch):
    controls = studio.live.controls
    controls.controls["warmup_steps"].value = 9
    studio.wait(LIMIT)
    assert "warmup_steps=9 leaves none of steps=3" in studio.costs.words.value
    assert studio.costs.budget is None
    assert studio.costs.bars.layout.display == "none"
    controls.choose(warmup_steps=0, modules_to_save=("lm_haed",))
    studio.wait(LIMIT)
    assert "lm_haed" in studio.costs.words.value
    assert "did you mean 'lm_head'" in studio.costs.words.value.replace("&#x27;", "'")
    controls.choose(modules_to_save=())
    monkeypatch.setattr(resources, "memory", lambda: (None, 10))
    studio._on_choice()
    studio.wait(LIMIT)
    assert "MemoryError: a step with batch_size=4 needs about" in studio.costs.words.value
    assert "trains <b>" in studio.costs.words.value
    assert studio.costs.bars.layout.display is None


def test_every_field_of_a_recipe_has_its_control(studio):
    assert sorted(FIELDS) == sorted(field.name for field in dataclasses.fields(Recipe))
    assert {*IN_SIGHT} < {*studio.live.controls.controls}
    folded = [box for box in studio.live.face.showing if hasattr(box, "switch")]
    assert [box.switch.description for box in folded] == [
        "Ask a prompt of your own",
        "Show the code",
    ]


# --- controls for every field ---------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"r": 2000, "max_grad_norm": float("inf"), "layers_to_transform": (0, 2)},
        {"target_modules": "model.*(q|v)_proj", "modules_to_save": ("lm_head", "norm")},
        {"method": "adalora", "tinit": 5, "tfinal": 20, "init_r": 9, "beta1": 0.5},
        {"init_lora_weights": "pissa_niter_4", "use_rslora": True, "eval_steps": 7},
        {"quantize": "nf4", "double_quant": False, "compute_dtype": "float16"},
    ],
)
def test_any_recipe_can_be_chosen_and_is_then_the_recipe(changes):
    controls = RecipeControls(Recipe(), FIELDS)
    controls.choose(**changes)
    assert controls.recipe == Recipe(**changes)
    controls.reset(Recipe())
    assert controls.recipe == Recipe()


def test_what_is_typed_into_a_text_box_is_read_or_refused_in_words():
    controls = RecipeControls(Recipe(), FIELDS)
    boxes = controls.controls
    boxes["layers_to_transform"].value = "0, 2-3"
    boxes["modules_to_save"].value = "lm_head,norm "
    assert controls.recipe == Recipe(
        layers_to_transform=(0, 2, 3), modules_to_save=("lm_head", "norm")
    )
    for field, text, words in (
        ("layers_to_transform", "1,two", "'two' in layers_to_transform isn't a layer; give"),
        ("layers_to_transform", "0-999999", "goes beyond 10,000 layers"),
        ("eval_steps", "often", "eval_steps='often' is not a whole number; give one, or leave it"),
        ("max_grad_norm", "none", "max_grad_norm='none' is not a number; give 1, or inf"),
    ):
        before, boxes[field].value = boxes[field].value, text
        with pytest.raises(ValueError, match=words):
            _ = controls.recipe
        boxes[field].value = before


def test_a_control_that_is_off_gives_its_fields_default_and_comes_back():
    controls = RecipeControls(Recipe(), FIELDS)
    controls.choose(use_dora=True, quantize="nf4", double_quant=False)
    controls.choose(method="adalora", quantize=None)
    assert controls.controls["use_dora"].disabled
    assert controls.controls["double_quant"].disabled
    assert not controls.controls["init_r"].disabled
    assert controls.recipe == Recipe(method="adalora")
    controls.choose(method="lora", quantize="nf4")
    assert controls.recipe == Recipe(use_dora=True, quantize="nf4", double_quant=False)


def test_choices_that_make_no_recipe_are_refused_and_none_is_set():
    controls = RecipeControls(Recipe(), FIELDS)
    with pytest.raises(ValueError, match="method='lorra' is not known; did you mean 'lora'"):
        controls.choose(r=2, method="lorra")
    with pytest.raises(ValueError, match="use_dora=True means nothing with method='adalora'"):
        controls.choose(method="adalora", use_dora=True)
    with pytest.raises(ValueError, match="no control for 'rank' here"):
        controls.choose(rank=2)
    assert controls.recipe == Recipe()


# --- training, and runs side by side --------------------------------------------------------


def test_by_code_it_trains_and_keeps_what_lab_evaluate_says(studio, base):
    result = studio.train(r=2)
    assert result.recipe.r == 2
    assert studio.result.scores == result.scores
    assert studio.keep() == "run 1 has 1 seed"
    (row,) = studio.table().to_dict("records")
    trained = lab.train(base, TASK, result.recipe)
    assert [record.loss for record in result.records] == [record.loss for record in trained]
    scores = evaluate(trained, TASK)
    assert (row["score"], row["loss"]) == (scores.value, pytest.approx(scores.loss, rel=1e-6))
    assert row["run"] == "tiny · letters"
    assert row["trained_parameters"] == lab.estimate(base, result.recipe).trainable_parameters
    assert row["seconds"] == sum(record.seconds for record in result.records)
    assert "tiny · letters" in studio.kept_page.value


def test_four_more_seeds_give_the_verdict_of_lab_compare(studio, base):
    for r in (3, 1):
        studio.train(r=r)
        studio.more_seeds()
        assert studio.keep() == f"run {1 if r == 3 else 2} has 5 seeds"
    table = studio.table()
    sides = []
    for r in (3, 1):
        settings = [dataclasses.replace(TASK.recipe, r=r)]
        swept = lab.sweep(base, TASK, settings, seeds=range(5), engine="sequential", store=None)
        sides.append([*swept.runs])
    found = dataclasses.replace(lab.compare(*sides), b="it")
    assert table["verdict"].tolist() == ["the others are compared with it", found.verdict]
    assert table["seeds"].tolist() == [5, 5]
    assert table["loss"][2] == pytest.approx(sum(run.scores.loss for run in sides[1]) / 5)
    assert table["run"].tolist() == ["tiny · letters", "r 1"]
    assert table["confounds"][2] == " ".join(confounds_of([*sides[0], *sides[1]]))
    assert "⚑ 2" in studio.kept_page.value


def test_keep_is_a_button_only_where_a_run_is_finished(studio, monkeypatch):
    assert studio.keep_button.disabled
    with pytest.raises(RuntimeError, match="no run is finished; press Train and let it end"):
        studio.keep()

    class Stopped(Training):
        def __iter__(self):
            for record in super().__iter__():
                assert studio.keep_button.disabled
                studio.live.stop()
                yield record

    monkeypatch.setattr(following, "train", Stopped)
    studio.train()
    assert studio.keep_button.disabled  # stopped after its first step
    monkeypatch.setattr(following, "train", Training)
    studio.train()
    assert not studio.keep_button.disabled
    studio.keep_button.click()
    assert "run 1 has 1 seed" in studio.kept_said.value


def test_a_setting_kept_again_gets_its_new_seeds_and_a_ninth_setting_is_refused(kept, base):
    for r in range(1, MOST + 1):
        kept.keep(base, [run_of(r=r)], None)
    assert kept.keep(base, [run_of(r=3, seed=1, eval_steps=2)], None) == "run 3 has 2 seeds"
    assert len(kept.rows) == MOST
    with pytest.raises(ValueError, match="8 settings are kept, .* take one out first"):
        kept.keep(base, [run_of(r=99)], None)
    kept.drop(2)
    kept.keep(base, [run_of(r=99)], None)
    assert kept.names == ["tiny · letters", "r 3", "r 4", "r 5", "r 6", "r 7", "r 8", "r 99"]


def test_the_reference_stays_when_a_row_is_taken_out_and_a_verdict_pairs_shared_seeds(kept, base):
    kept.keep(base, [run_of(r=1, seed=seed, value=0.1) for seed in range(6)], None)
    kept.keep(base, [run_of(r=2, seed=seed, value=0.1 + seed / 100) for seed in range(5)], None)
    kept.keep(base, [run_of(r=4, seed=7)], None)
    kept.refer_to(2)
    kept.drop(1)
    assert kept.reference == 1
    assert kept.verdict(kept.rows[1]) == "0 seeds in common; a verdict takes 5"
    kept.keep(base, [run_of(r=1, seed=seed, value=0.5 + seed / 50) for seed in range(6)], None)
    a = [run_of(seed=seed, value=0.1 + seed / 100) for seed in range(5)]
    b = [run_of(seed=seed, value=0.5 + seed / 50) for seed in range(5)]
    assert kept.verdict(kept.rows[2]) == dataclasses.replace(lab.compare(a, b), b="it").verdict
    assert kept.verdict(kept.rows[2]).startswith("it is better by 42.0 points")
    kept.drop(1)
    assert kept.verdict(kept.rows[0]) == "the others are compared with it"
    with pytest.raises(ValueError, match="there is no run 3; give 1 to 2"):
        kept.refer_to(3)
    with pytest.raises(ValueError, match="there is no run 1; nothing is kept yet"):
        KeptRuns().drop(1)


def test_runs_of_another_task_are_kept_and_not_compared(studio):
    studio.train()
    studio.keep()
    other = dataclasses.replace(TASK, name="<b>other", test=TASK.test[1:])
    studio.live.add_task(other)
    studio.train()
    studio.keep()
    assert studio.table()["verdict"][2] == "another test: not compared"
    assert studio.table()["run"][2] == "<b>other"
    assert "<b>other" not in studio.kept_page.value
    assert "&lt;b&gt;other" in studio.kept_page.value
    studio.kept_choice.value = 2
    studio.refer_button.click()
    assert studio.table()["verdict"][1] == "another test: not compared"
    assert "all are compared with run 2" in studio.kept_said.value
    studio.drop_button.click()
    assert len(studio.table()) == 1


# --- another base, one's own file -----------------------------------------------------------


def test_ones_own_file_is_a_task_with_its_columns_in_the_code(studio, tmp_path):
    file = tmp_path / "capitals.csv"
    lines = [f"{letter}{letter},{letter.upper()}" for letter in "abcdefghijklmnopqrst"]
    file.write_text("\n".join(["country,answer", *lines]))
    studio.file.value = str(file)
    studio.file_button.click()
    studio.wait(LIMIT)
    assert "capitals.csv has no column" in studio.state.value
    assert studio.live.task.name == "letters"
    studio.use_file(file, prompt="country")
    assert studio.live.task.name == studio.live.task_choice.value == "capitals.csv"
    assert studio.live.task == lab.load_task(file, studio.live.base, prompt="country")
    assert f'lab.load_task("{file}", base, prompt="country")' in studio.live.code
    assert studio.train(steps=2).task.name == "capitals.csv"
    file.write_text(file.read_text() + "\nuu,U")
    studio.use_file(file, prompt="country")  # read anew
    assert "21 rows read" in studio.live.about.value
    with pytest.raises(FileNotFoundError, match="nowhere.csv"):
        studio.use_file("nowhere.csv")
    studio.file.value = " "
    studio.file_button.click()
    studio.wait(LIMIT)
    assert "there is no path in the box" in studio.state.value


def test_another_base_brings_its_lab_and_what_is_kept_stays(studio, base, tmp_path):
    studio.train()
    studio.keep()
    before = studio.live
    with pytest.raises(ValueError, match="no base is called 'pockt'; did you mean 'pocket'"):
        studio.use_base("pockt")
    assert studio.live is before
    assert not before.train_button.disabled
    studio.base_choice.value = "pocket"
    studio.base_button.click()
    studio.wait(LIMIT)
    assert studio.live.base.name == "pocket"
    assert studio.state.value.startswith("pocket: 1.1 M parameters on ")
    assert [*studio.live.task_choice.options][:2] == ["sentiment", "style"]
    assert studio.costs.budget.total_parameters > 1_000_000
    assert studio.keep_button.disabled
    assert studio.table()["run"].tolist() == ["tiny · letters"]
    assert studio.live.face.choosing[0] in studio.children
    assert before.face.choosing[0] not in studio.children


def test_while_it_trains_base_and_file_stay_and_nothing_is_saved(studio, monkeypatch, tmp_path):
    release, begun = threading.Event(), threading.Event()

    class Held(Training):
        def __iter__(self):
            for record in super().__iter__():
                begun.set()
                release.wait(LIMIT)
                yield record

    monkeypatch.setattr(following, "train", Held)
    studio.live.start()
    assert begun.wait(LIMIT)
    try:
        assert studio.base_button.disabled
        with pytest.raises(RuntimeError, match="a training is under way, so the base stays"):
            studio.use_base("pocket")
        with pytest.raises(RuntimeError, match="a training is under way, so the task stays"):
            studio.use_file("mine.csv")
        for do in (studio.keep, lambda: studio.save(tmp_path / "a"), lambda: studio.export("b")):
            with pytest.raises(RuntimeError):
                do()
    finally:
        release.set()
    studio.wait(LIMIT)
    assert not studio.base_button.disabled


def test_a_task_that_cannot_be_loaded_is_told_and_the_last_one_stays(monkeypatch):
    def not_prepared(name, base):
        raise NotPrepared(f"{name} is not here yet; run lora-lab prepare")

    studio = lab.studio("pocket", "json")
    monkeypatch.setattr(live_lab, "load_task", not_prepared)
    studio.live.task_choice.value = "style"
    assert studio.live.task.name == studio.live.task_choice.value == "json"
    assert "NotPrepared: style is not here yet; run lora-lab prepare" in studio.live.state.value
    studio.wait(LIMIT)
    studio.close()


def test_a_task_is_taken_by_its_name_and_an_unknown_one_is_refused():
    with pytest.raises(ValueError, match="no task is called 'sentimnt'; did you mean 'sentiment'"):
        lab.studio("pocket", "sentimnt")
    studio = lab.studio("pocket", "json", steps=7)
    assert repr(studio) == "Studio: pocket · json"
    assert studio.live.recipe.steps == 7
    assert sorted(studio.live.task_choice.options) == sorted(LiveLab(studio.live.base)._tasks)
    assert studio._repr_mimebundle_()["text/plain"] == "Studio: pocket · json"
    studio.wait(LIMIT)
    studio.close()


# --- saving and exporting -------------------------------------------------------------------


def test_the_saved_adapter_is_read_by_peft_and_a_taken_folder_is_refused(studio, base, tmp_path):
    with pytest.raises(RuntimeError, match="there is no adapter to save; press Train"):
        studio.save(tmp_path / "adapter")
    studio.train(learning_rate=0.05)
    folder = tmp_path / "adapter"
    assert studio.save(folder) == f"the adapter of step 3 is in {folder}"
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        ours = studio.live.training.model(ids).logits
        theirs = PeftModel.from_pretrained(tiny_base(hidden=64).model, folder)(ids).logits
        plain = base.model(ids).logits
    torch.testing.assert_close(theirs, ours)
    assert (ours - plain).abs().max() > 1e-3
    studio.folder.value = str(folder)
    studio.save_button.click()
    assert "is not an empty folder; give a new one" in studio.written.value
    studio.folder.value = ""
    studio.save_button.click()
    assert "there is no path in the box" in studio.written.value
    studio.train(method="full", learning_rate=1e-3)
    with pytest.raises(ValueError, match="method='full' changed every weight"):
        studio.save(tmp_path / "full")


def test_the_chart_and_the_kept_runs_are_exported_and_nothing_is_overwritten(studio, tmp_path):
    with pytest.raises(RuntimeError, match="there is nothing to export"):
        studio.export(tmp_path)
    studio.train()
    assert studio.export(tmp_path / "chart") == f"loss.png is in {tmp_path / 'chart'}"
    studio.more_seeds()
    studio.keep()
    folder = tmp_path / "all"
    studio.folder.value = str(folder)
    studio.export_button.click()
    assert f"loss.png, kept-runs.csv, runs.csv are in {folder}" in studio.written.value
    assert (folder / "loss.png").read_bytes() == studio.live.picture.png
    kept = pd.read_csv(folder / "kept-runs.csv", index_col="number")
    assert kept["loss"].tolist() == pytest.approx(studio.table()["loss"].tolist())
    runs = pd.read_csv(folder / "runs.csv")
    assert runs["seed"].tolist() == [0, 1, 2, 3, 4]
    assert runs["loss"].tolist() == pytest.approx([run.scores.loss for run in studio.live.runs])
    assert {field.name for field in dataclasses.fields(Recipe)} < {*runs.columns}
    (folder / "kept-runs.csv").unlink()
    studio.export_button.click()
    assert "has loss.png, runs.csv already; give a new folder" in studio.written.value
    assert not (folder / "kept-runs.csv").exists()
