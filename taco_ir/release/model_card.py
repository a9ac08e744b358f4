"""The model card of the shipped encoder: its training data and recipe, and its scores from a study's records.

`card.json` beside the weights keeps the facts of the training, whose folder is not shipped, and the names of the
records.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from taco_ir.core.files import InputError, read_json, write_json
from taco_ir.core.hashes import sha256_file
from taco_ir.core.tasks import canonical_task
from taco_ir.encoders.adapters.folder import BARE, read_record
from taco_ir.encoders.config import ANY_TASK, EncoderConfig
from taco_ir.encoders.model_folder import Kind, ModelFolder
from taco_ir.encoders.names import BACKBONE
from taco_ir.encoders.weights import is_int8
from taco_ir.evaluation.tables import Cell, Table, render
from taco_ir.release.lineage import Lineage, Stage
from taco_ir.studies.conditions import WHOLE
from taco_ir.studies.records import Record, find_records

CARD_FILE, FACTS_FILE = "README.md", "card.json"
DATA_SETS = Path(__file__).with_name("data_sets.toml")
MEASURES = ("page R-precision", "page recall@5")
LENT = "Queries of tasks without an adapter go through that of another"
TEMPLATE = Path(__file__).with_name("card.md")


@dataclass(frozen=True)
class Facts:
    """The content of card.json.

    Attributes:
        weights: SHA-256 of the weights, or of the adapters if there are any (their record has the backbone's hash).
        base, stages: the lineage of the encoder.
        result: name of the record with the encoder's scores.
        beside: names of the records of other systems to compare with.
    """

    weights: str
    base: str
    stages: tuple[Stage, ...]
    result: str
    beside: tuple[str, ...] = ()

    @property
    def tasks(self) -> tuple[str, ...]:
        """Returns the tasks of all stages, sorted and each once."""
        return tuple(sorted({task for stage in self.stages for task in stage.tasks}))


def write_facts(folder: Path, made: Lineage, result: str, beside: Sequence[str]) -> None:
    """Write card.json. Raises: InputError for a base or task without description, or a licence against shipping."""
    facts = Facts(_hash_weights(folder), made.base, made.stages, result, tuple(beside))
    described = _read_descriptions()
    if facts.base not in described["base"]:
        raise InputError(
            f"base {facts.base!r} is not described in {DATA_SETS.name}; described are {', '.join(described['base'])}"
        )
    for task in facts.tasks:
        if task not in described["task"]:
            raise InputError(
                f"task {task!r} is not described in {DATA_SETS.name}; described are {', '.join(described['task'])}"
            )
        if not _is_commercial(described["task"][task]):
            raise InputError(
                f"task {task!r}: {described['task'][task]['licence']}; a model trained on it must not be shipped: "
                "train without it (--tasks)"
            )
    write_json(folder / FACTS_FILE, asdict(facts) | {"stages": [stage._asdict() for stage in facts.stages]})


def read_facts(folder: Path) -> Facts:
    """Read card.json. Raises: InputError if it is missing, or describes other weights."""
    path = folder / FACTS_FILE
    if not path.is_file():
        raise InputError(
            f"{path}: no such file; python -m taco_ir.card {folder} --training RUN --result NAME writes it"
        )
    facts = read_json(path, Facts, "write it again with --training and --result")
    if facts.weights != _hash_weights(folder):
        raise InputError(
            f"{path}: it describes other weights than those in the folder; write it again with --training and --result"
        )
    return facts


def _hash_weights(folder: Path) -> str:
    """Returns the hash of the folder's weights. Raises: InputError without weights."""
    path = ModelFolder(folder).weights_file
    if path is None:
        raise InputError(f"{folder}: it has no weights; python -m taco_ir.export --what compact writes them")
    return sha256_file(path)


def render_card(folder: Path, results: Path, name: str) -> str:
    """Returns the model card of the encoder in `folder` as Markdown.

    Args:
        results: folder of the study's records.
        name: the encoder's name.

    Raises:
        InputError: for scores on a subset or on several collections, or if a training task has no scores.
    """
    facts, described = read_facts(folder), _read_descriptions()
    result, *beside = find_records(results, (facts.result, *facts.beside))
    for each in (result, *beside):
        if each.corpus != WHOLE or each.collection != result.collection:
            raise InputError(
                f"{each.name}: a card shows scores on the whole collection, but this record has scores on {each.corpus}"
            )
    adapted = ModelFolder(folder).kind is Kind.ADAPTERS
    config, backbone = ModelFolder(folder).trained_config, folder / BACKBONE if adapted else folder
    model = read_json(backbone / "config.json", dict[str, Any])
    base = described["base"][facts.base]
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.name != CARD_FILE)
    data = [[task, described["task"][task]["title"], described["task"][task]["licence"]] for task in facts.tasks]
    return TEMPLATE.read_text(encoding="utf-8").format(
        name=name,
        hub=base["hub"],
        title=base["title"],
        base_licence=base["licence"],
        start=base["start"],
        stored="8-bit weights" if is_int8(backbone) else "half precision",
        apart="an adapter of its own for the queries of each task trained on" if adapted else "a prompt",
        layers=model["num_hidden_layers"],
        dim=config.head or model["hidden_size"],
        tokens=f"{model['vocab_size']:,}",
        megabytes=size / 1e6,
        data=render(Table("", ["task", "train queries of", "licence"], data), "markdown"),
        left_out=_left_out(facts.tasks, described["task"]),
        recipe=recipe_table(facts.stages),
        result=facts.result,
        scores=_score_table(result, beside, facts.tasks, name),
        beside=_macro_line(result, beside, name),
        passages=f"{result.passages:,}",
        query_tokens=max((config.query_length, *config.query_lengths.values())),
        passage_tokens=config.passage_length,
        seen=_seen(facts.tasks, described["task"]),
        borrowed=_list_lenders(LENT, read_record(folder).lent) if adapted else _list_prompts(config, facts.tasks),
    )


def _read_descriptions() -> dict[str, Any]:
    return tomllib.loads(DATA_SETS.read_text(encoding="utf-8"))


def _is_commercial(data_set: Mapping[str, Any]) -> bool:
    return bool(data_set.get("commercial", True))


def _left_out(tasks: Sequence[str], described: Mapping[str, Any]) -> str:
    """Lines on the tasks of the collection that the encoder was not trained on, and why."""
    lines = []
    for task, data_set in described.items():
        if task not in tasks:
            reason = "" if _is_commercial(data_set) else ": not free for commercial use"
            lines.append(f"Not trained on: {task} ({data_set['title']}; {data_set['licence']}){reason}.\n")
    return "".join(lines)


def _seen(tasks: Sequence[str], described: Mapping[str, Any]) -> str:
    """A line on tasks whose dev and train queries share gold passages."""
    shares = ", ".join(f"{share} % ({task})" for task in tasks if (share := described[task].get("seen")))
    return f"- {shares} of the dev queries have a gold passage that is gold for a train query too.\n" if shares else ""


def recipe_table(stages: Sequence[Stage]) -> str:
    labels = dict.fromkeys(label for stage in stages for label in stage.settings)
    header = ["", *(f"stage {number}" for number in range(1, len(stages) + 1))]
    rows: list[list[Cell]] = [[label, *(stage.settings.get(label) for stage in stages)] for label in labels]
    return render(Table("", header, rows), "markdown")


def _score_table(result: Record, beside: Sequence[Record], tasks: Sequence[str], name: str) -> str:
    """A row for each dev set: our scores, then the others' R-precision; sets not trained on come last."""
    whole = sorted(_whole(result), key=lambda topics: _task(topics) not in tasks)
    if missing := set(tasks) - set(map(_task, whole)):
        raise InputError(f"{result.name}: it has no scores on {min(missing)}, a task that the encoder was trained on")
    columns = [*(f"{name}: {measure}" for measure in MEASURES), *(f"{other.row}: {MEASURES[0]}" for other in beside)]
    header = ["dev queries of", "queries", *columns]
    rows: list[list[Cell]] = []
    for topics in whole:
        scores = result.topics[topics]
        own: list[Cell] = [scores.means[measure] for measure in MEASURES]
        theirs = [other.topics[topics].means[MEASURES[0]] if topics in other.topics else None for other in beside]
        label = _task(topics) + ("" if _task(topics) in tasks else " (not trained on)")
        rows.append([label, scores.queries, *own, *theirs])
    averages = [macro_average(result, whole, measure) for measure in MEASURES]
    averages += [macro_average(other, whole, MEASURES[0]) for other in beside]
    rows.append(["macro average", None, *averages])
    return render(Table("", header, rows), "markdown")


def macro_average(result: Record, names: Sequence[str], measure: str) -> float:
    """Returns a record's mean score over the topics `names`. Raises: InputError for topics without a score."""
    if missing := [name for name in names if name not in result.topics]:
        raise InputError(f"{result.name}: it has no scores on {missing[0]}; leave this record out of --beside")
    return sum(result.topics[name].means[measure] for name in names) / len(names)


def _whole(result: Record) -> list[str]:
    """The names of a record's topics, without slices."""
    return [topics for topics, scores in result.topics.items() if not scores.part_of]


def _task(topics: str) -> str:
    """The canonical name of the task of topics."""
    return canonical_task(topics.rpartition("-")[0])


def _macro_line(result: Record, beside: Sequence[Record], name: str) -> str:
    """Lines on how far the encoder is above or below each other system."""
    whole = _whole(result)
    own = macro_average(result, whole, MEASURES[0])
    lines = []
    for other in beside:
        difference = own - macro_average(other, whole, MEASURES[0])
        side = "above" if difference > 0 else "below"
        lines.append(f"{name} is {abs(difference):.3f} {side} {other.row} in macro {MEASURES[0]}.\n")
    return "".join(lines)


def _list_prompts(config: EncoderConfig, tasks: Sequence[str]) -> str:
    """A sentence on tasks that borrow the prompt of another."""
    by_prompt = {config.prompts[task]: task for task in tasks if task in config.prompts}
    if not by_prompt:
        return "It has no prompts: all tasks are one to it."
    others = {task: prompt for task, prompt in config.prompts.items() if task not in tasks and prompt in by_prompt}
    lenders = {task: by_prompt[prompt] for task, prompt in others.items()}
    return _list_lenders("Tasks that it was not trained on have the prompt of another", lenders)


def _list_lenders(what: str, lenders: Mapping[str, str]) -> str:
    named = []
    for task, lender in lenders.items():
        whose = "none: the bare backbone" if lender == BARE else f"as {lender}"
        named.append(f"{'all others' if task == ANY_TASK else task} ({whose})")
    return f"{what}: {', '.join(named)}." if named else "It knows the tasks above and no other."
