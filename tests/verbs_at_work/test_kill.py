"""kill -9 at any moment, then the same command again: the folder is byte for byte that of an undisturbed process.

`python tests/verbs_at_work/test_kill.py 30` does 30 trials each of encoding, indexing and training, and prints what was
killed when. The parent imports everything once and forks; it runs no thread and no JVM.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from kills import forked, survive

TRIALS = 4  # of each verb
TRAIN_TRIALS = 2
TRAINING = """
pooling = "mean"
tasks = ["fever", "nq"]
passage_length = 40
query_length = 24
batch_size = 6
learning_rate = 1e-3
mine_depth = 20
mine_keep = 4
pool_queries = 4
pool_hard = 2
pool_random = 20
validate_every = 4
checkpoint_every = 3
[[episode]]
steps = 12
[[episode]]
steps = 12
negatives = "ance"
weighting = "taco"
weighting_options = { beta = 0.9, burn_in = 0.2 }
"""
BLOCK_ROWS = 16  # 20 blocks of the sample collection


def build_bm25(folder: Path) -> None:
    """In a child: what starts a JVM must not fork."""
    from taco_ir.data.collection import open_collection
    from taco_ir.retrieval.retrievers import BM25Retriever

    sample = open_collection("sample")
    if os.waitpid(
        forked(lambda: print(BM25Retriever(sample).search(sample.load_topics("nq-dev"), 1)), folder / "log"), 0
    )[1]:
        raise SystemExit((folder / "log").read_text())


def main(model: Path, trials: int, train_trials: int, seed: int = 0) -> None:
    import faiss  # noqa: F401
    import torch
    from transformers import AutoConfig, AutoModel, BertModel  # noqa: F401

    from taco_ir import encode, index, train
    from taco_ir.data.collection import open_collection
    from taco_ir.retrieval import vectors
    from taco_ir.training import loop  # noqa: F401
    from taco_ir.training import run as episodes  # noqa: F401

    torch.set_num_threads(1)
    vectors.BLOCK_ROWS = BLOCK_ROWS
    assert open_collection("sample").passages.count > 10 * BLOCK_ROWS  # scanned once, before anything is timed
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def encode_to(output: Path) -> None:
            encode.main(["--model", str(model), "--pooling", "mean", "--output", str(output)])

        def index_to(output: Path) -> None:
            index.main(["--vectors", str(folder / "encode-whole"), "--output", str(output)])

        def train_to(output: Path) -> None:
            train.main(["--config", str(folder / "run.toml"), "--model", str(model), "--output", str(output)])

        survive("encode", encode_to, folder, trials, draw)
        survive("index", index_to, folder, trials, draw)
        (folder / "run.toml").write_text(TRAINING)
        build_bm25(folder)
        survive("train", train_to, folder, train_trials, draw)


def test_kill_9_changes_nothing(tiny_bert: Path) -> None:
    counts = [os.environ.get("KILL_TRIALS", str(number)) for number in (TRIALS, TRAIN_TRIALS)]
    done = subprocess.run([sys.executable, __file__, *counts, tiny_bert], capture_output=True, text=True, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split(",")[0] for line in done.stdout.splitlines()] == [
        f"{verb}: {trials} of {trials} trials byte-identical"
        for verb, trials in zip(("encode", "index", "train"), (counts[0], *counts), strict=True)
    ]
    assert "half-written" in done.stdout, "no kill came while something was being written"


if __name__ == "__main__":
    if len(sys.argv) > 2:
        main(Path(sys.argv[3]), int(sys.argv[1]), int(sys.argv[2]))
    else:
        import pytest

        os.environ["KILL_TRIALS"] = sys.argv[1]
        sys.exit(pytest.main([__file__, "-s", "-o", "timeout=0"]))
