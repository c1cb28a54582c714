"""How the groups of a step become updates, as data, and which options of loss, update and rollout fit together."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from saccade.algorithm.config import LossConfig
from saccade.config import Config
from saccade.models.config import SharedPrefix

LARGEST_SEQUENCE_CLIP = 0.05


class ReplayConfig(Config):
    """Selective sample replay (VL-Rethinker, arXiv:2504.08837): replies of earlier steps take the places of those
    without an advantage, drawn with probability proportional to |A|^alpha."""

    size: int = Field(default=512, ge=1)
    """Replies that are kept, the newest."""
    alpha: float = Field(default=1.0, ge=0.0)
    """0 draws evenly."""


class UpdateConfig(Config):
    """How a step's groups become updates. Only `updates_per_rollout`, `mini_batches`, `old_logprobs` and `replay`
    change the step's result."""

    tokens_per_micro_batch: int = Field(default=8192, ge=1)
    """Tokens of one forward and backward pass: prompts once and their replies, or with `shared_prefix: off` prompts
    repeated and padding included. A trained vision encoder counts too, in tokens of equal cost."""
    updates_per_rollout: int = Field(default=1, ge=1)
    """How often the same groups are used (the papers' mu, PPO's epochs), always with the log-probs of the policy that
    sampled."""
    mini_batches: int = Field(default=1, ge=1)
    """Optimizer steps of a pass: the groups are cut into that many parts, in order, and each is an update with its own
    denominators. Above 1 ratios leave 1 and clips act (PPO)."""
    replay: ReplayConfig | None = None
    """null: no replies of earlier steps."""
    old_logprobs: Literal["auto", "sampler", "recompute"] = "auto"
    """Whose log-probs the ratio starts from: the engine's, or a pass of the trainer before the first update. auto: the
    engine's for ratios of tokens without a correction; else recomputed: the clip of ratios of sequences (GSPO) is below
    the round-off, and a correction compares the two."""
    sampler_gap_limit: float | None = Field(default=None, gt=0.0)
    """With the engine's log-probs: mean distance (nats a token) from the trainer's above which the run warns that the
    ratio no longer starts from 1. null: a quarter of the clip, at most 0.05."""
    shared_prefix: SharedPrefix = "auto"
    """auto: replies of a group share their prompt where it pays and the first batch proves it exact; on: without the
    proof; off: a row per reply with the prompt repeated, the slow reference."""

    def resolved(self, loss: LossConfig, staleness: int = 0) -> UpdateConfig:
        """With the values that `auto` and null mean for that loss."""
        low = getattr(loss.surrogate, "low", None) or 0.2
        compares = loss.correction is not None and loss.correction.compares
        recompute = compares or (loss.ratio != "token" and not staleness)
        old = "recompute" if recompute else "sampler"
        return self.model_copy(
            update={
                "old_logprobs": old if self.old_logprobs == "auto" else self.old_logprobs,
                "sampler_gap_limit": self.sampler_gap_limit or min(0.05, low / 4),
            }
        )

    @property
    def optimizer_steps(self) -> int:
        """Updates of one rollout."""
        return self.updates_per_rollout * self.mini_batches


def check_losses(loss: LossConfig, update: UpdateConfig, staleness: int, dtype: str, prompts: int) -> None:
    """ValueError for a loss (with its correction) and updates that contradict each other. `update` as the recipe has
    it; `prompts` is the smallest number of groups in a step."""
    resolved = update.resolved(loss, staleness)
    if loss.surrogate.kind == "reinforce":
        _check_one_update(update, staleness)
    if update.mini_batches > prompts:
        raise ValueError(
            f"update.mini_batches: got {update.mini_batches}, but a step has {prompts} groups, which are not split; "
            "expected at most that"
        )
    _check_old_logprobs(loss, update, resolved, staleness)
    _check_sequence_ratios(loss, resolved, dtype)


def _check_one_update(update: UpdateConfig, staleness: int) -> None:
    """`reinforce` has no ratio."""
    for name, got, expected in (
        ("update.updates_per_rollout", update.updates_per_rollout, 1),
        ("update.mini_batches", update.mini_batches, 1),
        ("rollout.staleness", staleness, 0),
        ("update.replay", update.replay, None),
    ):
        if got != expected:
            raise ValueError(
                f"{name}: got {got}, but loss.surrogate 'reinforce' has no ratio and is correct for one update only; "
                f"set it to {'null' if expected is None else expected}, or use kind clipped or cispo"
            )


def _check_old_logprobs(loss: LossConfig, update: UpdateConfig, resolved: UpdateConfig, staleness: int) -> None:
    correction = loss.correction
    compares = correction is not None and correction.compares
    if correction is not None and compares and resolved.old_logprobs == "sampler":
        raise ValueError(
            f"update.old_logprobs: got 'sampler' with loss.correction '{correction.kind}', but the ratio to the "
            "sampler's own log-probs contains that correction already; set recompute, or correction {kind: none}"
        )
    if staleness and resolved.old_logprobs == "recompute" and not compares:
        raise ValueError(
            "update.old_logprobs: got 'recompute' with rollout.staleness 1, but the policy that sampled is one step "
            "older than what would be recomputed; set sampler, or a loss.correction such as {kind: token_truncate}"
        )
    if update.replay is not None and resolved.old_logprobs == "recompute":
        raise ValueError(
            "update.replay: replies of earlier steps are compared with the policy that sampled them, but here old "
            "log-probs are recomputed; set update.old_logprobs: sampler, with ratios of tokens and without a correction"
        )


def _check_sequence_ratios(loss: LossConfig, resolved: UpdateConfig, dtype: str) -> None:
    """GSPO's ratio is a mean over the reply: it stays within thousandths of 1, and so does bfloat16's round-off."""
    clip = loss.surrogate
    if loss.ratio == "token":
        return
    if clip.kind == "clipped" and max(clip.low, clip.high) > LARGEST_SEQUENCE_CLIP:
        raise ValueError(
            f"loss.surrogate: got the clip {clip.low:g} / {clip.high:g} for ratios of sequences, which it would "
            f"never reach; expected at most {LARGEST_SEQUENCE_CLIP:g}, such as low: 3.0e-4, high: 4.0e-4 of GSPO"
        )
    if resolved.old_logprobs == "sampler" and dtype == "bfloat16":
        raise ValueError(
            f"update.old_logprobs: got 'sampler' with loss.ratio '{loss.ratio}' in bfloat16, whose round-off between "
            "engine and trainer exceeds the clip, so replies would be clipped at random; set recompute"
        )
