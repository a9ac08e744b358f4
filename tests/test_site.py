"""The site of documents: built without a warning, with every public name, and nothing fetched from elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from documents import ROOT

import taco_ir

pytest.importorskip("mkdocs", reason="the site needs taco_ir[docs]")
FETCHED = re.compile(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"']?https?:|<link\b[^>]*stylesheet[^>]*https?:")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    page = (site / "reference" / "index.html").read_text(encoding="utf-8")
    missing = [path for path in taco_ir._PUBLIC.values() if f'id="{path.replace(":", ".")}"' not in page]
    assert not missing


def test_pages_of_the_project_link_to_each_other(site: Path) -> None:
    """What stands elsewhere than in docs/ has a page, and links lead to it."""
    start = (site / "index.html").read_text(encoding="utf-8")
    assert 'href="guide/"' in start and 'href="runs/"' in start and 'href="taco-mini/"' in start
    assert 'href="../contributing/#another-weighting"' in (site / "guide" / "index.html").read_text("utf-8")


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        assert not FETCHED.search(page.read_text(encoding="utf-8")), page
