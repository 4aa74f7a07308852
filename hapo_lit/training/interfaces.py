"""What callbacks may ask of trainer and module, and what a checkpoint needs of module and data.

``hapo train`` and ``hapo fabric`` drive the same module, data and callbacks.  Lightning's Trainer is a
:class:`RunTrainer`, and so is what ``hapo fabric`` puts in its place; the
:class:`~hapo_lit.training.module.HapoModule` is a :class:`RunModule`, and the
:class:`~hapo_lit.data.datamodule.MathDataModule` a :class:`RunData`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from lightning.pytorch.loggers import Logger
from torch import Tensor
from torch.nn import Parameter
from transformers import PreTrainedTokenizerBase

from hapo_lit.protocols import Ranks
from hapo_lit.rows import Text
from hapo_lit.training.phases import Phase, Phases
from hapo_lit.training.step_clock import StepClock
from hapo_lit.types import Experience, PromptBatch, RolloutGroup

if TYPE_CHECKING:
    from lightning import Trainer

    from hapo_lit.data.datamodule import MathDataModule
    from hapo_lit.training.fabric_loop import FabricTrainerAdapter
    from hapo_lit.training.module import HapoModule

    LightningCallback = object  # its hooks are declared with Lightning's own Trainer and module alone

    def _check_protocols_statically(
        trainer: Trainer, adapter: FabricTrainerAdapter, module: HapoModule, data: MathDataModule
    ) -> tuple[RunTrainer, RunTrainer, RunModule, RunData]:
        """Never called: mypy checks here that these classes fit the protocols below."""
        return trainer, adapter, module, data
else:
    from lightning.pytorch.callbacks import Callback as LightningCallback

# -- data -------------------------------------------------------------------------------------------------------------


class ResumableData(Protocol):
    """Data whose position is part of the run state."""

    rank: int
    """This process's number among all."""

    def state_dict(self) -> dict[str, Any]:
        """The position, and what must stay the same for it to mean the same."""

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go to a position; raises ``ResumeError`` if it belongs to other data."""


class RunData(ResumableData, Protocol):
    """The prompts of a run: those to train on without end, the held-out ones once for each evaluation."""

    world_size: int
    """How many processes share the prompts."""
    stop_ids: Sequence[int]
    """What ends the policy's responses, besides the tokenizer's end of sequence; set before ``setup``."""
    waited: float
    """Seconds that training waited for its last batch."""

    @property
    def difficulties(self) -> Sequence[str]:
        """The labels that rewards are told apart by."""

    @property
    def has_heldout(self) -> bool:
        """Whether there is anything to evaluate on."""

    def setup(self, stage: str | None = None) -> None:
        """Read and order the problems; what is done already is not done again."""

    def train_dataloader(self) -> Iterable[PromptBatch]:
        """This rank's batches, from the position on."""

    def val_dataloader(self) -> Iterable[PromptBatch]:
        """This rank's held-out batches."""

    def advance(self, batch: PromptBatch, step: int) -> None:
        """Move the position past ``batch``, which training has used as its ``step``-th."""

    def describe(self) -> dict[str, float]:
        """Sizes, and what became of problems and teachers."""

    def dropped(self) -> str:
        """How many rows were left out and why, in one line; may be empty."""

    def notes(self) -> Sequence[str]:
        """What else should be said of the data before a run, a line each."""

    def sample(self) -> tuple[str, str]:
        """A prompt and its teacher's solution as the policy sees them."""


# -- module -----------------------------------------------------------------------------------------------------------


class ResumableModule(Protocol):
    """A module whose weights, optimiser and memory are part of the run state."""

    step: int
    """Training steps done."""
    phases: Phases
    """Which algorithm, loss and learning rate act when."""

    def state_dict(self) -> dict[str, Any]:
        """The weights."""

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> object:
        """Take over weights."""

    def optimizer_state(self) -> dict[str, Any]:
        """The state of torch's own optimiser."""

    def resume_optimizer(self, state: dict[str, Any]) -> None:
        """Keep the state that the optimiser gets when it is made."""

    def run_state(self) -> dict[str, Any]:
        """What the module remembers besides: the step, the skipped updates, the phases with their gates."""

    def load_run_state(self, state: Mapping[str, Any]) -> None:
        """Remember that again."""


class RunModule(ResumableModule, Protocol):
    """What a callback may ask of the module."""

    data: RunData
    """The prompts."""
    tokenizer: PreTrainedTokenizerBase
    """The policy's."""
    experience: Experience | None
    """What the last step collected, on this rank."""
    metrics: dict[str, float]
    """Metrics of the last step, over all ranks."""
    heldout: dict[str, float]
    """Results of the last evaluation, over all ranks."""
    max_grad_norm: float
    """The norm to which gradients are scaled down; infinity = none."""
    clock: StepClock
    """What takes time between two steps and is logged under a name of its own is told to it."""
    before_update_hooks: list[Callable[[Experience], None]]
    """Called in each step with its experience, at the weights that sampled it."""
    callback_memory: dict[str, dict[str, Any]]
    """What callbacks remember from step to step, by their names; part of the run state."""
    stop_reason: str | None
    """Set by a callback, on one rank or on all, to end the run after this step with a checkpoint: the setting that
    asked for it."""

    def parameters(self) -> Iterable[Parameter]:
        """All weights, the reference's included."""

    @property
    def phase(self) -> Phase:
        """The phase of the step that is due."""

    @property
    def ranks(self) -> Ranks:
        """The other processes of the run."""

    def decode(self, group: RolloutGroup) -> list[str]:
        """The ``P * G`` responses as text."""

    def logprobs_of(self, text: Text) -> Tensor:
        """``[N, T]`` log-probabilities of responses under the policy as it is."""

    def gradient(self, experience: Experience) -> list[Tensor]:
        """The gradient of the loss at the present weights, a tensor for each trained parameter."""


# -- trainer and callbacks --------------------------------------------------------------------------------------------


class RunTrainer(Protocol):
    """What a callback may ask of the trainer."""

    @property
    def is_global_zero(self) -> bool:
        """Whether this process is rank 0, which alone writes."""

    @property
    def loggers(self) -> Sequence[Logger]:
        """Where metrics go."""

    @property
    def limit_val_batches(self) -> int | float | None:
        """0 = there are no evaluations."""


class RunCallback(LightningCallback):
    """A callback of a run: Lightning's hooks, with the trainer and the module that both commands have."""

    def on_fit_start(self, trainer: RunTrainer, pl_module: RunModule) -> None:
        """Training begins."""

    def on_train_batch_end(
        self, trainer: RunTrainer, pl_module: RunModule, outputs: object, batch: PromptBatch, batch_idx: int
    ) -> None:
        """A step is done, and its metrics and experience are there."""

    def on_validation_start(self, trainer: RunTrainer, pl_module: RunModule) -> None:
        """An evaluation begins; only the Trainer says so."""

    def on_validation_end(self, trainer: RunTrainer, pl_module: RunModule) -> None:
        """An evaluation is done, and its accuracies are there."""
