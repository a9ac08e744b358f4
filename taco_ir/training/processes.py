"""The processes of one training, started by torchrun; without torchrun there is one process."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import Parameter

PATIENCE = timedelta(days=7)  # the other processes wait while the first one mines


class Processes:
    """This process and the others that train with it.

    Attributes:
        rank: this process's number, from 0; rank 0 alone writes files and prints.
        world: number of processes.
    """

    def __init__(self, device: torch.device) -> None:
        self.world = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        self._device = device
        if self.world > 1 and not dist.is_initialized():
            if device.type == "cuda" and device.index is None:
                torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))  # what `cuda` means from here on
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)

    @property
    def first(self) -> bool:
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Sum over all processes, in place."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def sum_gradients(self, params: Sequence[Parameter], loss: Tensor) -> Tensor:
        """Sum .grad of `params` and the scalar `loss` over the processes in one exchange; returns the summed loss.

        A parameter without a gradient in any process has none afterwards, as in one process: with zeros, an optimiser
        with moments or decay would still change it.
        """
        if self.world == 1:
            return loss
        grads = [torch.zeros_like(param) if param.grad is None else param.grad.to_dense() for param in params]
        own = grads[0].new_tensor([float(param.grad is not None) for param in params])
        flat = self.sum(torch.cat([*(grad.reshape(-1) for grad in grads), own, loss.to(own).reshape(1)]))
        *pieces, counts, summed = torch.split(flat, [*(grad.numel() for grad in grads), len(own), 1])
        for param, piece, count in zip(params, pieces, counts.tolist(), strict=True):
            param.grad = piece.view_as(param) if count else None
        return summed[0]

    def from_first(self, value: float) -> float:
        """The first process's value."""
        if self.world == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64, device=self._device)
        dist.broadcast(shared, 0)
        return float(shared.item())

    def wait(self) -> None:
        if self.world > 1:
            dist.barrier()

    def gather(self, own_ND: Tensor, sizes: Sequence[int]) -> Tensor:
        """Rows [N, D] of all processes, in the order of ranks; only this process's own carry a gradient.

        Args:
            sizes: number of rows of each process.
        """
        if self.world == 1:
            return own_ND
        padded = own_ND.new_zeros(max(sizes), own_ND.shape[1])
        padded[: len(own_ND)] = own_ND.detach()
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        parts = [part[:size] for part, size in zip(parts, sizes, strict=True)]
        parts[self.rank] = own_ND
        return torch.cat(parts)

    def end(self) -> None:
        if dist.is_initialized():
            dist.destroy_process_group()
