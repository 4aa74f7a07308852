"""What ends a response: teachers must end with it, or the policy learns an end that stops nothing."""

from __future__ import annotations

from collections.abc import Mapping

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hapo_lit.injectors import NoInjection
from hapo_lit.protocols import Algorithm
from hapo_lit.training.engines import engines_in
from hapo_lit.training.evaluation import Evaluator
from hapo_lit.training.phases import Phases


def stop_ids(
    policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, phases: Phases, evaluators: Mapping[str, Evaluator]
) -> list[int]:
    """The tokens at which an engine of the run ends a response.

    Raises:
        ValueError: the run shows the policy teachers, which end with the tokenizer's end of sequence, and some engine
            does not stop there; or a stop is an id that has no token.
    """
    end, taught = tokenizer.eos_token_id, any(_may_teach(phase.algorithm) for phase in phases)
    tokens, found = set(tokenizer.get_vocab().values()), set[int]()
    for engine in engines_in(phases, evaluators):
        stops = engine.stops(policy)
        if unknown := sorted(set(stops) - tokens):
            raise ValueError(
                f"responses are to stop at {', '.join(map(str, unknown))}, for which the tokenizer has no token: "
                f"correct rollout.stop_ids, or the model's generation_config.json"
            )
        if taught and end not in stops:
            raise ValueError(_mismatch(tokenizer, stops))
        found.update(stops)
    return sorted(found)


def _may_teach(algorithm: Algorithm) -> bool:
    return type(algorithm.injector) is not NoInjection


def _mismatch(tokenizer: PreTrainedTokenizerBase, stops: list[int]) -> str:
    def named(index: int) -> str:
        return f"{tokenizer.convert_ids_to_tokens(index)!r} ({index})"

    end = tokenizer.eos_token_id
    return (
        f"teachers end in {'no token' if end is None else named(end)}, at which the engine does not stop; it stops at "
        f"{', '.join(map(named, stops))}: set "
        f'"+model.tokenizer.eos_token={tokenizer.convert_ids_to_tokens(stops[0])!r}"'
        + ("" if end is None else f", or rollout.stop_ids=[{end}]")
    )
