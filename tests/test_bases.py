import json
import logging
import shutil
import subprocess
import sys
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging as transformers_logging

from lora_lab.assets import downloads
from lora_lab.machine import devices
from lora_lab.models import bases, built_in
from lora_lab.models.built_in import list_bases
from lora_lab.models.smollm2 import without_system_prompt
from lora_lab.places import NotPrepared, cache_folder
from lora_lab.tasks.examples import prompt_ids

WIDTH = 64


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A folder as save_pretrained writes it: a Llama of one layer, and a tokenizer of letters."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("models") / "tiny"
    letters = {chr(97 + i): i for i in range(26)} | {"<end>": 26}
    backend = Tokenizer(models.WordLevel(letters, unk_token="z"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>").save_pretrained(folder)
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=27,
        hidden_size=WIDTH,
        intermediate_size=96,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        eos_token_id=26,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def copied(tiny, tmp_path):
    return shutil.copytree(tiny, tmp_path / "copied")


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_LAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def smollm2():
    if not any(base.name == "smollm2" and base.prepared for base in list_bases()):
        pytest.skip("smollm2 is not prepared: run `lora-lab prepare`")
    return bases.load_base("smollm2", device="cpu", dtype="float32")


def test_a_folder_loads_as_plain_transformers_loads_it(tiny):
    base = bases.load_base(tiny, device="cpu")
    theirs = AutoModelForCausalLM.from_pretrained(tiny)
    assert base.name == "tiny"
    assert base.path == tiny
    assert not base.model.training
    assert all(parameter.requires_grad for parameter in base.model.parameters())
    torch.testing.assert_close(base.model.state_dict(), theirs.state_dict(), rtol=0, atol=0)


def test_each_load_gives_a_fresh_object(tiny):
    first, second = bases.load_base(tiny), bases.load_base(tiny)
    assert first.model is not second.model
    with torch.no_grad():
        first.model.lm_head.weight.zero_()
    assert second.model.lm_head.weight.abs().sum() > 0


def test_loading_leaves_the_global_random_state_alone(tiny):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    bases.load_base(tiny)
    assert torch.equal(torch.rand(3), expected)


def test_loading_says_nothing_and_leaves_transformers_as_talkative_as_it_was(copied, capfd):
    weights = load_file(copied / "model.safetensors") | {"model.left_over": torch.zeros(3)}
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    said = []
    listener = logging.Handler()
    listener.emit = lambda record: said.append(record.getMessage())
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_info()
    transformers_logging.add_handler(listener)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            bases.load_base(copied)
        assert (said, capfd.readouterr()) == ([], ("", ""))
        assert transformers_logging.get_verbosity() == transformers_logging.INFO
        assert transformers_logging.is_progress_bar_enabled()
    finally:
        transformers_logging.remove_handler(listener)
        transformers_logging.set_verbosity(before)


def test_a_tokenizer_without_a_pad_token_pads_with_its_end_token(tiny):
    tokenizer = bases.load_base(tiny).tokenizer
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == ("<end>", 26)


def test_about_is_one_sentence_with_size_device_and_dtype(tiny):
    base = bases.load_base(tiny, device="cpu")
    count = sum(parameter.numel() for parameter in base.model.parameters())
    assert base.about == f"tiny: {count / 1e6:.1f} M parameters on the CPU in float32"


def test_pocket_is_what_nobody_named():
    base = bases.load_base()
    assert base.name == "pocket"
    assert base.path == built_in.data_folder() / "pocket" / "model"
    assert base.dtype == torch.float32
    assert " on " in base.about
    assert base.about.startswith("pocket: 1.")


# --- what is asked for, and is not there ------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ("pockt", ValueError, "no base is called 'pockt'; did you mean 'pocket'"),
        ("smolm2", ValueError, "did you mean 'smollm2'"),
        ("./nowhere", FileNotFoundError, "there is no folder './nowhere'"),
        ("", TypeError, "give 'pocket', a folder or a hub id"),
    ],
)
def test_a_base_that_is_not_there_is_refused_in_words(given, error, words):
    with pytest.raises(error, match=words):
        bases.load_base(given)


def test_a_hub_id_without_a_network_says_what_would_do(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(FileNotFoundError, match="give a folder, 'pocket' or 'smollm2'"):
        bases.load_base("nobody/no-such-model-as-this")


def test_a_misspelt_device_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'cuda'"):
        devices.choose_device("cuad")


def test_a_device_that_is_not_here_is_refused_with_those_that_are():
    index = torch.cuda.device_count()
    with pytest.raises(ValueError, match=f"device='cuda:{index}' is not on this machine.*cpu"):
        devices.choose_device(f"cuda:{index}")


def test_a_misspelt_dtype_is_refused_with_the_nearest(tiny):
    with pytest.raises(ValueError, match="did you mean 'bfloat16'"):
        bases.load_base(tiny, dtype="bfloat61")


def test_the_dtype_asked_for_is_the_dtype_of_every_weight(tiny):
    base = bases.load_base(tiny, device="cpu", dtype="bfloat16")
    assert (
        {parameter.dtype for parameter in base.model.parameters()}
        == {torch.bfloat16}
        == {base.dtype}
    )


def test_a_misspelt_quantisation_is_refused(tiny):
    with pytest.raises(ValueError, match="did you mean 'nf4'"):
        bases.load_base(tiny, quantize="nf5")


def test_lora_lab_base_is_what_nobody_named(tiny, monkeypatch):
    monkeypatch.setenv("LORA_LAB_BASE", str(tiny))
    assert bases.load_base().name == "tiny"
    monkeypatch.setenv("LORA_LAB_BASE", "pockt")
    assert bases.load_base(str(tiny)).name == "tiny"
    with pytest.raises(ValueError, match="pockt"):
        bases.load_base()


# --- folders that are no base -----------------------------------------------------------------


def test_a_pickle_is_refused(copied):
    weights = copied / "model.safetensors"
    torch.save({}, copied / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(ValueError, match=r"pickle \(pytorch_model.bin\).*can run any code"):
        bases.load_base(copied)


def test_code_that_comes_with_a_model_is_not_run(copied):
    config = json.loads((copied / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}}
    (copied / "config.json").write_text(json.dumps(config))
    (copied / "mine.py").write_text("raise SystemExit('run')")
    with pytest.raises(ValueError, match="can't be loaded"):
        bases.load_base(copied)


def test_half_a_weight_file_is_refused_in_words(copied):
    weights = copied / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"the model of 'copied' .* can't be loaded"):
        bases.load_base(copied)


@pytest.mark.parametrize(
    ("lacking", "words"),
    [("config.json", "has no config.json"), ("model.safetensors", "has no .safetensors file")],
)
def test_a_folder_that_lacks_a_file_is_refused_by_its_name(copied, lacking, words):
    (copied / lacking).unlink()
    with pytest.raises(ValueError, match=words):
        bases.load_base(copied)


def test_an_adapter_is_not_taken_for_a_base(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="lab.load_adapter"):
        bases.load_base(tmp_path)


# --- identity ---------------------------------------------------------------------------------


def test_two_loads_of_a_folder_have_one_fingerprint(tiny):
    assert bases.load_base(tiny).fingerprint() == bases.load_base(tiny).fingerprint()


def test_one_changed_weight_changes_the_fingerprint_and_undoing_it_brings_it_back(tiny):
    base = bases.load_base(tiny)
    before = base.fingerprint()
    with torch.no_grad():
        base.model.lm_head.weight[3, 5] += 1
    after = base.fingerprint()
    with torch.no_grad():
        base.model.lm_head.weight.copy_(bases.load_base(tiny).model.lm_head.weight)
    assert after != before == base.fingerprint()


def test_another_tokenizer_is_another_base(tiny):
    base, other = bases.load_base(tiny), bases.load_base(tiny)
    other.tokenizer.chat_template = "{{ messages }}"
    assert base.fingerprint() != other.fingerprint()


# --- dtype on a CPU ---------------------------------------------------------------------------


@pytest.mark.parametrize(("times", "dtype"), [(0.5, torch.float32), (2.0, torch.bfloat16)])
def test_a_wide_model_on_a_cpu_is_bfloat16_only_where_that_is_faster(monkeypatch, times, dtype):
    monkeypatch.setattr(devices, "bfloat16_speed", lambda width: times)
    chosen, why = devices.choose_dtype("auto", torch.device("cpu"), 576)
    assert (chosen, why) == (dtype, f" (bfloat16 measured {times} × as fast here)")


@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
def test_a_narrow_model_is_float32_everywhere_unasked(monkeypatch, device):
    monkeypatch.setattr(devices, "bfloat16_speed", lambda width: 9.0)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **options: True)
    assert devices.choose_dtype("auto", torch.device(device), 128) == (torch.float32, "")


@pytest.mark.parametrize(
    ("supported", "expected"),
    [(True, (torch.bfloat16, "")), (False, (torch.float32, " (this GPU has no bfloat16)"))],
)
def test_a_wide_model_on_a_gpu_is_bfloat16_where_the_gpu_has_it(monkeypatch, supported, expected):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **options: supported)
    assert devices.choose_dtype("auto", torch.device("cuda"), 2048) == expected


def test_bfloat16_is_measured_once_and_then_read(empty_cache, monkeypatch):
    first = devices.bfloat16_speed(64)
    assert first > 0
    monkeypatch.setattr(devices.time, "perf_counter", lambda: 1 / 0)
    assert devices.bfloat16_speed(64) == first


# --- smollm2 ----------------------------------------------------------------------------------


def test_smollm2_knows_a_capital(smollm2):
    ids = prompt_ids(smollm2.tokenizer, "The capital of France is")
    with torch.no_grad():
        out = smollm2.model.generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False)
    answer = smollm2.tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True)
    assert answer == "The capital of France is Paris."


def test_smollm2_is_asked_without_a_system_prompt(smollm2):
    ids = prompt_ids(smollm2.tokenizer, "The capital of France is")
    text = "<|im_start|>user\nThe capital of France is<|im_end|>\n<|im_start|>assistant\n"
    assert smollm2.tokenizer.decode(ids) == text
    assert len(ids) == 14


def test_smollm2_says_where_its_weights_come_from(smollm2):
    assert "134.5 M parameters on the CPU in float32" in smollm2.about
    assert "4-bit values de-quantised" in smollm2.about


def test_the_converted_smollm2_is_a_folder_that_plain_transformers_loads(smollm2):
    model = AutoModelForCausalLM.from_pretrained(smollm2.path, dtype=torch.float32)
    assert AutoTokenizer.from_pretrained(smollm2.path).eos_token == "<|im_end|>"
    ours, theirs = smollm2.model.state_dict(), model.state_dict()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_smollm2_without_its_package_says_what_to_run(empty_cache):
    with pytest.raises(NotPrepared, match="'smollm2' is not prepared yet; run `lora-lab prepare`"):
        bases.load_base("smollm2")
    assert not [base for base in list_bases() if base.name == "smollm2" and base.prepared]


@pytest.fixture
def converting(empty_cache, monkeypatch, tiny):
    """smollm2's conversion, with a tiny model in the place of the real one; counts its calls."""
    calls = []

    def convert(source, new):
        calls.append(source)
        shutil.copytree(tiny, new, dirs_exist_ok=True)

    monkeypatch.setattr("lora_lab.models.smollm2._convert", convert)
    monkeypatch.setattr(downloads, "prepared", lambda name: empty_cache)
    return calls


def test_smollm2_is_converted_once(converting):
    first = bases.load_base("smollm2")
    second = bases.load_base("smollm2")
    assert len(converting) == 1
    assert first.path == second.path == cache_folder() / "bases" / "smollm2"


def test_a_converted_smollm2_needs_its_gguf_file_no_more(converting, monkeypatch):
    bases.load_base("smollm2")
    monkeypatch.setattr(downloads, "prepared", lambda name: 1 / 0)
    assert bases.load_base("smollm2").name == "smollm2"


def test_only_the_default_system_prompt_is_cut_from_the_template():
    loop = "{% for message in messages %}"
    added = (
        "{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
        "You are a helpful AI assistant<|im_end|>\n' }}{% endif %}"
    )
    rest = "{{ message['content'] }}{% endfor %}{% if add_generation_prompt %}x{% endif %}"
    assert without_system_prompt(loop + added + rest) == loop + rest
    assert without_system_prompt(loop + rest) == loop + rest


def _cut(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])


def _flip(folder):
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        _cut,
        _flip,
        lambda folder: (folder / "tokenizer.json").unlink(),
        lambda folder: (folder / downloads.MANIFEST).write_text('{"files'),
        lambda folder: (folder / downloads.MANIFEST).unlink(),
    ],
    ids=["cut", "one bit", "a file gone", "half a manifest", "no manifest"],
)
def test_a_damaged_conversion_is_found_and_made_again(converting, damage):
    good = bases.load_base("smollm2").fingerprint()
    damage(cache_folder() / "bases" / "smollm2")
    assert bases.load_base("smollm2").fingerprint() == good
    assert len(converting) == 2


def test_a_conversion_that_fails_leaves_nothing_behind(converting, monkeypatch):
    def fail(source, new):
        (new / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("lora_lab.models.smollm2._convert", fail)
        with pytest.raises(KeyboardInterrupt):
            bases.load_base("smollm2")
    left = [path.name for path in (cache_folder() / "bases").iterdir()]
    assert [name for name in left if not name.endswith(".lock")] == []
    assert bases.load_base("smollm2").name == "smollm2"


@pytest.mark.slow
def test_smollm2s_weights_equal_what_transformers_reads_from_the_gguf_file(smollm2):
    (file,) = downloads.prepared("smollm2").glob("*.gguf")
    theirs = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.bfloat16
    )
    ours = bases.load_base("smollm2", dtype="bfloat16").model
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)
    for field in ("rope_parameters", "head_dim", "max_position_embeddings", "eos_token_id"):
        assert getattr(ours.config, field) == getattr(theirs.config, field), field
    assert ours.config.rms_norm_eps == pytest.approx(theirs.config.rms_norm_eps, rel=1e-6)


def test_bitsandbytes_is_hushed_before_anyone_imports_it():
    code = (
        "import logging, sys, lora_lab; "
        "assert 'bitsandbytes' not in sys.modules; "
        "assert logging.getLogger('bitsandbytes').level == logging.ERROR"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_folder_of_checkpoints_is_told_from_a_model(tmp_path):
    (tmp_path / "checkpoint-60").mkdir()
    (tmp_path / "checkpoint-60" / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"no config.json \(checkpoint-60 in it: an adapter\)"):
        built_in.find_base(str(tmp_path))
