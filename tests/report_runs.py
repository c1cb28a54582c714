"""Run directories with made-up numbers, for tests of the report alone."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

from PIL import Image, ImageDraw

TASKS = ("count", "refer", "arithmetic")
COLORS = {"red": (222, 38, 42), "blue": (52, 92, 232), "green": (40, 168, 72), "yellow": (236, 204, 34)}


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_jsonl(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def draw(path: Path, seed: int) -> list[tuple[int, int, int, int]]:
    """A scene of discs and squares, 112 px; returns the boxes."""
    rng = random.Random(seed)
    image = Image.new("RGB", (112, 112), (70 + seed % 40, 74, 84))
    pen, boxes = ImageDraw.Draw(image), []
    for cell in rng.sample(range(16), 6):
        x, y, r = cell % 4 * 28 + 14, cell // 4 * 28 + 14, rng.randint(8, 12)
        shape = pen.ellipse if rng.random() < 0.5 else pen.rectangle
        shape([x - r, y - r, x + r, y + r], fill=rng.choice(list(COLORS.values())))
        boxes.append((x - r, y - r, x + r, y + r))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return boxes


def metrics(steps: int, seed: int = 0) -> list[dict]:
    rng, rows = random.Random(seed), []
    for step in range(steps):
        t = step / steps
        stage = 0 if t < 0.6 else 1
        noise = lambda s: rng.gauss(0, s)  # noqa: E731
        reward = 0.38 + 0.42 * (1 - math.exp(-4 * t)) + noise(0.05)
        row = {
            "step": step,
            "stage": stage,
            "reward/total": reward,
            "reward/format": min(1, 0.86 + 0.14 * t + noise(0.02)),
        }
        row |= {"reward/accuracy": reward + 0.02}
        row |= {
            f"accuracy/{task}": min(1.0, max(0.0, reward + 0.06 * i - 0.05 + noise(0.06)))
            for i, task in enumerate(TASKS)
        }
        length = 34 - 14 * t + (6 if stage else 0) + noise(1.2)
        row |= {"length/mean": length, "length/right": length - 4, "length/wrong": length + 7 + noise(1.5)}
        row |= {
            "truncated/share": max(0.0, 0.3 * math.exp(-6 * t) + noise(0.015)),
            "groups/zero_variance": min(1, max(0, 0.2 + 0.4 * t + noise(0.06))),
        }
        row |= {
            "policy/entropy": 0.62 * math.exp(-1.6 * t) + 0.08 + noise(0.01),
            "policy/kl": 0.05 * t + abs(noise(0.003)),
        }
        row |= {
            "policy/clip_fraction": abs(noise(0.004)),
            "policy/grad_norm": 0.6 + abs(noise(0.2)),
            "policy/lr": 1e-4 * (1 - t),
        }
        row |= {"sampler/gap_mean": 2e-5 + abs(noise(1e-5)), "sampler/gap_max": 4e-4 + abs(noise(2e-4))}
        row |= {
            "time/rollout_s": 0.14 + abs(noise(0.01)),
            "time/policy_s": 0.10 + abs(noise(0.01)),
            "time/reward_s": 0.004,
        }
        row |= {"tokens/per_s": 9800 + noise(300), "memory/peak_mb": 612 + step * 0.02}
        if step % 25 == 0:
            score = 0.41 + 0.3 * (1 - math.exp(-4 * t)) + noise(0.01)
            row |= {"eval/score": score, "eval/length": length - 2} | {
                f"eval/accuracy/{task}": score + 0.05 * i - 0.05 for i, task in enumerate(TASKS)
            }
        rows.append(row)
    return rows


def rollouts(folder: Path, steps: tuple[int, ...], group_size: int = 8) -> list[dict]:
    rng, rows = random.Random(1), []
    for step in steps:
        for g in range(3):
            sha = f"{step:04d}{g}abc"
            draw(folder / "images" / f"{sha}.png", step * 7 + g)
            for i in range(group_size):
                right = rng.random() < 0.3 + 0.5 * step / max(steps[-1], 1)
                answer = 3 if right else rng.choice([2, 4])
                think = rng.choice(
                    [
                        "scan red: a1 1, c2 2, d4 3",
                        "looks like it",
                        "check red: a1 1, c2 2, d4 3. again red: a1 1, c2 2, d4 3",
                    ]
                )
                rows.append(
                    {
                        "run": "rl",
                        "step": step,
                        "stage": int(step > 120),
                        "weights_version": step,
                        "group_id": f"{step}-{g}",
                        "index": i,
                        "sample_id": f"train/count/{step * 3 + g}",
                        "task": "count",
                        "image_sha": [sha],
                        "size_original": [[112, 112]],
                        "size_input": [[112, 112]],
                        "frame": "pixels_resized",
                        "prompt_id": "p",
                        "text": f"<think>{think}</think><answer>{answer}</answer>",
                        "token_ids": list(range(20 + i)),
                        "logprobs": [],
                        "finish_reason": "stop" if i else "length",
                        "parts": {"hard": float(right)},
                        "reasons": {} if right else {"hard": f"got {answer}"},
                        "reward": float(right),
                        "advantage": 0.9 if right else -1.1,
                        "masked": None,
                    }
                )
    return rows


def groups_of(rows: list[dict]) -> list[dict]:
    first = {row["group_id"]: row for row in rows}.values()
    return [
        {
            "step": row["step"],
            "group_id": row["group_id"],
            "sample_id": row["sample_id"],
            "task": row["task"],
            "answer": 3,
            "question": "<image>How many red objects are there?",
            "meta": {},
            "image_sha": row["image_sha"],
        }
        for row in first
    ]


ENVIRONMENT = {
    "commit": "a931659",
    "command": "saccade rl recipe.yaml",
    "device": "cpu",
    "dtype": "float32",
    "threads": 2,
    "image_backend": "Qwen2VLImageProcessor",
    "packages": {"torch": "2.13.0", "transformers": "5.23.0", "saccade": "0.1.0"},
    "base_model_sha": "9f2c4d01aa",
    "data_sha": None,
}


def write_run(folder: Path, steps: int = 200, kind: str = "rl") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(f"kind: {kind}\nseed: 0\nmodel:\n  path: base\nloss:\n  kl_coef: 0.0\n")
    write_json(folder / "environment.json", ENVIRONMENT)
    if kind == "sft":
        rows = [{"step": i, "loss/train": 0.4 + 1.6 * math.exp(-i / 40), "policy/grad_norm": 1.0} for i in range(steps)]
        write_jsonl(folder / "metrics.jsonl", rows)
        return folder
    write_jsonl(folder / "metrics.jsonl", metrics(steps))
    rows = rollouts(folder, (0, steps // 3, 2 * steps // 3, steps - 1))
    write_jsonl(folder / "rollouts.jsonl", rows)
    write_jsonl(folder / "groups.jsonl", groups_of(rows))
    return folder


MODELS = (
    ("base", None, 0.335, 0.447),
    ("sft", None, 0.389, 0.46),
    ("rl", None, 0.846, 0.717),
    ("more sft", "same compute", 0.402, 0.52),
    ("rejection sft", "same compute", 0.66, 0.61),
    ("sft", "forced scan", 0.80, 0.70),
    ("rl", "forced scan", 0.85, 0.73),
)


def result_rows(n: int = 300) -> list[dict]:
    rows = []
    for split, drop in (("test", 0.0), ("ood_larger", 0.2)):
        for model, control, greedy, sampled in MODELS:
            for decoding, accuracy in (("greedy", greedy), ("sampled", sampled)):
                for task, size, shift in (("all", n * 3, 0.0), *((t, n, 0.05 * i - 0.05) for i, t in enumerate(TASKS))):
                    a = max(0.05, accuracy - drop + shift)
                    half = 1.96 * math.sqrt(a * (1 - a) / size)
                    rows.append(
                        {
                            "model": model,
                            "control": control,
                            "split": split,
                            "task": task,
                            "decoding": decoding,
                            "k": 1,
                            "n": size,
                            "accuracy": a,
                            "low": a - half,
                            "high": a + half,
                            "mean_tokens": 22.4,
                            "truncated": 0.012,
                        }
                    )
    return rows


def write_demo(folder: Path) -> Path:
    write_run(folder / "rl")
    write_run(folder / "sft", 120, "sft")
    write_run(folder / "controls" / "more_sft", 80, "sft")
    write_json(folder / "results.json", {"schema": 1, "seconds": 548.2, "seed": 0, "rows": result_rows()})
    write_json(folder / "samples.json", samples(folder))
    write_json(
        folder / "demo.json",
        {
            "headline": {"base": 0.335, "SFT": 0.389, "RL": "84.6%", "steps": 200},
            "comparisons": [
                {
                    "name": "RL minus its SFT start, greedy",
                    "difference": 0.457,
                    "low": 0.41,
                    "high": 0.504,
                    "n": 900,
                    "shown": True,
                },
                {
                    "name": "RL minus its SFT start, sampled",
                    "difference": 0.257,
                    "low": 0.212,
                    "high": 0.303,
                    "n": 900,
                    "shown": True,
                },
                {
                    "name": "RL minus SFT, both forced to scan",
                    "difference": 0.05,
                    "low": 0.012,
                    "high": 0.089,
                    "n": 900,
                    "shown": True,
                },
                {
                    "name": "longer second stage minus short cap, same tokens",
                    "difference": 0.008,
                    "low": -0.014,
                    "high": 0.031,
                    "n": 900,
                    "shown": False,
                },
            ],
            "listings": {"base": 0.71, "sft": 0.78, "rl": 1.06},
            "notes": ["Forced to the same habit, most of the gap closes: RL mostly finds and adopts the better habit."],
            "commands": ["saccade demo --out runs/demo --seed 0"],
            "seed": 0,
        },
    )
    return folder


def samples(folder: Path) -> list[dict]:
    rows = []
    for i in range(4):
        boxes = draw(folder / "samples" / f"{i}.png", 100 + i)
        box = list(boxes[0])
        refer = i % 2 == 0
        off = [v + d for v, d in zip(box, (9, -6, 12, 3), strict=True)]
        answer = lambda b: json.dumps({"bbox_2d": b})  # noqa: E731
        replies = {
            "base": {
                "text": f"<think>looks</think><answer>{answer(off) if refer else 2}</answer>",
                "box": off if refer else None,
                "right": False,
            },
            "sft": {
                "text": "<think>hmm a1 1, b2 2. wait a1 1, b2 2. again a1 1, b2 2. again a1 1, b2"
                if i
                else f"<think>looks</think><answer>{answer(off)}</answer>",
                "box": off if i == 0 else None,
                "right": False,
            },
            "rl": {
                "text": f"<think>scan red: a1 1, b2 2, d4 3</think><answer>{answer(box) if refer else 3}</answer>",
                "box": box if refer else None,
                "right": True,
            },
        }
        rows.append(
            {
                "sample_id": f"test/{i}",
                "task": "refer" if refer else "count",
                "split": "test",
                "image": f"samples/{i}.png",
                "question": "Which box holds the largest red circle left of the blue square?"
                if refer
                else "How many red objects are there?",
                "gold": box if refer else 3,
                "gold_box": box if refer else None,
                "replies": replies,
            }
        )
    return rows


def write_eval(folder: Path) -> Path:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text("kind: eval\nmodel:\n  path: runs/demo/rl/checkpoints/best\n")
    write_json(folder / "environment.json", ENVIRONMENT)
    items = []
    for i in range(3):
        box = draw(folder / "images" / f"{i:08x}5a.png", i)[0]
        for decoding in ("greedy", "sampled"):
            items.append(
                {
                    "model": "rl",
                    "control": None,
                    "decoding": decoding,
                    "sample_id": f"test/refer/{i}",
                    "task": "refer",
                    "split": "test",
                    "verdicts": [True],
                    "routes": ["iou"],
                    "answers": [str(list(box))],
                    "tokens": [21],
                    "truncated": [False],
                    "habits": ["terse"],
                    "listings": [0],
                    "text": f"<think>looks</think><answer>{list(box)}</answer>",
                    "question": "Where is the star?",
                    "gold": list(box),
                    "boxes": [list(box)],
                    "gold_boxes": [list(box)],
                    "options": [],
                    "box_image": 0,
                    "image_shas": [f"{i:08x}5a"],
                }
            )
    write_jsonl(folder / "items.jsonl", items)
    rows = [row for row in result_rows() if (row["model"], row["control"]) == ("rl", None)]
    attempts = [
        {
            "model": "rl",
            "control": None,
            "split": "test",
            "task": "all",
            "decoding": "sampled",
            "k": 4,
            "n": 300,
            "avg": 0.7,
            "pass": {"1": 0.7, "2": 0.8, "4": 0.9},
            "maj": 0.75,
        }
    ]
    write_json(folder / "results.json", {"schema": 1, "seconds": 31.0, "seed": 0, "rows": rows, "attempts": attempts})
    return folder
