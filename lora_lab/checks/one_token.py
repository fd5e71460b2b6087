"""Checks for notebook 02, One token through the model: shapes, labels, what is trained."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from lora_lab.checks.compare import Case, Exercise, Function
from lora_lab.maths.lora import LoRALinear

IGNORED = -100  # the label of a token that earns no loss

# --- the weights of a layer -----------------------------------------------------------------


def _projection_shapes(
    hidden_size: int,
    intermediate_size: int,
    num_attention_heads: int,
    num_key_value_heads: int,
    head_dim: int,
) -> dict[str, tuple[int, int]]:
    """The shape of each weight in a Llama layer by name, as nn.Linear keeps it: (out, in)."""
    queries, keys = num_attention_heads * head_dim, num_key_value_heads * head_dim
    return {
        "q_proj": (queries, hidden_size),
        "k_proj": (keys, hidden_size),
        "v_proj": (keys, hidden_size),
        "o_proj": (hidden_size, queries),
        "gate_proj": (intermediate_size, hidden_size),
        "up_proj": (intermediate_size, hidden_size),
        "down_proj": (hidden_size, intermediate_size),
    }


llama_shapes = _projection_shapes  # the public name, for the checks of other notebooks


def llama_sizes() -> Iterator[dict[str, int]]:
    """Three Llamas; in the last, the heads together are wider than the hidden state."""
    names = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
    for sizes in ((576, 1536, 9, 3, 64), (2048, 8192, 32, 8, 64), (96, 320, 6, 2, 20)):
        yield dict(zip((*names, "head_dim"), sizes, strict=True))


def _changed_shapes(**shapes: Function) -> Function:
    """A slip: some shapes come from functions of (the right shape, the sizes), by name."""

    def slip(**sizes: int) -> dict[str, tuple[int, int]]:
        right = _projection_shapes(**sizes)
        return right | {name: change(right[name], sizes) for name, change in shapes.items()}

    return slip


projection_shapes = Exercise(
    _projection_shapes,
    llama_sizes,
    slips={
        "these are (in, out); nn.Linear keeps its weight as (out, in), since y = x Wᵀ": (
            lambda **sizes: {
                name: shape[::-1] for name, shape in _projection_shapes(**sizes).items()
            }
        ),
        "k and v are as wide as q here; with grouped-query attention there are only "
        "num_key_value_heads of them": _changed_shapes(
            k_proj=lambda right, n: (n["num_attention_heads"] * n["head_dim"], right[1]),
            v_proj=lambda right, n: (n["num_attention_heads"] * n["head_dim"], right[1]),
        ),
        "only k is narrower here; v goes with it, head by head": _changed_shapes(
            v_proj=lambda right, n: (n["num_attention_heads"] * n["head_dim"], right[1]),
        ),
        "q and o are hidden_size squared here; the heads together are num_attention_heads * "
        "head_dim wide, which need not be hidden_size": _changed_shapes(
            q_proj=lambda _, n: (n["hidden_size"], n["hidden_size"]),
            o_proj=lambda _, n: (n["hidden_size"], n["hidden_size"]),
        ),
        "o is the wrong way round: it leads from the heads back to hidden_size": (
            _changed_shapes(o_proj=lambda right, _: right[::-1])
        ),
        "down is the wrong way round: it leads from intermediate_size back to hidden_size": (
            _changed_shapes(down_proj=lambda right, _: right[::-1])
        ),
        "q is one head wide here; it makes all num_attention_heads heads at once": _changed_shapes(
            q_proj=lambda right, n: (n["head_dim"], right[1]),
            k_proj=lambda right, n: (n["head_dim"], right[1]),
            v_proj=lambda right, n: (n["head_dim"], right[1]),
            o_proj=lambda right, n: (right[0], n["head_dim"]),
        ),
    },
)

# --- the tokens that earn a loss ------------------------------------------------------------


def _make_labels(input_ids: Tensor, attention_mask: Tensor, prompt_length: int) -> Tensor:
    """The labels, (tokens,): -100 on prompt and padding, the token itself on the answer."""
    labels = input_ids.clone()
    labels[:prompt_length] = IGNORED
    labels[attention_mask == 0] = IGNORED
    return labels


END = 2  # ends an answer, and pads too, as in many tokenizers


def padded_examples() -> Iterator[Case]:
    """Prompt, answer, end token, padding with the same token; the last row has no padding."""
    for prompt_length, answer_length, padding in ((4, 3, 2), (3, 5, 4), (5, 2, 0)):
        ids = [*range(11, 11 + prompt_length), *range(31, 31 + answer_length), END]
        mask = [1] * len(ids) + [0] * padding
        yield {
            "input_ids": torch.tensor(ids + [END] * padding),
            "attention_mask": torch.tensor(mask),
            "prompt_length": prompt_length,
        }


def _masked_by_end_token(input_ids: Tensor, attention_mask: Tensor, prompt_length: int) -> Tensor:
    labels = _make_labels(input_ids, attention_mask, prompt_length)
    labels[input_ids == END] = IGNORED
    return labels


def _masked_in_place(input_ids: Tensor, attention_mask: Tensor, prompt_length: int) -> Tensor:
    input_ids[:prompt_length] = IGNORED
    input_ids[attention_mask == 0] = IGNORED
    return input_ids


def _zero_for_ignored(**case: object) -> Tensor:
    labels = _make_labels(**case)
    return torch.where(labels == IGNORED, 0, labels)


def _shifted(**case: object) -> Tensor:
    labels = _make_labels(**case)
    return torch.cat([labels[1:], labels.new_tensor([IGNORED])])


make_labels = Exercise(
    _make_labels,
    padded_examples,
    slips={
        "the prompt earns a loss here: put -100 on its tokens": (
            lambda input_ids, attention_mask, prompt_length: torch.where(
                attention_mask == 0, IGNORED, input_ids
            )
        ),
        "the padding earns a loss here: put -100 where attention_mask is 0": (
            lambda input_ids, attention_mask, prompt_length: _make_labels(
                input_ids, torch.ones_like(attention_mask), prompt_length
            )
        ),
        "the end token got -100 with the padding, since both have the same id: the model would "
        "never learn to stop; use attention_mask": _masked_by_end_token,
        "these labels are shifted by one; transformers' models shift them inside, so they would "
        "be shifted twice": _shifted,
        "0 is a token like any other; the label that earns no loss is -100": _zero_for_ignored,
        "the prompt has the labels and the answer has -100; it is the other way round": (
            lambda input_ids, attention_mask, prompt_length: torch.where(
                torch.arange(len(input_ids)) < prompt_length, input_ids, IGNORED
            )
        ),
        "input_ids changed too: `labels = input_ids` is a second name and no copy, so the model "
        "would be fed -100; use .clone()": _masked_in_place,
        "one token of the answer got -100: positions count from 0, so the answer begins at "
        "prompt_length": (
            lambda input_ids, attention_mask, prompt_length: _make_labels(
                input_ids, attention_mask, prompt_length + 1
            )
        ),
    },
)

# --- the parameters that are trained --------------------------------------------------------


def _freeze_for_lora(model: nn.Module) -> None:
    """Set requires_grad so that only the model's lora_A and lora_B are trained."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad = "lora_" in name


def small_models() -> Iterator[Case]:
    """Two models with LoRA in some layers: every parameter is trained so far, or no parameter."""
    for trained in (True, False):
        with torch.random.fork_rng(devices=[]):
            layers = {
                "embed_tokens": nn.Embedding(11, 6),
                "q_proj": LoRALinear(nn.Linear(6, 5), r=2, lora_alpha=4),
                "o_proj": LoRALinear(nn.Linear(5, 6, bias=False), r=2, lora_alpha=4),
                "norm": nn.LayerNorm(6),
                "lm_head": nn.Linear(6, 11, bias=False),
            }
        yield {"model": nn.ModuleDict(layers).requires_grad_(trained)}


def _what_is_trained(function: Function, case: Case) -> dict[str, str]:
    """Each parameter of the model after a call: trained or frozen."""
    model = case["model"]
    function(model)
    return {
        name: "trained" if parameter.requires_grad else "frozen"
        for name, parameter in model.named_parameters()
    }


def _trains(is_chosen: Function) -> Function:
    """A slip that trains the parameters whose names are chosen, and freezes the others."""

    def slip(model: nn.Module) -> None:
        for name, parameter in model.named_parameters():
            parameter.requires_grad = is_chosen(name)

    return slip


def _only_freezes(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if "lora_" not in name:
            parameter.requires_grad = False


freeze_for_lora = Exercise(
    _freeze_for_lora,
    small_models,
    slips={
        "nothing changed: `model.requires_grad = False` only gives the module an attribute, and "
        "eval() and no_grad() freeze nothing; set it on each parameter": lambda model: None,
        "all is frozen, lora_A and lora_B too: there is nothing left to train": (
            lambda model: model.requires_grad_(False)
        ),
        "it is the wrong way round: the base is trained, and the adapter is frozen": (
            _trains(lambda name: "lora_" not in name)
        ),
        "lora_A is frozen; only the first gradient of lora_A is zero, then it moves too": (
            _trains(lambda name: "lora_B" in name)
        ),
        "lora_B is frozen at zero here, so the change would stay zero for ever": (
            _trains(lambda name: "lora_A" in name)
        ),
        "the biases are still trained; they are the base's too": (
            _trains(lambda name: "lora_" in name or name.endswith("bias"))
        ),
        "embeddings, norm or output layer are still trained: freeze all, not the adapted layers "
        "alone": _trains(lambda name: "base_layer" not in name),
        "a parameter that was frozen before stays so here: set requires_grad to True on lora_A "
        "and lora_B": _only_freezes,
    },
    ask=_what_is_trained,
)
