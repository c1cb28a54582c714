"""The rules of the alarms, on the metrics of a run: each returns None, or why it goes off and what to try.

They read the metrics of the last steps, and those of the first for what has to have changed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

GAIN = 0.05
"""A rise of accuracy that makes a change of style harmless."""
LONG = 4
"""Windows after which accuracy should have followed the form of the replies."""
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Trend:
    """The rows of a run up to now; means over its first and last steps."""

    rows: Sequence[Row]
    evaluated: Sequence[Row]
    window: int

    def now(self, key: str) -> float | None:
        """Mean over the last steps; None before there are enough."""
        return self.mean(self.rows[-self.window :], key)

    def first(self, key: str) -> float | None:
        return self.mean(self.rows[: self.window], key)

    def stage(self) -> Sequence[Row]:
        """The rows of the current stage, when they are enough for two windows that do not overlap; else []."""
        name, begin = self.rows[-1].get("stage"), len(self.rows)
        while begin and self.rows[begin - 1].get("stage") == name:
            begin -= 1
        found = self.rows[begin:]
        return found if len(found) >= 2 * self.window else []

    def gain(self, key: str) -> float | None:
        """Rise from the first steps to the last; None while these overlap."""
        before, after = self.first(key), self.now(key)
        return None if before is None or after is None or len(self.rows) < 2 * self.window else after - before

    def learned(self) -> bool:
        gain = self.gain(accuracy_key(self.rows[-1]))
        return gain is not None and gain >= GAIN

    def mean(self, rows: Sequence[Row], key: str) -> float | None:
        values = [value for row in rows if (value := _number(row, key)) is not None]
        return fmean(values) if len(values) >= self.window else None


def accuracy_key(row: Row) -> str:
    """The metric of accuracy over all tasks."""
    of_tasks = [key for key in row if key.startswith("accuracy/")]
    return of_tasks[0] if len(of_tasks) == 1 else "accuracy/all"


def _number(row: Row, key: str) -> float | None:
    value = row.get(key)
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


Found = tuple[str, str] | None
"""(reason, advice)."""
Rule = Callable[[Trend, float], Found]


def format_alone(t: Trend, limit: float) -> Found:
    form, reward, right = t.gain("format/strict"), t.gain("reward/total"), t.gain(key := accuracy_key(t.rows[-1]))
    if form is None or reward is None or right is None or len(t.rows) < LONG * t.window:
        return None  # form is learned first, accuracy may follow
    if form < limit or reward < 0.02 or right >= 0.02:
        return None
    return (
        f"well-formed replies rose from {_percent(t.first('format/strict'))} to {_percent(t.now('format/strict'))} and "
        f"the reward with them, accuracy did not (from {_percent(t.first(key))} to {_percent(t.now(key))})",
        "give format no reward without a right answer (rubric 'hard'), easier questions, or fine-tuning first",
    )


def length_collapse(t: Trend, limit: float) -> Found:
    before, after = t.first("length/mean"), t.now("length/mean")
    if t.gain("length/mean") is None or not before or after is None or after > limit * before or t.learned():
        return None
    return (
        f"replies shrank from {before:.0f} to {after:.0f} tokens without a rise of accuracy",
        "check penalties on length and the token cap; reward the thought, or raise loss.kl_coef",
    )


def length_explosion(t: Trend, limit: float) -> Found:
    rows, after = t.stage(), t.now("length/mean")
    before = t.mean(rows[: t.window], "length/mean")
    if not before or after is None or after < limit * before or t.learned():
        return None
    return (
        f"replies grew from {before:.0f} to {after:.0f} tokens in this stage without a rise of accuracy",
        "mask or punish truncated replies, lower max_new_tokens, aggregate the loss by token",
    )


def repetition(t: Trend, limit: float) -> Found:
    share = t.now("replies/repetition")
    if share is None or share < limit:
        return None
    return (
        f"{_percent(share)} of the replies mostly repeat themselves",
        "set rollout.sampling.repetition_stop, add the repetition penalty to the rubric, lower the learning rate",
    )


def box_inflation(t: Trend, limit: float) -> Found:
    boxes, gold = t.now("boxes/per_reply"), t.now("boxes/gold")
    if boxes is None or not gold or boxes < limit * gold:
        return None
    return (
        f"{boxes:.1f} boxes per reply, where {gold:.1f} are true",
        "use a detection reward that counts false boxes (odLength of VLM-R1, or precision), not average precision",
    )


def constant_answer(t: Trend, limit: float) -> Found:
    excess, share = t.now("answers/excess"), t.now("answers/top_share")
    if excess is None or share is None or excess < limit:
        return None
    return (
        f"one answer makes up {_percent(share)} of the replies of a task, but is true for {_percent(share - excess)}",
        "look at the reward of that answer in the group browser; balance the answers of the data; raise loss.kl_coef",
    )


def copied_box(t: Trend, limit: float) -> Found:
    excess = t.now("boxes/copied")
    if excess is None or excess < limit:
        return None
    return (
        f"the same box answers {_percent(excess)} more prompts than it is true for",
        "look for a box in the prompt or template that is being copied; reward IoU above a threshold",
    )


def no_signal(t: Trend, limit: float) -> Found:
    share, reward = t.now("groups/zero_variance"), t.now("reward/total")
    if share is None or share < limit:
        return None
    kind = "" if reward is None else ", all near zero" if reward < 0.1 else ", all near the maximum"
    easier = reward is not None and reward < 0.1
    return (
        f"in the last {t.window} steps {_percent(share)} of the groups have equal rewards{kind}",
        "easier questions or fine-tuning first"
        if easier
        else "harder questions, or resample_rounds to set these aside",
    )


def kl_explosion(t: Trend, limit: float) -> Found:
    kl = t.now("policy/kl")
    if kl is None or kl < limit:
        return None
    return f"KL to the reference is {kl:.2g} nats per token", "lower the learning rate, raise loss.kl_coef"


def sampler_gap(t: Trend, limit: float) -> Found:
    gap = t.now("sampler/gap_mean")
    if gap is None or gap < limit:
        return None
    causes = likely_causes(t.rows[-t.window :])
    shown = ", ".join(f"{name} of {n:.0f}" for name, n in causes.items())
    return (
        f"sampler and trainer disagree by {gap:.2g} nats per token in mean"
        + (f" (likely cause, by replies: {shown})" if shown else ""),
        GAP_ADVICE.get(
            next(iter(causes), ""), "update.old_logprobs: recompute, float32 in both, or one engine for both"
        ),
    )


CAUSE = "sampler/cause/"
GAP_ADVICE = {
    "precision": "update.old_logprobs: recompute, float32 in both, or one engine for both",
    "pixels": "serve the model directory of the run; look for an image cache or processor of the server that is wrong",
    "positions": "another version of vLLM: its rotary positions of this model are wrong",
    "temperature": "start the servers with --logprobs-mode processed_logprobs",
    "weights": "see whether updates reach the servers (saccade verify MODEL --engine vllm), and who else uses them",
}
"""What to try, by the likely cause of most replies."""


def likely_causes(rows: Sequence[Row]) -> dict[str, float]:
    """Numbers of replies whose log-probs were too far from the trainer's, by likely cause, most first."""
    found: dict[str, float] = {}
    for row in rows:
        for key in row:
            name = key.removeprefix(CAUSE)
            if name in GAP_ADVICE and name != key and (n := _number(row, key)):
                found[name] = found.get(name, 0.0) + n
    return dict(sorted(found.items(), key=lambda one: -one[1]))


def entropy_collapse(t: Trend, limit: float) -> Found:
    before, after = t.first("policy/entropy"), t.now("policy/entropy")
    if t.gain("policy/entropy") is None or not before or after is None or after > limit * before or t.learned():
        return None
    return (
        f"entropy fell from {before:.2g} to {after:.2g} nats per token without a rise of accuracy",
        "lower the learning rate, raise loss.surrogate.high (clip higher) or loss.kl_coef",
    )


def heldout_falls(t: Trend, limit: float) -> Found:
    scores = [(int(row["step"]), s, _number(row, "eval/n")) for row in t.evaluated if (s := _number(row, "eval/score"))]
    if len(scores) < 3:
        return None
    at, best, n = max(scores[:-1], key=lambda one: one[1])
    after = [score for step, score, _ in scores if step > at]
    noise = 2 * math.sqrt(max(best * (1 - best), 0.0) * 2 / (n or 100.0)) if best <= 1 else 0.0
    since = [row for row in t.rows if row["step"] <= at]
    reward, before = t.now("reward/total"), t.mean(since[-t.window :], "reward/total")
    fell = len(after) >= 2 and all(best - score > max(limit, noise) for score in after[-2:])
    if not fell or reward is None or before is None or reward <= before + 0.02:
        return None
    return (
        f"held-out accuracy fell from {_percent(best)} at step {at} to {_percent(after[-1])}, while the reward rose "
        f"from {before:.2f} to {reward:.2f}",
        f"stop at step {at}; look at what earns the reward in the group browser; more data, a lower learning rate",
    )


def masked_share(t: Trend, limit: float) -> Found:
    share = t.now("rollouts/masked")
    if share is None or share < limit:
        return None
    return (
        f"{_percent(share)} of the rollouts are masked and train nothing",
        "read the reasons in the report: a failing reward, or a token cap that is too low",
    )


def throughput_drop(t: Trend, limit: float) -> Found:
    speeds = [speed for row in t.stage()[: t.window] if (speed := _number(row, "tokens/per_s"))]
    last = [speed for row in t.rows[-t.window :] if (speed := _number(row, "tokens/per_s"))]
    if not speeds or not last or (now := median(last)) > limit * median(speeds):
        return None
    return (
        f"{now:.0f} tokens per second, {median(speeds):.0f} at the stage's beginning",
        "compare time/* in the report; look for another process on the machine, and for memory that runs out",
    )


def _percent(share: float | None) -> str:
    return "?" if share is None else f"{100 * share:.0f}%"
