"""One optimizer step, for SFT and RL alike: units -> packed micro-batches -> summed loss -> guarded step.

    batches = runner.cut(units)
    result = runner.step(batches, lambda batch: -runner.logprobs(batch)[0].sum() / tokens, lr)

The denominators of a step are counted before any pass, so its gradient does not depend on the micro-batches.
R: loss tokens of a micro-batch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

import torch
from PIL import Image
from torch import Tensor

from saccade.models.adapter import EncodedPrompt
from saccade.models.config import SharedPrefix
from saccade.models.feature_cache import FeatureCache
from saccade.models.forward import Features, branch_logprobs
from saccade.models.packing import Branch, Packed, pack
from saccade.models.policy import Policy
from saccade.models.sharing import SharingChoice, choose_sharing
from saccade.rollout.prompts import Prompt
from saccade.training.batching import PackPlan, micro_batches, repeated_cost, rows, shared_cost
from saccade.training.optim import GuardedOptimizer
from saccade.training.ranks import ONE, Ranks
from saccade.training.tower_pass import TowerPass, encode

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Unit:
    """One prompt with its replies that are trained on; they share packed rows."""

    prompt: Prompt
    branches: tuple[Branch, ...]


@dataclass(frozen=True, eq=False, slots=True)
class MicroBatch:
    """What one forward and backward pass reads."""

    packed: Packed
    prompts: tuple[Prompt, ...]
    """Of `packed`, in its order."""
    members: tuple[tuple[int, int], ...]
    """(unit, branch) of each branch of `packed`, in its order."""


class HasRow(Protocol):
    """A micro-batch, or what wraps one."""

    @property
    def packed(self) -> Packed: ...


Batch = TypeVar("Batch", bound=HasRow)


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one step did."""

    loss: float
    """Of the whole step, summed over micro-batches and processes."""
    grad_norm: float
    """Before clipping."""
    stepped: bool
    """False when loss or gradient was not finite: the weights did not change."""


@dataclass(eq=False)
class StepRunner(Generic[Batch]):
    """The policy with its optimizer, and how its passes are cut and run."""

    policy: Policy
    optimizer: GuardedOptimizer
    tokens_per_micro_batch: int
    shared_prefix: SharedPrefix
    ranks: Ranks = ONE
    cache: FeatureCache | None = None
    """Vision features kept over steps; None uses those that the prompts carry."""
    choice: SharingChoice | None = None
    """Made on the first batch of the run."""
    warned: bool = False
    """Whether the warning about a prompt beyond the token budget was given."""
    tower: TowerPass | None = None
    """During an update of several processes: the features of its prompts."""

    def choose(self, units: Sequence[Unit]) -> SharingChoice | None:
        """The run's choice about shared prompts, made and logged on its first units; None until a process has some."""
        if self.choice is None:
            batch = [(unit.prompt.encoded, unit.branches) for unit in units]
            with self.policy.whole():
                own = choose_sharing(self.policy, batch, self.shared_prefix, self._must_share()) if batch else None
            self.choice = next((one for one in self.ranks.gather(own) if one is not None), None)
            if self.choice is not None:
                log.info("%s", self.choice)
        return self.choice

    def _must_share(self) -> bool:
        """With several processes a trained vision side needs the packed path: the plain one encodes images within its
        own passes, where a process without images would not follow."""
        return self.policy.shards is not None and not self.policy.vision_is_frozen()

    def cut(self, units: Sequence[Unit]) -> list[MicroBatch]:
        """Micro-batches of whole rows, balanced by cost, of at most the budget's tokens where possible."""
        choice = self.choose(units)
        if not units:
            return []
        assert choice is not None  # there are units
        cost = shared_cost if choice.path == "packed" else repeated_cost
        self._warn_of_long_prompts(units)
        all_rows: list[PackPlan] = []
        for i, unit in enumerate(units):
            prompt = unit.prompt.encoded
            lengths = [(k, len(branch.ids)) for k, branch in enumerate(unit.branches)]
            all_rows += rows(
                i, len(prompt) + self.policy.vision_cost(prompt), lengths, self.tokens_per_micro_batch, cost
            )
        if self.policy.shards is not None and choice.sharing not in ("merged", "split"):
            # these run the layers once per prompt, and processes must run them equally often in a pass
            return [self._micro_batch(units, [row]) for row in all_rows]
        return [self._micro_batch(units, batch) for batch in micro_batches(all_rows, self.tokens_per_micro_batch)]

    def _micro_batch(self, units: Sequence[Unit], batch: Sequence[PackPlan]) -> MicroBatch:
        return MicroBatch(
            pack([(units[r.prompt].prompt.encoded, [units[r.prompt].branches[k] for k in r.replies]) for r in batch]),
            tuple(units[row.prompt].prompt for row in batch),
            tuple((row.prompt, k) for row in batch for k in row.replies),
        )

    def _warn_of_long_prompts(self, units: Sequence[Unit]) -> None:
        """Once a run: a prompt beyond the token budget is still trained on whole, with more memory than planned."""
        budget, longest = self.tokens_per_micro_batch, max((u.prompt for u in units), key=lambda p: len(p.encoded))
        if len(longest.encoded) > budget and not self.warned:
            self.warned = True
            log.warning(
                "sample %s: its prompt has %d tokens, more than tokens_per_micro_batch %d, and each of its replies "
                "needs its own pass; raise the budget if memory allows, or shrink the image",
                *(longest.name, len(longest.encoded), budget),
            )

    def logprobs(
        self, batch: MicroBatch, temperature: float = 1.0, entropy: bool = False, policy: Policy | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Log-probs (R), and entropies (R) if requested, under the trained policy or another one (a reference)."""
        assert self.choice is not None  # made when the batch was cut
        return branch_logprobs(
            policy or self.policy,
            batch.packed,
            self._features(batch, policy or self.policy),
            temperature,
            entropy,
            self.choice.path,
            self.choice.sharing,
        )

    def _features(self, batch: MicroBatch, policy: Policy) -> list[Features] | None:
        """Features for this pass; None makes it run the vision encoder itself."""
        if self.tower is not None and policy is self.policy:
            return self.tower.features(batch.packed.prompts)
        if policy is not self.policy and not self.policy.vision_is_frozen():
            return None  # a reference has the run's initial encoder
        if self.cache is not None and policy is self.policy:
            return self.cache.features(policy, batch.packed.prompts)
        found = [valid_features(prompt.features, self.policy, policy.version) for prompt in batch.prompts]
        present = [one for one in found if one is not None]
        return present if len(present) == len(found) else None

    def step(
        self,
        batches: Sequence[Batch],
        loss_of: Callable[[Batch], Tensor],
        lr: float,
        keep: Callable[[], None] | None = None,
    ) -> StepResult:
        """Adds up the gradients of `loss_of` over the batches, then moves the weights; `keep` is called when loss or
        gradient is not finite. TrainingStopped after too many of those in a row."""
        self.optimizer.zero_grad()
        total = 0.0
        with self._features_of(batches) as missing:
            for batch in batches:
                loss = loss_of(batch)
                if loss.requires_grad:  # not when only the vision side trains and no prompt has an image
                    loss.backward()
                total += float(loss.detach())
            for one in missing:
                (0.0 * self.logprobs(one)[0].sum()).backward()
        total = self.ranks.sum(total)
        norm, stepped = self.optimizer.step(lr, total, keep)
        self.policy.version += int(stepped)
        return StepResult(total, norm, stepped)

    def missing(self, batches: Sequence[HasRow], with_image: bool = False) -> list[MicroBatch]:
        """What this process runs besides its own batches, so that all processes make equally many passes. Sharded
        weights are gathered and gradients exchanged in each."""
        if self.policy.shards is None:
            return []
        return [self._blank(with_image)] * (self.ranks.max(len(batches)) - len(batches))

    def _blank(self, with_image: bool) -> MicroBatch:
        """A tiny micro-batch whose loss does not count."""
        adapter = self.policy.adapter
        prompt = adapter.encode("<image>.", [Image.new("RGB", (56, 56))]) if with_image else adapter.encode(".", [])
        return MicroBatch(pack([(prompt, [Branch(adapter.stop_ids[:1])])]), (Prompt(None, prompt),), ((0, 0),))

    @contextmanager
    def _features_of(self, batches: Sequence[HasRow]) -> Iterator[list[MicroBatch]]:
        """Yields the missing passes. Where several processes train the vision side, its forward passes run before and
        its backward passes after what happens within."""
        if self.policy.shards is None or self.policy.vision_is_frozen():
            yield self.missing(batches)
            return
        prompts = [prompt for batch in batches for prompt in batch.packed.prompts]
        self._refuse_mixed(prompts)
        with_image = bool(self.ranks.max(int(any(prompt.pixels for prompt in prompts))))
        missing = self.missing(batches, with_image)
        prompts += [one.packed.prompts[0] for one in missing]
        self.tower = encode(self.policy, prompts, self._blank(True).packed.prompts[0], self.ranks)
        try:
            yield missing
            if self.tower is not None:
                self.tower.backward()
        finally:
            self.tower = None

    def _refuse_mixed(self, prompts: Sequence[EncodedPrompt]) -> None:
        """ValueError, in all processes, for prompts without images whose pass would exchange other gradients."""
        embeddings = self.policy.model.get_input_embeddings().weight
        text_only = any(not prompt.pixels for prompt in prompts) and not embeddings.requires_grad
        if self.ranks.max(int(text_only)):
            raise ValueError(
                "a prompt has no image, while the vision side trains and the embeddings do not; with several "
                "processes expected an image in every prompt. Remove the prompts without images, or train 'language'"
            )


def valid_features(features: Features | None, policy: Policy, version: int) -> Features | None:
    """The step's features if they are valid for a pass of weights `version`; None otherwise.

    Those of a frozen vision encoder outlive weight versions. Those of a trained one are valid for passes without
    gradient under the weights that made them.
    """
    if features is None:
        return None
    if policy.vision_is_frozen():
        return replace(features, version=version)
    return features if features.version == version and not torch.is_grad_enabled() else None
