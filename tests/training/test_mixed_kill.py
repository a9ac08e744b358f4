"""kill -9 at any moment of a training of several kinds of tasks, then the same command again: byte for byte the undisturbed folder."""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path

import kills
from cities import write_cities

TRIALS = 2
FLAGS = (
    "--tasks nq --reading nq --self-supervised mlm,inverse_cloze --schedule sequential --rehearsal 0.4 --roles embedding --pooling first"
    " --query-length 16 --passage-length 40 --batch-size 4 --reading-batch 3 --passage-batch 2 --reading-negatives 1 --steps 24"
    " --pool-queries 2 --pool-hard 0 --pool-random 4 --validate-on train --validate-every 9 --checkpoint-every 2"
)


def main(model: Path, trials: int) -> None:
    import torch
    from transformers import AutoConfig, AutoModel, BertModel  # noqa: F401

    from taco_ir import train
    from taco_ir.training import loop, validation  # noqa: F401
    from taco_ir.training import run as episodes  # noqa: F401

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        cities = write_cities(Path(name) / "cities", ". It has many fish in it. Nobody lives there now")

        def train_to(output: Path) -> None:
            where = ["--collection", str(cities), "--negatives", str(cities / "negatives.jsonl"), "--model", str(model)]
            train.main([*where, "--output", str(output), *FLAGS.split()])

        kills.survive("train", train_to, Path(name), trials, random.Random(0))


def test_kill_9_changes_nothing(tiny_mlm: Path) -> None:
    kills.rerun(__file__, "train", TRIALS, tiny_mlm)


if __name__ == "__main__":
    main(Path(sys.argv[2]), int(sys.argv[1]))
