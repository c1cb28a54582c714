"""One whole GRPO step, Saccade against TRL's GRPOTrainer: prompts, rollout, reward, forward, backward, optimizer."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

from benchmarks.measure import Cost, Meter, Reading, median
from benchmarks.observe import watched
from benchmarks.saccade_arm import path_of, saccade_step
from benchmarks.setting import FittedSetting, Setting, checkpoint, visual_tokens
from benchmarks.table import Row, finish, options, parse, row

TARGETS: dict[Setting, float | None] = {
    Setting(256, 64, 8, 4): 4.0,
    Setting(1024, 64, 8, 1): 6.0,
    Setting(256, 256, 16, 1): 3.0,
}
"""How many times less CPU than TRL is wanted."""
QUICK: dict[Setting, float | None] = {Setting(64, 8, 4, 2): None}
TARGET_MB = 3.0
"""How many times less memory above the level than TRL is wanted."""
ROUND_OFF = 1e-5
ARMS = ("trl", "saccade")


def compare(
    directory: Path, setting: Setting, checkpointing: bool, repeats: int, rows: int | None, parts: str, rank: int = 0
) -> tuple[dict[str, Cost], dict[str, str]]:
    """Costs and paths of both arms. They take turns: TRL's trainer runs its own loop, Saccade steps between two of
    its steps. The first step of each is not measured; after it the optimizers' states exist."""
    from benchmarks.peer_trl import trl_step

    ours = saccade_step(directory, setting, checkpointing, parts=parts, rank=rank)
    moving = {name for name, _ in ours.policy.trainable()}
    theirs = trl_step(directory, setting, repeats + 1, checkpointing, rows, moving, rank=rank)
    meter, paths = Meter(), {}
    readings: dict[str, list[Reading]] = {arm: [] for arm in ARMS}
    with ExitStack() as watching:
        seen = watching.enter_context(watched(theirs.model))

        def turn(step: int) -> None:
            if step == 1:
                watching.close()
                ours()  # the decision about shared prefixes costs something in a run's first step alone
                paths["saccade"] = ours.path()
                paths["trl"] = path_of(seen, ours.groups, seen.single_tokens)  # prompts and lengths are the same
            else:
                readings["trl"].append(meter.stop())
                readings["saccade"].append(meter.run(ours))
            meter.start()

        theirs.train(turn)
    return {arm: median(readings[arm]) for arm in ARMS}, paths


def rows_of(
    directory: Path, setting: Setting, target: float | None, options: dict[str, object], both: Sequence[bool]
) -> list[Row]:
    """The tables of a setting, with checkpointing and without, and each arm at its best."""
    rows: list[Row] = []
    best: dict[str, list[Cost]] = {arm: [] for arm in ARMS}
    for checkpointing in both:
        costs, paths = compare(directory, setting, checkpointing, **options)
        name = f"{setting.name}, checkpointing {'on' if checkpointing else 'off'}"
        for arm in ARMS:
            best[arm].append(costs[arm])
            wanted = {} if target is None or arm == "trl" else {"target": target, "target_mb": TARGET_MB}
            rows.append(row(name, arm, costs[arm], costs["trl"], paths[arm], **wanted))
    if len(both) < 2:
        return rows
    name = f"{setting.name}, each arm's best of the two"
    least = {arm: best_of(costs) for arm, costs in best.items()}
    return rows + [row(name, arm, least[arm], least["trl"], rows[ARMS.index(arm)].path) for arm in ARMS]


def best_of(both: Sequence[Cost]) -> Cost:
    """The less of CPU and the less of memory, each from whichever it is; the runs are those of the faster."""
    fastest = min(both, key=lambda cost: cost.cpu_seconds)
    return Cost(fastest.cpu_seconds, min(cost.peak_mb for cost in both), fastest.runs)


def agreement_line(directory: Path, setting: Setting) -> str:
    """Whether both arms take the same step; ValueError if not, because then times mean nothing."""
    from benchmarks.agreement import agreement

    same = agreement(directory, setting, "dapo")
    if same.distance > ROUND_OFF:
        raise ValueError(f"the gradients differ by {same.distance:.1e} of their norm; expected {ROUND_OFF:.0e} at most")
    return (
        f"Same rollouts, same loss (dapo = token_mean): whole-gradient distance to TRL's {same.distance:.1e} of its "
        f"norm over {same.parameters} tensors; loss {same.loss:.6f}, TRL's {same.trl_loss:.6f}."
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = options(__doc__ or "")
    parser.add_argument("--setting", type=int, help="only this one of the settings, counted from 1")
    parser.add_argument("--trl-rows", type=int, help="completions in a micro-batch of TRL (default: one prompt's)")
    parser.add_argument("--train", choices=("all", "language"), default="all", help="parts that train, in both arms")
    parser.add_argument("--lora", type=int, default=0, metavar="RANK", help="LoRA on the language model, in both arms")
    parser.add_argument("--checkpointing", choices=("both", "on", "off"), default="both", help="of activations")
    parser.add_argument("--model", type=Path, metavar="DIR", help="a model of benchmarks.real_model instead of L")
    args = parse(parser, argv)
    if find_spec("trl") is None:
        parser.error("TRL is not installed; it comes with: pip install -e '.[bench]' -c constraints.txt")
    if args.model is not None and not (args.model / "config.json").is_file():
        parser.error(f"--model {args.model}: no config.json there; make one: python -m benchmarks.real_model --out DIR")
    settings = list((QUICK if args.quick else TARGETS).items())
    tokens = 0 if args.model is None else visual_tokens(args.model)
    if args.model is not None:
        settings = [(FittedSetting(tokens, *((8, 4, 1) if args.quick else (64, 8, 1))), None)]
    if args.setting is not None:
        if not 1 <= args.setting <= len(settings):
            parser.error(f"--setting: got {args.setting}; expected 1 to {len(settings)}")
        settings = settings[args.setting - 1 : args.setting]
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        directory = args.model or checkpoint(Path(folder) / "model")
        small = FittedSetting(tokens, 8, 4, 2) if args.model else Setting(64, 8, 4, 2)
        notes = [] if args.lora else [agreement_line(directory, small)]  # each arm draws adapters of its own
        for setting, target in settings:
            common = {"repeats": args.repeats, "rows": args.trl_rows, "parts": args.train, "rank": args.lora}
            both = {"both": (True, False), "on": (True,), "off": (False,)}[args.checkpointing]
            rows += rows_of(directory, setting, target, common, both)
    finish("grpo_step", args, rows, notes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
