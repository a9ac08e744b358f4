"""Where tests find the real collection, and the rule for machines that lack it."""

import os
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[1].parent / "shared"


@pytest.fixture(scope="session")
def minikilt() -> Path:
    """The real multi-task collection beside the project; a clone without it skips, CI without it fails."""
    folder = SHARED / "minikilt"
    if not folder.is_dir():
        if os.environ.get("CI"):
            pytest.fail(f"{folder} is missing in CI")
        pytest.skip("needs the mini-KILT collection beside the project (../shared/minikilt)")
    return folder
