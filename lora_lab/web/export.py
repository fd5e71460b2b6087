"""The playground's graphs for ONNX Runtime Web, made from Python's own step; data of its tasks.

The gradients are those of data/pocket/gradients.onnx. `python -m lora_lab.web.export` makes the two
other graphs, in about two minutes, and notes what they were made from.
"""

import hashlib
import json
from pathlib import Path

import torch

from lora_lab.models.bases import Base, load_base, read_part
from lora_lab.models.built_in import base_folder
from lora_lab.places import write_atomically
from lora_lab.training import graphs
from lora_lab.training.graphs import Input, Traceable, architecture_of, graph_of
from lora_lab.web import step

GRAPHS = Path(__file__).with_name("graphs")
MADE_FROM = GRAPHS / "made_from.json"


def adamw_graph(traceable: Traceable) -> bytes:
    """The graph of `step.adamw`; its outputs are `norm`, then the new state, each by its name."""
    r = graphs.LORA.r
    ins, outs = (sum(sizes) for sizes in zip(*traceable.modules.values(), strict=True))
    one = {"A": Input("A", torch.ones(r, ins), (0,)), "B": Input("B", torch.ones(outs, r), (1,))}
    names = (*step.STATE, "A_gradient", "B_gradient")
    matrices = [Input(name, one[name[0]].example.clone(), one[name[0]].dynamic) for name in names]
    numbers = "learning_rate loraplus_lr_ratio weight_decay max_grad_norm step".split()
    inputs = [
        *matrices,
        *(Input(name, torch.tensor(1.0)) for name in numbers),
        Input("eps", torch.ones(2)),
    ]
    outputs = ["norm", *(f"new_{name}" for name in step.STATE)]
    return graph_of(step.adamw, inputs, {}, outputs, {})


def answers_graph(traceable: Traceable) -> bytes:
    """The graph of `step.Answers.likeliest`, whose only output is `tokens`."""
    r = graphs.LORA.r
    ins, outs = (sum(sizes) for sizes in zip(*traceable.modules.values(), strict=True))
    batch, tokens, places = 5, 25, 10  # all different, so that no two dimensions are taken for one
    inputs = (
        Input("A", torch.ones(r, ins), (0,)),
        Input("B", torch.ones(outs, r), (1,)),
        Input("scale", torch.ones(len(traceable.modules))),
        Input("input_ids", torch.ones((batch, tokens), dtype=torch.long), (0, 1)),
        Input("attention_mask", torch.ones((batch, tokens), dtype=torch.long), (0, 1)),
        Input("places", torch.arange(places), (0,)),
    )
    likeliest = step.Answers(traceable).likeliest
    return graph_of(likeliest, inputs, traceable.weights, ("tokens",), {})


def source_digest() -> str:
    """The SHA-256 of everything that decides the graphs: Python sources, pocket's architecture."""
    digest = hashlib.sha256()
    for source in (graphs.__file__, step.__file__, __file__):
        digest.update(Path(source).read_bytes().replace(b"\r\n", b"\n"))
    config = read_part(base_folder("pocket"), "config", "pocket")
    digest.update(architecture_of(config).encode())
    return digest.hexdigest()


def write_graphs(base: Base) -> None:
    """Write adamw.onnx, answers.onnx, and the digest of the sources that they were made from.

    Args:
        base: pocket, in float32 on the CPU.
    """
    traceable = Traceable(base)
    made = {"adamw.onnx": adamw_graph(traceable), "answers.onnx": answers_graph(traceable)}
    made["made_from.json"] = json.dumps({"sha256": source_digest()}).encode() + b"\n"
    GRAPHS.mkdir(exist_ok=True)
    for name, content in made.items():
        with write_atomically(GRAPHS / name) as path:
            path.write_bytes(content)


if __name__ == "__main__":
    write_graphs(load_base("pocket", device="cpu"))
