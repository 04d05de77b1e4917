"""A stand-in for a GPU, for machines that have none.

Its tensors say that they are on ``cuda:0`` and are as strict about it as those of a
GPU: they do not mix with tensors of a CPU, and NumPy cannot have them. They are
computed on the CPU, so that results are those of the CPU, and what goes from one device
to the other is counted. It tells nothing about speed, memory, rounding, or kernels that
a GPU lacks.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
MOVES = {"to", "cpu", "cuda"}
INDEXING = {"__getitem__", "__setitem__", "index_put_"}
# These take no number of a CPU among tensors of a GPU.
STRICT = {"cat", "stack", "concatenate", "addmm", "baddbmm"}
# The CPU has to wait for a number.
WAITS = {"item", "equal", "nonzero", "unique", "bincount", "repeat_interleave"}
WAITS |= {"tolist", "__bool__", "__int__", "__float__", "__index__", "masked_select"}


@dataclass
class Traffic:
    """What a block of code did on the device.

    Attributes
    ----------
    calls : int
        Functions of torch that computed there.
    up, down : int
        Bytes that went there and came back.
    waits : int
        How often the CPU waited for a number.
    """

    calls: int = 0
    up: int = 0
    down: int = 0
    waits: int = 0


traffic = Traffic()


class OnGPU(Tensor):
    """A tensor that says that it is on a GPU."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        if func == Tensor.device.__get__:
            return GPU
        if func == Tensor.is_cuda.__get__:
            return True
        if func == Tensor.grad.__get__:
            with torch._C.DisableTorchFunctionSubclass():
                return put(args[0].grad)
        if name in ("numpy", "__array__"):
            raise TypeError("a tensor of cuda:0 has no NumPy array; call cpu() first")
        with torch._C.DisableTorchFunctionSubclass():
            if name in MOVES:
                return move(name, *args, **kwargs)
            if name == "_has_compatible_shallow_copy_type":
                return there(args[0]) == there(args[1])
            if name != "copy_":
                check(name, args, kwargs)
            elif there(args[0]) != there(args[1]):
                count(args[1], up=there(args[0]))
                return args[0].copy_(args[1])
            traffic.calls += name not in ("__get__", "size", "dim", "__len__")
            traffic.waits += name in WAITS
            kwargs = {k: CPU if k == "device" else v for k, v in kwargs.items()}
            return tree_map(put, func(*args, **kwargs))

    def __deepcopy__(self, memo):
        with torch._C.DisableTorchFunctionSubclass():
            twin = self.detach().clone().as_subclass(OnGPU)
            return memo.setdefault(id(self), twin.requires_grad_(self.requires_grad))


def there(value: object) -> bool:
    return isinstance(value, OnGPU)


def put(value):
    """The same memory, said to be on the GPU."""
    return value.as_subclass(OnGPU) if type(value) is Tensor else value


def count(tensor: Tensor, *, up: bool) -> None:
    n_bytes = tensor.numel() * tensor.element_size()
    if up:
        traffic.up += n_bytes
    else:
        traffic.down += n_bytes


def check(name: str, args: tuple, kwargs: dict) -> None:
    """Refuse to mix devices; numbers, and indices from a CPU, are allowed."""
    index = tensors_in(args[1]) if name in INDEXING else []
    for tensor in tensors_in((args, kwargs)):
        if not there(tensor) and (tensor.dim() or name in STRICT or tensor is args[0]):
            if not any(tensor is other for other in index):
                raise RuntimeError(f"{name} got tensors of cuda:0 and of the CPU")
            count(tensor, up=True)
    traffic.waits += any(tensor.dtype == torch.bool for tensor in index)


def tensors_in(tree: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def move(name: str, tensor: Tensor, *args, **kwargs) -> Tensor:
    """``tensor.to(...)``: another device, another type, or both."""
    wanted: list = [torch.device(name)] if name != "to" else [*args, *kwargs.values()]
    for other in [arg for arg in args if isinstance(arg, Tensor)]:
        wanted += [GPU if there(other) else CPU, other.dtype]
    types = [arg for arg in wanted if isinstance(arg, torch.dtype)]
    moved = tensor.to(types[0]) if types else tensor
    named = [arg for arg in wanted if isinstance(arg, str | torch.device)]
    up = torch.device(named[0]).type == "cuda" if named else there(tensor)
    if up == there(tensor):
        return put(moved) if up else moved
    count(tensor, up=up)
    moved = moved.clone() if moved is tensor else moved
    return moved.as_subclass(OnGPU if up else Tensor)


class Factories(TorchFunctionMode):
    """Functions that make tensors on a device that they are told."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        if OnGPU in types:
            return func(*args, **kwargs)
        if name in MOVES and isinstance(args[0], Tensor):
            return move(name, *args, **kwargs)
        if torch.device(kwargs.get("device") or "cpu").type != "cuda":
            return func(*args, **kwargs)
        if name == "as_tensor" and there(args[0]):
            return put(func(*args, **{**kwargs, "device": CPU}))
        made = func(*args, **{**kwargs, "device": CPU})
        if name in ("as_tensor", "tensor"):
            count(made, up=True)
            made = made.clone()
        return made.as_subclass(OnGPU)


# What torch.cuda says of a device, where there is none.
SAYS = {
    "is_available": True,
    "is_bf16_supported": True,
    "_lazy_init": None,
    "current_device": 0,
    "device_count": 1,
    "synchronize": None,
    "get_device_name": "stand-in",
    "get_device_capability": (8, 0),
    "mem_get_info": (2**34, 2**34),
    "memory_allocated": 0,
    "memory_reserved": 0,
}
new_generator = torch.Generator


@contextmanager
def gpu() -> Iterator[Traffic]:
    """Let ``device="cuda"`` be the stand-in, and count what goes there and back."""
    global traffic
    traffic = Traffic()
    with ExitStack() as stack:
        for name, said in SAYS.items():
            answer = patch.object(torch.cuda, name, lambda *_, said=said: said)
            stack.enter_context(answer)
        # Draws from a generator of a GPU differ, and there is none to ask.
        stack.enter_context(patch("torch.Generator", lambda *_, **__: new_generator()))
        # Other threads do not know of it.
        stack.enter_context(patch("sk_rqkplus._threads.n_workers", lambda: 1))
        stack.enter_context(Factories())
        yield traffic
