from matplotlib.figure import Figure

from lora_lab.plots import draw_decay


def test_each_methods_old_facts_stand_over_its_own_decays_in_order():
    ax = Figure().subplots()
    draw_decay(ax, {"LoRA": {0: [0.2, 0.4], 10: [0.9, 1.0], 0.1: [0.5, 0.5]}, "full": {10: [0.3]}})
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["0", "0.1", "10"]
    lines = {line.get_label(): line for line in ax.lines if not line.get_label().startswith("_")}
    assert lines["LoRA"].get_xydata().round(6).tolist() == [[0, 30], [1, 50], [2, 95]]
    assert lines["full"].get_xydata().tolist() == [[2, 30]]
    seeds = [line.get_ydata() for line in ax.lines if line.get_label().startswith("_")]
    assert [sorted(shares) for shares in seeds][0] == [20, 40]
    assert ax.get_title(loc="right") == "2 seeds"
    assert "LoRA 30 % at 0, 50 % at 0.1, 95 % at 10; full 30 % at 10" in ax.get_label()
