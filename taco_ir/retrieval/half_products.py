"""Inner products in half precision for an exact search on an accelerator, where they are much faster than float32.

Vectors are rounded to half precision, and sums are in float32. The rounding error has a bound, so all possible best
hits are kept, and their scores are computed again. Hits and scores are therefore the same as with float32.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from taco_ir.core.types import Vectors
from taco_ir.retrieval.exact_search import UNIT, rounding

if TYPE_CHECKING:
    import torch

QUERIES = 4096  # queries that are scored together


class HalfPrecision:
    """Computes inner products on a device with torch, from vectors in fp16 (the default) or bf16.

    Queries are scaled to length 1 before the product, so that fp16 can represent them.
    """

    threads = 1  # the device has its own threads

    def __init__(self, dim: int, device: str, dtype: torch.dtype | None = None) -> None:
        import torch

        self.queries = QUERIES
        self._device, self._dtype = torch.device(device), dtype or torch.float16
        kind = torch.finfo(self._dtype)
        # rounding both factors and their product: 3 eps / 2 for each of two scores; and rounding near 0 in fp16
        near_zero = math.sqrt(dim) * kind.smallest_normal * kind.eps
        self.error = 3 * kind.eps * (1 + 2 * kind.eps) + 2 * near_zero + 2 * rounding(dim)

    def read(self, block_ND: npt.NDArray[np.floating]) -> tuple[torch.Tensor, float]:
        import torch

        whole_ND = torch.from_numpy(np.array(block_ND)).to(self._device)
        longest = float(torch.linalg.vector_norm(whole_ND.float(), dim=1).max()) * (1 + UNIT)
        return whole_ND.to(self._dtype), longest

    def hold(self, queries_BD: Vectors) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        norm_B = np.linalg.norm(queries_BD.astype(np.float64), axis=1).astype(np.float32)
        unit_BD = queries_BD / np.where(norm_B > 0, norm_B, 1)[:, None]
        held_BD = torch.from_numpy(unit_BD).to(self._device, self._dtype)
        return held_BD, torch.from_numpy(norm_B).to(self._device)

    def score(self, queries_BD: tuple[torch.Tensor, torch.Tensor], block_ND: torch.Tensor) -> torch.Tensor:
        import torch

        held_BD, norm_B = queries_BD
        with torch.inference_mode():
            if self._device.type == "cpu":
                scores_BN = held_BD.float() @ block_ND.float().T
            else:
                scores_BN = torch.mm(held_BD, block_ND.T, out_dtype=torch.float32)
            return scores_BN * norm_B[:, None]

    def best(self, scores_BN: torch.Tensor, place: int) -> npt.NDArray[np.float64]:
        found: npt.NDArray[np.float64] = scores_BN.topk(place, dim=1).values[:, -1].cpu().numpy().astype(np.float64)
        return found

    def select(self, scores_BN: torch.Tensor, least_B: Vectors) -> tuple[npt.NDArray[np.intp], Vectors]:
        import torch

        least_B1 = torch.from_numpy(least_B).to(self._device)[:, None]
        places = torch.nonzero((scores_BN >= least_B1).ravel()).ravel()
        return places.cpu().numpy(), scores_BN.ravel()[places].cpu().numpy()
