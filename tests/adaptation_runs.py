"""An index of the sample by a tiny encoder, in the layouts of this package and of Pyserini, and adaptations on it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from taco_ir.adaptation.settings import AdaptSettings
from taco_ir.data.collection import open_collection
from taco_ir.encoders.text_encoder import load_encoder
from taco_ir.retrieval.retrievers import build_dense

SMALL: dict[str, Any] = {
    **{"pooling": "mean", "normalize": True, "collection": "sample", "topics": ("nq-train", "wow-train")},
    **{"width": 4, "steps": 6, "batch_size": 6, "shares": "uniform", "learning_rate": 1e-2, "dropout": 0.0},
    **{"validate_every": 3, "checkpoint_every": 2},
}


@pytest.fixture(scope="session")
def index(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Path:
    """Our index of the sample by `tiny_bert`, pooled by the mean and normalised."""
    folder = tmp_path_factory.mktemp("adaptation")
    encoder = load_encoder(str(tiny_bert), pooling="mean", normalize=True)
    build_dense(open_collection("sample"), encoder, "tiny", folder)
    return folder / "index"


@pytest.fixture(scope="session")
def theirs(index: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same index as Pyserini writes it, which does not say what made it."""
    folder = tmp_path_factory.mktemp("pyserini") / "index"
    folder.mkdir()
    for name in ("index", "docid"):
        shutil.copy2(index / name, folder / name)
    return folder


@pytest.fixture
def settings(index: Path, tiny_bert: Path, tmp_path: Path) -> Callable[..., AdaptSettings]:
    """Settings of a small adaptation, with changes; it is written to `taught` in the test's folder."""

    def made(**changes: Any) -> AdaptSettings:
        places = {"index": str(index), "model": str(tiny_bert), "output": str(tmp_path / "taught")}
        return AdaptSettings(**{**SMALL, **places, **changes})

    return made
