"""What all engines share: their settings, how a request is seeded, and how a group is made of responses."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hapo_lit.errors import EngineError, cut
from hapo_lit.numerics.hashing import stable_int
from hapo_lit.numerics.ranges import SettingError, check_count, check_not_negative, check_seed
from hapo_lit.types import PromptBatch, RolloutGroup

Engine = TypeVar("Engine", bound="Sampling")
DTYPES = ("float32", "bfloat16", "float16")
"""What the weights of an engine that has its own may be."""
LOWEST_TEMPERATURE = 1e-3
"""Below it the largest logit alone has a probability, and products of logits leave float32."""


class Sampling:
    """The settings of every engine.

    Args:
        max_new_tokens: length limit T; a response that reaches it without a stop token is not ``finished``.
        temperature: logits are divided by it; 0 = greedy.
        stop_ids: token ids that end a response (and belong to it); empty = the model's own end-of-sequence ids.
        seed: of all draws.
    """

    def __init__(
        self, max_new_tokens: int, temperature: float = 1.0, stop_ids: Sequence[int] = (), seed: int = 0
    ) -> None:
        check_count("max_new_tokens", max_new_tokens)
        check_not_negative("temperature", temperature)
        if 0 < temperature < LOWEST_TEMPERATURE:
            raise SettingError("temperature", f"must be 0 (greedy) or at least {LOWEST_TEMPERATURE}, got {temperature}")
        if isinstance(stop_ids, str | int) or not all(type(index) is int for index in stop_ids):
            raise ValueError(f"rollout.stop_ids must be a list of token ids, such as [2], got {stop_ids!r}")
        self.max_new_tokens, self.temperature = max_new_tokens, temperature
        self.stop_ids, self.seed = tuple(stop_ids), check_seed(seed)
        self._metrics: dict[str, float] = {}

    seeded = True
    """Whether a response depends on seed, prompt, sample and step alone."""

    def with_temperature(self: Engine, temperature: float) -> Engine:
        """The same engine at another temperature; both use the same model, vLLM or server."""
        other = copy.copy(self)
        Sampling.__init__(other, self.max_new_tokens, temperature, self.stop_ids, self.seed)
        return other

    def stops(self, policy: torch.nn.Module) -> list[int]:
        """The token ids that end a response: those that were set, or the model's own.

        Raises:
            ValueError: there are none.
        """
        if self.stop_ids:
            return list(self.stop_ids)
        assert isinstance(policy, PreTrainedModel)
        ids = policy.generation_config.eos_token_id if policy.generation_config is not None else None
        ids = policy.config.eos_token_id if ids is None else ids
        if ids is None:
            raise ValueError("the model names no end-of-sequence token; set rollout.stop_ids")
        return [ids] if isinstance(ids, int) else list(ids)

    def sleep(self) -> None:
        """An engine that holds no memory of its own has none to free."""

    def close(self) -> None:
        """An engine that has started nothing has nothing to end."""

    def metrics(self) -> dict[str, float]:
        return self._metrics

    def record(self, tokens: float, seconds: float) -> None:
        """Set ``metrics`` to those of a call."""
        self._metrics = {
            "time/rollout": seconds,
            "rollout/tokens": tokens,
            "rollout/tokens_per_second": tokens / seconds,
        }

    def request_seed(self, prompt: int, step: int) -> int:
        """The seed of a prompt's request; the engine adds the index of the sample.

        It is a hash, so that neighbours in seed, prompt and step share no draws, of 62 bits, which engines accept.
        """
        return stable_int(f"{self.seed} {prompt} {step}") >> 2


def rollout_group(
    prompts: PromptBatch, group_size: int, tokens: Tensor, logprobs: Tensor, lengths: Tensor, finished: Tensor
) -> RolloutGroup:
    """A group of what was sampled, rewards still zero.

    Args:
        tokens, logprobs: ``[N, T]`` with ``N = P * group_size``, arbitrary beyond their lengths.
        lengths, finished: ``[N]``.
    """
    shape = (len(prompts.answers), group_size)
    width = int(lengths.max())
    mask = torch.arange(width, device=tokens.device) < lengths[:, None]
    return RolloutGroup(
        prompt_ids=prompts.prompt_ids,
        prompt_tokens=prompts.tokens,
        prompt_mask=prompts.mask,
        tokens=tokens[:, :width].unflatten(0, shape),
        mask=mask.unflatten(0, shape),
        rewards=torch.zeros(shape, device=tokens.device),
        finished=finished.unflatten(0, shape),
        is_teacher=torch.zeros(shape, dtype=torch.bool, device=tokens.device),
        present=torch.ones(shape, dtype=torch.bool, device=tokens.device),
        behaviour_logprobs=logprobs[:, :width].unflatten(0, shape),
    )


def group_of_lists(
    prompts: PromptBatch,
    group_size: int,
    tokens: Sequence[Sequence[int]],
    logprobs: Sequence[Sequence[float]],
    stops: Sequence[int],
    limit: int,
) -> RolloutGroup:
    """As :func:`rollout_group`, from ``N`` ragged lists; a response is finished if its last token is a stop.

    Raises:
        EngineError: a response ended before the limit and without a stop.
    """
    for response in tokens:
        if not response or (response[-1] not in stops and len(response) < limit):
            raise EngineError(
                f"a response was cut off after {len(response)} tokens, before max_response_tokens={limit}: the limit "
                f"of the engine is shorter; start it with the settings of the run; to continue: resume=auto"
            )
    device = prompts.tokens.device
    lengths = torch.tensor([len(response) for response in tokens])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]

    def padded(lists: Sequence[Sequence[Any]], dtype: torch.dtype) -> Tensor:
        flat = torch.tensor([value for row in lists for value in row], dtype=dtype)
        return torch.zeros(mask.shape, dtype=dtype).masked_scatter(mask, flat).to(device)

    ended = torch.tensor([response[-1] in stops for response in tokens], device=device)
    return rollout_group(
        prompts, group_size, padded(tokens, torch.int64), padded(logprobs, torch.float32), lengths.to(device), ended
    )


def prompt_lists(prompts: PromptBatch) -> list[list[int]]:
    """The prompts' token ids without padding."""
    return [tokens[mask].tolist() for tokens, mask in zip(prompts.tokens.cpu(), prompts.mask.cpu(), strict=True)]


def check_dtype(dtype: str | None) -> None:
    """Raise ``ValueError`` unless an engine's weights can have that dtype; None = the engine chooses it later."""
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"rollout.dtype must be null or one of {', '.join(DTYPES)}, got {dtype!r}")


def dtype_set(dtype: str | None, precision: str) -> str | None:
    """The dtype of an engine's weights as the settings have it; None = the policy's.

    Args:
        dtype: ``rollout.dtype``, which goes first.
        precision: of the run.
    """
    check_dtype(dtype)
    return "bfloat16" if dtype is None and precision == "bf16-mixed" else dtype


@contextmanager
def failing(engine: str, doing: str, advice: str) -> Iterator[None]:
    """Inside, whatever goes wrong is an :class:`EngineError` that names the engine and says how to continue.

    Args:
        engine: as ``rollout`` names it.
        doing: what it was doing.
        advice: where to look, and which settings to change.
    """
    try:
        yield
    except EngineError:
        raise
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        message = cut(" ".join(str(cause).split()), 400)
        raise EngineError(
            f"the rollout engine {engine} failed while {doing} ({type(cause).__name__}: {message}): see {advice}; the "
            f"run's checkpoints are intact; to continue: resume=auto, and to do without this engine also rollout=hf "
            f"allow_changes=true"
        ) from error
