"""The tensors that a step makes and frees, followed on the meta device.

On that device tensors have a shape but no numbers. The real model, PEFT and autograd run, and
nothing is computed. All sizes are in bytes.
"""

import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lora_lab.cost.budget import Batch

META = torch.device("meta")
_PATCHING = threading.Lock()
aten = torch.ops.aten
# If all inputs of these are alike, the result has their shape. Torch takes long to infer that.
ELEMENTWISE = {
    aten.add.Tensor,
    aten.mul.Tensor,
    aten.div.Tensor,
    aten.mul.Scalar,
    aten.silu.default,
}
PROMOTING = {aten.add.Tensor, aten.mul.Tensor, aten.sub.Tensor, aten.div.Tensor}


@dataclass
class Stretch:
    """A stretch of a step: a layer's forward or backward pass, or what lies between layers."""

    layer: int | None  # None: between the layers
    way: str  # "up": the forward pass; "down": the backward pass
    start: Counter[str]  # bytes by part
    end: Counter[str]
    most: Counter[str]  # of each part, at any moment
    peak: int  # of all parts together


class Live(TorchDispatchMode):
    """The bytes, by part, of all storages that operations have made and not yet freed.

    A storage counts once, however many tensors view it. Buffers inside a kernel are not seen, with
    one exception: the copies that a CPU makes of inputs in another dtype than the result's.
    """

    def __init__(self, batch: Batch, casts_copy: bool = True) -> None:
        super().__init__()
        self._casts_copy = casts_copy  # False: a GPU's operations cast their inputs as they read
        self.part = ""  # the part that new storages belong to
        self.gradients: set[torch.Size] = set()  # shapes of new storages that are gradients instead
        self.stretches: list[Stretch] = []
        self._batch = batch
        self._now: Counter[str] = Counter()
        self._storages: dict[int, tuple[str, int]] = {}  # a storage's place: its part, its bytes
        self._answer = True

    def begin(self, layer: int | None = None, way: str = "") -> None:
        """Begin a stretch, and end the stretch before it."""
        now = self._now.copy()
        if self.stretches:
            self.stretches[-1].end = now
        self.stretches.append(Stretch(layer, way, now, now, now.copy(), now.total()))

    def add(self, tensor: Tensor, part: str) -> None:
        """Count a tensor's storage under a part; a storage counted before moves to that part."""
        storage = tensor.untyped_storage()
        place = storage._cdata
        if place in self._storages:
            before, size = self._storages[place]
            self._now[before] -= size
        else:
            size = storage.nbytes()
            weakref.finalize(storage, self._forget, place)
        self._storages[place] = part, size
        self._now[part] += size
        stretch = self.stretches[-1]
        stretch.most[part] = max(stretch.most[part], self._now[part])
        stretch.peak = max(stretch.peak, self._now.total())

    def _forget(self, place: int) -> None:
        part, size = self._storages.pop(place)
        self._now[part] -= size

    def __torch_dispatch__(
        self, func: OpOverload, types: tuple, args: tuple = (), kwargs: dict | None = None
    ) -> object:
        result = self._result(func, args, kwargs or {})
        if any(value.alias_info for value in func._schema.returns):
            return result  # a view, or written in place: nothing new
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.untyped_storage()._cdata not in self._storages:
                self.add(leaf, "gradients" if leaf.shape in self.gradients else self.part)
        if func in PROMOTING and self._casts_copy:
            self._note_copies(args, result)
        return result

    def _note_copies(self, args: tuple, result: Tensor) -> None:
        """Count the copies of inputs in the result's dtype at the peak, and in no part.

        They are freed when the operation ends.
        """
        size = result.element_size()
        copies = sum(
            size * value.numel()
            for value in args
            if isinstance(value, Tensor) and value.ndim and value.dtype != result.dtype
        )
        stretch = self.stretches[-1]
        stretch.peak = max(stretch.peak, self._now.total() + copies)

    def _result(self, func: OpOverload, args: tuple, kwargs: dict) -> object:
        """The result of an operation. The batch gives the shapes that depend on numbers."""
        first = args[0] if args else None
        if func is aten._local_scalar_dense.default:
            return self._answer if first.dtype == torch.bool else 1
        if func in (aten.eq.Scalar, aten.all.default):  # transformers compares a mask's sum
            self._answer = first.ndim > 0 or not self._batch.padded
        if func is aten.nonzero.default:
            count = self._batch.places if first.ndim == 1 else self._batch.labels
            return torch.empty(count, first.ndim, dtype=torch.int64, device=META)
        if func is aten.index.Tensor and args[1][0] is not None and args[1][0].dtype == torch.bool:
            size = args[1][0].ndim, self._batch.labels
            return func(first, [*torch.empty(size, dtype=torch.int64, device=META)])
        if func is aten.index_put.default:
            func = aten.index_put_.default  # as autograd does it where no mode listens
        if func in ELEMENTWISE and first.is_contiguous() and _alike(first, args[1:]):
            return torch.empty_like(first)
        return func(*args, **kwargs)


def _alike(first: Tensor, others: tuple) -> bool:
    return first.is_floating_point() and all(
        isinstance(other, int | float)
        or (isinstance(other, Tensor) and other.shape == first.shape and other.dtype == first.dtype)
        for other in others
    )


@contextmanager
def attention_of_cpu() -> Iterator[None]:
    """A block in which attention uses torch's CPU kernel; the meta device would use none."""
    real, kernel = F.scaled_dot_product_attention, aten._scaled_dot_product_flash_attention_for_cpu

    def attention(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        **how: object,
    ) -> Tensor:
        shared = query.shape[1] != key.shape[1] and not how.get("enable_gqa")
        trained = attn_mask is not None and attn_mask.requires_grad
        uneven = query.shape[-1] != value.shape[-1]
        if not query.is_meta or dropout_p or shared or trained or uneven:
            return real(query, key, value, attn_mask, dropout_p, is_causal, **how)
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            attn_mask = torch.empty_like(attn_mask, dtype=query.dtype)
        scale = how.get("scale")
        return kernel(query, key, value, 0.0, is_causal, attn_mask=attn_mask, scale=scale)[0]

    with _PATCHING, mock.patch.object(F, "scaled_dot_product_attention", attention):
        yield


@contextmanager
def autocast_of_cuda(dtype: torch.dtype) -> Iterator[None]:
    """A block in which products are in 16 bits, as under `torch.autocast` on CUDA.

    The meta device has no autocast. A trained tensor's 16-bit copy is kept for the whole block, as
    torch keeps it. The backward pass works in the dtypes that the forward pass left.
    """
    copies: dict[int, Tensor] = {}

    def cast(value: object) -> object:
        if not isinstance(value, Tensor) or value.dtype != torch.float32:
            return value
        if not (value.is_leaf and value.requires_grad):
            return value.to(dtype)
        if id(value) not in copies:
            copies[id(value)] = value.to(dtype)
        return copies[id(value)]

    def in_16_bits(product: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def wrapped(*args: object, **how: object) -> Tensor:
            if torch.is_grad_enabled():
                args = tuple(map(cast, args))
                how = {name: cast(value) for name, value in how.items()}
            return product(*args, **how)

        return wrapped

    places = (F, "linear"), (F, "scaled_dot_product_attention"), (torch, "matmul")
    with ExitStack() as patches:
        for module, name in places:
            product = in_16_bits(getattr(module, name))
            patches.enter_context(mock.patch.object(module, name, product))
        yield
