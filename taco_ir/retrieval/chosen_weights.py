"""Chooses the fusion weight of each task on a search's queries, and writes the weights to a file beside the runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from taco_ir.core.files import read_json
from taco_ir.core.outputs import claim_output
from taco_ir.core.types import Query, Run
from taco_ir.data.collection import Collection, Topics
from taco_ir.retrieval.choices import BM25, IN_RECORDS, RUN_SUFFIXES, SearchRequest
from taco_ir.retrieval.fusion import WEIGHTS_FILE, HybridWeights, choose_weights
from taco_ir.retrieval.topic_runs import default_folder, made_of, named_paths


class ChosenWeights(NamedTuple):
    """The fusion weights that a search chooses: the file that they are written to, and what they are chosen on.

    Attributes:
        made_of: names and fingerprints of collection and topics, settings of the model, and number of hits.
    """

    path: Path
    request: SearchRequest
    made_of: dict[str, Any]

    @classmethod
    def of(
        cls, request: SearchRequest, collection: Collection, topics: Sequence[Topics], output: str | None
    ) -> ChosenWeights:
        """Return the weights file beside a search's runs: in `output`'s folder or, if it is None, a default folder."""
        folder = default_folder(collection)
        if output is not None:
            folder = named_paths(output, topics, RUN_SUFFIXES[request.form])[0].parent
        made = {
            "collection": made_of(collection, topics[0])["collection"],
            "topics": {each.name: each.fingerprint for each in topics},
            "flags": {name: getattr(request.model, name) for name in IN_RECORDS},
            "hits": request.hits,
        }
        return cls(folder / WEIGHTS_FILE, request, made)

    @contextmanager
    def claim(self, overwrite: bool) -> Iterator[None]:
        """Reserve the file in this context. Raises: InputError if it has other data's weights, without `overwrite`."""

        def record() -> Mapping[str, Any]:
            found = read_json(self.path, dict[str, Any]).get("made_of", {})
            return found if isinstance(found, dict) else {}

        with claim_output(self.path, self.made_of, overwrite, resume=True, record=record):
            yield

    def choose(
        self,
        topics: Sequence[Topics],
        runs: Sequence[Mapping[str, Run]],
        measure: str,
        score: Callable[[Run, Sequence[Query]], Mapping[str, float]],
        test: Callable[[Sequence[float], Sequence[float]], float],
    ) -> HybridWeights:
        """Choose the weights on the topics that have gold, write them to the file, and return them.

        Args:
            runs: for each of the topics, its runs by name of the retriever; the dense run comes first.
            score: function that returns the value of `measure` for each query of a run, by query id.
            test: function that returns the p-value of two systems, from their values on the same queries.

        Raises:
            InputError: if no query has gold.
        """
        parts = [
            (topic.queries, next(iter(own.values())), own[BM25])
            for topic, own in zip(topics, runs, strict=True)
            if topic.has_gold
        ]
        tasks = choose_weights(parts, score, test)
        encoder = self.request.model.load().fingerprint
        found = HybridWeights(tasks, self.request.hits, measure, encoder, self.made_of)
        found.save(self.path)
        return found
