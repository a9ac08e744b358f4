"""The card of a model on a hub: front matter for the hub, and a page made from the model's configuration."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

from taco_ir.core.files import InputError, read_json
from taco_ir.encoders.config import ANY_TASK, EncoderConfig, Role
from taco_ir.encoders.model_folder import ModelFolder
from taco_ir.encoders.names import INPUTS_FILE, MINILM, MODEL, SHIPPED, SHIPPED_BACKBONE
from taco_ir.evaluation.tables import Cell, Table, render
from taco_ir.release.lineage import Lineage, read_lineage
from taco_ir.release.model_card import CARD_FILE, DATA_SETS, recipe_table
from taco_ir.training.folder import CONFIG_FILE as SETTINGS_FILE
from taco_ir.training.folder import load_settings

TAG = "taco-ir"
TAGS = (TAG, "multi-task-retrieval", "sentence-similarity")
QUERY = "which bach wrote the cello suites"
TEMPLATE = Path(__file__).with_name("hub_card.md")


def hub_card(folder: ModelFolder, name: str) -> str:
    """Returns a model's README.md for a hub: the folder's own or a generated one, with the front matter that hubs read.

    Raises:
        InputError: for a README.md with front matter that is not YAML.
    """
    from huggingface_hub import CardData, RepoCard

    config, made, record = _config(folder), _lineage(folder.path), folder.record
    adapted = record.tasks if record is not None else ()
    known: dict[str, Any] = {
        "tags": list(TAGS),
        "library_name": TAG,
        "pipeline_tag": "sentence-similarity",
        "base_model": _hub_name(record.base if record is not None else made.base if made is not None else ""),
        "tasks": sorted({*config.prompts, *adapted} - {ANY_TASK}),
        "prompts": dict(config.prompts),
    }
    own = folder.path / CARD_FILE
    try:
        text = own.read_text(encoding="utf-8") if own.is_file() else _body(folder, name, made)
        card = RepoCard(text if text.startswith("---") else f"---\n\n---\n{text}")
        said = card.data.to_dict()
        tags = [said["tags"]] if isinstance(said.get("tags"), str) else said.get("tags") or []
        said["tags"] = list(dict.fromkeys([*tags, *TAGS]))
        card.data = CardData(**{key: value for key, value in known.items() if value} | said)
    except InputError:
        raise
    except Exception as error:  # of PyYAML and the hub's client, for text that is no YAML or not of keys and values
        raise InputError(f"{own}: its front matter (between the lines ---) is not YAML with keys and values") from error
    return str(card)


def _body(folder: ModelFolder, name: str, made: Lineage | None) -> str:
    config, record = _config(folder), folder.record
    backbone = folder.backbone().towers[Role.PASSAGE].files
    shape = read_json(backbone / "config.json", dict[str, Any])
    lent = dict(record.lent) if record is not None else {}
    trained = {*config.prompts, *(record.tasks if record is not None else ())} - {ANY_TASK}
    own = {*config.prompts, *trained, *lent}
    rows: list[list[Cell]] = [
        [
            "all others" if task == ANY_TASK else task,
            json.dumps(config.prompts[task], ensure_ascii=False) if task in config.prompts else None,
            config.max_query_tokens(task),
            *([lent.get(task, task if task in record.tasks else None)] if record is not None else []),
        ]
        for task in sorted(own, key=lambda task: (task == ANY_TASK, task))
    ]
    header = ["queries of", "prompt", "tokens", *(["adapter of"] if record is not None else [])]
    table = render(Table("", header, rows), "markdown")
    what = "one model for queries and passages"
    if record is not None:
        what = f"adapters ({record.method}, width {record.width}) on a frozen backbone"
    elif folder.is_untied:
        what = "one model for queries and one for passages"
    text = "\n" + TEMPLATE.read_text(encoding="utf-8").format(
        title=name.rpartition("/")[2],
        name=name,
        what=what,
        dim=config.head or shape.get("hidden_size") or shape.get("d_model"),
        pooling=config.pooling + " and scaled to length 1" * config.normalize,
        query_tokens=max((config.query_length, *config.query_lengths.values())),
        passage_tokens=config.passage_length,
        query=QUERY,
        task=json.dumps(min(trained)) if trained else None,
        asked=f"--task {min(trained)} " if trained else "",
        tasks=table if rows else "All queries are one task to it.\n",
    )
    return text + (f"\n## Recipe\n\n{recipe_table(made.stages)}" if made is not None else "")


def _config(folder: ModelFolder) -> EncoderConfig:
    passages = folder.trained_config
    return replace(folder.towers[Role.QUERY].config(), passage_length=passages.passage_length)


def _lineage(model: Path) -> Lineage | None:
    """Returns the lineage of a training's model; None for a folder that is not in a training."""
    if model.name != MODEL or not (model.parent / INPUTS_FILE).is_file():
        return None
    runs = [model.parent]
    while (start := Path(load_settings(runs[0]).run.model)).name == MODEL and (start.parent / SETTINGS_FILE).is_file():
        runs.insert(0, start.parent)
    first = load_settings(runs[0]).run.model
    return read_lineage(runs)._replace(base=first)


def _hub_name(base: str) -> str | None:
    """Returns the hub name of the base model; None if it is not known."""
    described = tomllib.loads(DATA_SETS.read_text(encoding="utf-8"))["base"]
    known = described.get(MINILM if base in (SHIPPED, SHIPPED_BACKBONE) else Path(base).name)
    if known is not None:
        return str(known["hub"])
    return base if base.count("/") == 1 and not Path(base).is_dir() and not base.startswith((".", "/", "~")) else None
