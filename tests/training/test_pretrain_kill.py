"""kill -9 at any moment of a pre-training, then the same command again: the folder is byte for byte that of one that nobody disturbed."""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path

import kills

TRIALS = 2
FLAGS = "--objective mlm,span_contrast,condenser --pooling first --length 24 --batch-size 6 --held-out 6 --steps 24 --validate-every 5 --checkpoint-every 2"


def main(model: Path, trials: int) -> None:
    import torch
    from transformers import AutoConfig, AutoModel, BertModel  # noqa: F401

    from taco_ir import pretrain
    from taco_ir.data.collection import open_collection
    from taco_ir.training import loop, run  # noqa: F401
    from taco_ir.training.objectives import spans  # noqa: F401

    torch.set_num_threads(1)
    assert open_collection("sample").passages.count  # scanned once, before anything is timed
    with tempfile.TemporaryDirectory() as name:

        def pretrain_to(output: Path) -> None:
            pretrain.main(["--model", str(model), "--output", str(output), *FLAGS.split()])

        kills.survive("pretrain", pretrain_to, Path(name), trials, random.Random(0))


def test_kill_9_changes_nothing(tiny_mlm: Path) -> None:
    kills.rerun(__file__, "pretrain", TRIALS, tiny_mlm)


if __name__ == "__main__":
    main(Path(sys.argv[2]), int(sys.argv[1]))
