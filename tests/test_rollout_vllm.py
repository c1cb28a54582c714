"""The engine of vLLM servers against a stand-in, well behaved and not."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw
from replies import builtin
from vllm_stand_in import StandIn, moved, stand_in

from saccade.models.chat_template import MARKER
from saccade.models.config import ModelConfig
from saccade.models.policy import Policy, load_policy
from saccade.rollout.config import BuiltinEngineConfig, RolloutConfig, Sampling, VllmServerConfig
from saccade.rollout.engine import open_engine
from saccade.rollout.prompts import Prompt
from saccade.rollout.vllm_server import VllmServerEngine
from saccade.types import Completion

GREEDY = Sampling(max_new_tokens=6, greedy=True)
GENERATE = "/inference/v1/generate"


@pytest.fixture(scope="module")
def policy() -> Policy:
    return load_policy(ModelConfig(path="base", train=("vision", "projector", "language")))


@pytest.fixture
def server() -> Iterator[StandIn]:
    with stand_in() as one:
        yield one


def prompts(policy: Policy, count: int = 1) -> list[Prompt]:
    found = []
    for i in range(count):
        image = Image.new("RGB", (96, 80), "white")
        ImageDraw.Draw(image).rectangle((10 + 7 * i, 20, 60, 60), fill=(200, 30 * i, 30))
        found.append(Prompt(None, policy.adapter.encode(f"{MARKER}How many red shapes are there?", [image]), (image,)))
    return found


def engine_on(policy: Policy, *servers: StandIn | str, **options: Any) -> VllmServerEngine:
    urls = tuple(one if isinstance(one, str) else one.url for one in servers)
    settings = {"deadline_s": 20.0, "timeout_s": 10.0, "start_s": 0.2, **options}
    engine = open_engine(policy, VllmServerConfig(urls=urls, **settings))
    assert isinstance(engine, VllmServerEngine)
    return engine


def same(ours: list[list[Completion]], theirs: list[list[Completion]]) -> bool:
    return [[c.token_ids for c in group] for group in ours] == [[c.token_ids for c in group] for group in theirs]


# ------------------------------------------------------------------------------------------------ agreement


def test_greedy_replies_are_the_built_in_engines(policy: Policy, server: StandIn) -> None:
    asked = prompts(policy, 3)
    engine = engine_on(policy, server)
    found = engine.generate(asked, GREEDY, 2, range(3))
    expected = builtin(policy).generate(asked, GREEDY, 2, range(3))
    assert same(found, expected)
    for group, other in zip(found, expected, strict=True):
        assert group[0].text == other[0].text and group[0].frames == other[0].frames
        assert group[0].logprobs == pytest.approx(other[0].logprobs, abs=1e-4)
        assert group[0].weights_version == policy.version


def test_a_group_is_one_request_with_its_image_once_and_one_placeholder(policy: Policy, server: StandIn) -> None:
    engine = engine_on(policy, server)
    before = len(server.asked)
    (group,) = engine.generate(prompts(policy), Sampling(max_new_tokens=4, top_k=20), 5, [7])
    ((path, body),) = server.asked[before:]
    assert path == GENERATE and len(group) == 5 == body["sampling_params"]["n"]
    (placeholder,) = policy.adapter.image_ids
    assert body["token_ids"].count(placeholder) == 1 and len(body["content_parts"]) == 1
    assert body["sampling_params"]["top_k"] == 20


def test_an_image_has_another_name_when_it_is_resized_differently(policy: Policy) -> None:
    from saccade.rollout.vllm_requests import image_names

    small = load_policy(ModelConfig(path="base", train=(), max_pixels=56 * 56))
    (one,), (two,) = prompts(policy), prompts(small)
    assert one.encoded.image_shas == two.encoded.image_shas
    assert image_names(policy.adapter, one) != image_names(small.adapter, two)


def test_a_continued_prompt_and_one_without_images_are_read_alike(policy: Policy, server: StandIn) -> None:
    engine = engine_on(policy, server)
    (with_image,) = prompts(policy)
    forced = Prompt(None, policy.adapter.continue_with(with_image.encoded, "<think>scan"), with_image.images)
    text = Prompt(None, policy.adapter.encode("How are you?", ()))
    found = engine.generate([forced, text], GREEDY, 1, [0, 1])
    assert same(found, builtin(policy).generate([forced, text], GREEDY, 1, [0, 1]))
    assert found[0][0].text.startswith("<think>scan")


# ------------------------------------------------------------------------------------------------ weights


def test_an_update_reaches_the_server_and_its_replies(server: StandIn) -> None:
    policy = load_policy("base")
    engine, asked = engine_on(policy, server), prompts(policy, 2)
    old = engine.generate(asked, GREEDY, 1, [0, 1])
    engine.sync(moved(policy))
    new = engine.generate(asked, GREEDY, 1, [0, 1])
    assert same(new, builtin(policy).generate(asked, GREEDY, 1, [0, 1])) and not same(new, old)
    assert new[0][0].weights_version == 1
    assert len(list(engine._directory.glob("*/*.safetensors"))) == 1, "older files are removed"
    engine.close()
    assert not engine._directory.exists()


def test_equal_weights_are_sent_once(policy: Policy, server: StandIn) -> None:
    engine = engine_on(policy, server)
    engine.sync(policy)
    assert [body["method"] for path, body in server.asked if path == "/collective_rpc"].count("saccade_load") == 1


@pytest.mark.parametrize("skipped", ["weights", "caches"])
def test_a_server_that_kept_something_old_is_noticed(server: StandIn, skipped: str) -> None:
    policy = load_policy(ModelConfig(path="base", train=("vision", "projector", "language")))
    engine = engine_on(policy, server)
    if skipped == "caches":
        server.clears_caches = False
    else:
        server.saccade_load = lambda paths: StandIn.saccade_load(StandIn(load_policy("base")), paths)  # type: ignore[method-assign]  # loads elsewhere
    with pytest.raises(ValueError, match="after the update to version 1 its log-probs differ from the trainer's by"):
        engine.sync(moved(policy))


def test_merged_adapters_are_sent_and_the_trainers_weights_stay_as_they_are(tmp_path: Path, server: StandIn) -> None:
    policy = load_policy(ModelConfig(path="base", train=(), lora={"rank": 4, "alpha": 16}))
    engine = engine_on(policy, server)
    before = {name: p.clone() for name, p in policy.model.named_parameters() if "lora_" not in name}
    for name, parameter in policy.model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
    policy.version += 1
    engine.sync(policy)
    asked = prompts(policy, 2)
    found = engine.generate(asked, GREEDY, 1, [0, 1])
    assert same(found, builtin(policy).generate(asked, GREEDY, 1, [0, 1]))
    assert all((p == before[name]).all() for name, p in policy.model.named_parameters() if name in before)


def test_files_that_the_server_does_not_see_are_refused(policy: Policy, server: StandIn) -> None:
    server.saccade_load = lambda paths: {"checksum": 0, "tensors": 0}  # type: ignore[method-assign]  # an empty folder
    with pytest.raises(ValueError, match=r"read 0 tensors .* set rollout\.engine\.weights_dir"):
        engine_on(policy, server)


# ------------------------------------------------------------------------------------------------ faults


def test_a_paused_server_is_waited_for(policy: Policy, server: StandIn) -> None:
    engine = engine_on(policy, server)
    times = iter(range(100))

    def paused(path: str, body: Any) -> Any:
        if path == GENERATE and next(times) < 3:
            return 503, {"error": {"code": "engine_paused", "message": "paused"}}
        return None

    server.fault = paused
    (group,) = engine.generate(prompts(policy), GREEDY, 1, [0])
    assert len(group) == 1 and engine.pool.servers[0].failures == 0


def test_a_server_that_dies_in_the_middle_loses_no_group_and_counts_none_twice(policy: Policy) -> None:
    asked = prompts(policy, 6)
    with stand_in() as good, stand_in() as bad:
        engine = engine_on(policy, good, bad)
        died = threading.Event()

        def dies(path: str, body: Any) -> Any:
            if path == GENERATE:
                died.set()
            return "drop" if died.is_set() else None

        bad.fault = dies
        found = engine.generate(asked, GREEDY, 1, range(6))
        assert died.is_set() and same(found, builtin(policy).generate(asked, GREEDY, 1, range(6)))
        assert good.answered == 6 + 1, "every group once, and the probe"


def test_a_server_that_comes_back_gets_the_current_weights_before_it_is_used(policy: Policy) -> None:
    engine = None
    with stand_in() as first:
        port = int(first.url.rpartition(":")[2])
        engine = engine_on(policy, first)
    asked, results = prompts(policy, 2), []
    waiting = threading.Thread(target=lambda: results.append(engine.generate(asked, GREEDY, 1, [0, 1])), daemon=True)
    waiting.start()
    time.sleep(0.3)
    with stand_in(moved(load_policy("base")), port=port) as second:
        waiting.join(timeout=20)
        assert results and second.label == engine._current.label
    assert same(results[0], builtin(policy).generate(asked, GREEDY, 1, [0, 1]))


def test_a_server_that_was_restarted_unseen_gets_the_current_weights(policy: Policy, server: StandIn) -> None:
    engine = engine_on(policy, server)
    moved(server.policy)
    server.label = "default"
    asked = prompts(policy, 2)
    assert same(engine.generate(asked, GREEDY, 1, [0, 1]), builtin(policy).generate(asked, GREEDY, 1, [0, 1]))
    assert server.label == engine._current.label


def test_servers_that_stay_away_end_the_call_at_its_deadline(policy: Policy) -> None:
    with stand_in() as one:
        engine = engine_on(policy, one, deadline_s=0.6)
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=r"none of http://127\.0\.0\.1:\d+ answers within 0\.6 s .*last: .*failed"):
        engine.generate(prompts(policy), GREEDY, 1, [0])
    assert time.monotonic() - began < 10


def test_a_server_that_stays_paused_ends_the_call_at_its_deadline(policy: Policy, server: StandIn) -> None:
    engine = engine_on(policy, server, deadline_s=0.6)
    until = time.monotonic() + 10
    server.fault = lambda path, body: (
        (503, {"error": {"code": "engine_paused"}}) if path == GENERATE and time.monotonic() < until else None
    )
    with pytest.raises(TimeoutError, match=r"rollout\.engine\.deadline_s; last: .*engine_paused"):
        engine.generate(prompts(policy), GREEDY, 1, [0])


def test_groups_that_wait_for_an_update_end_at_their_deadline(policy: Policy, server: StandIn) -> None:
    engine = engine_on(policy, server, deadline_s=0.4, timeout_s=0.5)
    server.label = engine.pool.servers[0].holds = "other"
    server.fault = lambda path, body: time.sleep(0.7) if path.startswith("/pause") else None
    with pytest.raises(TimeoutError, match="answers within 0"):
        engine.generate(prompts(policy, 4), GREEDY, 1, range(4))
    time.sleep(0.3)
    assert sum(path.startswith("/pause") for path, _ in server.asked) == 1 + 1, "the start, and the first group"


def test_a_server_that_never_finds_its_adapters_ends_the_call(server: StandIn) -> None:
    policy = load_policy(ModelConfig(path="base", train=(), lora={"rank": 4, "alpha": 16}))
    loaded = {"data": [{"id": "tiny", "parent": None, "max_model_len": 1024}]}

    def serves(path: str, body: Any) -> Any:
        if path == "/v1/load_lora_adapter":
            loaded["data"].append({"id": body["lora_name"], "parent": "tiny"})
        return {
            "/v1/load_lora_adapter": (200, {}),
            "/v1/models": (200, loaded),
            "/server_info?config_format=json": (200, {"vllm_config": server.settings() | LORA}),
        }.get(path)

    server.fault = serves
    engine = engine_on(policy, server, weights="adapters")
    server.fault = lambda path, body: (404, {}) if path == GENERATE else serves(path, body)
    with pytest.raises(ValueError, match=r"status 404.*, 9 times"):
        engine.generate(prompts(policy), GREEDY, 1, [0])


def test_aborted_replies_are_drawn_again(policy: Policy, server: StandIn) -> None:
    engine = engine_on(policy, server)
    times = iter(range(100))

    def aborted(answer: dict[str, Any]) -> dict[str, Any]:
        if next(times) < 2:
            answer["choices"][0]["finish_reason"] = "abort"
        return answer

    server.change = aborted
    ((reply,),) = engine.generate(prompts(policy), GREEDY, 1, [0])
    assert reply.finish_reason in ("stop", "length")


def _longer(choice: dict[str, Any], times: int) -> dict[str, Any]:
    content = choice["logprobs"]["content"]
    return choice | {"token_ids": choice["token_ids"] * times, "logprobs": {"content": content * times}}


LORA = {"lora_config": {"max_lora_rank": 8}}
ODD = (5,)
OF_A_CHOICE = {
    "token_ids": [[10**9] * 6, [0]],
    "logprobs": [{"content": [one] * 6} for one in ({}, {"logprob": 9.0})],
}


def test_an_answer_of_another_form_is_asked_again_and_costs_no_run(policy: Policy, server: StandIn) -> None:
    engine = engine_on(policy, server)
    whole = engine.generate(prompts(policy), GREEDY, 1, [7])
    changes = [lambda answer, odd=odd: odd for odd in ODD]
    for name, values in OF_A_CHOICE.items():
        changes += [lambda answer, new={name: v}: {**answer, "choices": [answer["choices"][0] | new]} for v in values]
    changes += [lambda answer, odd=odd: {**answer, "choices": odd} for odd in ([None],)]
    changes += [lambda answer, k=k: {**answer, "choices": [_longer(answer["choices"][0], k)]} for k in (0, 2)]
    changes += [lambda answer, odd=odd: {**answer, "prompt_token_ids": odd} for odd in (None, ["a"], [10**30], [{}])]
    for change in changes:
        left = [change]
        server.change = lambda answer, left=left: left.pop()(answer) if left else answer
        assert same(engine.generate(prompts(policy), GREEDY, 1, [7]), whole) and not left
    engine.close()


def most_rows(rows: Any) -> dict[str, Any]:
    return StandIn.settings(StandIn(load_policy("base"), max_num_seqs=rows))


@pytest.mark.parametrize("odd", [{"results": []}, {"results": {}}, {"results": [{"checksum": 1}]}])
def test_an_odd_answer_after_a_load_names_its_server(policy: Policy, server: StandIn, odd: Any) -> None:
    server.fault = lambda path, body: (200, odd) if body and body.get("method") == "saccade_load" else None
    with pytest.raises(TimeoutError, match=rf"none of {server.url} took the weights .* another form than vLLM's"):
        engine_on(policy, server)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda answer: None, "another form than vLLM's"),
        (lambda answer: [], "another form than vLLM's"),
        (lambda answer: {**answer, "choices": [_longer(answer["choices"][0], 2)]}, "got a reply of 12 tokens, .* 6 at"),
    ],
)
def test_a_probe_that_cannot_be_used_ends_the_start_with_its_reason(
    policy: Policy, server: StandIn, change: Any, line: str
) -> None:
    server.change = change
    with pytest.raises(TimeoutError, match=rf"none of {server.url} took the weights .*{line}"):
        engine_on(policy, server)


@pytest.mark.parametrize("path", ["/v1/models", "/server_info", "/version"])
def test_a_server_of_another_kind_is_one_line(policy: Policy, server: StandIn, path: str) -> None:
    model = {"data": [{"id": "tiny", "max_model_len": "x"}], "version": "²"}
    for odd in ([], {"data": [3], "vllm_config": {"model_config": 0}}, model | {"vllm_config": most_rows("x")}):
        server.fault = lambda asked, body, odd=odd: (200, odd) if asked.startswith(path) else None
        with pytest.raises(ValueError, match=r"another form than vLLM's|expected a vLLM server"):
            engine_on(policy, server)


def test_groups_go_to_the_server_with_the_fewest_outstanding_tokens(policy: Policy) -> None:
    with stand_in() as quick, stand_in() as slow:
        engine = engine_on(policy, quick, slow, groups_at_once=1)
        slow.fault = lambda path, body: time.sleep(1.0) if path == GENERATE else None
        before = quick.answered, slow.answered
        engine.generate(prompts(policy, 6), Sampling(max_new_tokens=2), 1, range(6))
        assert quick.answered - before[0] > slow.answered - before[1] >= 1


def test_a_missing_log_prob_is_no_number(policy: Policy, server: StandIn) -> None:
    engine = engine_on(policy, server)

    def without(answer: dict[str, Any]) -> dict[str, Any]:
        answer["choices"][0]["logprobs"]["content"][0]["logprob"] = -9999.0
        return answer

    server.change = without
    ((reply,),) = engine.generate(prompts(policy), GREEDY, 1, [0])
    assert math.isnan(reply.logprobs[0]) and not any(map(math.isnan, reply.logprobs[1:]))


# ------------------------------------------------------------------------------------------------ refusals


def wrong_ids(answer: dict[str, Any]) -> dict[str, Any]:
    return answer | {"prompt_token_ids": [*answer["prompt_token_ids"][:4], 9, *answer["prompt_token_ids"][5:]]}


def no_tokens(answer: dict[str, Any]) -> dict[str, Any]:
    return answer | {"choices": [_longer(choice, 0) for choice in answer["choices"]]}


def no_logprobs(answer: dict[str, Any]) -> dict[str, Any]:
    return answer | {"choices": [{**choice, "logprobs": None} for choice in answer["choices"]]}


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    (
        "another model",
        {"architecture": {"text_config.vocab_size": 151_936}},
        r"has another model: text_config\.vocab_size is 151936 there",
    ),
    ("another tokenizer", {"change": wrong_ids}, "read the prompt differently from token 4: got .*9.*expected .*5"),
    ("no log-probs", {"change": no_logprobs}, "got no log-probs for 6 tokens; expected one for each"),
    ("no tokens", {"change": no_tokens}, "got 0 log-probs for 0 tokens; expected one for each"),
    (
        "raw log-probs",
        {"logprobs_mode": "raw_logprobs"},
        "before the temperature; start the server with --logprobs-mode",
    ),
    ("an old vLLM", {"version": "0.19.1"}, r"got vLLM 0\.19\.1, expected 0\.32 or newer"),
    ("no routes", {"dev_routes": False}, "no routes for training; start it with VLLM_SERVER_DEV_MODE=1"),
    ("no extension", {"extension": ""}, "cannot load weights from files; start the server with --worker-extension-cls"),
    ("no ids", {"fault": lambda path, _: (403, {}) if path == GENERATE else None}, "--enable-scale-out"),
    ("no vLLM", {"fault": lambda path, _: (404, {}) if path == "/version" else None}, "expected a vLLM server"),
    (
        "failed load",
        {
            "fault": lambda path, body: (
                (500, {"error": "Worker failed with: no tensor x"})
                if body and body.get("method") == "saccade_load"
                else None
            )
        },
        "could not load the weights and must be restarted",
    ),
]


@pytest.mark.parametrize(("fields", "line"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_an_unfit_server_is_one_line_before_the_first_step(policy: Policy, fields: dict[str, Any], line: str) -> None:
    with stand_in(**fields) as server, pytest.raises(ValueError, match=line) as caught:
        engine_on(policy, server)
    assert server.url in str(caught.value) and "\n" not in str(caught.value)


def test_an_unreachable_server_is_one_line(policy: Policy) -> None:
    with pytest.raises(ValueError, match=r"no server answers after 0\.2 s .* correct rollout\.engine\.urls"):
        engine_on(policy, "http://127.0.0.1:9")
    with pytest.raises(ValueError, match="got no address"):
        engine_on(policy)


def test_a_smaller_context_or_fewer_rows_are_refused_with_the_option(policy: Policy) -> None:
    with stand_in(context=60, max_num_seqs=4) as server:
        engine = engine_on(policy, server)
        with pytest.raises(ValueError, match=r"a server's context holds 60; start the servers with --max-model-len"):
            engine.generate(prompts(policy), Sampling(max_new_tokens=60), 1, [0])
        with pytest.raises(ValueError, match=r"groups of 8 replies, .* --max-num-seqs 8"):
            engine.generate(prompts(policy), Sampling(max_new_tokens=2), 8, [0])


def test_a_group_of_other_ids_in_a_run_is_refused_with_both_sides(policy: Policy, server: StandIn) -> None:
    engine = engine_on(policy, server)
    server.change = wrong_ids
    with pytest.raises(ValueError, match=r"got \[9.* expected \["):
        engine.generate(prompts(policy, 3), GREEDY, 1, range(3))


def test_a_recipe_names_its_engine_by_kind_and_without_one_has_the_built_in() -> None:
    assert RolloutConfig.model_validate({"engine": {"max_rows": 3}}).engine == BuiltinEngineConfig(max_rows=3)
    given = {"engine": {"kind": "vllm_server", "urls": ["http://127.0.0.1:8100/v1"]}}
    engine = RolloutConfig.model_validate(given).engine
    assert isinstance(engine, VllmServerConfig) and engine.urls == ("http://127.0.0.1:8100",)
    assert RolloutConfig.model_validate(RolloutConfig(engine=engine).model_dump(mode="json")).engine == engine
    for bad in ("ftp://host", "http://user:secret@host:1", "http://host:1/other"):
        with pytest.raises(ValueError, match="address"):
            VllmServerConfig(urls=(bad,))


def test_adapters_alone_need_adapters(policy: Policy, server: StandIn) -> None:
    with pytest.raises(ValueError, match="trains no LoRA adapters; use file"):
        engine_on(policy, server, weights="adapters")
