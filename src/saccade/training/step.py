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
from itertools import groupby
from operator import itemgetter
from typing import Generic, Protocol, Self, TypeVar

import torch
from PIL import Image
from torch import Tensor

from saccade.models.adapter import EncodedPrompt
from saccade.models.config import SharedPrefix
from saccade.models.feature_cache import FeatureCache
from saccade.models.forward import Features, branch_logprobs, project_again
from saccade.models.logprobs import Entropy
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

    def halves(self) -> tuple[MicroBatch, MicroBatch]:
        """The first and the last half of its replies, two or more; a prompt in both is read twice."""
        middle = len(self.members) // 2
        replies = [(i, one) for i, of in enumerate(self.packed.branches) for one in of]
        first, last = (
            [(i, [branch for _, branch in group]) for i, group in groupby(some, key=itemgetter(0))]
            for some in (replies[:middle], replies[middle:])
        )
        return self._part(first, self.members[:middle]), self._part(last, self.members[middle:])

    def _part(self, groups: Sequence[tuple[int, Sequence[Branch]]], members: tuple[tuple[int, int], ...]) -> MicroBatch:
        packed = pack([(self.packed.prompts[i], branches) for i, branches in groups])
        return MicroBatch(packed, tuple(self.prompts[i] for i, _ in groups), members)


class Splittable(Protocol):
    """A micro-batch of any kind."""

    @property
    def packed(self) -> Packed: ...

    def halves(self) -> Sequence[Self]: ...


Batch = TypeVar("Batch", bound=Splittable)


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
        self, batch: MicroBatch, temperature: float = 1.0, entropy: Entropy = False, policy: Policy | None = None
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
        given = [prompt.features for prompt in batch.prompts if prompt.features is not None]
        if policy is self.policy and len(given) == len(batch.prompts):
            again = project_again(policy, batch.packed.prompts, given)
            if again is not None:
                return again
        found = [valid_features(prompt.features, self.policy, policy.version) for prompt in batch.prompts]
        present = [one for one in found if one is not None]
        return present if len(present) == len(found) else None

    def step(
        self,
        batches: list[Batch],
        loss_of: Callable[[Batch], Tensor],
        lr: float,
        keep: Callable[[], None] | None = None,
        begin: Callable[[], None] | None = None,
    ) -> StepResult:
        """Adds up the gradients of `loss_of` over the batches, then moves the weights; `keep` is called when loss or
        gradient is not finite. TrainingStopped after too many of those in a row.

        When memory runs out, the batches are cut in half where they are, and the step begins again from a gradient of
        zero: a backward pass that was broken off has added some of its gradients. `begin` is called each time.
        """
        total: float | None = None
        while total is None:
            self.optimizer.zero_grad()
            if begin is not None:
                begin()
            with self._features_of(batches) as missing:
                total = self._passes(batches, loss_of)
                for one in missing:
                    (0.0 * self.logprobs(one)[0].sum()).backward()
        total = self.ranks.sum(total)
        norm, stepped = self.optimizer.step(lr, total, keep)
        self.policy.version += int(stepped)
        return StepResult(total, norm, stepped)

    def _passes(self, batches: list[Batch], loss_of: Callable[[Batch], Tensor]) -> float | None:
        """The summed loss, with its gradients added up; None when memory ran out, with `batches` cut."""
        total = 0.0
        for batch in batches:
            try:
                loss = loss_of(batch)
                if loss.requires_grad:  # not when only the vision side trains and no prompt has an image
                    loss.backward()
                total += float(loss.detach())
                continue
            except torch.OutOfMemoryError:
                if self.ranks.size > 1 or batch.packed.num_branches < 2:
                    raise  # processes must make the same passes; a single reply cannot be cut
            # outside of the handler, so that the error no longer holds the tensors of the pass
            self._say_out_of_memory(batch)
            length = batch.packed.layout.length
            too_long = [one.packed.layout.length >= length and one.packed.num_branches > 1 for one in batches]
            pairs = zip(batches, too_long, strict=True)
            batches[:] = [part for one, cut in pairs for part in (one.halves() if cut else (one,))]
            return None
        return total

    def each(self, batches: Sequence[Batch], fn: Callable[[Batch], Batch]) -> list[Batch]:
        """`fn` of every batch, for passes without gradient; a batch that takes too much memory is cut in half."""
        left, done = list(reversed(batches)), list[Batch]()
        while left:
            batch = left.pop()
            try:
                done.append(fn(batch))
                continue
            except torch.OutOfMemoryError:
                if self.ranks.size > 1 or batch.packed.num_branches < 2:
                    raise
            self._say_out_of_memory(batch)
            left += reversed(batch.halves())
        return done

    def _say_out_of_memory(self, batch: Splittable) -> None:
        """And halve the budget of the steps to come."""
        if self.policy.device.type == "cuda":
            torch.cuda.empty_cache()
        self.tokens_per_micro_batch = max(1, min(self.tokens_per_micro_batch, batch.packed.layout.length) // 2)
        log.warning(
            "out of memory in a micro-batch of %d tokens: it is cut in half and computed again, and later steps have "
            "micro-batches of at most %d tokens; the update is the same. Set tokens_per_micro_batch to that",
            *(batch.packed.layout.length, self.tokens_per_micro_batch),
        )

    def missing(self, batches: Sequence[Splittable], with_image: bool = False) -> list[MicroBatch]:
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
    def _features_of(self, batches: Sequence[Splittable]) -> Iterator[list[MicroBatch]]:
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
