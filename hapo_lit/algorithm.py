"""The algorithm, one page.

:class:`Hapo` is Algorithm 1 of "Hindsight-Anchored Policy Optimization" (Wu et al., arXiv 2603.11321) from sampling to
credit; the gradient is in ``training/module.py``.  GRPO, LUFFY and others are the same page with other parts.

Kept from the paper: all rollouts first, the gate after them and from the current group, one verified solution in the
place of the worst rollout, advantages recomputed on the augmented group.  Left out: its convergence theorems, which do
not hold as stated.  Ours: a teacher that the verifier rejects is never injected.

:class:`Supervised` learns from teachers alone and samples nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from hapo_lit.contracts import answer, check_part, credited, decided, injected, reported, sampled, sampled_rows
from hapo_lit.errors import ResumeError
from hapo_lit.numerics.ranges import MOST, check_count
from hapo_lit.protocols import (
    AdvantageEstimator,
    Decode,
    Gate,
    Injector,
    Ranks,
    RolloutEngine,
    TokenWeighting,
    Verifier,
)
from hapo_lit.types import Experience, GateDecision, PromptBatch, RolloutGroup
from hapo_lit.verify.judging import judge
from hapo_lit.weighting import weights_of


class Hapo:
    """Group policy optimisation with a gated teacher.

    Args:
        group_size: G, rows per group, teacher included.
        engine, verifier, gate, injector, advantage, weighting: the parts; see ``protocols.py``.
    """

    def __init__(
        self,
        group_size: int,
        engine: RolloutEngine,
        verifier: Verifier,
        gate: Gate,
        injector: Injector,
        advantage: AdvantageEstimator,
        weighting: TokenWeighting,
    ) -> None:
        check_part("injector", injector, Injector)
        check_count("group_size", group_size, most=MOST)
        if group_size < 2 or sampled_rows(injector, injector.rollouts(group_size)) < 1:
            raise ValueError(
                f"group_size={group_size} leaves nothing to compare: rewards are judged against their group; "
                f"set group_size to 2 or more (4 is the default)"
            )
        parts = {"gate": (gate, Gate), "rollout": (engine, RolloutEngine), "verifier": (verifier, Verifier)}
        parts |= {"advantage": (advantage, AdvantageEstimator), "weighting": (weighting, TokenWeighting)}
        for key, (part, protocol) in parts.items():
            if part is not None:  # as where an algorithm is only looked at
                check_part(key, part, protocol)
        gate.check(injector.rollouts(group_size))
        self.group_size = group_size
        self.engine, self.verifier = engine, verifier
        self.gate, self.injector = gate, injector
        self.advantage, self.weighting = advantage, weighting

    @property
    def rollouts_per_prompt(self) -> int:
        """Responses that the policy samples for each prompt."""
        return self.injector.rollouts(self.group_size)

    @property
    def teacher_stands_alone(self) -> bool:
        """True = teacher rows come without an advantage."""
        return self.injector.teacher_stands_alone

    @property
    def estimates(self) -> bool:
        """True = experience comes with an estimate of each prompt's success rate."""
        return self.gate.estimates

    @property
    def samples_from_policy(self) -> bool:
        """True = sampling makes passes of the policy itself."""
        return self.engine.is_trainer

    @torch.no_grad()
    def collect(self, prompts: PromptBatch, step: int, decode: Decode, ranks: Ranks) -> Experience:
        """Algorithm 1: turn prompts into credited experience."""
        # fmt: off
        size = self.rollouts_per_prompt
        rollouts = answer(self.engine.generate, prompts, size, step)                   # 1  y ~ π_old(· | x)
        rollouts = sampled(self.engine, rollouts, prompts, size)
        judgement = judge(self.verifier, decode(rollouts), prompts.questions(size))
        rollouts = rollouts.with_rewards(*judgement)                                   # 2  r, and whether it is right
        counts = rollouts.success_counts()
        self.gate.observe(*map(ranks.gather, (rollouts.prompt_ids, *counts)))          # 3  Beta posterior
        decision = answer(self.gate, rollouts.prompt_ids, rollouts.successes.float())  # 4  gate
        opened = decided(self.gate, decision, len(prompts.answers)).open
        group = answer(self.injector, rollouts, prompts, opened, step)                 # 5  hindsight
        group = injected(self.injector, group, prompts, opened)
        return Experience(
            group=group,
            advantages=credited(self.advantage, self.advantage(group, ranks.mean), group),  # 6  credit
            **weights_of(self.weighting, group, ranks.mean, step),                     # 7  share of each token
            behaviour_logprobs=None if self.engine.is_trainer else group.behaviour_logprobs,
            decision=decision, rollouts=rollouts, teacher_usable=prompts.teacher_usable, step=step,
        )
        # fmt: on

    @torch.no_grad()
    def without_teacher(self, experience: Experience, ranks: Ranks) -> Experience | None:
        """The rollouts credited as if the gate had stayed closed: for measuring what an injection changes."""
        rollouts = experience.rollouts
        if rollouts is None:
            return None
        return Experience(
            group=rollouts,
            advantages=self.advantage(rollouts, ranks.mean),
            **weights_of(self.weighting, rollouts, ranks.mean, experience.step),
            decision=experience.decision,
            behaviour_logprobs=None if self.engine.is_trainer else rollouts.behaviour_logprobs,
            step=experience.step,
        )

    def sync(self, policy: torch.nn.Module) -> None:
        """Let the engine sample from these weights."""
        self.engine.sync(policy)

    def sleep(self) -> None:
        """Let the engine free the memory that the update can use."""
        self.engine.sleep()

    def close(self) -> None:
        """Let the engine end what it has started."""
        self.engine.close()

    def metrics(self) -> dict[str, float]:
        gate, engine, verifier = (reported(part, part.metrics()) for part in (self.gate, self.engine, self.verifier))
        return {**{f"gate/{name}": value for name, value in gate.items()}, **engine, **verifier}

    def state_dict(self) -> dict[str, Any]:
        return {"gate": self.gate.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if "gate" not in state:
            raise ResumeError("the checkpoint holds no gate: this phase of its run was supervised")
        self.gate.load_state_dict(state["gate"])


class Supervised:
    """Supervised fine-tuning on verified teachers: groups of one row, which is the teacher's, with advantage 1."""

    engine: None = None
    gate: None = None
    injector: None = None
    rollouts_per_prompt = 0
    teacher_stands_alone = False
    estimates = False
    samples_from_policy = False

    def __init__(self, weighting: TokenWeighting) -> None:
        check_part("weighting", weighting, TokenWeighting)
        self.weighting = weighting

    @torch.no_grad()
    def collect(self, prompts: PromptBatch, step: int, decode: Decode, ranks: Ranks) -> Experience:
        """The teachers of the batch as experience; prompts without a usable teacher are absent rows."""
        usable = prompts.teacher_usable
        group = RolloutGroup(
            prompt_ids=prompts.prompt_ids,
            prompt_tokens=prompts.tokens,
            prompt_mask=prompts.mask,
            tokens=prompts.teacher_tokens[:, None],
            mask=prompts.teacher_mask[:, None],
            rewards=prompts.teacher_rewards[:, None],
            successes=usable[:, None],
            finished=usable[:, None],
            is_teacher=usable[:, None],
            present=usable[:, None],
        )
        return Experience(
            group=group,
            advantages=usable[:, None].to(group.rewards),
            **weights_of(self.weighting, group, ranks.mean, step),
            decision=GateDecision(open=torch.ones_like(usable), confidence=torch.ones_like(group.rewards[:, 0])),
            step=step,
        )

    def without_teacher(self, experience: Experience, ranks: Ranks) -> None:
        """Returns None: all rows of a supervised step are the teachers', so that none would be left."""

    def sync(self, policy: torch.nn.Module) -> None:
        """Without an engine there is nothing to sync."""

    def sleep(self) -> None:
        """Without an engine there is no memory to free."""

    def close(self) -> None:
        """Without an engine there is nothing to end."""

    def metrics(self) -> dict[str, float]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state:
            raise ResumeError(f"supervised learning keeps no state, but the checkpoint holds {sorted(state)}")
