"""Rollout alone: the built-in engine against transformers' `generate`, on fixed and on ragged forced lengths."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from benchmarks.lengths import lognormal
from benchmarks.measure import alternate
from benchmarks.observe import Seen, rollout_path, watched
from benchmarks.peer_generate import VLLM, Generate, Replies
from benchmarks.setting import Setting, checkpoint, policy_of, question, samples
from benchmarks.table import Row, finish, options, parse, row
from saccade.data.images import load_image
from saccade.models.adapter import EncodedPrompt
from saccade.models.policy import Policy
from saccade.rollout.builtin import BuiltinEngine
from saccade.rollout.config import DEFAULT_ENGINE, BuiltinEngineConfig, Sampling
from saccade.rollout.prompts import Prompt, prepare

FIXED = (Setting(256, 32, 8, 4), Setting(256, 64, 8, 4), Setting(256, 128, 8, 4))
RAGGED = Setting(256, 160, 8, 8)
MEAN = 39
QUICK_FIXED, QUICK_RAGGED, QUICK_MEAN = (Setting(64, 8, 4, 2),), Setting(64, 16, 4, 2), 6
REPEATED, RETURNED, OURS = "generate, inputs repeated", "generate, num_return_sequences", "saccade"
TARGET_RETURNED = 1.8
TARGET_VLLM = 1.25
"""Wanted: the built-in engine takes at most this many times vLLM's CPU seconds."""
"""Wanted: times less CPU than num_return_sequences."""


def target(new_tokens: int, ragged: bool) -> float:
    """Wanted: times less CPU than repeated inputs."""
    return 4.0 if ragged or new_tokens <= 64 else 3.0


@dataclass(eq=False)
class Arms:
    """The engines of one process. The peers have models of their own."""

    policy: Policy
    engine: BuiltinEngine
    peer: Generate
    vllm: VLLM | None

    def ours(self, prompts: Sequence[EncodedPrompt], n: int, lengths: Sequence[int]) -> Replies:
        """The engine runs the vision tower itself, as the peers do."""
        sampling = Sampling(max_new_tokens=max(lengths))
        by_prompt = [lengths[i * n : (i + 1) * n] for i in range(len(prompts))]
        done = self.engine.generate(
            [Prompt(None, one) for one in prompts], sampling, n, range(len(prompts)), lengths=by_prompt
        )
        return [list(one.token_ids) for group in done for one in group]


def rows_of(arms: Arms, setting: Setting, mean: int | None, repeats: int) -> list[Row]:
    """Replies of the setting's length, or with a `mean` of lognormal lengths up to it; the same in all arms."""
    prompts = [prepare(arms.policy.adapter, sample).encoded for sample in samples(setting)]
    n, count = setting.group_size, setting.prompts * setting.group_size
    lengths = [setting.new_tokens] * count if mean is None else lognormal(count, mean, setting.new_tokens)
    name = setting.name if mean is None else f"{setting.name}, ragged with mean {mean}"
    works: dict[str, Callable[[], Replies]] = {
        REPEATED: lambda: arms.peer(prompts, n, lengths, repeat=True),
        RETURNED: lambda: arms.peer(prompts, n, lengths, repeat=False),
        OURS: lambda: arms.ours(prompts, n, lengths),
    }
    vllm = arms.vllm
    if vllm is not None and mean is None:  # it takes one length for all replies to a prompt
        chats, images = chats_of(arms.policy, setting), [load_image(s.images[0]) for s in samples(setting)]
        works["vllm"] = lambda: vllm(chats, images, n, setting.new_tokens)
    paths, steps = watch(arms, works, prompts, lengths)
    costs = alternate(works, repeats, warm=False)
    rows = []
    for arm in works:
        more = {"to_returned": round(costs[RETURNED].cpu_seconds / costs[arm].cpu_seconds, 3)}
        if arm == OURS:
            more |= {"target": target(setting.new_tokens, mean is not None), "target_returned": TARGET_RETURNED}
        more |= {"row_steps": steps.get(arm), "ideal": sum(lengths) - count}  # the first token comes from the prefill
        rows.append(row(name, arm, costs[arm], costs[REPEATED], paths[arm], **more))
    return rows


def watch(
    arms: Arms, works: dict[str, Callable[[], Replies]], prompts: Sequence[EncodedPrompt], lengths: Sequence[int]
) -> tuple[dict[str, str], dict[str, int]]:
    """The unmeasured run of each arm: its path and row-steps. ValueError when its replies have other lengths."""
    models = {REPEATED: arms.peer.model, RETURNED: arms.peer.model, OURS: arms.policy.model}
    paths: dict[str, str] = {}
    steps: dict[str, int] = {}
    for arm, work in works.items():
        watching: AbstractContextManager[Seen] = watched(models[arm]) if arm in models else nullcontext(Seen())
        with watching as seen:
            got = [len(reply) for reply in work()]
        if got != list(lengths):
            raise ValueError(f"arm {arm}: got replies of {got} tokens; expected {list(lengths)} as in all arms")
        if arm not in models:
            paths[arm] = "vLLM's own engine, not looked into"
            continue
        steps[arm] = arms.engine.stats.row_steps if arm == OURS else seen.single_tokens
        path = rollout_path(seen, [len(p) for p in prompts], len(lengths) // len(prompts), steps[arm])
        form = f"; engine {arms.engine.stats.decoder}" if arm == OURS else ""
        paths[arm] = f"{path}; {seen.images} images{form}"
    return paths, steps


def chats_of(policy: Policy, setting: Setting) -> list[str]:
    """Prompts as text with one image placeholder, for an engine that tokenises by itself."""
    tokenizer = policy.processors[0]
    contents = [[{"type": "image"}, {"type": "text", "text": question(sample)}] for sample in samples(setting)]
    return [
        tokenizer.apply_chat_template([{"role": "user", "content": one}], tokenize=False, add_generation_prompt=True)
        for one in contents
    ]


def build_arms(directory: Path, max_rows: int | None) -> Arms:
    policy = policy_of(directory, "language")
    engine = BuiltinEngine(policy, DEFAULT_ENGINE if max_rows is None else BuiltinEngineConfig(max_rows=max_rows))
    adapter, pad_id = policy.adapter, policy.processors[0].pad_token_id
    peer = Generate(directory, pad_id, adapter.stop_ids, adapter.banned_ids)
    vllm = VLLM(directory, max_length=2048, max_rows=64) if find_spec("vllm") is not None else None
    return Arms(policy, engine, peer, vllm)


def against_vllm(rows: Sequence[Row]) -> str:
    """Our CPU seconds over vLLM's, for 4 prompts x 8 replies x 64 tokens where that was measured."""
    found = {one.arm: one for one in rows if one.setting == FIXED[1].name}
    if not {OURS, "vllm"} <= found.keys():
        return f"built-in engine / vLLM, CPU seconds: not measured on {FIXED[1].name}."
    ratio = found[OURS].cpu_seconds / found["vllm"].cpu_seconds
    return (
        f"built-in engine / vLLM, CPU seconds on 4 x 8 x 64 ({FIXED[1].name}): {ratio:.2f}, target at most "
        f"{TARGET_VLLM}: {'met' if ratio <= TARGET_VLLM else 'MISSED'}."
    )


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
            rows += rows_of(arms, setting, None, args.repeats)
        if args.only != "fixed":
            rows += rows_of(arms, ragged, mean, args.repeats)
    notes = [
        "row_steps: rows x decoding steps that the model ran; ideal: what the replies' lengths need; to_returned: CPU "
        "of num_return_sequences / own."
    ]
    notes.append(against_vllm(rows) if arms.vllm is not None else "vLLM is not installed here: its arm is left out.")
    finish("rollout", args, rows, notes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
