"""Several processes mine what one does, to the last byte, and an ANCE training by them ends as one process's."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from started_ranks import run_ranks

FLAGS = (
    "--collection sample --tasks nq wow --pooling mean --normalize --negatives ance --mine-depth 30 --mine-keep 4"
    " --hard-negatives 2 --batch-size 6 --steps 3 --learning-rate 1e-4 --dropout 0 --pool-hard 0"
    " --passage-length 64 --query-length 16"
)
MINED = "--collection sample --tasks nq --pooling mean --normalize --mine-depth 30 --mine-keep 4"


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_training_by_two_processes(tiny_bert: Path, tmp_path: Path) -> None:
    """The weights are as near those of one process as in `test_two_processes_are_one`."""
    one, two = places = [tmp_path / str(world) / "run" for world in (1, 2)]
    for world, place in enumerate(places, 1):
        words = [*FLAGS.split(), "--model", tiny_bert, "--output", place]
        said = run_ranks([sys.executable, "-m", "taco_ir.train", *words], world, tmp_path)
    assert (one / "ance.jsonl").read_bytes() == (two / "ance.jsonl").read_bytes()
    assert files(one / "ance.runs") == files(two / "ance.runs") != {}
    assert "5 of 5 shards" in said[0] and all("encoding 64 of 64 passages" in each for each in said)
    own, others = (load_file(place / "model" / "model.safetensors") for place in places)
    assert own.keys() == others.keys()
    assert max(float((own[name] - others[name]).abs().max()) for name in own) <= 1e-5


def test_mine_by_two_processes(tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One makes an index in its data home, two search their vectors; then those that the index was made of."""
    outputs = [tmp_path / name / "found.jsonl" for name in ("one", "two", "again")]
    for world, home, output in zip((1, 2, 2), ("a", "b", "a"), outputs, strict=True):
        monkeypatch.setenv("TACO_IR_HOME", str(tmp_path / home))
        output.parent.mkdir()
        words = [*MINED.split(), "--source", tiny_bert, "--output", output]
        said = run_ranks([sys.executable, "-m", "taco_ir.mine", *words], world, output.parent)
    assert len({output.read_bytes() for output in outputs}) == 1
    assert "1 of 1 shards are done already" in said[0]
    assert not list(tmp_path.rglob("queries.npy")), "what a search kept on its way is gone"
