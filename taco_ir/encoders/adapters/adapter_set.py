"""A set of named adapters of one method on a frozen backbone; at most one is active at a time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import Parameter

from taco_ir.core.files import InputError
from taco_ir.encoders.adapters.base import Insert, Target
from taco_ir.encoders.adapters.folder import TENSORS_FILE, TRAINING_FILE, adapter_of, read_record
from taco_ir.encoders.adapters.hook_points import shape_of, sites_of
from taco_ir.encoders.adapters.methods import METHODS, is_shifted, method_of, parameters
from taco_ir.encoders.weights import read_safetensors

T = TypeVar("T", bound=Tensor)
PROBE_DEVIATION = 0.05  # of the noise in `check`; without noise, most tensors are zero at the start
NO_EFFECT = ("key.bias", "k_lin.bias")  # they do not change the softmax: gradients are only rounding errors


class Adapters(nn.Module):
    """Named adapters of one `method` and `width` on the frozen `backbone`.

    Args:
        positions: where position ids of texts start, as in `methods.positions_of`; empty: the method's default.
        reparameterised: names of adapters whose prompts are computed by a network during training (see `DeepPrompts`).

    Attributes:
        names: names of the adapters, in order of creation.
        shape: the backbone's shape.
        active: name of the active adapter; None if only the backbone is used.
    """

    def __init__(
        self,
        backbone: nn.Module,
        method: str,
        width: int,
        names: Sequence[str],
        positions: str = "",
        reparameterised: Collection[str] = (),
    ) -> None:
        super().__init__()
        self.method = method
        self.width = width
        self.names = list(names)
        self.reparameterised = frozenset(reparameterised)
        self.active: str | None = None
        backbone.requires_grad_(False)
        self.shape = shape_of(backbone)
        shifted = is_shifted(method, positions)
        target = Target(backbone, sites_of(backbone), self.shape, width, shifted, self.reparameterised)
        own = method_of(method)
        if fault := own.refuse(target):
            others = [name for name in METHODS if name != method and parameters(name, self.shape, 1)]
            raise InputError(f"tune: {fault.format(supported=', '.join(others))}")
        self.parts = nn.ModuleList(own.build(target))  # the name in checkpoints
        for name in names:
            for insert in self._inserts():
                insert.add(name)
        self.use(None)

    def _inserts(self) -> list[Insert]:
        return list(self.parts)  # type: ignore[arg-type]

    def use(self, name: str | None) -> None:
        """Activate the adapter `name` from now on; None: use only the backbone."""
        if name == self.active:
            return
        if name is not None and name not in self.names:
            raise ValueError(f"adapter {name!r} is none of {self.names}")
        for insert in self._inserts():
            insert.use(name)
        self.active = name

    @contextmanager
    def used(self, name: str | None) -> Iterator[None]:
        """Activate the adapter `name` inside this context; None: use only the backbone."""
        before = self.active
        self.use(name)
        try:
            yield
        finally:
            self.use(before)

    def repeated(self) -> tuple[AbstractContextManager[object], AbstractContextManager[object]]:
        """Return contexts for gradient checkpointing; the repeated forward pass uses the adapter that is active now."""
        return nullcontext(), self.used(self.active)

    def tensors(self, name: str) -> dict[str, Parameter]:
        """Return an adapter's trained tensors by name; tensor names are the same for all adapters."""
        return _joined([insert.tensors(name) for insert in self._inserts()])

    def named_tensors(self) -> dict[str, Parameter]:
        """Return the trained tensors of all adapters, by the name `adapter.tensor`."""
        return {f"{name}.{key}": tensor for name in self.names for key, tensor in self.tensors(name).items()}

    def stored(self) -> dict[str, Tensor]:
        """Return the tensors that a model folder stores; for reparameterised prompts, these are computed prompts."""
        return {
            f"{name}.{key}": tensor.detach()
            for name in self.names
            for key, tensor in _joined([insert.stored(name) for insert in self._inserts()]).items()
        }

    def train_only(self, names: Sequence[str]) -> None:
        """Let only the adapters in `names` train; freeze all other adapters."""
        for name in self.names:
            for tensor in self.tensors(name).values():
                tensor.requires_grad_(name in names)

    def load(self, found: Mapping[str, Tensor], where: str) -> None:
        """Copy the tensors `found` into the adapters. Raises: InputError with `where` if names or shapes do not fit."""
        own = self.named_tensors()
        for name in sorted({*own, *found}):
            if name not in own or name not in found or own[name].shape != found[name].shape:
                raise InputError(
                    f"{where}: tensor {name} does not fit adapters of method {self.method}, width {self.width}, "
                    f"for {', '.join(self.names)}"
                )
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(found[name])

    def save(self, folder: Path) -> None:
        """Write the tensors that `stored` returns to the model folder `folder`."""
        _write(self.stored(), folder / TENSORS_FILE)

    def save_training(self, folder: Path) -> None:
        """Write the trained tensors of reparameterised adapters, if there are any, so that training can resume."""
        trained = {
            name: each for name, each in self.named_tensors().items() if adapter_of(name) in self.reparameterised
        }
        if trained:
            _write(trained, folder / TRAINING_FILE)

    def check(self, encode: Callable[[], Tensor]) -> None:
        """Raise InputError if an adapter does not change the vectors that `encode` returns, or if some of its tensors
        get no gradient.

        During the check, random noise is added to the adapters, since most methods start with zeros.
        """
        with torch.no_grad(), self.used(None):
            bare = encode()
        for name in self.names:
            tensors = self.tensors(name)
            with self.used(name), torch.enable_grad(), _noise(list(tensors.values())):
                vectors = encode()
                weights_D = torch.arange(1, vectors.shape[-1] + 1, device=vectors.device)
                loss = (vectors**2 * weights_D).sum()  # a plain sum is constant after a layer norm
                grads = (
                    torch.autograd.grad(loss, list(tensors.values()), allow_unused=True)
                    if loss.requires_grad
                    else [None] * len(tensors)
                )
            idle = [
                key
                for key, grad in zip(tensors, grads, strict=True)
                if grad is None or not (key.endswith(NO_EFFECT) or grad.any())
            ]
            if idle:
                fault = f"{len(idle)} of {len(tensors)} tensors get no gradient, first {idle[0]}"
            elif torch.equal(vectors, bare):
                fault = "it does not change the vectors"
            else:
                continue
            raise InputError(
                f"tune: {self.method} does not work with this backbone, adapter {name!r}: {fault}; try another method"
            )


def load_adapters(backbone: nn.Module, folder: Path) -> Adapters:
    """Load the adapters in `folder` onto their backbone. Raises: InputError for tensors that do not fit."""
    record = read_record(folder)
    adapters = Adapters(backbone, record.method, record.width, record.names, record.positions)
    adapters.load(read_safetensors(folder / TENSORS_FILE), str(folder / TENSORS_FILE))
    return adapters


def _write(tensors: Mapping[str, Tensor], path: Path) -> None:
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)


def _joined(tensors: Sequence[Mapping[str, T]]) -> dict[str, T]:
    """Return an adapter's tensors in all inserts; with several inserts, names are `number of the insert.tensor`."""
    if len(tensors) == 1:
        return dict(tensors[0])
    return {f"{number}.{key}": tensor for number, own in enumerate(tensors) for key, tensor in own.items()}


@contextmanager
def _noise(tensors: Sequence[Parameter]) -> Iterator[None]:
    """In this context, the tensors have added noise and can train; afterwards, they are restored exactly."""
    generator = torch.Generator().manual_seed(0)
    kept = [(tensor.detach().clone(), tensor.requires_grad) for tensor in tensors]
    try:
        for tensor in tensors:
            tensor.data += PROBE_DEVIATION * torch.randn(tensor.shape, generator=generator).to(tensor.device)
            tensor.requires_grad_(True)
        yield
    finally:
        for tensor, (values, trained) in zip(tensors, kept, strict=True):
            tensor.data.copy_(values)
            tensor.requires_grad_(trained)
