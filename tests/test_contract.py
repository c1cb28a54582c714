"""`saccade verify`: a sound checkpoint passes every check; each way to be wrong is caught by the check made for it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from families import FAMILIES, family

from saccade import cli
from saccade.cli.verify import reasons, verdicts
from saccade.models import families, forward, shared_prefix
from saccade.models.adapter import PARTS
from saccade.models.config import ModelConfig
from saccade.models.policy import load_policy
from saccade.models.qwen_vl import QwenVLAdapter
from saccade.rollout.builtin import BuiltinEngine
from saccade.verify import USES, Check, VerifyReport, sharing, verify_policy
from saccade.verify.faults import joined
from saccade.verify.subject import subject_of

FULL = "qwen2_5_vl"
CANNOT = {"control: start at len(prompt)", "recomputed = kept, packed"}
"""Checks that some families have no use for: positions on one axis, sharing through a cache."""
HERE = set(USES) - {"vLLM"}
"""What is tried without a server."""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return family(FULL).write(tmp_path_factory.mktemp(FULL), seed=1)


def tried(directory: Path, adapter: type[QwenVLAdapter] | None = None) -> VerifyReport:
    """The report on a checkpoint, with another adapter where one is given."""
    policy = load_policy(ModelConfig(path=str(directory), device="cpu", train=PARTS))
    if adapter is not None:
        right = policy.adapter
        policy.adapter = adapter(right.tokenizer, right.image_processor, policy.model.config, "pixels_resized")
    return verify_policy(policy, "tiny", family(FULL).processor(directory), limit=1e-5)


def failed(report: VerifyReport) -> set[str]:
    return {check.name for check in report.failed}


@pytest.mark.parametrize("name", [n if n == FULL else pytest.param(n, marks=pytest.mark.slow) for n in FAMILIES])
def test_a_sound_checkpoint_passes_every_check_that_its_family_can_have(name, tmp_path) -> None:
    path = family(name).write(tmp_path, seed=1)
    policy = load_policy(ModelConfig(path=str(path), device="cpu", train=PARTS))
    report = verify_policy(policy, name, family(name).processor(path), limit=2e-5)
    assert not report.failed, report.failed
    assert all(check.held or check.name in CANNOT for check in report.checks)
    assert all(held for held in report.safe.values())
    assert set(report.safe) == HERE


class LatePositions(QwenVLAdapter):
    """Counts replies from one too far."""

    def positions(self, ids_P, pixels):
        positions_3P, following = super().positions(ids_P, pixels)
        return positions_3P, following + 1


class Shouting(QwenVLAdapter):
    """Reads another question than the one asked."""

    def encode(self, text, images, reuse_images_from=None, before=()):
        return super().encode(text + "!", images, reuse_images_from, before)


class Bright(QwenVLAdapter):
    """Changes the pixels a little."""

    def read_images(self, images):
        pixels = super().read_images(images)
        return pixels | {"pixel_values": pixels["pixel_values"] * 1.001}


class Blended(QwenVLAdapter):
    """Lets one prompt's features depend on the others'."""

    def vision(self, model, prompts):
        features = super().vision(model, prompts)
        return tuple(f + 0.01 * len(prompts) for f in features)


class Detached(QwenVLAdapter):
    """Keeps features in a way that loses their gradient."""

    def vision(self, model, prompts):
        return tuple(f.detach().requires_grad_() for f in super().vision(model, prompts))


class Mislaid(QwenVLAdapter):
    """Counts the projector among the tower and forgets the norm at the end."""

    def parts(self, model):
        parts = super().parts(model)
        return {"vision": [*parts["vision"], *parts["projector"]], "projector": [], "language": parts["language"][:-1]}


@pytest.mark.parametrize(
    "adapter, caught, unsafe",
    [
        (LatePositions, {"positions = the model's own", "log-probs: packed (merged) = plain"}, HERE),
        (Shouting, {"ids = the family's processor"}, HERE),
        (Bright, {"pixels = the family's processor"}, HERE),
        (
            Blended,
            {"features alone = among others"},
            {"keeping vision features", "training, shared prefix", "built-in engine"},
        ),
        (
            Detached,
            {"gradient: packed (split) = plain", "projector alone: packed = plain"},
            {"training, shared prefix"},
        ),
        (Mislaid, {"every parameter is of one part"}, {"training, a row per reply", "training, shared prefix"}),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_a_broken_adapter_is_caught_and_what_rests_on_it_is_not_safe(directory, adapter, caught, unsafe) -> None:
    report = tried(directory, adapter)
    assert caught <= failed(report)
    assert unsafe == {use for use, held in report.safe.items() if held is False}


def test_siblings_that_see_each_other_are_caught_in_the_form_that_lets_them(directory, monkeypatch) -> None:
    right = shared_prefix.shared_attention

    def leaky(layout, device, dtype, form):
        return right(joined(layout) if form == "split" else layout, device, dtype, form)

    monkeypatch.setattr(forward.shared_prefix, "shared_attention", leaky)
    report = tried(directory)
    assert failed(report) == {"log-probs: packed (split) = plain", "gradient: packed (split) = plain"}
    assert report.safe["training, shared prefix"] is False
    assert report.safe["training, a row per reply"] and report.safe["built-in engine"]


def test_an_engine_that_misreports_is_caught(directory, monkeypatch) -> None:
    from saccade.verify import decoding

    def misreported(reply):
        logprobs = tuple(round(x, 2) for x in reply.logprobs)
        return replace(reply, logprobs=logprobs, token_ids=(*reply.token_ids[:-1], 7))

    class Rounded(BuiltinEngine):
        def generate(self, *args, **options):
            replies = super().generate(*args, **options)
            return [
                [
                    replace(r, logprobs=tuple(round(x, 2) for x in r.logprobs), token_ids=(*r.token_ids[:-1], 7))
                    for r in own
                ]
                for own in replies
            ]

    monkeypatch.setattr(decoding, "open_engine", Rounded)
    report = tried(directory)
    assert failed(report) == {"cached = uncached greedy tokens", "rollout = trainer log-probs"}
    assert [use for use, held in report.safe.items() if held is False] == ["built-in engine"]


def test_a_control_that_changes_nothing_fails(directory, monkeypatch) -> None:
    """A comparison that cannot see a fault must not pass for one that found none."""
    monkeypatch.setitem(sharing.FAULTS, "positions off by one", lambda groups, way: sharing.pack(groups))
    policy = load_policy(ModelConfig(path=str(directory), device="cpu"))
    assert sharing.control(subject_of(policy, 1e-5), "positions off by one").held is False


def test_a_family_that_cannot_share_is_told_so_and_fails_nothing(directory) -> None:
    class Alone(QwenVLAdapter):
        sharing = "none"

    report = tried(directory, Alone)
    assert not report.failed
    assert report.safe["training, shared prefix"] is None
    assert report.safe["training, a row per reply"] is True


def test_in_half_precision_without_memory_for_the_truth_nothing_is_claimed(directory, monkeypatch) -> None:
    from saccade.verify import subject

    monkeypatch.setattr(subject, "float32_copy", lambda policy: None)
    policy = load_policy(ModelConfig(path=str(directory), device="cpu", dtype="bfloat16", train=PARTS))
    report = verify_policy(policy, "tiny")
    assert not report.failed
    assert report.safe["training, shared prefix"] is None
    (gap,) = [check for check in report.checks if check.name == "log-probs: packed (merged) in bfloat16"]
    assert gap.held is None and gap.measured is not None and "float32" in gap.detail


def test_a_model_whose_gradients_have_no_room_is_refused_with_the_way_out(directory, monkeypatch) -> None:
    from saccade.verify import subject

    monkeypatch.setattr(subject, "free_memory", lambda device: 1000)
    policy = load_policy(ModelConfig(path=str(directory), device="cpu", train=PARTS))
    with pytest.raises(ValueError, match=r"needs \d+\.\d MB on cpu, \d\.\d MB are free; --dtype bfloat16 runs"):
        verify_policy(policy, "tiny")


def test_a_check_that_raises_fails_with_the_error_and_the_others_go_on(directory) -> None:
    class Broken(QwenVLAdapter):
        def image_features(self, model, pixels, prompts):
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied. (4x4 and 8x8)")

    report = tried(directory, Broken)
    details = {check.detail for check in report.failed}
    assert "raises RuntimeError: mat1 and mat2 shapes cannot be multiplied" in details
    assert next(c for c in report.checks if c.name == "ids = the family's processor").held


def test_trying_a_policy_leaves_it_as_it_was(directory) -> None:
    policy = load_policy(ModelConfig(path=str(directory), device="cpu", train=("projector",)))
    before = {name: (p.detach().clone(), p.requires_grad) for name, p in policy.model.named_parameters()}
    verify_policy(policy, "tiny", limit=1e-5)
    assert not any(module.training for module in policy.model.modules())
    assert not any(getattr(module, "gradient_checkpointing", False) for module in policy.model.modules())
    for name, parameter in policy.model.named_parameters():
        assert torch.equal(parameter, before[name][0]) and parameter.requires_grad == before[name][1]
        assert parameter.grad is None


def status(*argv: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main([str(word) for word in argv])
    return int(ended.value.code or 0)


def test_the_verb_prints_a_table_and_what_is_safe_and_ends_with_0(directory, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert status("verify", directory, "--device", "cpu", "--json", tmp_path / "report.json") == 0
    out = capsys.readouterr().out
    assert all(len(line) <= 80 for line in out.splitlines())
    assert "gradient: packed (merged) = plain" in out and "safe      training, shared prefix" in out
    rows = json.loads((tmp_path / "report.json").read_text())
    assert rows["family"] == FULL and all(rows["safe"].values())
    (row,) = [check for check in rows["checks"] if check["name"] == "gradient: packed (merged) = plain"]
    assert row["held"] and 0 <= row["measured"] <= row["bound"] == 1e-3


def test_the_verb_ends_with_1_when_a_check_failed_and_names_it(directory, capsys, monkeypatch) -> None:
    monkeypatch.setitem(families.ADAPTERS, FULL, lambda t, i, c: LatePositions(t, i, c, "pixels_resized"))
    assert status("verify", directory, "--device", "cpu") == 1
    out = capsys.readouterr().out
    assert "FAILED: positions = the model's own" in out and "NOT SAFE  training, shared prefix" in out


def test_the_verb_ends_with_2_when_there_is_nothing_to_try(tmp_path, directory, capsys) -> None:
    assert status("verify", tmp_path / "nothing") == 2
    assert "no config.json" in capsys.readouterr().err
    assert status("verify", directory, "--json", tmp_path / "no" / "report.json") == 2
    assert "there is no folder" in capsys.readouterr().err


def test_reasons_are_said_once_and_failures_first() -> None:
    none, wrong = Check("a", None, detail="no processor"), Check("c", False, 2.0, 1.0)
    report = VerifyReport(
        "m", "f", "float32", "cpu", {"prompts": (none, Check("b", None, detail="no processor"), wrong)}, 1.0
    )
    lines = [line.plain for line in reasons(report)]
    assert lines[1:] == ["FAILED: c: measured is beyond the bound", "not checked: a; b: no processor"]
    assert any(line.plain == "NOT SAFE  training, a row per reply (c)" for line in verdicts(report))
