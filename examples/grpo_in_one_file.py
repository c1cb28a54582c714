"""GRPO for a vision-language model, whole, in one file.

    python examples/grpo_in_one_file.py --steps 20

A tiny model (2 million parameters, part of the package) answers questions about drawn pictures, such as "How many more
circles than squares are there?". Rules score the answers, so there is no reward model, and no GPU is needed. Each step:

    1. sample   G replies to each question
    2. score    every reply by rules: right answer, right format
    3. center   a reply's advantage is its reward against those of its siblings
    4. pack     a question and its G replies into one row, [prompt | reply 1 | ... | reply G]
    5. loss     make tokens of replies with a positive advantage likelier, but not by much at once
    6. step     AdamW

The group, one question with its G replies, is the unit from beginning to end. GRPO compares siblings, so a group exists
anyway; keeping it whole means that its picture is encoded once and its prompt read once, not G times.

Model, sampler, questions and rules come from Saccade; GRPO itself is written out below in plain PyTorch. `saccade rl`
does the same with checkpoints, records, micro-batches and options: tests/test_example_one_file.py checks that both end
with the same weights.

Shape letters: G replies of a group, P prompt tokens, T tokens of a packed row, R reply tokens of a group, V vocabulary.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from saccade import Completion, Engine, Rubric, Sample, load_policy, open_engine
from saccade.data import DataConfig, open_source
from saccade.models.config import ModelConfig
from saccade.models.forward import vision_features
from saccade.models.policy import Policy
from saccade.rollout.config import Sampling
from saccade.rollout.prompts import Prompt, prepare
from saccade.tasks import TASKS

CLIP = 0.2
"""How far the probability of a token may move in one step before it stops counting: ratios 0.8 to 1.2."""
MAX_GRAD_NORM = 1.0


@dataclass
class Group:
    """One question with its G replies: what is sampled, scored, packed and trained on together."""

    prompt: Prompt
    replies: list[Completion]
    rewards_G: Tensor
    advantages_G: Tensor


# ------------------------------------------------------------------------------------------ 1. sample, 2. score


def sample_groups(
    policy: Policy, engine: Engine, samples: Sequence[Sample], rubric: Rubric, num_replies: int, seeds: Sequence[int]
) -> list[Group]:
    """Draws `num_replies` replies to each question and scores them."""
    prompts = [prepare(policy.adapter, sample) for sample in samples]  # images read, text written, both tokenized
    # The picture goes through the vision encoder once; sampling and training of all G replies use the result.
    features = vision_features(policy, [prompt.encoded for prompt in prompts])
    prompts = [replace(prompt, features=one) for prompt, one in zip(prompts, features, strict=True)]
    engine.sync(policy)
    all_replies = engine.generate(prompts, Sampling(max_new_tokens=40), num_replies, seeds)
    groups = []
    for prompt, sample, replies in zip(prompts, samples, all_replies, strict=True):
        rewards_G = torch.tensor([rubric(reply, sample).value for reply in replies])
        groups.append(Group(prompt, replies, rewards_G, centered(rewards_G)))
    return groups


# --------------------------------------------------------------------------------------------------- 3. center


def centered(rewards_G: Tensor) -> Tensor:
    """Advantages: rewards in standard deviations above the mean of the group. No value network is needed: siblings
    answered the same question, so their mean is the baseline. A group of equal rewards teaches nothing."""
    if bool((rewards_G == rewards_G[0]).all()):
        return torch.zeros_like(rewards_G)
    return (rewards_G - rewards_G.mean()) / (rewards_G.std() + 1e-4)


# ----------------------------------------------------------------------------------------------------- 4. pack


@dataclass
class Row:
    """A packed group, `[prompt | reply 1 | ... | reply G]`."""

    ids_T: Tensor
    positions_3T: Tensor
    """Rotary positions (time, height, width). Every reply continues from the prompt as if it were alone."""
    mask_TT: Tensor
    """True where token i (row) may look at token j (column)."""
    source_R: Tensor
    """Index of the token whose output predicts each reply token: the one before it."""
    reply_R: Tensor
    """Which reply, 0..G-1, each reply token belongs to."""


def pack(group: Group) -> Row:
    """One row per group, so that the prompt is read once for all of its replies."""
    prompt, lengths = group.prompt.encoded, [len(reply.token_ids) for reply in group.replies]
    P, T = len(prompt), len(prompt) + sum(lengths)
    ids, positions, source = [prompt.ids_P], [prompt.positions_3P], []
    start = P
    for reply, n in zip(group.replies, lengths, strict=True):
        ids.append(torch.tensor(reply.token_ids))
        positions.append((prompt.next_position + torch.arange(n)).expand(3, n))
        source += [P - 1, *range(start, start + n - 1)]  # a reply's first token follows the prompt
        start += n
    owner_T = torch.repeat_interleave(torch.arange(len(lengths) + 1), torch.tensor([P, *lengths]))  # 0: the prompt
    causal_TT = torch.ones(T, T, dtype=torch.bool).tril()
    own_or_prompt_TT = (owner_T[:, None] == owner_T) | (owner_T == 0)  # siblings do not see each other
    return Row(
        ids_T=torch.cat(ids),
        positions_3T=torch.cat(positions, dim=1),
        mask_TT=causal_TT & own_or_prompt_TT,
        source_R=torch.tensor(source),
        reply_R=owner_T[P:] - 1,
    )


# ----------------------------------------------------------------------------------------------------- 5. loss


def logprobs(policy: Policy, group: Group, row: Row) -> Tensor:
    """Log-probability (R) of each reply token under the current weights, at the sampling temperature, which is 1."""
    assert group.prompt.features is not None
    output = policy.model.model(
        input_ids=row.ids_T[None],
        position_ids=row.positions_3T[:, None],
        attention_mask=row.mask_TT[None, None],
        mm_encoder_outputs=policy.adapter.as_mm_outputs([group.prompt.features.values]),
        use_cache=False,
    )
    hidden_RD = output.last_hidden_state[0, row.source_R]
    logprobs_RV = policy.model.lm_head(hidden_RD).log_softmax(-1)
    replies_R = row.ids_T[-len(row.source_R) :]
    return logprobs_RV.gather(-1, replies_R[:, None])[:, 0]


def clipped_objective(logprobs_R: Tensor, old_logprobs_R: Tensor, advantages_R: Tensor) -> Tensor:
    """PPO's objective per token. While the weights are those that sampled, the ratio of new to old probability is 1 and
    the gradient that of advantage x log-probability. A token that moved by more than CLIP in the direction of its
    advantage has a gradient of 0."""
    ratio_R = (logprobs_R - old_logprobs_R).exp()
    return torch.minimum(ratio_R * advantages_R, ratio_R.clamp(1 - CLIP, 1 + CLIP) * advantages_R)


# ----------------------------------------------------------------------------------------------------- 6. step


def update(policy: Policy, optimizer: torch.optim.Optimizer, groups: Sequence[Group]) -> float:
    """One optimizer step on all groups; returns the loss. Each group is one pass, and the gradients add up. All passes
    divide by the tokens of the whole step, so every token has the same weight."""
    tokens = sum(len(reply.token_ids) for group in groups for reply in group.replies)
    total = 0.0
    optimizer.zero_grad()
    for group in groups:
        row = pack(group)
        old_R = torch.tensor([logprob for reply in group.replies for logprob in reply.logprobs])  # from sampling
        objective_R = clipped_objective(logprobs(policy, group, row), old_R, group.advantages_G[row.reply_R])
        loss = -objective_R.sum() / tokens
        loss.backward()
        total += float(loss.detach())
    trained = [parameter for _, parameter in policy.trainable()]
    clip_grad_norm_(trained, MAX_GRAD_NORM)
    optimizer.step()
    policy.version += 1
    return total


# ------------------------------------------------------------------------------------------------- all together


def main() -> None:
    parser = argparse.ArgumentParser(description="GRPO in one file, on a tiny model and drawn pictures.")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--task", default="compare", help="a task of the visual world: count, compare, arithmetic, ...")
    parser.add_argument("--model", default="base", help="a Qwen2-VL or Qwen2.5-VL directory, or 'base'")
    parser.add_argument("--questions", type=int, default=16, help="groups per step")
    parser.add_argument("--replies", type=int, default=8, help="G, replies per question")
    parser.add_argument("--lr", type=float, default=2e-4)
    args = parser.parse_args()

    policy = load_policy(ModelConfig(path=args.model, device="cpu"))  # vision is frozen, the language model trains
    engine = open_engine(policy)
    source = open_source(DataConfig(source="world", task=args.task))  # question i is drawn when it is asked for
    rubric = TASKS[args.task].rubric()
    optimizer = torch.optim.AdamW([p for _, p in policy.trainable()], lr=args.lr, weight_decay=0.0)

    for step in range(args.steps):
        began, places = time.perf_counter(), range(step * args.questions, (step + 1) * args.questions)
        groups = sample_groups(policy, engine, [source[i] for i in places], rubric, args.replies, seeds=places)
        loss = update(policy, optimizer, groups)
        reward = float(torch.cat([group.rewards_G for group in groups]).mean())
        bar, seconds = "#" * round(20 * reward), time.perf_counter() - began
        print(f"step {step + 1:3d}  {seconds:4.1f} s  loss {loss:+.3f}  reward {reward:.2f} {bar:20}", end="  ")
        print(groups[0].replies[0].text, flush=True)


if __name__ == "__main__":
    main()
