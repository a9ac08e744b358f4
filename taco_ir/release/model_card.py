"""The model card of an encoder that ships: what it was trained on and how, from its runs, and what it scores, from a study's results.

`card.json` beside the weights keeps the facts of the training, whose folder is not shipped, and the names of the results.
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
from taco_ir.studies.comparison import row_name
from taco_ir.studies.conditions import WHOLE
from taco_ir.studies.records import Record, find_records

CARD_FILE, FACTS_FILE = "README.md", "card.json"
DATA_SETS = Path(__file__).with_name("data_sets.toml")
MEASURES = ("page R-precision", "page recall@5")
TEMPLATE = """\
---
license: apache-2.0
language: en
base_model: {hub}
pipeline_tag: sentence-similarity
---

# {name}

The encoder that comes with taco_ir: {layers} layers, vectors of {dim} numbers, {tokens} tokens, {megabytes:.1f} MB in {stored}. One model for questions,
claims, slots to fill, mentions to link and dialogue, told apart by {apart}; one index of passages serves them all. This page is written by
`python -m taco_ir.card`, from the configurations of the training and the results of the study.

```sh
python -m taco_ir.search --topics nq-dev --model {name}
```

```python
from taco_ir.encoders.text_encoder import load_encoder

vectors = load_encoder("{name}").encode_queries(["which bach wrote the cello suites"], "nq")
```

## Trained on

{data}
{left_out}
Passages are English Wikipedia's (CC BY-SA). None of this data comes with the package.

Base: [{title}](https://huggingface.co/{hub}), {base_licence}, {start}.

## Recipe

{recipe}
Scores below are those of the study's record `{result}`.

## Scores

{scores}
{beside}
## Limits

- Scores are of mini-KILT, {passages} passages: gold ones and distractors. They compare systems, and are far above those of full KILT.
- The collection that passages and hard negatives were taken from also holds Wikipedia sentences of releases for non-commercial use (LAMA's T-REx and
  Google-RE). None of their queries was trained on.
{seen}- It reads English in Latin letters by {tokens} tokens of the base's vocabulary; other words are read in pieces. Queries are cut at {query_tokens} tokens, passages at {passage_tokens}.
- {borrowed}
"""


@dataclass(frozen=True)
class Facts:
    """What card.json holds.

    Attributes:
        weights: SHA-256 of the weights that the facts are about; of the adapters, where there are any, which know their backbone's.
        base, stages: the lineage.
        result: the record that holds its scores, by name.
        beside: records of the systems that stand beside it.
    """

    weights: str
    base: str
    stages: tuple[Stage, ...]
    result: str
    beside: tuple[str, ...] = ()

    @property
    def tasks(self) -> tuple[str, ...]:
        """Those of all stages."""
        return tuple(sorted({task for stage in self.stages for task in stage.tasks}))


def write_facts(folder: Path, made: Lineage, result: str, beside: Sequence[str]) -> None:
    """Write card.json. Raises: InputError for a base or task that is not described, or data that must not be shipped."""
    facts = Facts(_weights_hash(folder), made.base, made.stages, result, tuple(beside))
    described = _described()
    if facts.base not in described["base"]:
        raise InputError(
            f"base {facts.base!r} is not described in {DATA_SETS.name}; it has {', '.join(described['base'])}"
        )
    for task in facts.tasks:
        if task not in described["task"]:
            raise InputError(
                f"task {task!r} is not described in {DATA_SETS.name}; it has {', '.join(described['task'])}"
            )
        if not _commercial(described["task"][task]):
            raise InputError(
                f"task {task!r}: {described['task'][task]['licence']}; what is trained on it is not shipped: train without it (--tasks)"
            )
    write_json(folder / FACTS_FILE, asdict(facts) | {"stages": [stage._asdict() for stage in facts.stages]})


def read_facts(folder: Path) -> Facts:
    """Raises: InputError where there is no card.json, or it is about other weights."""
    path = folder / FACTS_FILE
    if not path.is_file():
        raise InputError(
            f"{path}: no such file; python -m taco_ir.card {folder} --training RUN --result NAME writes it"
        )
    facts = read_json(path, Facts, "write it anew with --training and --result")
    if facts.weights != _weights_hash(folder):
        raise InputError(
            f"{path}: it is about other weights than those beside it; write it anew with --training and --result"
        )
    return facts


def _weights_hash(folder: Path) -> str:
    """Raises: InputError where there are none."""
    path = ModelFolder(folder).weights_file
    if path is None:
        raise InputError(f"{folder}: no weights in it; python -m taco_ir.export --what compact writes them")
    return sha256_file(path)


def card(folder: Path, results: Path, name: str) -> str:
    """The card of the encoder in `folder`, as Markdown.

    Args:
        results: folder of the study's records.
        name: what the encoder is called.

    Raises:
        InputError: for scores of a part of the collection, of other passages than those beside them, or without a task trained on.
    """
    facts, described = read_facts(folder), _described()
    result, *beside = find_records(results, (facts.result, *facts.beside))
    for each in (result, *beside):
        if each.corpus != WHOLE or each.collection != result.collection:
            raise InputError(
                f"{each.name}: a card shows scores on the whole collection, and those of one collection; this has {each.corpus}"
            )
    adapted = ModelFolder(folder).kind is Kind.ADAPTERS
    config, backbone = ModelFolder(folder).trained_config, folder / BACKBONE if adapted else folder
    model = read_json(backbone / "config.json", dict[str, Any])
    base = described["base"][facts.base]
    return TEMPLATE.format(
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
        megabytes=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.name != CARD_FILE)
        / 1e6,
        data=_data_table(facts.tasks, described["task"]),
        left_out=_left_out(facts.tasks, described["task"]),
        recipe=recipe_table(facts.stages),
        result=facts.result,
        scores=_score_table(result, beside, facts.tasks, name),
        beside=_macro_line(result, beside, name),
        passages=f"{result.passages:,}",
        query_tokens=max((config.query_length, *config.query_lengths.values())),
        passage_tokens=config.passage_length,
        seen=_seen(facts.tasks, described["task"]),
        borrowed=_lent(folder) if adapted else _borrowed(config, facts.tasks),
    )


def _described() -> dict[str, Any]:
    return tomllib.loads(DATA_SETS.read_text(encoding="utf-8"))


def _commercial(data_set: Mapping[str, Any]) -> bool:
    return bool(data_set.get("commercial", True))


def _data_table(tasks: Sequence[str], described: Mapping[str, Any]) -> str:
    rows: list[list[Cell]] = [[task, described[task]["title"], described[task]["licence"]] for task in tasks]
    return render(Table("", ["task", "train queries of", "licence"], rows), "markdown")


def _left_out(tasks: Sequence[str], described: Mapping[str, Any]) -> str:
    """What the collection has and the encoder was not trained on, and why."""
    lines = []
    for task, data_set in described.items():
        if task not in tasks:
            reason = "" if _commercial(data_set) else ": not free for commercial use"
            lines.append(f"Not trained on: {task} ({data_set['title']}; {data_set['licence']}){reason}.\n")
    return "".join(lines)


def _seen(tasks: Sequence[str], described: Mapping[str, Any]) -> str:
    """Where dev and train of a task trained on share gold passages."""
    shares = [f"{share} % ({task})" for task in tasks if (share := described[task].get("seen"))]
    return (
        f"- {', '.join(shares)} of the dev queries have a gold passage that is gold for a train query too.\n"
        if shares
        else ""
    )


def recipe_table(stages: Sequence[Stage]) -> str:
    labels = dict.fromkeys(label for stage in stages for label in stage.settings)
    header = ["", *(f"stage {number}" for number in range(1, len(stages) + 1))]
    rows: list[list[Cell]] = [[label, *(stage.settings.get(label) for stage in stages)] for label in labels]
    return render(Table("", header, rows), "markdown")


def _score_table(result: Record, beside: Sequence[Record], tasks: Sequence[str], name: str) -> str:
    """A row for each dev set: ours on both measures, then the others' R-precision; those not trained on last, with a word."""
    whole = sorted(_whole(result), key=lambda topics: _task(topics) not in tasks)
    if missing := set(tasks) - set(map(_task, whole)):
        raise InputError(f"{result.name}: no scores of {min(missing)}, which the encoder was trained on")
    others = [row_name(other.system, other.base) for other in beside]
    header = [
        "dev queries of",
        "queries",
        *(f"{name}: {measure}" for measure in MEASURES),
        *(f"{other}: {MEASURES[0]}" for other in others),
    ]
    rows: list[list[Cell]] = []
    for topics in whole:
        scores = result.topics[topics]
        own: list[Cell] = [scores.means[measure] for measure in MEASURES]
        theirs: list[Cell] = [
            other.topics[topics].means[MEASURES[0]] if topics in other.topics else None for other in beside
        ]
        rows.append(
            [_task(topics) + ("" if _task(topics) in tasks else " (not trained on)"), scores.queries, *own, *theirs]
        )
    average: list[Cell] = [macro(result, whole, measure) for measure in MEASURES]
    rows.append(["macro average", None, *average, *(macro(other, whole, MEASURES[0]) for other in beside)])
    return render(Table("", header, rows), "markdown")


def macro(result: Record, names: Sequence[str], measure: str) -> float:
    """Mean over topics. Raises: InputError where one has no score."""
    if missing := [name for name in names if name not in result.topics]:
        raise InputError(f"{result.name}: no scores of {missing[0]}, which the encoder's record has")
    return sum(result.topics[name].means[measure] for name in names) / len(names)


def _whole(result: Record) -> list[str]:
    """The names of its topics, without slices."""
    return [topics for topics, scores in result.topics.items() if not scores.part_of]


def _task(topics: str) -> str:
    """The canonical name of the task of topics."""
    return canonical_task(topics.rpartition("-")[0])


def _macro_line(result: Record, beside: Sequence[Record], name: str) -> str:
    """By how much it is above or below each of the others."""
    whole = _whole(result)
    own = macro(result, whole, MEASURES[0])
    lines = []
    for other in beside:
        difference = own - macro(other, whole, MEASURES[0])
        lines.append(
            f"{name} is {abs(difference):.3f} {'above' if difference > 0 else 'below'} {row_name(other.system, other.base)} in macro {MEASURES[0]}.\n"
        )
    return "".join(lines)


def _borrowed(config: EncoderConfig, tasks: Sequence[str]) -> str:
    """Which tasks it has prompts for without having learnt them."""
    by_prompt = {config.prompts[task]: task for task in tasks if task in config.prompts}
    if not by_prompt:
        return "It has no prompts: all tasks are one to it."
    lent = {
        task: by_prompt[prompt] for task, prompt in config.prompts.items() if task not in tasks and prompt in by_prompt
    }
    return _lenders("Tasks that it was not trained on have the prompt of another", lent)


def _lent(folder: Path) -> str:
    """Which adapter reads the queries of tasks without one."""
    return _lenders("Queries of tasks without an adapter go through that of another", read_record(folder).lent)


def _lenders(what: str, lent: Mapping[str, str]) -> str:
    named = [
        f"{'all others' if task == ANY_TASK else task} ({'none: the bare backbone' if lender == BARE else f'as {lender}'})"
        for task, lender in lent.items()
    ]
    return f"{what}: {', '.join(named)}." if named else "It knows the tasks above and no other."
