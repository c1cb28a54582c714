"""What siblings share in training: decided and checked on the first batch, features kept only where they hold, and
nothing lost when an update fails."""

from __future__ import annotations

import json
import logging
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from training_runs import rl_recipe, write_world

from saccade.models import sharing
from saccade.models.config import FeatureCacheConfig, ModelConfig
from saccade.models.feature_cache import FeatureCache
from saccade.models.forward import branch_logprobs, vision_features
from saccade.models.packing import Branch, pack
from saccade.models.policy import Policy, load_policy
from saccade.models.shared_prefix import CpuFlash, Spans
from saccade.training import policy_batch, sft, step
from saccade.training.optim import TrainingStopped
from saccade.training.rl import train


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"))


def policy_of(world: Path, **model: Any) -> Policy:
    return load_policy(ModelConfig.model_validate({"path": str(world / "model"), "device": "cpu"} | model))


def groups_of(policy: Policy, branches: int = 4, length: int = 9) -> sharing.Groups:
    picture = Image.effect_noise((112, 84), 90).convert("RGB")
    encoded = [policy.adapter.encode("<image>what?", [picture]), policy.adapter.encode("2 + 2 = ?", [])]
    return [(prompt, [Branch(list(range(400 + k, 400 + k + length))) for k in range(branches)]) for prompt in encoded]


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def values(features: Any) -> list[torch.Tensor]:
    return [one.values for one in features]


# ---------------------------------------------------------------------------------------------------------- decision


def test_the_loss_on_held_out_examples_does_not_decide_how_training_shares(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """They are looked at first, and with one reply to a prompt a form that copies would save nothing."""
    monkeypatch.setattr("saccade.models.shared_prefix.fastest_kernel", lambda *_: "split")
    files = {}
    for name, replies in (("train", 6), ("held", 1)):
        files[name] = tmp_path / f"{name}.jsonl"
        row = {"image": str(world / "0.png"), "prompt": "<image>How many?"}
        rows_of = (json.dumps(row | {"id": f"e{k}", "response": f"answer {k}"}) for k in range(replies))
        files[name].write_text("\n".join(rows_of) + "\n")
    recipe = sft.SFTRecipe.model_validate(
        {
            "model": {"path": str(world / "model"), "device": "cpu"},
            "data": [{"path": str(files["train"]), "allow_outside": True}],
            "heldout": [{"path": str(files["held"]), "allow_outside": True}],
            "num_steps": 1,
            "prompts_per_step": 1,
            "optim": {"lr": 1e-4},
        }
    )
    with caplog.at_level(logging.INFO, "saccade"):
        sft.train(recipe, tmp_path / "run")
    logged = [message for message in caplog.messages if message.startswith("shared prefix")]
    assert len(logged) == 1 and logged[0].startswith("shared prefix: on (split)")


def test_auto_takes_the_packed_path_and_logs_what_it_measured(world: Path) -> None:
    policy = policy_of(world)
    decision = sharing.choose_sharing(policy, groups_of(policy), "auto")
    assert (decision.path, decision.sharing) == ("packed", "merged")
    layout = pack(groups_of(policy)).layout
    assert decision.token_savings == layout.plain_tokens / layout.length > 1.5
    assert "packed equals plain on the first batch: log-probs to" in str(decision)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("train_vision", [False, True])
def test_auto_holds_in_every_precision(world: Path, dtype: str, train_vision: bool) -> None:
    policy = policy_of(world, dtype=dtype, train=["vision", "projector", "language"] if train_vision else ["language"])
    assert sharing.choose_sharing(policy, groups_of(policy), "auto").path == "packed"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_auto_falls_back_when_the_packed_path_is_wrong(
    world: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    policy = policy_of(world, dtype=dtype)
    with torch.no_grad():  # attention of random weights is nearly flat: make positions matter
        for name, p in policy.model.named_parameters():
            if "q_proj.weight" in name or "k_proj.weight" in name:
                p.mul_(6.0)
    assert sharing.choose_sharing(policy, groups_of(policy, length=30), "auto").path == "packed"
    monkeypatch.setattr(policy.adapter, "position_ids", lambda positions: positions // 2)
    decision = sharing.choose_sharing(policy, groups_of(policy, length=30), "auto")
    assert decision.path == "plain"
    assert "FALLBACK: packed (merged) differs from plain on the first batch" in str(decision)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("fault", [lambda grad: grad * 0, lambda grad: grad * torch.nan, lambda grad: grad.flip(1)])
def test_auto_falls_back_to_plain_sdpa_when_only_the_backward_pass_of_flash_kernels_is_wrong(
    monkeypatch: pytest.MonkeyPatch, dtype: str, fault: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    """The log-probs are right, so only the gradient can tell; on the base, whose attention matters."""
    policy = load_policy(ModelConfig.model_validate({"path": "base", "device": "cpu", "dtype": dtype}))
    groups = groups_of(policy, length=30)
    assert sharing.choose_sharing(policy, groups, "auto").path == "packed"
    right = CpuFlash.backward

    def wrong(self: CpuFlash, grad: Any, saved: Any, spans: Spans, scale: float | None) -> Any:
        found = right(self, grad, saved, spans, scale)
        return found if spans.causal else tuple(map(fault, found))

    monkeypatch.setattr(CpuFlash, "backward", wrong)
    decision = sharing.choose_sharing(policy, groups, "auto")
    assert (decision.path, decision.sharing) == ("packed", "split")
    assert "FALLBACK: packed (merged) differs from plain on the first batch" in str(decision)


def test_auto_falls_back_when_the_model_refuses_our_attention(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = policy_of(world)

    def refuse(*_: Any) -> None:
        raise TypeError("forward() got an unexpected keyword argument 'shared_attention'")

    for form in ("MergedPrefix", "SplitPrefix"):
        monkeypatch.setattr(f"saccade.models.shared_prefix.{form}.attend", refuse)
    decision = sharing.choose_sharing(policy, groups_of(policy), "auto")
    assert decision.path == "plain" and "packed fails with TypeError" in decision.reason


def test_too_little_memory_is_no_verdict_on_the_packed_path(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = policy_of(world)

    def full(*_: Any) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("saccade.models.shared_prefix.MergedPrefix.attend", full)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        sharing.choose_sharing(policy, groups_of(policy), "auto")


def test_a_family_without_a_way_to_share_trains_on_the_plain_path_and_on_refuses(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = policy_of(world)
    monkeypatch.setattr(policy.adapter, "sharing", "none")
    assert sharing.choose_sharing(policy, groups_of(policy), "auto").path == "plain"
    with pytest.raises(ValueError, match=r"prompt sharing is not supported; set update\.shared_prefix: off"):
        sharing.choose_sharing(policy, groups_of(policy), "on")


def test_the_copying_form_is_left_when_it_would_save_too_little(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = policy_of(world)
    monkeypatch.setattr(policy.adapter, "sharing", "two_phase")
    decision = sharing.choose_sharing(policy, groups_of(policy, branches=1), "auto")
    assert decision.path == "plain" and "it would save 1.00x only" in decision.reason


def test_the_cached_form_equals_plain_and_is_refused_under_checkpointing(world: Path) -> None:
    policy = policy_of(world)
    packed = pack(groups_of(policy))
    cached, _ = branch_logprobs(policy, packed, sharing="two_phase")
    plain, _ = branch_logprobs(policy, packed, path="plain")
    assert float((cached - plain).detach().abs().max()) < 1e-5
    with pytest.raises(ValueError, match="gradient checkpointing drops"):
        branch_logprobs(policy_of(world, gradient_checkpointing=True), packed, sharing="two_phase")


def test_a_run_logs_its_decision_once_and_records_path_and_saving(
    world: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    still = {"lr": 1e-9}  # so that both runs sample the same replies: round-off grows over updates of a larger rate
    with caplog.at_level(logging.INFO, "saccade"):
        train(rl_recipe(world, optim=still), tmp_path / "auto")
    assert sum("shared prefix: on (merged)" in message for message in caplog.messages) == 1
    metrics = [row for row in rows(tmp_path / "auto" / "metrics.jsonl") if "update/packed" in row]
    assert metrics and all(row["update/packed"] == 1.0 and row["update/saving"] > 1.0 for row in metrics)
    train(rl_recipe(world, optim=still, update={"shared_prefix": "off"}), tmp_path / "off")
    plain = [row for row in rows(tmp_path / "off" / "metrics.jsonl") if "update/packed" in row]
    assert all(row["update/packed"] == 0.0 and row["update/saving"] == 1.0 for row in plain)
    for a, b in zip(metrics, plain, strict=True):
        assert a["policy/grad_norm"] == pytest.approx(b["policy/grad_norm"], rel=1e-4)


# ---------------------------------------------------------------------------------------------------- vision features


def count_tower_runs(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    seen: list[int] = []
    real = policy.adapter.vision

    def vision(model: Any, prompts: Any) -> Any:
        seen.append(sum(len(prompt.frames) for prompt in prompts))
        return real(model, prompts)

    monkeypatch.setattr(policy.adapter, "vision", vision)
    return seen


def test_kept_features_are_the_towers_and_an_image_passes_it_once(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = policy_of(world)
    prompts = [prompt for prompt, _ in groups_of(policy)]
    expected = vision_features(policy, prompts)
    seen = count_tower_runs(policy, monkeypatch)
    cache = FeatureCache(FeatureCacheConfig(memory_mb=1), policy)
    for _ in range(3):
        policy.version += 1
        found = cache.features(policy, prompts)
        assert {one.version for one in found} == {policy.version}
        assert all(torch.equal(a, b) for a, b in zip(values(found), values(expected), strict=True))
    assert sum(seen) == 1
    assert (cache.hits, cache.misses) == (2, 1)


def test_features_that_leave_memory_come_back_from_disk_even_in_another_run(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = policy_of(world)
    encode = policy.adapter.encode
    prompts = [encode("<image>?", [Image.effect_noise((112, 112), s).convert("RGB")]) for s in (10, 60, 120)]
    expected = values(vision_features(policy, prompts))
    config = FeatureCacheConfig(memory_mb=0, disk_mb=1)
    FeatureCache(config, policy, tmp_path).features(policy, prompts)
    assert len(list(tmp_path.glob("*.pt"))) == 3 and not list(tmp_path.glob("*.partial"))
    seen = count_tower_runs(policy, monkeypatch)
    again = FeatureCache(config, policy, tmp_path).features(policy, prompts)
    assert seen == [] and all(torch.equal(a, b) for a, b in zip(values(again), expected, strict=True))
    with torch.no_grad():
        policy.parameters_by_part()["vision"][0][1].add_(1e-3)
    FeatureCache(config, policy, tmp_path).features(policy, prompts)
    assert sum(seen) == 3, "features of other weights were believed"


def test_the_disk_holds_no_more_than_it_may(world: Path, tmp_path: Path) -> None:
    policy = policy_of(world)
    encode = policy.adapter.encode
    pictures = [Image.effect_noise((448, 448), s).convert("RGB") for s in range(1, 24)]
    cache = FeatureCache(FeatureCacheConfig(disk_mb=1), policy, tmp_path)
    for picture in pictures:
        cache.features(policy, [encode("<image>?", [picture])])
    assert 2**19 < sum(path.stat().st_size for path in tmp_path.glob("*.pt")) <= 2**20


@pytest.mark.parametrize("part", ["vision", "projector"])
def test_a_trained_tower_or_projector_behind_kept_features_is_refused(world: Path, tmp_path: Path, part: str) -> None:
    recipe = rl_recipe(
        world,
        model={"path": str(world / "model"), "device": "cpu", "train": ["language", part]},
        features={"memory_mb": 8},
    )
    with pytest.raises(ValueError, match="the vision side trains"):
        train(recipe, tmp_path / "run")


def test_an_adapter_inside_the_tower_counts_as_training(world: Path) -> None:
    policy = policy_of(world)
    cache = FeatureCache(FeatureCacheConfig(memory_mb=8), policy)
    block = policy.model.model.visual.blocks[0]
    block.attn.proj.lora_A = torch.nn.Linear(4, 4)  # as an adapter's regular expression would put it there
    with pytest.raises(ValueError, match="the vision side trains"):
        FeatureCache(FeatureCacheConfig(memory_mb=8), policy)
    with pytest.raises(ValueError, match="cached features would be stale"):
        cache.features(policy, [groups_of(policy)[0][0]])


def test_a_run_with_kept_features_is_the_same_run(world: Path, tmp_path: Path) -> None:
    train(rl_recipe(world), tmp_path / "without")
    train(rl_recipe(world, features={"memory_mb": 1, "disk_mb": 4}), tmp_path / "with")
    a, b = (rows(tmp_path / name / "rollouts.jsonl") for name in ("without", "with"))
    assert [row["logprobs"] for row in a] == [row["logprobs"] for row in b]


def test_with_a_trained_tower_one_pass_serves_rollout_and_old_log_probs_and_the_gradient_runs_its_own(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[bool, bool]] = []
    real = step.branch_logprobs

    def spy(policy: Policy, packed: Any, features: Any, *rest: Any) -> Any:
        calls.append((torch.is_grad_enabled(), features is not None))
        return real(policy, packed, features, *rest)

    monkeypatch.setattr(step, "branch_logprobs", spy)
    model = {"path": str(world / "model"), "device": "cpu", "train": ["vision", "projector", "language"]}
    train(rl_recipe(world, model=model, num_steps=1, update={"old_logprobs": "recompute"}), tmp_path / "run")
    assert set(calls) == {(False, True), (True, False)}


# ------------------------------------------------------------------------------------------------- memory and failure


def test_the_features_of_a_step_are_gone_when_those_of_the_next_are_made(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[weakref.ref[Any]] = []
    alive: list[int] = []

    def watched(policy: Policy, prompts: Any) -> Any:
        alive.append(sum(one() is not None for one in made))
        features = vision_features(policy, prompts)
        made.append(weakref.ref(features[0].values))
        return features

    monkeypatch.setattr("saccade.training.collecting.vision_features", watched)
    train(rl_recipe(world), tmp_path / "run")
    assert alive == [0, 0, 0, 0]


def test_kept_features_do_not_keep_the_batch_that_they_were_made_in(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = policy_of(world)
    prompts = [policy.adapter.encode("<image>?", [Image.effect_noise((56, 56), s).convert("RGB")]) for s in (9, 90)]
    features = torch.cat(values(vision_features(policy, prompts)))
    views = features.split([len(features) // 2] * 2)  # as some families give them
    monkeypatch.setattr(policy.adapter, "vision", lambda model, prompts: views)
    cache = FeatureCache(FeatureCacheConfig(memory_mb=1), policy)
    cache.features(policy, prompts)
    kept = values(cache.features(policy, prompts))
    assert all(one.untyped_storage().nbytes() == one.nbytes for one in kept)


def test_a_trained_tower_costs_its_patches_in_tokens(world: Path) -> None:
    frozen, trained = policy_of(world), policy_of(world, train=["vision", "language"])
    (image, _), (text, _) = groups_of(trained)
    assert frozen.vision_cost(image) == trained.vision_cost(text) == 0
    parts = trained.parameters_by_part()
    tower, language = (sum(p.numel() for _, p in parts[part]) for part in ("vision", "language"))
    assert trained.adapter.patches(image) == len(image.pixels["pixel_values"])
    assert trained.vision_cost(image) == round(len(image.pixels["pixel_values"]) * tower / language)


def test_a_prompt_beyond_the_context_is_refused_by_sample_and_one_beyond_the_budget_is_reported(
    world: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stage = {"name": "one", "max_new_tokens": 8191, "group_size": 4, "rubric": "test"}
    with pytest.raises(
        ValueError, match=r"sample 'row\d': the prompt has \d+ tokens \(\d+ of images\), and there is room for"
    ):
        train(rl_recipe(world, stages=[stage]), tmp_path / "long")
    train(rl_recipe(world, num_steps=2, update={"tokens_per_micro_batch": 10}), tmp_path / "tight")
    assert sum("more than tokens_per_micro_batch 10" in message for message in caplog.messages) == 1


def test_an_update_that_is_not_finite_is_skipped_kept_and_in_the_end_stops_the_run(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = step.branch_logprobs

    def poisoned(*args: Any) -> Any:
        logprobs_R, entropy_R = real(*args)
        return logprobs_R * (float("nan") if torch.is_grad_enabled() else 1.0), entropy_R

    monkeypatch.setattr(step, "branch_logprobs", poisoned)
    recipe = rl_recipe(world, optim={"lr": 1e-3, "max_nonfinite_in_row": 2}, num_steps=6)
    with pytest.raises(TrainingStopped, match="not finite for 2 updates in a row"):
        train(recipe, tmp_path / "run")
    dump, _ = sorted((tmp_path / "run" / "nonfinite").glob("version-000000-*.pt"))
    kept = torch.load(dump)
    tokens = sum(len(reply) for batch in kept for replies in batch["replies"] for reply in replies)
    assert tokens == sum(len(batch["sampler_logprobs_R"]) for batch in kept) > 0
    written = {row["group_id"] for row in rows(tmp_path / "run" / "rollouts.jsonl")}
    assert {one for batch in kept for one in batch["group_ids"]} & written


def test_a_gap_between_engine_and_trainer_is_reported_when_ratios_start_from_the_engine(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = policy_batch._policy_batch

    def shifted(*args: Any) -> Any:
        batch = real(*args)
        return replace(batch, sampler_logprobs_R=batch.sampler_logprobs_R - 0.3)

    monkeypatch.setattr(policy_batch, "_policy_batch", shifted)
    train(rl_recipe(world, num_steps=1), tmp_path / "said")
    assert "nats a token from the trainer's" in caplog.text
    caplog.clear()
    train(rl_recipe(world, num_steps=1, update={"sampler_gap_limit": 0.5}), tmp_path / "wide")
    train(rl_recipe(world, num_steps=1, update={"old_logprobs": "recompute"}), tmp_path / "recomputed")
    assert "nats a token" not in caplog.text
