"""The processes of one training, which torchrun starts. Without torchrun there is one process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.nn import Parameter

from taco_ir.scale.ranks import PATIENCE, Ranks, meeting_place

BUCKET = 6_000_000  # maximum number of gradient entries that are sent together


class Processes(Ranks):
    """This process and the others of the same training, with sums and exchanges of tensors between them."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(str(device))
        if self.world > 1 and not dist.is_initialized():
            store = PrefixStore("training", meeting_place())
            backend = "nccl" if device.type == "cuda" else "gloo"
            dist.init_process_group(backend, None, PATIENCE, self.world, self.rank, store)

    def sum(self, values: Tensor) -> Tensor:
        """Sums a tensor over all processes, in place; returns it."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def sum_gradients(self, params: Sequence[Parameter], loss: Tensor) -> Tensor:
        """Sums `.grad` of `params` and the scalar `loss` over the processes; returns the summed loss.

        Small gradients are copied together into a bucket, which is sent while the next is filled. If a parameter has no
        gradient in any process, its `.grad` is None afterwards, as with one process. Zeros would be different: an
        optimiser with moments or weight decay would still change the parameter.
        """
        if self.world == 1:
            return loss
        counts = params[0].new_tensor([float(param.grad is not None) for param in params])
        small = torch.cat([counts, loss.to(counts).reshape(1)])
        sent = [dist.all_reduce(small, async_op=True)]
        for bucket in _buckets(params):
            grads = [torch.zeros_like(param) if param.grad is None else param.grad.to_dense() for param in bucket]
            flat = torch.cat([grad.reshape(-1) for grad in grads]) if len(bucket) > 1 else grads[0].reshape(-1)
            sent.append(dist.all_reduce(flat, async_op=True))
            for param, piece in zip(bucket, torch.split(flat, [each.numel() for each in bucket]), strict=True):
                param.grad = piece.view_as(param)
            del grads
        for each in sent:
            each.wait()
        for param, count in zip(params, small[:-1].tolist(), strict=True):
            if not count:
                param.grad = None
        return small[-1]

    @contextmanager
    def summed(self, params: Sequence[Parameter]) -> Iterator[None]:
        """In the block, .grad of `params` are sums over the processes; afterwards they are this process's own again."""
        own = [None if param.grad is None else param.grad.clone() for param in params]
        self.sum_gradients(params, torch.zeros(()))
        yield
        for param, grad in zip(params, own, strict=True):
            param.grad = grad

    def gather(self, own_ND: Tensor, sizes: Sequence[int]) -> Tensor:
        """Returns the rows [N, D] of all processes, in the order of ranks. Only this process's rows carry a gradient.

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


def _buckets(params: Sequence[Parameter]) -> Iterator[list[Parameter]]:
    """Yields groups of neighbouring parameters of at most BUCKET numbers; a larger parameter is alone."""
    bucket: list[Parameter] = []
    for param in params:
        if bucket and sum(each.numel() for each in bucket) + param.numel() > BUCKET:
            yield bucket
            bucket = []
        bucket.append(param)
    yield bucket
