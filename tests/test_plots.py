import base64
import io
import math
import pkgutil
import threading

import pytest
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imread

from lora_lab import plots
from lora_lab.cost.gpus import Card
from lora_lab.lessons.predictions import Prediction, Question
from lora_lab.plots import (
    LossFilm,
    axis_end,
    draw_changes,
    draw_energy_kept,
    draw_loss,
    draw_memory,
    draw_meters,
    draw_next_token,
    draw_path,
    draw_prediction,
    draw_reading,
    draw_terms,
    draw_thin,
    loss_finding,
    picture,
    png,
)
from lora_lab.records import Memory, Scores, StepRecord


def records(*losses, validation=None):
    """One record per loss; `validation`: {step: loss}."""
    validation = validation or {}
    return [
        StepRecord(step, loss, 1e-3, 1.0, 50, validation.get(step))
        for step, loss in enumerate(losses, start=1)
    ]


def scores(value, old=None, strangers=None, metric="exact match"):
    return Scores(metric, value, {metric: value}, old, strangers, 0.1, (), "test")


def axes():
    return Figure().subplots()


def drawn(ax, label):
    (line,) = [line for line in ax.lines if line.get_label() == label]
    return line.get_xydata().tolist()


def saved(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def pixels(data):
    return imread(io.BytesIO(data), format="png")


def test_every_public_name_is_handed_on_and_none_is_hidden_by_a_module():
    modules = {module.name for module in pkgutil.iter_modules(plots.__path__)}
    assert not modules & {*plots.__all__}  # importing a module would hide the name
    assert all(hasattr(plots, name) for name in plots.__all__)
    assert {*plots.__all__} <= {*dir(plots)}
    with pytest.raises(AttributeError, match="lora_lab.plots has no 'draw_los'; it has BASE, "):
        _ = plots.draw_los


def test_the_losses_are_drawn_at_their_steps_and_the_validation_where_it_was_measured():
    ax = draw_loss(axes(), records(3.0, 2.0, 1.0, validation={2: 2.5}), steps=60)
    assert drawn(ax, "training") == [[1, 3.0], [2, 2.0], [3, 1.0]]
    assert drawn(ax, "validation") == [[2, 2.5]]
    assert ax.get_xlim() == (0, 60)
    assert ax.get_ylim() == (0, 3)


def test_the_run_at_hand_is_blue_its_validation_dashed_and_earlier_runs_fade_with_age():
    oldest, newest = records(5.0, 4.0), records(4.0, 3.0)
    ax = draw_loss(axes(), records(3.0, 2.0), (oldest, newest))
    earlier = [line for line in ax.lines if to_rgb(line.get_color()) == to_rgb(plots.EARLIER)]
    training, validation = [line for line in ax.lines if line not in earlier]
    assert {training.get_color(), validation.get_color()} == {"#0072B2"}
    assert (training.get_linestyle(), validation.get_linestyle()) == ("-", "--")
    alphas = {tuple(line.get_ydata()): line.get_alpha() for line in earlier}
    assert alphas[5.0, 4.0] < alphas[4.0, 3.0] < 1


def test_an_earlier_run_bears_its_name_above_its_last_half_and_names_are_pushed_apart():
    earlier = records(5.0, 4.0), records(5.0, 1.0, 0.1), records(5.0, 4.5, 0.3, 0.2)
    ax = draw_loss(axes(), records(3.0, 2.0), earlier, named=("r 1", "", "r 64"))
    assert {text.get_text(): text.xy for text in ax.texts} == {"r 1": (2, 4.0), "r 64": (4, 0.3)}
    low = draw_loss(axes(), records(3.0), (records(9.0, 0.1), records(10.0, 0.2)), named="ab")
    assert [text.xy for text in low.texts] == [(2, 0.1), (2, pytest.approx(0.1 + 0.08 * 10))]
    assert ax.get_label().endswith(
        "In grey: 3 earlier runs: r 1 ended at 4.00, r 64 ended at 0.20."
    )


def test_the_axes_grow_in_steps_and_not_with_each_point():
    assert [axis_end(v) for v in (0.9, 1.0, 1.2, 2.9, 3.01, 0.031, 64)] == [
        1.0, 1.0, 1.5, 3.0, 4.0, 0.04, 80.0,
    ]  # fmt: skip
    assert [axis_end(v) for v in (0, math.nan, math.inf)] == [1, 1, 1]


def test_the_alternative_text_states_the_finding_with_its_numbers():
    chart = picture(draw_loss, records(3.25, 0.5, validation={2: 0.75}), (records(4.0, 2.0),))
    assert chart.alt == (
        "The training loss goes from 3.25 to 0.50 nats per token in 2 steps; the validation loss "
        "ends at 0.75. In grey: 1 earlier run."
    )
    assert picture(draw_loss, []).alt == "An empty chart: no step has been trained yet."


SEEDS = (  # runs of one recipe, the last one stopped early
    records(3.0, 2.0, 1.0, validation={3: 1.5}),
    records(2.5, 2.25, 0.5, validation={3: 1.75}),
    records(3.5, 1.75, validation={2: 1.25}),
)


def test_the_noise_band_goes_from_the_least_to_the_greatest_loss_of_the_seeds_at_each_step():
    ax = draw_loss(axes(), SEEDS[0], band=SEEDS)
    (band,) = ax.collections
    edges = {}
    for step, loss in band.get_paths()[0].vertices:
        edges.setdefault(step, set()).add(loss)
    assert edges == {1: {2.5, 3.5}, 2: {1.75, 2.25}, 3: {0.5, 1.0}}
    curves = [list(line.get_ydata()) for line in ax.lines if line.get_alpha() == 0.35]
    assert curves == [[3.0, 2.0, 1.0], [2.5, 2.25, 0.5], [3.5, 1.75]]
    whiskers = [line.get_xydata().tolist() for line in ax.lines if line.get_linewidth() == 3]
    assert whiskers == [[[2, 1.25], [2, 1.25]], [[3, 1.5], [3, 1.75]]]
    assert drawn(ax, "training") == [[1, 3.0], [2, 2.0], [3, 1.0]]
    assert ax.get_ylim() == (0, 4)  # the band has room, too
    assert ax.get_title(loc="right") == "3 seeds"
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["training", "validation", "3 seeds, least to greatest"]


def test_the_alternative_text_of_a_noise_band_says_where_the_seeds_end():
    label = draw_loss(axes(), SEEDS[0], band=SEEDS).get_label()
    assert ". 3 seeds end between 0.50 and 1.75, in validation between 1.25 and 1.75." in label
    assert "validation between" not in draw_loss(axes(), [], band=[records(2.0)]).get_label()


@pytest.mark.parametrize(
    ("losses", "validation", "finding"),
    [
        ((3.0, 2.0, 1.0), {}, "the loss falls"),
        ((3.0, 1.0, 0.1), {1: 2.0, 3: 2.1}, "the loss falls"),
        ((3.0, 1.0, 0.1), {1: 2.0, 3: 2.6}, "the loss falls, and rises again in validation"),
        ((3.0, 2.9, 3.0), {}, "the loss hardly moves"),
        ((3.0, 3.0, 5.0), {}, "the loss rises"),
        ((3.0, 3.0, math.nan), {}, "the loss breaks"),
    ],
)
def test_the_finding_of_a_finished_run_is_its_title(losses, validation, finding):
    run = records(*losses, validation=validation)
    assert loss_finding(run) == finding
    assert draw_loss(axes(), run, title=finding).get_title(loc="left") == finding


def test_a_picture_in_a_notebook_has_its_title_as_text_and_its_finding_as_alternative_text():
    chart = picture(draw_loss, records(3.0, 2.0), size=(400, 200))
    data, metadata = chart._repr_mimebundle_()
    assert data["text/plain"] == "[picture: Does the loss fall?]"  # the same on every machine
    assert base64.b64decode(data["image/png"]) == chart.png
    assert metadata["image/png"] == {"alt": chart.alt, "width": 400, "height": 200}


def test_a_finished_picture_is_crisp_and_small(tmp_path):
    many = [records(*(3 * math.exp(-step / age) for step in range(60))) for age in (9, 12, 15, 20)]
    file = tmp_path / "loss.png"
    file.write_bytes(png(draw_loss, many[0], many[1:]))
    height, width, _ = imread(file).shape
    assert (width, height) == (800, 432)  # 1.6 times what it takes on the screen
    assert file.stat().st_size < 60_000


def test_the_meters_show_new_old_and_strangers_with_the_bases_value_as_a_tick():
    ax = draw_meters(axes(), scores(0.0, 1.0, 0.98), scores(0.97, 0.76, 0.52))
    assert [round(bar.get_width(), 3) for bar in ax.patches] == [100, 97, 100, 76, 100, 52]
    assert [list(line.get_xdata()) for line in ax.lines] == [[0, 0], [100, 100], [98, 98]]
    assert [text.get_text() for text in ax.texts] == [
        "97 %  (base 0 %)",
        "76 %  (base 100 %)",
        "52 %  (base 98 %)",
    ]
    assert "old facts kept 100 % to 76 %" in ax.get_label()
    assert ax.get_title(loc="right") == "1 seed"


def test_the_meters_of_several_seeds_have_whiskers_from_the_least_to_the_greatest():
    seeds = [scores(0.97, 0.76, 0.5), scores(0.9, 0.8, 0.5), scores(1.0, 0.7, 0.5)]
    ax = draw_meters(axes(), scores(0.0, 1.0, 0.98), seeds[0], seeds)
    whiskers = [list(line.get_xdata()) for line in ax.lines if line.get_marker() == "|"]
    assert whiskers == [pytest.approx(ends) for ends in ([90, 100], [70, 80], [50, 50])]
    assert [text.get_text() for text in ax.texts] == [
        "97 %  (90–100, base 0 %)",
        "76 %  (70–80, base 100 %)",
        "50 %  (50, base 98 %)",
    ]
    assert [bar.get_width() for bar in ax.patches[1::2]] == [97, 76, 50]
    assert ax.get_title(loc="right") == "3 seeds"
    assert "old facts kept 100 % to 76 % (70–80 %)" in ax.get_label()
    assert ax.get_label().endswith("(50 %), least to greatest of 3 seeds.")


def test_the_meters_leave_out_what_a_task_does_not_have():
    assert [row[0] for row in plots.meter_rows(scores(0.0), scores(1.0))] == ["new: exact match"]
    distances = scores(3.0, metric="KL"), scores(1.0, metric="KL")
    assert plots.meter_rows(*distances) == []  # no share


def predicted(question, guess, measured, confidence):
    return Prediction(question, guess, tuple(measured), confidence)


RANKS = Question("r", "Which rank is the first to learn all?", (1, 2, 4, 8, 16))


def test_a_choice_is_drawn_as_what_each_option_was_given_and_the_share_of_seeds_it_got():
    ax = draw_prediction(axes(), predicted(RANKS, 8, [4, 4, 8], 0.7))
    assert [bar.get_height() for bar in ax.patches] == pytest.approx([7.5, 7.5, 7.5, 70, 7.5])
    colours = [to_rgb(bar.get_facecolor()[:3]) for bar in ax.patches]
    assert [colour == to_rgb(plots.EARLIER) for colour in colours] == [False] * 3 + [True, False]
    dots = [line.get_xydata().tolist()[0] for line in ax.lines if line.get_marker() == "o"]
    assert dots == [pytest.approx([2, 200 / 3]), pytest.approx([3, 100 / 3])]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1", "2", "4", "8", "16"]
    (legend,) = ax.figure.legends
    assert legend.get_texts()[-1].get_text() == "measured, 3 seeds"


@pytest.mark.parametrize(
    ("within", "band", "scale"), [(10, (50, 70), "linear"), (None, (30, 120), "log")]
)
def test_a_number_is_drawn_with_what_counts_as_near_and_every_seed(within, band, scale):
    question = Question("o", "How many old facts are left?", unit="%", within=within)
    ax = draw_prediction(axes(), predicted(question, 60, [71, 66, 75.5], 0.5))
    (near,) = ax.patches
    assert (near.get_x(), near.get_x() + near.get_width()) == band
    guess, spread, seeds = ax.lines
    assert list(guess.get_xdata()) == [60, 60]
    assert list(spread.get_xdata()) == [66, 75.5]
    assert list(seeds.get_xdata()) == [71, 66, 75.5]
    assert (ax.get_xscale(), ax.get_xlabel()) == (scale, "%")
    assert ax.get_xlim()[0] < min(band[0], 66) < max(band[1], 75.5) < ax.get_xlim()[1]


def test_a_predictions_picture_asks_the_question_and_says_how_it_went():
    chart = picture(draw_prediction, predicted(RANKS, 8, [4, 4, 8], 0.7), size=(500, 250))
    assert chart.title == "Which rank is the first to learn all?"
    assert chart.alt == (
        "Which rank is the first to learn all? You said 8, 70 % sure; it was 4 (3 seeds: 4, 4, 8) "
        "· score 0.95."
    )
    assert len(chart.png) < 60_000


def test_a_long_question_stays_inside_its_picture():
    question = Question(
        "q", "Which of them loses most of a change a hundredth as strong?", ("a", "b")
    )
    ax = draw_prediction(
        plots.axes_for(draw_prediction, (500, 250)), predicted(question, "a", "b", 0.7)
    )
    ax.figure.draw_without_rendering()
    assert ax._left_title.get_window_extent().x1 < 500


@pytest.mark.parametrize(("text", "option"), [(r"Is it $\no$?", "5"), ("Which?", r"$\no$")])
def test_what_stands_between_dollar_signs_is_no_formula(text, option):
    question = Question("d", text, (option, "6"))
    assert picture(draw_prediction, predicted(question, option, ["6"], 0.7)).png  # nothing raised


@pytest.mark.parametrize("band", [(), SEEDS])
def test_a_film_shows_what_draw_loss_draws(band):
    run, earlier = records(2.9, 2.0, 1.5, validation={2: 2.5}), (records(2.0, 1.0),)
    film = LossFilm(earlier, steps=60, band=band, named=("r 4",))
    for before in (records(1.9, 0.2), records(2.9, 0.2, 0.1)):  # of which nothing must be left:
        film.frame(before)  # the first is painted over when the axis grows
    whole = draw_loss(plots.axes_for(draw_loss, plots.SIZE), run, earlier, 60, band, ("r 4",))
    assert pixels(film.frame(run)) == pytest.approx(pixels(saved(whole.figure)), abs=1 / 255)


def test_the_axes_of_a_film_stand_where_those_of_the_finished_picture_stand(monkeypatch):
    drawn, save = [], Figure.savefig

    def keep(figure, *arguments, **options):
        drawn.append(figure.axes[0].get_position())
        save(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    film = LossFilm(steps=60)
    for run in ([], records(0.05), records(2900.0, 0.2)):
        film.frame(run)
        png(draw_loss, run, (), 60)
        assert film._ax.get_position().bounds == drawn[-1].bounds == drawn[0].bounds


def test_a_run_of_one_step_is_a_dot():
    (line,) = [
        line for line in draw_loss(axes(), records(3.0)).lines if line.get_label() == "training"
    ]
    assert line.get_marker() == "o"
    (line,) = [
        line
        for line in draw_loss(axes(), records(3.0, 2.0)).lines
        if line.get_label() == "training"
    ]
    assert line.get_marker() == "None"


def test_the_number_of_seeds_stands_beside_the_title_off_the_curves():
    ax = draw_loss(axes(), records(3.0, 2.0))
    assert (ax.get_title(loc="right"), len(ax.texts)) == ("1 seed", 0)


def test_a_film_paints_what_stands_still_once_and_again_when_an_axis_grows(monkeypatch):
    painted, paint = [], LossFilm._paint
    monkeypatch.setattr(
        LossFilm, "_paint", lambda film, ends: (painted.append(ends), paint(film, ends))
    )
    film = LossFilm(steps=60)
    for run in (records(2.5), records(2.5, 2.9), records(2.5, 2.9, 0.1), records(2.5, 2.9, 4.0)):
        film.frame(run)
        assert (film._ax.get_xlim()[1], film._ax.get_ylim()[1]) == painted[-1]
    assert painted == [(60, 3.0), (60, 4.0)]


GIB = 2**30
# weights, adapters, gradients, optimizer, activations, logits, and the peak
FULL = Memory(8 * GIB, 0, 4 * GIB, 8 * GIB, 3 * GIB, 1 * GIB, 21 * GIB)
LORA = Memory(2 * GIB, GIB // 2, GIB // 4, GIB // 4, 3 * GIB, 1 * GIB, 7 * GIB)
CARD = Card("Card 9", 12, "its maker")  # 11 GiB of it are usable


def stack(ax, place):
    """Each piece of a bar: its colour, where it begins and ends, how strong it is."""
    bars = [bar for bar in ax.patches if bar.get_y() < place < bar.get_y() + bar.get_height()]
    return [
        (to_hex(bar.get_facecolor()).upper(), bar.get_x(), bar.get_x() + bar.get_width())
        + (bar.get_alpha(),)
        for bar in bars
    ]


def test_memory_is_stacked_in_one_order_and_pale_beyond_the_peak():
    ax = draw_memory(axes(), {"full": FULL, "LoRA": LORA})
    assert stack(ax, 0) == [
        (plots.PARTS["weights"], 0, 8, 1),
        (plots.PARTS["gradients"], 8, 12, 1),
        (plots.PARTS["optimizer"], 12, 20, 1),
        (plots.PARTS["activations"], 20, 21, 1),
        (plots.PARTS["activations"], 21, 23, 0.3),
        (plots.PARTS["logits"], 23, 24, 0.3),
    ]
    assert [colour for colour, *_ in stack(ax, 1)] == list(plots.PARTS.values())
    assert stack(ax, 1)[-1][2] == 7  # the parts' sum
    assert [text.get_text() for text in ax.get_yticklabels()] == ["full", "LoRA"]
    assert [text.get_text() for text in ax.texts] == ["21 GiB", "7 GiB"]


def test_the_estimates_error_is_a_whisker_the_card_a_line_and_a_measured_value_a_tick():
    ax = draw_memory(axes(), {"full": FULL, "LoRA": LORA}, CARD, {"LoRA": 6 * GIB}, error=0.2)
    spans = [
        container.lines[2][0].get_segments()[0]
        for container in ax.containers
        if hasattr(container, "has_xerr")
    ]
    assert [pytest.approx([21 * 0.8, 21 * 1.2]), pytest.approx([5.6, 8.4])] == [
        [end[0] for end in span] for span in spans
    ]
    (line,) = [line for line in ax.lines if line.get_linestyle() == "--"]
    assert list(line.get_xdata()) == [11, 11]
    (tick,) = [line for line in ax.lines if line.get_linewidth() == 2.2]
    assert list(tick.get_xdata()) == [6, 6]
    assert ax.get_label() == (
        "A step's memory at its peak, give or take 20%: full 21 GiB (most of it weights), "
        "LoRA 7 GiB (most of it activations; measured 6). On Card 9: LoRA fits."
    )


def test_thousands_are_written_out_and_the_cards_name_stands_where_there_is_room():
    large = Memory(*(GIB * size for size in (900, 0, 256, 259, 0, 0, 1415)))
    ax = draw_memory(axes(), {"full": large, "LoRA": LORA}, CARD)
    assert "1,420 GiB" in [text.get_text() for text in ax.texts]
    assert "full 1,420 GiB" in ax.get_label()
    for named, side in (({"full": large}, "left"), ({"LoRA": LORA}, "right")):
        (card,) = [
            text for text in draw_memory(axes(), named, CARD).texts if "Card" in text.get_text()
        ]
        assert card.get_ha() == side


def test_small_memory_is_drawn_in_mebibytes():
    small = Memory(*(2**20 * size for size in (5, 1, 1, 1, 3, 1, 11)))
    ax = draw_memory(axes(), {"LoRA": small})
    assert ax.get_xlabel() == "memory, MiB"
    assert ax.texts[0].get_text() == "11 MiB"


def test_the_energy_is_drawn_by_rank_as_mean_and_spread_and_marked_at_the_ranks_asked():
    ax = draw_energy_kept(axes(), [[0.25, 0.5, 1.0], [0.75, 1.0, 1.0]], [0.5, 0.625, 1.0], (1, 2))
    assert drawn(ax, "their mean") == [[1, 50], [2, 75], [3, 100]]
    assert drawn(ax, "random numbers") == [[1, 50], [2, 62.5], [3, 100]]
    (band,) = ax.collections
    edges = band.get_paths()[0].vertices.tolist()
    assert band.get_label() == "2 matrices, least to most"
    assert all(edge in edges for edge in ([1, 25], [1, 75], [2, 50], [2, 100]))
    assert [line.get_xydata().tolist() for line in ax.lines[2:]] == [[[1, 50]], [[2, 75]]]
    assert [text.get_text() for text in ax.texts] == ["50", "75"]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["1", "2"]
    assert ax.get_label() == (
        "Share of the energy that is kept of full fine-tuning's change, as a mean of 2 matrices: "
        "rank 1 50 %, rank 2 75 %; rank 2 of random numbers 62 %."
    )


def test_what_is_cut_and_what_is_trained_are_drawn_with_mean_and_spread_under_the_uncut_line():
    cut, trained = {4: (0.5, 0.75), 1: (0.0, 0.25)}, {1: (0.5, 1.0), 4: (1.0, 1.0)}
    ax = draw_thin(axes(), cut, trained, (0.75, 1.0))
    assert drawn(ax, "cut to rank k") == [[1, 12.5], [4, 62.5]]
    assert drawn(ax, "trained at rank k") == [[1, 75], [4, 100]]
    assert {y for _, y in drawn(ax, "full fine-tuning, uncut")} == {87.5}
    bands = [band.get_paths()[0].vertices.tolist() for band in ax.collections]
    assert [4, 50] in bands[0]
    assert [4, 75] in bands[0]
    assert [1, 50] in bands[1]
    assert [1, 100] in bands[1]
    assert ax.get_legend().get_title().get_text() == "2 seeds; band: least to most"
    assert ax.get_label() == (
        "New facts right, as a mean of 2 seeds: cut to rank k 12 % at 1, 62 % at 4; trained "
        "at rank k 75 % at 1, 100 % at 4; full fine-tuning 88 %."
    )


def test_a_row_of_tokens_shows_each_guess_label_and_loss_and_tells_the_mean():
    guesses = [[("4", 0.2), (" welder", 0.1), ("<|end|>", 0.9)]]
    ax = draw_path(
        axes(), ["a", "?", " dairyman", "<|end|>"], guesses, [None, " dairyman", "<|end|>"],
        [None, 0.5, 0.25],
    )  # fmt: skip
    words = [text.get_text() for text in ax.texts]
    assert words == ["a", "4", "−100", "", "?", "welder", "dairyman", "0.50"] + [
        "dairyman", "<|end|>", "<|end|>", "0.25",
    ]  # fmt: skip
    assert ax.get_label() == (
        "2 of 3 places have a label. ? must predict dairyman: 0.50; dairyman must predict "
        "<|end|>: 0.25; a mean of 0.38 nats."
    )


def test_a_reading_has_a_share_for_each_sentence_and_layer_and_tells_the_mean():
    ax = draw_reading(axes(), ["A cat.", "Which?"], [[0.25, 0.75], [0.5, 0.5]], "cat")
    assert [text.get_text() for text in ax.texts] == ["25 %", "75 %", "50 %", "50 %"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["A cat.", "Which?"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["layer 1", "layer 2"]
    assert ax.get_label() == (
        "Attention of the place that begins the answer, a mean of 2 layers: A cat. 38 %; "
        "Which? 62 %. The answer: cat."
    )


def test_the_next_tokens_are_bars_in_percent_the_likeliest_on_top():
    ax = draw_next_token(axes(), {" baker": 0.62, " cook": 0.0949, "<|end|>": 0.0014})
    assert [round(bar.get_width(), 2) for bar in ax.patches] == [62, 9.49, 0.14]
    assert [text.get_text() for text in ax.get_yticklabels()] == [
        "“ baker”",
        "“ cook”",
        "“<|end|>”",
    ]
    assert [text.get_text() for text in ax.texts] == ["62 %", "9.5 %", "0.1 %"]
    bottom, top = ax.get_ylim()
    assert bottom > top  # the first is above the second
    assert ax.get_label() == (
        "The likeliest next tokens: “ baker” 62 %, “ cook” 9.5 %, “<|end|>” 0.1 %."
    )


def changes(**kinds):
    """By kind: how far its matrix has moved in layer 0, in layer 2."""
    return {
        f"model.layers.{layer}.mlp.{kind}": share
        for kind, shares in kinds.items()
        for layer, share in zip((0, 2), shares, strict=True)
    }


def test_changed_matrices_stand_by_kind_and_layer_and_are_darker_the_further_they_moved():
    ax = draw_changes(axes(), changes(up=(0.0, 0.0), down=(0.04, 0.2)))
    cells = {
        (round(bar.get_x() + bar.get_width() / 2), round(bar.get_y() + bar.get_height() / 2)): bar
        for bar in ax.patches
    }
    assert [text.get_text() for text in ax.get_yticklabels()] == ["up", "down"]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["0", "2"]
    assert {text.get_position(): text.get_text() for text in ax.texts} == {
        (0, 0): "–", (1, 0): "–", (0, 1): "4.0 %", (1, 1): "20 %",
    }  # fmt: skip
    colours = {place: to_hex(bar.get_facecolor()).upper() for place, bar in cells.items()}
    assert colours == {
        (0, 0): plots.PALE, (1, 0): plots.PALE, (0, 1): plots.RUN, (1, 1): plots.RUN,
    }  # fmt: skip
    assert cells[1, 1].get_alpha() == 1
    assert cells[0, 1].get_alpha() == pytest.approx(0.15 + 0.85 * 0.2)
    assert ax.get_label() == (
        "2 of 4 matrices have changed (down), by 4.0 % to 20 % of their size."
    )


def test_where_nothing_has_changed_the_picture_says_so():
    ax = draw_changes(axes(), changes(up=(0.0, 0.0)))
    assert ax.get_label() == "0 of 2 matrices have changed."


def test_a_rebuilt_matrix_stands_beside_the_next_with_what_each_takes_and_keeps():
    whole = [[0.0, 1.0, 0.5], [1.0, 0.0, 0.25]]  # 2 high, 3 wide
    ax = draw_terms(axes(), {1: [[0.5] * 3] * 2, 2: whole}, [0.8, 1.0])
    first, second = ax.images
    assert second.get_array().tolist() == whole
    assert first.get_clim() == second.get_clim() == (0, 1)  # black and white mean the same
    assert first.get_extent() == [0, 3, 2, 0]
    assert second.get_extent()[0] > 3
    assert second.get_extent()[2:] == [2, 0]  # the first row is on top
    assert ax.texts[0].get_text() == "k = 1\n83 % of the numbers\n80 % of the energy"
    assert ax.get_label() == (
        "A picture rebuilt from its strongest terms. k = 1: 5 numbers (83 % of the matrix), 80 % "
        "of the energy; k = 2: 10 numbers (167 % of the matrix), 100 % of the energy."
    )


def test_two_threads_draw_one_after_the_other():
    second_is_drawing = threading.Event()

    def second_draw(ax):
        second_is_drawing.set()
        return ax

    second = threading.Thread(target=png, args=[second_draw])

    def first_draw(ax):
        second.start()
        assert not second_is_drawing.wait(timeout=0.2)
        return ax

    png(first_draw)
    second.join(timeout=60)
    assert second_is_drawing.is_set()


# --- rank by rank ---------------------------------------------------------------------------


def test_the_cliff_shows_each_ranks_mean_on_a_logarithmic_axis_and_the_base():
    left = {1: [0.5, 0.7], 2: [0.2, 0.4], 3: [0.001, 0.003]}
    ax = plots.draw_cliff(axes(), left, 0.8)
    assert drawn(ax, "student") == [[1, pytest.approx(0.6)], [2, pytest.approx(0.3)], [3, 0.002]]
    assert ax.get_yscale() == "log"
    assert any([*line.get_ydata()] == [0.8, 0.8] for line in ax.lines)
    assert "base 0.8 nats" in ax.get_label()
    assert "0.6 at rank 1, 0.3 at rank 2, 0.002 at rank 3. The means of 2 seeds" in ax.get_label()


def test_the_losses_of_each_rank_are_drawn_with_their_seeds_as_far_as_they_are():
    losses = {1: [[4.0, 2.0], [4.0, 3.0]], 8: [[4.0], []], 16: [[], []]}
    ax = plots.draw_together(axes(), losses, "Do they coincide?", 15)
    assert drawn(ax, "r 1") == [[1, 4.0], [2, 2.5]]
    assert drawn(ax, "r 8") == [[1, 4.0]]
    assert drawn(ax, "r 16") == []
    assert len(ax.lines) == 3 + 2  # a line a rank, and rank 1's two seeds
    assert (ax.get_xlim(), ax.get_ylim()) == ((0, 15), (0, 4))
    assert ax.get_title(loc="right") == "2 seeds"
    assert ax.get_label() == (
        "Do they coincide? Losses by step and rank: the mean loss at the last step drawn, "
        "rank 1 2.5, rank 8 4."
    )


def test_a_logarithmic_axis_of_losses_ends_at_a_power_of_ten():
    ax = plots.draw_together(axes(), {1: [[0.2, 0.03]]}, "?", 2, True)
    assert ax.get_yscale() == "log"
    assert ax.get_ylim() == pytest.approx((0.01, 0.2))
    empty = plots.draw_together(axes(), {1: [[]]}, "?", 2, True)
    assert empty.get_label().endswith("no step yet.")


def test_stable_ranks_stand_at_their_layer_and_kind():
    ranks = {"model.layers.0.mlp.up_proj": 1.25, "model.layers.1.mlp.up_proj": 4.0}
    ax = plots.draw_stable_ranks(axes(), ranks, 8)
    assert [(text.get_text(), text.get_position()) for text in ax.texts] == [
        ("1.2", (0, 0)),
        ("4.0", (1, 0)),
    ]
    assert ax.get_title(loc="left") == "How much of r = 8 is in use? Stable rank"
    assert ax.get_title(loc="right") == "1 seed"
    assert "from 1.2 (model.layers.0.mlp.up_proj) to 4.0" in ax.get_label()
