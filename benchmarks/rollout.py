"""Rollout alone: the built-in engine against transformers' `generate`, on fixed and on ragged forced lengths."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from benchmarks.lengths import FIRST, counting_down, lognormal
from benchmarks.measure import alternate
from benchmarks.observe import Seen, rollout_path, watched
from benchmarks.peer_generate import VLLM, Generate, Replies
from benchmarks.saccade_arm import NeverStops
from benchmarks.setting import Setting, checkpoint, policy_of, question, samples
from benchmarks.table import Row, finish, options, parse, row
from saccade.data.images import load_image
from saccade.models.adapter import Adapter, EncodedPrompt
from saccade.models.forward import Features, vision_features
from saccade.models.policy import Policy
from saccade.rollout.builtin import BuiltinEngine
from saccade.rollout.engine import Sampling
from saccade.rollout.prompts import prepare

FIXED = (Setting(256, 32, 8, 4), Setting(256, 64, 8, 4), Setting(256, 128, 8, 4))
RAGGED = Setting(256, 160, 8, 8)
MEAN = 39
SEEDS = 16
"""Seeds that are tried for ragged lengths near the ones that are asked for."""
QUICK_FIXED, QUICK_RAGGED, QUICK_MEAN = (Setting(64, 8, 4, 2),), Setting(64, 16, 4, 2), 6
REPEATED, RETURNED, OURS = "generate, inputs repeated", "generate, num_return_sequences", "saccade"
TARGET_RETURNED = 1.8
"""Wanted: times less CPU than num_return_sequences."""


def target(new_tokens: int, ragged: bool) -> float:
    """Wanted: times less CPU than repeated inputs."""
    return 4.0 if ragged or new_tokens <= 64 else 3.0


@dataclass(eq=False)
class Arms:
    """The engines of one process, each with its model."""

    policy: Policy
    adapter: Adapter
    """The policy's own; `policy.adapter` is one that never stops while lengths are fixed."""
    engine: BuiltinEngine
    peer: Generate
    vllm: VLLM | None

    def ours(
        self, prompts: Sequence[EncodedPrompt], setting: Setting, seed: int = 0, features: Features | None = None
    ) -> Replies:
        """Without features the engine runs the vision tower itself, as the peers do."""
        sampling = Sampling(max_new_tokens=setting.new_tokens)
        done = self.engine.generate(prompts, sampling, setting.group_size, seed, features)
        return [list(one.token_ids) for group in done for one in group]


def fixed_rows(arms: Arms, setting: Setting, repeats: int) -> list[Row]:
    """Every reply has exactly `setting.new_tokens`: stop tokens cannot be drawn, in any arm."""
    prompts = [prepare(arms.adapter, sample).encoded for sample in samples(setting)]
    arms.policy.adapter = NeverStops(arms.adapter)
    n, length = setting.group_size, setting.new_tokens
    works: dict[str, Callable[[], Replies]] = {
        REPEATED: lambda: arms.peer(prompts, n, length, repeat=True),
        RETURNED: lambda: arms.peer(prompts, n, length, repeat=False),
        OURS: lambda: arms.ours(prompts, setting),
    }
    vllm = arms.vllm
    if vllm is not None:
        chats, images = chats_of(arms.adapter, setting), [load_image(s.images[0]) for s in samples(setting)]
        works["vllm"] = lambda: vllm(chats, images, n, length)
    return measured(arms, setting.name, setting, prompts, works, [length] * len(prompts) * n, repeats, False)


def ragged_rows(arms: Arms, setting: Setting, mean: int, repeats: int) -> list[Row]:
    """Replies of lognormal lengths, the same in all arms, each ended by the stop token."""
    prompts = [prepare(arms.adapter, sample).encoded for sample in samples(setting)]
    arms.policy.adapter = arms.adapter
    n, stop = setting.group_size, arms.adapter.stop_ids[0]
    wanted = lognormal(len(prompts) * n, mean, setting.new_tokens)
    seed, lengths = drawn_lengths(arms, prompts, setting, wanted)
    with counting_down(arms.policy.model, wanted, stop), counting_down(arms.peer.model, wanted, stop):
        first = [FIRST + length - 2 for length in lengths]
        works: dict[str, Callable[[], Replies]] = {
            REPEATED: lambda: arms.peer(prompts, n, setting.new_tokens, repeat=True, first_tokens=first),
            RETURNED: lambda: arms.peer(prompts, n, setting.new_tokens, repeat=False, first_tokens=first),
            OURS: lambda: arms.ours(prompts, setting, seed),
        }
        name = f"ragged, mean {sum(lengths) / len(lengths):.0f} max {max(lengths)}: {setting.name}"
        return measured(arms, name, setting, prompts, works, lengths, repeats, True)


def drawn_lengths(
    arms: Arms, prompts: Sequence[EncodedPrompt], setting: Setting, wanted: Sequence[int]
) -> tuple[int, list[int]]:
    """A seed of the engine, and the lengths that it draws with it: of some seeds, those nearest to `wanted` in mean
    and maximum."""
    features = vision_features(arms.policy, prompts)
    draws: dict[int, list[int]] = {}
    with counting_down(arms.policy.model, wanted, arms.adapter.stop_ids[0], at_once=True):
        for seed in range(SEEDS):
            draws[seed] = [reply[0] - FIRST + 2 for reply in arms.ours(prompts, setting, seed, features)]

    def miss(seed: int) -> float:
        lengths = draws[seed]
        return abs(sum(lengths) - sum(wanted)) / len(wanted) + abs(max(lengths) - max(wanted))

    best = min(draws, key=miss)
    return best, draws[best]


def measured(
    arms: Arms,
    name: str,
    setting: Setting,
    prompts: Sequence[EncodedPrompt],
    works: dict[str, Callable[[], Replies]],
    lengths: list[int],
    repeats: int,
    ragged: bool,
) -> list[Row]:
    """A watched run of each arm, whose lengths are checked, then the measured ones."""
    models = {REPEATED: arms.peer.model, RETURNED: arms.peer.model, OURS: arms.policy.model}
    paths: dict[str, str] = {}
    steps: dict[str, int | None] = {}
    for arm, work in works.items():
        watching: AbstractContextManager[Seen] = watched(models[arm]) if arm in models else nullcontext(Seen())
        with watching as seen:
            got = [len(reply) for reply in work()]
        if got != lengths:
            raise ValueError(f"{name}, arm {arm}: got replies of {got} tokens; expected {lengths} as in all arms")
        if arm in models:
            paths[arm] = f"{rollout_path(seen, [len(p) for p in prompts], setting.group_size)}; {seen.images} images"
        steps[arm] = seen.row_steps if arm in models else None
    costs = alternate(works, repeats, warm=False)
    ideal = sum(lengths) - len(lengths)  # a reply's first token comes from the prefill
    rows = []
    for arm in works:
        more = {"to_returned": round(costs[RETURNED].cpu_seconds / costs[arm].cpu_seconds, 3)}
        if arm == OURS:
            more |= {"target": target(setting.new_tokens, ragged), "target_returned": TARGET_RETURNED}
        more |= {"row_steps": steps[arm], "ideal": ideal}
        rows.append(row(name, arm, costs[arm], costs[REPEATED], paths.get(arm, "vLLM's own engine"), **more))
    return rows


def chats_of(adapter: Adapter, setting: Setting) -> list[str]:
    """Prompts as text with one image placeholder, for an engine that tokenises by itself."""
    tokenizer = adapter.tokenizer  # type: ignore[attr-defined]  # of the Qwen-VL adapter, the only family here
    contents = [[{"type": "image"}, {"type": "text", "text": question(sample)}] for sample in samples(setting)]
    return [
        tokenizer.apply_chat_template([{"role": "user", "content": one}], tokenize=False, add_generation_prompt=True)
        for one in contents
    ]


def build_arms(directory: Path, max_rows: int | None) -> Arms:
    policy = policy_of(directory, "language")
    adapter = policy.adapter
    engine = BuiltinEngine(policy) if max_rows is None else BuiltinEngine(policy, max_rows=max_rows)
    pad = adapter.tokenizer.pad_token_id  # type: ignore[attr-defined]  # as above
    peer = Generate(directory, pad, adapter.stop_ids, adapter.banned_ids)
    vllm = VLLM(directory, max_length=2048, max_rows=64) if find_spec("vllm") is not None else None
    return Arms(policy, adapter, engine, peer, vllm)


def main(argv: Sequence[str] | None = None) -> int:
    parser = options(__doc__ or "")
    parser.add_argument("--max-rows", type=int, help="replies that Saccade's engine decodes at once (its own default)")
    parser.add_argument("--only", choices=("fixed", "ragged"), help="only these lengths")
    args = parse(parser, argv)
    fixed, ragged, mean = (QUICK_FIXED, QUICK_RAGGED, QUICK_MEAN) if args.quick else (FIXED, RAGGED, MEAN)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        arms = build_arms(checkpoint(Path(folder) / "model"), args.max_rows)
        for setting in fixed if args.only != "ragged" else ():
            rows += fixed_rows(arms, setting, args.repeats)
        if args.only != "fixed":
            rows += ragged_rows(arms, ragged, mean, args.repeats)
    notes = ["row_steps: rows x decoding steps that the model ran; ideal: what the replies' lengths need."]
    if arms.vllm is None:
        notes.append("vLLM is not installed here: its arm is left out.")
    finish("rollout", args, rows, notes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
