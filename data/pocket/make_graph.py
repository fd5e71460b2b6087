"""Make gradients.onnx: the graph from which ONNX Runtime trains pocket's adapters.

    python data/pocket/make_graph.py

It takes a minute, and onnx and onnxscript: `pip install 'lora-lab[web]'`. The same versions of
torch, transformers and PEFT give the same file. It holds no weights, so a new pocket of the same
shape needs no new one.
"""

from pathlib import Path

from lora_lab.models.bases import load_base
from lora_lab.places import write_atomically
from lora_lab.training.graphs import gradients_graph


def main() -> None:
    """Write the file."""
    graph = gradients_graph(load_base("pocket", device="cpu"))
    with write_atomically(Path(__file__).with_name("gradients.onnx")) as path:
        path.write_bytes(graph)


if __name__ == "__main__":
    main()
