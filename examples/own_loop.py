"""Your own loop around the parts of a run, such as a curriculum or an early stop. python examples/own_loop.py

`saccade.train_rl` is this loop. Here it stops as soon as the replies are right often enough.
"""

from __future__ import annotations

from pathlib import Path

from saccade.rollout.stages import Stage
from saccade.training.config import RLRecipe
from saccade.training.group_metrics import truncated_share
from saccade.training.rl import open_trainer


def main(run: Path, enough: float = 0.9, most: int = 6) -> int:
    """The number of steps until the mean reward reached `enough`, at most `most`."""
    recipe = RLRecipe.model_validate(
        {
            "model": {"path": "base", "device": "cpu"},
            "data": [{"source": "world", "task": "compare"}],
            "stages": [{"max_new_tokens": 48, "group_size": 8}],
            "prompts_per_step": 4,
            "num_steps": most,
            "optim": {"lr": 2.0e-4},
        }
    )
    with open_trainer(recipe, run) as trainer:
        state = trainer.start
        while not state.finished:
            stage: Stage = recipe.schedule.stage(state)
            groups = trainer.collect(state, stage)  # generate, score, advantages
            after = recipe.schedule.advance(state, truncated_share(groups.collected.generated))
            trainer.look_ahead(after)  # with staleness 1 the engine begins to sample the next step
            metrics = trainer.update(groups, state, stage)  # one optimizer step, or several
            state = after
            trainer.record(state, stage, groups, metrics)  # files, evaluation and checkpoint when due
            rewards = [r.score.value for group in groups.collected.generated for r in group.rollouts]
            mean = sum(rewards) / len(rewards)
            print(f"step {state.step}: reward {mean:.2f}")
            if mean >= enough:
                break
        return state.step


if __name__ == "__main__":
    main(Path("runs/own_loop"))
