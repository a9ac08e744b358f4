"""From the command to TACO's formula a reader opens few lines."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "taco_ir"
PATH = ("train.py", "training/run.py", "training/loop.py", "training/step.py", "weighting/base.py", "weighting/taco.py")


def test_the_path_to_the_formula_is_short() -> None:
    """Each file names the next, or what it inherits from, and the last states the formula."""
    texts = [(PACKAGE / name).read_text(encoding="utf-8") for name in PATH]
    assert sum(len(text.splitlines()) for text in texts) <= 1000
    for text, following in zip(texts, PATH[1:4], strict=False):
        assert f"taco_ir.{following.removesuffix('.py').replace('/', '.')}" in text
    assert "taco_ir.weighting.base" in texts[3] and "taco_ir.weighting.base" in texts[5]
    assert "q = softmax_k(S / tau)" in texts[-1]
