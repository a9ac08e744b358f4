"""The training loop: it resumes bit for bit; learning rate, patience, the best model, skipped steps, the log."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from training_runs import (
    TASKS,
    StopAfter,
    Stopped,
    contents,
    differing,
    episode,
    last_checkpoint,
    logged,
    scripted,
    small,
)
from weighting_steps import TRAINED

from taco_ir.core.files import InputError, read_json
from taco_ir.training.checkpoint import find_latest, list_checkpoints
from taco_ir.training.log import Reporter
from taco_ir.training.logged import LOG_FILE
from taco_ir.training.loop import MAX_SKIPPED, Loop
from taco_ir.training.schedules import learning_rate
from taco_ir.training.settings import OptimiserSettings, TrainSettings

WEIGHTED: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in TRAINED if name != "taco"),
    ("taco", {"beta": 0.9, "burn_in": 0.3}),
    ("taco", {"beta": 0.9, "burn_in": 0.3, "importance": "bf16"}),
    ("taco", {"tau": "share:0.3", "burn_in": 0.3}),
]


@pytest.fixture
def config(tiny_bert: Path, tmp_path: Path) -> TrainSettings:
    return small(tiny_bert, tmp_path)


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def steps_of(folder: Path) -> list[int]:
    return [record["step"] for record in logged(folder)]


# going on


@pytest.mark.parametrize(("weighting", "options"), WEIGHTED)
def test_stopped_twice_is_never_stopped(
    tiny_bert: Path, tmp_path: Path, weighting: str, options: dict[str, Any]
) -> None:
    """Every file, bit for bit: weights, best model, optimiser, weighting, state; and the log but for seconds."""
    config = small(tiny_bert, tmp_path, weighting=weighting, weighting_options=options, keep_checkpoints=1)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    episode(config, whole).run()
    for stop, reached in ((3, 2), (5, 4)):  # a checkpoint every two steps
        with pytest.raises(Stopped):
            episode(config, parts, StopAfter(stop)).run()
        assert read_json(last_checkpoint(parts) / "state.json")["step"] == reached
    assert steps_of(parts)[-1] == 5  # one more than the checkpoint knows of
    again = episode(config, parts)
    assert again.state.step == 4
    again.run()
    assert logged(parts) == logged(whole) and differing(parts, whole) == []
    assert any(not torch.equal(value, weights(tiny_bert)[name]) for name, value in weights(whole / "model").items())


def test_a_finished_episode_trains_no_more(config: TrainSettings, tmp_path: Path) -> None:
    episode(config, tmp_path).run()
    before = contents(tmp_path), logged(tmp_path)
    episode(config, tmp_path, StopAfter(config.optimiser.steps)).run()
    assert (contents(tmp_path), logged(tmp_path)) == before


def test_stopped_before_the_first_checkpoint_begins_again(config: TrainSettings, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        episode(config, tmp_path / "parts", StopAfter(1)).run()
    assert steps_of(tmp_path / "parts") == [0, 1]
    episode(config, tmp_path / "parts").run()
    episode(config, tmp_path / "whole").run()
    assert logged(tmp_path / "parts") == logged(tmp_path / "whole")
    assert differing(tmp_path / "parts", tmp_path / "whole") == []


def test_progress_is_the_share_of_steps_done(config: TrainSettings, tmp_path: Path) -> None:
    """...across a stop as well, since a weighting's burn-in hangs on it."""
    first = scripted(config, tmp_path, reporter=StopAfter(3))
    with pytest.raises(Stopped):
        first.run()
    again = scripted(config, tmp_path)
    again.run()
    assert seen(first) == [(0, 0.0), (1, 1 / 6), (2, 2 / 6)]
    assert seen(again) == [(2, 2 / 6), (3, 3 / 6), (4, 4 / 6), (5, 5 / 6)]


def seen(run: Loop) -> list[tuple[int, float]]:
    found: list[tuple[int, float]] = run._step.seen  # type: ignore[attr-defined]
    return found


# learning rate


def rates(warmup: float, steps: int) -> list[float]:
    return [learning_rate(OptimiserSettings(learning_rate=8.0, warmup=warmup), step, steps) for step in range(steps)]


def test_learning_rate_by_hand() -> None:
    assert rates(0.2, 10) == [4, 8, 8, 7, 6, 5, 4, 3, 2, 1]
    assert rates(0, 4) == [8, 6, 4, 2]
    assert rates(1, 4) == [2, 4, 6, 8]
    assert rates(0.5, 1) == [8]
    assert rates(0.25, 1) == [8]


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 7, 100])
def test_learning_rate_rises_then_falls(warmup: float, steps: int) -> None:
    found = rates(warmup, steps)
    top = found.index(max(found))
    assert max(found) == 8 and min(found) > 0
    assert found[: top + 1] == sorted(found[: top + 1]) and found[top:] == sorted(found[top:], reverse=True)
    assert abs(top - warmup * steps) <= 1.5


def test_the_rate_that_is_logged_is_the_rate_that_moves(tiny_bert: Path, tmp_path: Path) -> None:
    """Adam's first step moves what has a gradient by the learning rate, whatever the gradient."""
    config = small(tiny_bert, tmp_path, weight_decay=0.0, warmup=1.0, steps=4, clip=0.0, checkpoint_every=1)
    with pytest.raises(Stopped):
        scripted(config, tmp_path, reporter=StopAfter(2)).run()
    assert [record["learning_rate"] for record in logged(tmp_path)] == pytest.approx([2.5e-4, 5e-4])
    before, after = weights(tiny_bert), weights(last_checkpoint(tmp_path) / "model")
    moved = max(float((after[name] - value).abs().max()) for name, value in before.items())
    assert moved == pytest.approx(2.5e-4, rel=1e-3)


def test_updates_are_clipped(tiny_bert: Path, tmp_path: Path) -> None:
    """AdamW keeps (1 - beta_1) times the first gradient that it sees."""
    norms = {}
    for clip in (0.0, 0.5, 1e6):
        folder = tmp_path / str(clip)
        scripted(small(tiny_bert, tmp_path, clip=clip, steps=1), folder).run()
        tensors = load_file(last_checkpoint(folder) / "optimizer.safetensors")
        moments = [value for name, value in tensors.items() if name.endswith("exp_avg")]
        norms[clip] = 10 * float(torch.cat([value.flatten() for value in moments]).norm())
        assert logged(folder)[0]["update_norm"] == pytest.approx(norms[0.0])  # before clipping
    assert norms[0.5] == pytest.approx(0.5, rel=1e-3) and norms[1e6] == norms[0.0] > 100


# validation


def scored(monkeypatch: pytest.MonkeyPatch, *scores: float) -> None:
    """Validations find these, one after the other."""
    left = iter(scores)
    monkeypatch.setattr(
        "taco_ir.training.validation.score_pools", lambda *_: {TASKS[0]: [next(left)], TASKS[1]: [0.25]}
    )


@pytest.mark.parametrize(
    ("scores", "patience", "best", "end"),
    [
        ((0.3, 0.5, 0.4, 0.5, 0.9), 2, 2, 4),  # as good is no gain
        ((0.3, 0.5, 0.4, 0.6, 0.5, 0.4), 2, 4, 6),  # a gain begins the count anew
        ((0.3, 0.2, 0.9, 0.9), 1, 1, 2),
        ((0.3, 0.5, 0.4, 0.3, 0.2, 0.6), 0, 6, 6),  # 0: never
        ((0.0, 0.0, 0.0, 0.0), 3, 1, 4),
    ],
)
def test_patience_and_the_best_model(
    tiny_bert: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    scores: Sequence[float],
    patience: int,
    best: int,
    end: int,
) -> None:
    """It stops after `patience` validations without a gain; the model is the first one of the highest score."""
    config = small(tiny_bert, tmp_path, patience=patience, validate_every=1, keep_checkpoints=9)
    scored(monkeypatch, 0.8, *scores)
    run = episode(config, tmp_path / "run")
    assert run.run() == tmp_path / "run" / "model"
    assert (run.state.step, run.state.best_step, run.state.best) == (end, best, (max(scores[:end]) + 0.25) / 2)
    models = [contents(found / "model") for found in sorted((tmp_path / "run" / "checkpoints").iterdir())]
    kept = contents(tmp_path / "run" / "model")
    assert json.loads(kept.pop("stream.json"))["steps"] == end  # what was dealt, whichever model is the best
    assert [step for step, files in enumerate(models, 1) if kept.items() <= files.items()] == [best]
    found = [record for record in logged(tmp_path / "run") if "validation" in record]
    assert [record["step"] for record in found] == list(range(end + 1))
    macros = [(score + 0.25) / 2 for score in (0.8, *scores)]
    assert [record["validation"]["macro"] for record in found] == macros[: end + 1]


def test_patience_counts_across_a_stop(tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small(tiny_bert, tmp_path, patience=2, validate_every=1)
    scored(monkeypatch, 0.8, 0.5, 0.4)
    with pytest.raises(Stopped):
        episode(config, tmp_path, StopAfter(3)).run()
    scored(monkeypatch, 0.4, 0.9)
    again = episode(config, tmp_path)
    again.run()
    assert (again.state.step, again.state.best_step) == (3, 1)
    again = episode(config, tmp_path)  # stopped for good
    again.run()
    assert again.state.step == 3


def test_validated_when_it_is_due_and_at_the_end(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored(monkeypatch, 0.1, 0.2, 0.3, 0.4)
    episode(small(tiny_bert, tmp_path, validate_every=2, steps=5), tmp_path).run()
    assert [record["step"] for record in logged(tmp_path) if "validation" in record] == [0, 2, 4, 5]


def test_without_validation_the_last_model_is_kept(config: TrainSettings, tmp_path: Path) -> None:
    episode(config, tmp_path, validated=False).run()
    found = last_checkpoint(tmp_path)
    assert found.name == "step-00000006" and not (tmp_path / "best").exists()
    assert differing(tmp_path / "model", found / "model") == []
    assert steps_of(tmp_path) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("links", [True, False])
def test_the_best_model_takes_its_space_once(
    config: TrainSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    """...and is copied where a file system has no links."""
    if not links:
        monkeypatch.setattr(Path, "hardlink_to", lambda *_: (_ for _ in ()).throw(PermissionError("no links here")))
    episode(config, tmp_path).run()
    best, model = tmp_path / "best", tmp_path / "model"
    assert differing(best, model) in ([], ["stream.json"])
    weights = best / "model.safetensors", model / "model.safetensors"
    assert weights[0].samefile(weights[1]) == links


def test_validation_leaves_dropout_on(tiny_bert: Path, tmp_path: Path) -> None:
    """The steps of a run that is validated are those of one that is not."""
    episode(small(tiny_bert, tmp_path, validate_every=1, steps=3), tmp_path / "often").run()
    episode(small(tiny_bert, tmp_path, steps=3), tmp_path / "never", validated=False).run()
    often, never = (last_checkpoint(tmp_path / name) / "model" for name in ("often", "never"))
    assert differing(often, never) == []


# steps that are skipped


class Told(Reporter):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)


def bad_in(*steps: int, tasks: Sequence[str] = ("nq",)) -> Callable[[int], Sequence[str]]:
    return lambda step: tasks if step in steps else ()


def test_nine_in_a_row_may_be_skipped(tiny_bert: Path, tmp_path: Path) -> None:
    run = scripted(small(tiny_bert, tmp_path, steps=21), tmp_path, bad_in(*range(9), *range(11, 20)), told := Told())
    run.run()
    assert (run.state.skipped, run.state.in_a_row) == ({"nq": 18}, 0)
    assert told.messages[0] == "step 1: skipped, the gradient of nq is not finite" and len(told.messages) == 18
    skipped = [record["step"] for record in logged(tmp_path) if "skipped" in record]
    assert skipped == [*range(1, 10), *range(12, 21)]
    assert all("weight" in record for record in logged(tmp_path) if record["step"] in (10, 11))


def test_ten_in_a_row_end_it(tiny_bert: Path, tmp_path: Path) -> None:
    """...naming every task that had one."""
    assert MAX_SKIPPED == 10

    def bad(step: int) -> Sequence[str]:
        return ("nq", "wow") if step == 4 else ("nq",) if step in range(2, 12) else ()

    run = scripted(small(tiny_bert, tmp_path, steps=30), tmp_path, bad)
    said = r"the gradients of 10 steps in a row were infinite or NaN, for nq \(10 steps\), wow \(1 steps\)"
    with pytest.raises(InputError, match=said):
        run.run()
    assert run.state.step == 11


def test_steps_that_are_skipped_leave_the_last_good_checkpoint(tiny_bert: Path, tmp_path: Path) -> None:
    """None is written and none is removed meanwhile; what goes on from it repeats the skipped steps."""
    config = small(tiny_bert, tmp_path, steps=30, keep_checkpoints=1)
    with pytest.raises(InputError, match=r"nq \(10 steps\)"):
        scripted(config, tmp_path, bad_in(*range(5, 30))).run()
    assert [found.name for found in list_checkpoints(tmp_path / "checkpoints")] == ["step-00000004"]
    again = scripted(config, tmp_path, bad_in(*range(5, 30)))
    assert (again.state.step, again.state.in_a_row, again.state.skipped) == (4, 0, {})
    with pytest.raises(InputError, match=r"nq \(10 steps\)"):
        again.run()
    assert len(seen(again)) == 11


def test_what_a_kill_left_of_an_old_checkpoint_goes_with_the_last_step(tiny_bert: Path, tmp_path: Path) -> None:
    """Killed while it removed a checkpoint after its last one, a training writes none that would remove the rest."""
    config = small(tiny_bert, tmp_path, steps=4, keep_checkpoints=1)
    scripted(config, tmp_path, bad_in()).run()
    rest = tmp_path / "checkpoints" / "step-00000002"
    rest.mkdir()
    (rest / "optimizer.safetensors").write_bytes(b"half")
    again = scripted(config, tmp_path, bad_in())
    again.run()
    assert again.state.step == 4 and [found.name for found in rest.parent.iterdir()] == ["step-00000004"]


def test_parameters_that_are_not_finite_are_no_checkpoint(tiny_bert: Path, tmp_path: Path) -> None:
    """Nor the trained model: the optimiser can leave what is finite by one step."""
    params: list[Tensor] = []

    def spoil(step: int) -> Sequence[str]:
        if step == 2:
            params[0].fill_(torch.inf)
        return ()

    run = scripted(small(tiny_bert, tmp_path, steps=4, keep_checkpoints=1), tmp_path, spoil, told := Told())
    params += [param.detach() for param in run._step.params]
    with pytest.raises(InputError, match="after the last step, parameters are infinite or NaN"):
        run.run()
    assert [found.name for found in list_checkpoints(tmp_path / "checkpoints")] == ["step-00000002"]
    assert told.messages == ["step 4: parameters are not finite; no checkpoint is written"]
    assert not (tmp_path / "model").exists()


def test_a_skipped_step_changes_nothing(config: TrainSettings, tmp_path: Path, tiny_bert: Path) -> None:
    scripted(config, tmp_path, bad_in(*range(6))).run()
    start, end = weights(tiny_bert), weights(tmp_path / "model")
    assert all(torch.equal(value, start[name]) for name, value in end.items())
    assert find_latest(tmp_path) is None


def test_a_training_that_diverges_is_ended(tiny_bert: Path, tmp_path: Path) -> None:
    config = small(tiny_bert, tmp_path, learning_rate=1e38, steps=30, warmup=0.0)
    said = r"for fever \(\d+ steps\), nq \(\d+ steps\), wow \(\d+ steps\); try a lower learning_rate, or"
    with pytest.raises(InputError, match=said):
        episode(config, tmp_path, validated=False).run()


# the log


def test_what_is_logged(config: TrainSettings, tmp_path: Path) -> None:
    episode(config, tmp_path).run()
    records = logged(tmp_path)
    assert [record["step"] for record in records] == [0, 1, 2, 3, 3, 4, 5, 6, 6]
    for record in records:
        if "validation" in record:
            assert record["validation"].keys() == {*TASKS, "macro"}
            mean = sum(record["validation"][task] for task in TASKS) / len(TASKS)
            assert record["validation"]["macro"] == pytest.approx(mean)
        else:
            assert record.keys() >= {"learning_rate", "loss", "gradient_norm", "weight", "update_norm"}
            assert list(record["loss"]) == list(record["gradient_norm"]) == list(record["weight"]) == list(TASKS)
            assert all(value > 0 for value in record["gradient_norm"].values())
            assert sum(record["weight"].values()) == pytest.approx(1)
            assert 0 < record["update_norm"] <= max(record["gradient_norm"].values())


def test_a_log_that_was_cut_anywhere_goes_on_whole(config: TrainSettings, tmp_path: Path) -> None:
    """Lines after the checkpoint are removed, as is one that was cut short; the next lines follow whole ones."""
    with pytest.raises(Stopped):
        scripted(config, tmp_path, reporter=StopAfter(5)).run()
    log = tmp_path / LOG_FILE
    lines = log.read_text().splitlines(keepends=True)
    assert len(lines) == 5
    again = scripted(config, tmp_path)
    assert log.read_text() == "".join(lines[:4])
    sections = (config.optimiser, config.weighting, config.validation)
    for cut in range(1, len(lines[4]) + len(lines[3])):
        log.write_text("".join(lines)[:-cut])
        Loop(*sections, again._step, again._plan, tmp_path, again._processes, Reporter())
        whole = 4 if cut <= len(lines[4]) + 1 else 3  # a line without its end of line is whole
        assert log.read_text() == "".join(lines[:whole]), cut
    assert not list(log.parent.glob(f"{LOG_FILE}.*"))
    scripted(config, tmp_path).run()
    assert steps_of(tmp_path) == [1, 2, 3, 5, 6]


# learning


def test_every_tasks_loss_falls(tiny_bert: Path, tmp_path: Path) -> None:
    tasks = ("aidayago2", "fever", "hotpotqa", "nq", "structured_zeroshot", "trex", "triviaqa", "wow")
    own = {"batch_size": 64, "steps": 24, "learning_rate": 1e-2, "normalize": True, "dropout": 0.0}
    config = small(tiny_bert, tmp_path, tasks=tasks, checkpoint_every=99, **own)
    episode(config, tmp_path, validated=False).run()
    records = logged(tmp_path)
    first, last = (
        {task: sum(record["loss"][task] for record in part) for task in tasks} for part in (records[:4], records[-4:])
    )
    assert all(last[task] < 0.8 * first[task] for task in tasks), (first, last)
