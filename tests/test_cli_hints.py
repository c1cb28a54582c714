"""The message for a recipe key given as an option, and the cost of mistakes."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from saccade import cli


def errors_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "spelling"),
    [
        (("rl", "demo", "--lr", "1e-5"), "optim.lr=VALUE"),
        (("rl", "demo", "--kl-coef=0.1"), "loss.kl_coef=0.1"),
        (("rl", "demo", "--loss.kl_coef=0.1"), "loss.kl_coef=0.1"),
        (("rl", "demo", "--clip-high", "0.3"), "loss.surrogate.high=VALUE"),
        (("rl", "demo", "--group_size", "4"), "stages.0.group_size=VALUE"),
        (("sft", "demo", "--epochs=2"), "epochs=2"),
        (("sft", "demo", "--warmup-step=2"), "optim.warmup_steps=2"),
        (("plan", "vlm_r1_rec_3b", "--max-rows", "4"), "rollout.engine.max_rows=VALUE"),
    ],
)
def test_an_option_that_is_a_key_of_the_recipe_is_answered_with_its_dotted_spelling(words, spelling, capsys) -> None:
    assert spelling in errors_of(capsys, *words)


def test_an_option_that_is_no_key_at_all_is_still_refused(capsys) -> None:
    assert "--zzz" in errors_of(capsys, "rl", "demo", "--zzz")


PROGRAM = """
import contextlib, io, sys
from saccade import cli

for words in {commands!r}:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            cli.main(words)
        except SystemExit as ended:
            code = ended.code or 0
    print(code, any(name in sys.modules for name in {packages}), *words)
"""
ANSWERS = [
    ["--help"],
    *[[verb, "--help"] for verb in cli.VERBS],
    ["rl", "vlm_r1_rec_3b", "--print-config"],
    ["sft", "vision_r1_7b_sft", "--print-config"],
    ["eval", "world_eval", "--print-config"],
    ["coldstart", "coldstart_world", "--print-config"],
    ["demo", "--print-config"],
]
MISTAKES = [
    ["rl", "vlm_r1_rec_3b", "optim.lrr=1"],
    ["rl", "vlm_r1_rec_3b", "--lr", "1"],
    ["rl", "gone.yaml"],
    ["rl", "vision_r1_7b_sft"],
    ["sft", "vlm_r1_rec_3b"],
    ["eval", "gone.yaml"],
    ["eval", "world_eval", "outt=x"],
    ["coldstart", "coldstart_world", "outt=x"],
    ["plan", "gone.yaml"],
    ["plan", "vlm_r1_rec_3b", "optim.lrr=1"],
    ["check", "gone.yaml"],
    ["resume", "gone"],
    ["report", "gone"],
    ["world", "pretrain", "gone.yaml"],
]


OF_DATA = ["numpy", "pyarrow", "scipy", "rapidfuzz", "httpx2", "jinja2", "saccade.parsing.claims", "saccade.data.files"]
"""What reading, grading and asking need, and a recipe does not."""


def answered(commands: list[list[str]], packages: list[str]) -> list[str]:
    """For each command, in one process: its exit status, whether one of the packages was loaded by then, its words."""
    program = PROGRAM.format(commands=commands, packages=packages)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout.splitlines()


def test_help_recipes_and_mistakes_are_answered_without_torch() -> None:
    expected = [f"0 False {' '.join(words)}" for words in ANSWERS] + [f"2 False {' '.join(w)}" for w in MISTAKES]
    assert answered(ANSWERS + MISTAKES, ["torch"]) == expected


def test_recipes_and_mistakes_in_them_are_answered_without_the_packages_of_data() -> None:
    mistakes = [words for words in MISTAKES if words[0] not in ("resume", "report")]  # these read runs
    expected = [f"0 False {' '.join(words)}" for words in ANSWERS] + [f"2 False {' '.join(w)}" for w in mistakes]
    assert answered(ANSWERS + mistakes, OF_DATA) == expected


def test_a_wrong_key_costs_less_than_a_second_of_one_core() -> None:
    """The least of three, because a busy machine adds to it; about 0.4 s on an idle one."""
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-m", "saccade", "rl", "vlm_r1_rec_3b", "optim.lrr=1"]
        assert subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 2
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    assert min(seconds) < 1.0


def test_the_first_screen_loads_no_package_of_data() -> None:
    code = "import sys\nfrom saccade import cli\ncli.build()\n"
    code += "print([m for m in ('numpy', 'pyarrow') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_help_groups_the_options_of_a_verb(capsys) -> None:
    with pytest.raises(SystemExit):
        cli.main(["launch", "--help"])
    said = capsys.readouterr().out
    places = [
        said.index(part)
        for part in ("\nOptions:", "--gpus", "\nvLLM:", "--vllm-port", "\nOutput and help:", "--dry-run")
    ]
    assert places == sorted(places)
