"""What adapters on a frozen backbone cost: training against full fine-tuning, encoding against the bare backbone.

step      8 tasks x 8 queries and 16 passages of 32 and 96 tokens, naive weighting, AdamW. Methods alternate, and each
          round starts with another one.
memory    peak of two such steps in a process of its own: resident set, or memory allocated on the accelerator.
encoding  passages of the sample. A ratio is the median over rounds of the bare backbone's seconds / the method's.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from bounds import Bound, add_tiny, in_a_process, judged
from train_step import DEFAULT_MODEL, PASSAGES, QUERIES, TASKS, TaskTexts, Variant, task_texts

from taco_ir.data.collection import open_collection
from taco_ir.encoders.adapters.methods import FULL, METHODS
from taco_ir.encoders.exports import write_merged
from taco_ir.encoders.model_folder import ModelFolder
from taco_ir.encoders.text_encoder import TextEncoder, load_encoder
from taco_ir.evaluation.tables import Cell, Table, render
from taco_ir.training.base_model import start_encoder
from taco_ir.training.encoder import DualEncoder
from taco_ir.training.settings import TrainSettings

BARE, MERGED = "bare backbone", "lora, merged"
# least speed as a share of the bare backbone's; merged LoRA is the same computation, up to noise
NEEDED = {MERGED: 0.95, "adapter": 0.85, "prompt": 0.85}
TINY = ("lora", "prompt")  # methods of --tiny


def load(folder: Path, method: str, device: str) -> DualEncoder:
    """The model with one adapter of the method's own width, without dropout so that all do the same work."""
    values = {} if (folder / "modules.json").is_file() else {"pooling": "mean", "normalize": True}
    config = TrainSettings(
        model=str(folder), tune=method, dropout=0.0, device=device, passage_length=96, prompts=False, **values
    )  # type: ignore[arg-type]
    return start_encoder(config, folder, ["nq"]).train()


def batches(model: DualEncoder, seed: int) -> list[TaskTexts]:
    """The texts of a step, read through the model's adapter if it has one."""
    made = task_texts(model, TASKS, QUERIES, PASSAGES, seed)
    for batch in made:
        if model.adapters is not None:
            batch.texts = [text._replace(tower=model.adapters.names[0]) for text in batch.texts]
        batch.blocked_BN = batch.blocked_BN.to(model.device)
    return made


def finish(device: str) -> None:
    """Wait until the accelerator has done what it was given."""
    if device != "cpu":
        import torch

        torch.accelerator.synchronize()


def race(ways: Mapping[str, Callable[[int], object]], rounds: int, device: str) -> dict[str, list[float]]:
    """Seconds of each way in each round, after one round to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for number in range(rounds + 1):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            finish(device)
            began = time.perf_counter()
            ways[name](number)
            finish(device)
            if number:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def ratio(seconds: Mapping[str, Sequence[float]], name: str, beside: str) -> float:
    """Median over rounds of the seconds of `name` / the seconds of `beside`."""
    return statistics.median(a / b for a, b in zip(seconds[name], seconds[beside], strict=True))


def steps(models: Mapping[str, DualEncoder], rounds: int, device: str) -> dict[str, list[float]]:
    """Seconds of a training step of each model, by round."""
    variants = {name: Variant("naive", model, TASKS) for name, model in models.items()}
    given = {number: {name: batches(model, number) for name, model in models.items()} for number in range(rounds + 1)}
    return race(
        {name: lambda number, name=name: variants[name].step(given[number][name]) for name in models}, rounds, device
    )  # type: ignore[misc]


def memory(folder: Path, methods: Sequence[str], device: str) -> dict[str, float]:
    """Peak megabytes of each method, measured in a process of its own."""
    return {name: in_a_process(measure_memory, folder, name, device) for name in methods}


def measure_memory(folder: Path, method: str, device: str) -> float:
    """Peak megabytes of two training steps in this process."""
    model = load(folder, method, device)
    variant = Variant("naive", model, TASKS)
    for number in range(2):
        variant.step(batches(model, number))
    if device != "cpu":
        import torch

        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def encoding(folder: Path, models: Mapping[str, DualEncoder], rounds: int, device: str) -> dict[str, list[float]]:
    """Seconds each model takes to encode the same passages, by round."""
    passages = list(open_collection("sample").passages.read())
    encoders: dict[str, TextEncoder] = {name: model.as_text_encoder() for name, model in models.items()}
    encoders[BARE] = encoders.pop(FULL)
    with TemporaryDirectory() as merged:
        if (lora := encoders.get("lora")) is not None:
            write_merged(lora, ModelFolder(folder), Path(merged))
            encoders[MERGED] = load_encoder(merged, device=device)
        return race(
            {name: lambda _, each=each: each.encode_passages(passages) for name, each in encoders.items()},
            rounds,
            device,
        )  # type: ignore[misc]


def report(
    title: str,
    models: Mapping[str, DualEncoder],
    stepped: Mapping[str, list[float]],
    peaks: Mapping[str, float],
    encoded: Mapping[str, list[float]],
) -> list[Bound]:
    """Print a row for each method and return the bounds on encoding speed."""
    rows: list[list[Cell]] = []
    bounds = []
    for name in [*models, *([MERGED] if MERGED in encoded else [])]:
        own = BARE if name == FULL else name
        speed = 1 / ratio(encoded, own, BARE)
        if name in NEEDED:
            bounds.append(Bound(f"encoding of {title} with {name} / the bare backbone", speed, NEEDED[name]))
        trained = models[name].sizes["trained"] if name in models else None
        timed: list[Cell] = [None, None, None, None]
        if name in models:
            timed = [
                1000 * statistics.median(stepped[name]),
                ratio(stepped, name, FULL),
                peaks[name],
                peaks[name] / peaks[FULL],
            ]
        rows.append([name, trained, *timed, speed])
    header = ["method", "trained", "ms a step", "x full", "peak MB", "of full's", "encoding, x bare"]
    print(render(Table(f"{title}, load {os.getloadavg()[0]:.1f}", header, rows), "table"), end="")
    return bounds


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument(
        "--model", nargs="+", default=[DEFAULT_MODEL], help=f"backbones, names or folders [default: {DEFAULT_MODEL}]"
    )
    flags.add_argument("--methods", nargs="+", choices=tuple(METHODS), default=list(METHODS))
    flags.add_argument("--rounds", type=int, default=3)
    flags.add_argument("--device", default="cpu")
    add_tiny(flags)
    options = flags.parse_args()
    folders = {Path(name).name: ModelFolder.find(name).path for name in options.model}
    if options.tiny:
        options.methods, options.rounds = TINY, 1
    methods = (FULL, *options.methods)
    # memory first: a forked process has what this one holds
    peaks = {name: memory(folder, methods, options.device) for name, folder in folders.items()}
    bounds = []
    for name, folder in folders.items():
        models = {method: load(folder, method, options.device) for method in methods}
        stepped = steps(models, options.rounds, options.device)
        encoded = encoding(folder, models, options.rounds, options.device)
        bounds += report(name, models, stepped, peaks[name], encoded)
    sys.exit(judged(bounds, options.tiny))


if __name__ == "__main__":
    main()
