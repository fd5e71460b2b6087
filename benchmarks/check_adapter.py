"""How long does `lora-lab check` take for an adapter of 100 MB, and how much memory?

Random adapters for Llama 7B, with PEFT's names, are checked: in float32 and in bfloat16, with a
low and a high rank, and an adapter for smollm2, whose weights are read for ‖W‖. Each check runs in
a process of its own, all in turn, beside torch reading the same file. The benchmark counts CPU
seconds, which another program's load hardly changes, and takes the least of the rounds. Run
`python benchmarks/check_adapter.py --help`.
"""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path

LLAMA_7B = {
    **dict.fromkeys(["q_proj", "k_proj", "v_proj", "o_proj"], (4096, 4096)),
    **dict.fromkeys(["gate_proj", "up_proj"], (11008, 4096)),
    "down_proj": (4096, 11008),
}
SMOLLM2 = {
    "q_proj": (576, 576),
    "k_proj": (192, 576),
    "v_proj": (192, 576),
    "o_proj": (576, 576),
    "gate_proj": (1536, 576),
    "up_proj": (1536, 576),
    "down_proj": (576, 1536),
}
CASES = {  # a name: the base's name, layers, shapes, rank, dtype
    "7B, r 10, float32": ("huggyllama/llama-7b", 32, LLAMA_7B, 10, "float32"),
    "7B, r 20, bfloat16": ("huggyllama/llama-7b", 32, LLAMA_7B, 20, "bfloat16"),
    "7B, 2 layers, r 160": ("huggyllama/llama-7b", 2, LLAMA_7B, 160, "float32"),
    "smollm2, r 16": ("smollm2", 30, SMOLLM2, 16, "float32"),
}
CHECK = "from lora_lab.cli.app import app; app(prog_name='lora-lab')"
READ = (
    "import sys; from safetensors.torch import load_file; "
    "load_file(sys.argv[1] + '/adapter_model.safetensors')"
)


def make(folder, base, layers, shapes, rank, dtype):
    """A made-up adapter in PEFT's format."""
    import torch  # not at the top: a child process counts its parent's memory as its own
    from safetensors.torch import save_file

    kind = getattr(torch, dtype)
    tensors = {}
    for layer in range(layers):
        for name, (outputs, inputs) in shapes.items():
            part = "mlp" if name in ("gate_proj", "up_proj", "down_proj") else "self_attn"
            module = f"base_model.model.model.layers.{layer}.{part}.{name}"
            tensors[f"{module}.lora_A.weight"] = torch.randn(rank, inputs).to(kind)
            tensors[f"{module}.lora_B.weight"] = (torch.randn(outputs, rank) / 1e3).to(kind)
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": list(shapes),
        "layers_to_transform": None if layers > 2 else list(range(layers)),
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))


def cost(code, *arguments):
    """CPU seconds and MB of a Python process, its start included."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{arguments} ended with {status}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1000


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folders = {name: Path(place) / str(number) for number, name in enumerate(CASES)}
        for name, folder in folders.items():
            spawned = multiprocessing.get_context("spawn")
            maker = spawned.Process(target=make, args=(folder, *CASES[name]))
            maker.start()
            maker.join()
        seen = {name: [] for name in CASES}
        for _ in range(options.rounds):
            for name, folder in folders.items():
                checked = cost(CHECK, "check", str(folder))
                seen[name].append((*checked, *cost(READ, str(folder))))
        print("adapter                   MB   check s    MB   torch reads it s    MB")
        for name, folder in folders.items():
            size = (folder / "adapter_model.safetensors").stat().st_size / 1e6
            check, check_mb, read, read_mb = (
                min(column) for column in zip(*seen[name], strict=True)
            )
            print(f"{name:<22}{size:6.0f}{check:10.2f}{check_mb:6.0f}{read:18.2f}{read_mb:8.0f}")


if __name__ == "__main__":
    main()
