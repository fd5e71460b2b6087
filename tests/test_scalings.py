import re

from lora_lab.lessons.scalings import found_scalings


def test_the_scalings_of_well_known_repositories_are_those_worked_out_by_hand():
    found = {one.name: one.scaling for one in found_scalings()}
    assert found["TRL, guide, SFT"] == 16 / 256 == 0.0625
    assert found["QLoRA, Guanaco 7B"] == 0.25
    assert found["LLaVA 1.5"] == 2
    assert found["PEFT, the same with rsLoRA"] == 8  # 64 / sqrt(64)
    assert found["MLX-LM, example"] == 20  # the file says so itself
    assert found["TRL, guide, GRPO"] == 32


def test_they_stand_from_small_to_large_and_span_a_factor_of_500():
    factors = [one.scaling for one in found_scalings()]
    assert factors == sorted(factors)
    assert factors[-1] / factors[0] == 512


def test_each_names_a_repository_a_file_and_a_whole_commit():
    for one in found_scalings():
        assert re.fullmatch(r"[\w.-]+/[\w.-]+", one.repository)
        assert one.file
        assert re.fullmatch(r"[0-9a-f]{40}", one.commit)
        assert (one.lora_alpha is None) == (one.scale is not None)
        assert one.source == f"{one.repository}, {one.file}, at {one.commit[:8]}"
