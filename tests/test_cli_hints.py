"""What a person gets who types a key of the recipe as an option."""

from __future__ import annotations

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
