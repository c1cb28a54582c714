"""Conversations through the chat template: system turns, history, images in any turn, thought that it opens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES, family
from pictures import noise_image
from replies import builtin, generate

from saccade.base.tokenizer import CHAT_TEMPLATE
from saccade.data import DataConfig
from saccade.data.convert import convert
from saccade.evaluation.answerers import EvalQuestion
from saccade.evaluation.config import Decoding
from saccade.evaluation.local_model import LocalModel
from saccade.models.chat_template import after_opened, opened_by, option_names, processor_template
from saccade.models.config import ModelConfig
from saccade.models.policy import load_adapter, load_policy
from saccade.rollout.config import Sampling
from saccade.tasks import TASKS
from saccade.training.config import ExampleConfig
from saccade.training.examples import encode_step, read_examples
from saccade.types import Completion, Sample, Turn

A, B = noise_image(100, 60, 1), noise_image(64, 120, 2)
TALK = (
    Turn("system", "Answer in French only."),
    Turn("user", "<image>How many red shapes?"),
    Turn("assistant", "<think>I count.</think><answer>1</answer>"),
)


def part_list(text: str, images: list[Any]) -> list[dict[str, Any]]:
    head, *rest = text.split("<image>")
    parts: list[dict[str, Any]] = [{"type": "text", "text": head}] if head else []
    for piece in rest:
        parts += [{"type": "image", "image": images.pop(0)}, *([{"type": "text", "text": piece}] if piece else [])]
    return parts


@pytest.mark.parametrize("name", FAMILIES)
def test_a_conversation_with_images_in_two_turns_is_the_family_processor_s(name, tmp_path):
    directory = family(name).write(tmp_path, seed=1)
    ours = load_adapter(str(directory)).encode("And <image>here?", [A, B], before=TALK)
    try:
        processor = family(name).processor(directory)
    except ImportError as error:
        pytest.skip(f"the family's own processor does not load here: {error}")
    images = [A, B]
    turns = [*TALK, Turn("user", "And <image>here?")]
    theirs = processor.apply_chat_template(
        [{"role": turn.role, "content": part_list(turn.text, images)} for turn in turns],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
    )
    assert torch.equal(ours.ids_P, theirs["input_ids"][0])


def with_template(directory: Path, template: str) -> str:
    (directory / "chat_template.jinja").write_text(template)
    return str(directory)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return family("qwen2_5_vl").write(tmp_path_factory.mktemp("tiny"), seed=1)


@pytest.fixture
def directory(tiny: Path, tmp_path: Path) -> Path:
    for file in tiny.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def test_a_template_that_drops_the_system_turn_is_refused_with_its_words(directory):
    without = "{% for m in messages %}{% if m['role'] != 'system' %}" + CHAT_TEMPLATE.removeprefix(
        "{% for m in messages %}"
    ).replace("{% endfor %}{% if add", "{% endif %}{% endfor %}{% if add")
    adapter = load_adapter(with_template(directory, without))
    assert len(adapter.encode("2 + 2 = ?", []))
    with pytest.raises(ValueError, match=r"drops text of the system's turn: 'Answer in French only\.'"):
        adapter.encode("2 + 2 = ?", [], before=TALK[:1])


def test_a_template_that_raises_is_one_error_with_its_words(directory):
    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    adapter = load_adapter(with_template(directory, refusing + CHAT_TEMPLATE))
    with pytest.raises(ValueError, match=r"cannot write a conversation of system, user: .*System role not supported"):
        adapter.encode("2 + 2 = ?", [], before=TALK[:1])


def test_a_template_of_plain_texts_is_one_error(directory):
    plain = "{% for m in messages %}{{ m['role'] + m['content'] }}{% endfor %}"
    with pytest.raises(ValueError, match="cannot write a conversation of user: TypeError"):
        load_adapter(with_template(directory, plain)).encode("2 + 2 = ?", [])


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        (Turn("system", "see <image>"), "the system's turn contains <image>"),
        (Turn("system", "stop at <|im_end|>"), "reserved token <|im_end|>"),
        (Turn("user", "hear <audio>"), "audio are not supported|<audio>; audio"),
    ],
)
def test_what_cannot_stand_in_an_earlier_turn_is_refused(tiny, turn, message):
    with pytest.raises(ValueError, match=message.replace("|im_end|", r"\|im_end\|")):
        load_adapter(str(tiny)).encode("2 + 2 = ?", [], before=(turn,))


# ------------------------------------------------------------------------------------------------------------ thinking

THINKS = CHAT_TEMPLATE.replace("<|im_start|>assistant\n", "<|im_start|>assistant\n<think>\n")
SWITCH = CHAT_TEMPLATE.replace(
    "<|im_start|>assistant\n{% endif %}",
    "<|im_start|>assistant\n{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n"
    "{% else %}<think>\n{% endif %}{% endif %}",
)
GOLD = "<think>I count.</think><answer>2</answer>"


@pytest.mark.parametrize("name", ["qwen3_5", "glm46v"])
def test_a_reply_after_an_opened_thought_reads_as_a_whole_one(name, tmp_path):
    adapter = load_adapter(str(family(name).write(tmp_path)))
    prompt = adapter.encode("2 + 2 = ?", [])
    assert prompt.opened.strip() == "<think>"
    ids = adapter.encode_reply(GOLD, prompt.opened)
    whole = adapter.tokenizer.decode([*prompt.ids_P.tolist(), *ids])
    assert whole.count("<think>") == 1 and whole.count("</think>") == 1
    completion = Completion(prompt.opened + adapter.decode(ids))
    score = TASKS["count"].rubric("hard")(completion, Sample("s", (), "?", "2", "count"))
    assert score.value == 1.0


def test_what_the_engine_returns_begins_with_the_opened_thought(directory):
    policy = load_policy(with_template(directory, THINKS))
    (group,) = generate(builtin(policy), [policy.adapter.encode("2?", [])], Sampling(max_new_tokens=4), n=2, seed=0)
    for reply in group:
        assert reply.text == "<think>\n" + policy.adapter.decode(reply.token_ids)


def test_a_forced_beginning_does_not_repeat_the_opened_thought(directory):
    policy = load_policy(with_template(directory, THINKS))
    model = LocalModel(policy, builtin(policy), forced_prefix="<think>scan")
    question = EvalQuestion(Sample("s", (), "How many?", "2", "count"), "How many?", 1)
    ((reply,),) = model.answer([question], Decoding(max_new_tokens=3), 1)
    assert reply.text.startswith("<think>\nscan") and reply.text.count("<think>") == 1


def test_options_of_the_template_turn_thinking_off(directory):
    path = with_template(directory, SWITCH)
    on, off = load_adapter(path), load_adapter(ModelConfig(path=path, template_kwargs={"enable_thinking": False}))
    assert on.encode("2?", []).opened == "<think>\n"
    silent = off.encode("2?", [])
    assert silent.opened == ""
    assert off.tokenizer.decode(silent.ids_P).endswith("<think>\n\n</think>\n\n")
    assert off.encode_reply("<answer>2</answer>", silent.opened)


def test_an_option_that_the_template_does_not_read_is_refused(directory):
    config = ModelConfig(path=with_template(directory, SWITCH), template_kwargs={"enable_thinkng": False})
    with pytest.raises(ValueError, match=r"does not read 'enable_thinkng'; it reads enable_thinking"):
        load_adapter(config)


def test_the_options_of_a_template_are_the_names_that_it_reads():
    text = "{% set a = b %}{% for m in messages %}{{ a ~ m }}{% endfor %}{% generation %}{{ c }}{% endgeneration %}"
    assert option_names(text) == {"b", "c"}


def test_only_an_open_thought_at_the_end_counts_as_opened():
    assert [opened_by(chat) for chat in ("x<think>", "x<think>\n\n", "<think>a", "<think>\n</think>\n\n")] == [
        "<think>",
        "<think>\n\n",
        "",
        "",
    ]


def test_a_reply_without_a_thought_is_refused_where_the_template_opens_one():
    assert after_opened("so </think><answer>2</answer>", "<think>") == "so </think><answer>2</answer>"
    with pytest.raises(ValueError, match=r"opens <think>, and the reply has no thought.*enable_thinking"):
        after_opened("<answer>2</answer>", "<think>\n")


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({}, None),
        ({"chat_template.jinja": "J"}, "J"),
        ({"chat_template.jinja": "J", "chat_template.json": '{"chat_template": "L"}'}, "L"),
        ({"chat_template.json": '{"chat_template": "L"}', "processor_config.json": '{"chat_template": "P"}'}, "P"),
        ({"processor_config.json": '{"image_seq_len": 4}', "chat_template.jinja": "J"}, "J"),
        ({"chat_template.json": '{"chat_template": {"default": "D", "rag": "R"}}'}, "D"),
        ({"chat_template.json": '{"chat_template": [{"name": "default", "template": "D"}]}'}, "D"),
    ],
)
def test_the_processor_s_template_is_found_in_the_order_of_transformers(files, found):
    assert processor_template({name: text.encode() for name, text in files.items()}) == found


# ----------------------------------------------------------------------------------------------------------- SFT rows


def rows(folder: Path, *given: dict[str, Any]) -> Path:
    A.save(folder / "a.png")
    B.save(folder / "b.png")
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in given))
    return path


def talk(*values: str, **more: Any) -> dict[str, Any]:
    roles = ["human", "gpt"] * len(values)
    return {
        "conversations": [{"from": role, "value": value} for role, value in zip(roles, values, strict=False)],
        **more,
    }


def test_every_reply_of_a_conversation_is_learned_with_its_history(tiny, tmp_path):
    row = talk("<image>One?", "1.", "Sure?", "Yes.", "And <image>?", "2.", image=["a.png", "b.png"], system="Be brief.")
    config = ExampleConfig(source="llava", path=rows(tmp_path, row))
    examples = read_examples(config)
    assert [(one.prompt.replace("<image>", ""), one.reply, len(one.images)) for one in examples] == [
        (examples[0].prompt.replace("<image>", ""), "1.", 1),
        ("Sure?", "Yes.", 1),
        ("And ?", "2.", 2),
    ]
    assert [[turn.role for turn in one.before] for one in examples] == [
        ["system"],
        ["system", "user", "assistant"],
        ["system", "user", "assistant", "user", "assistant"],
    ]
    adapter = load_adapter(str(tiny))
    units = encode_step(adapter, examples).units
    last = adapter.tokenizer.decode([*units[2].prompt.ids_P.tolist(), *units[2].replies[0]])
    order = ["Be brief.", "One?", "1.", "Sure?", "Yes.", "And ", "2."]
    places = [last.index(word) for word in order]
    assert places == sorted(places) and len(units[2].prompt.frames) == 2


def test_a_converted_conversation_is_learned_as_before(tmp_path):
    row = talk("<image>One?", "1.", "And <image>?", "2.", image=["a.png", "b.png"], system="Be brief.")
    source = DataConfig(source="llava", path=rows(tmp_path, row))
    convert([source], tmp_path / "out")
    given = read_examples(ExampleConfig(source="llava", path=source.path))
    again = read_examples(ExampleConfig(source="saccade", path=tmp_path / "out"))
    assert [(one.before, one.prompt, one.reply, len(one.images)) for one in given] == [
        (one.before, one.prompt, one.reply, len(one.images)) for one in again
    ]


def test_several_pairs_of_ms_swift_are_a_conversation(tmp_path):
    turns = [{"role": "system", "content": "Be brief."}]
    for asked, said in (("<image>One?", "1."), ("Sure?", "Yes.")):
        turns += [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
    path = rows(tmp_path, {"messages": turns, "images": ["a.png"]})
    examples = read_examples(ExampleConfig(source="ms_swift", path=path))
    assert [(one.reply, [turn.text for turn in one.before][:1]) for one in examples] == [
        ("1.", ["Be brief."]),
        ("Yes.", ["Be brief."]),
    ]
    path = rows(tmp_path, {"messages": turns, "images": ["a.png"], "solution": "1"})
    with pytest.raises(ValueError, match="source llava reads conversations"):
        read_examples(ExampleConfig(source="ms_swift", path=path))


def test_the_last_reply_alone_is_learned_on_request_and_the_others_are_counted(tmp_path, caplog):
    row = talk("<image>One?", "1.", "Sure?", "Yes.", image="a.png")
    path = rows(tmp_path, row, talk("<image>Two?", "2.", image="b.png"))
    examples = read_examples(ExampleConfig(source="llava", path=path, turns="last"))
    assert [one.reply for one in examples] == ["Yes.", "2."]
    assert "1 replies of conversations are not learned, 2 are" in caplog.text


def test_the_gold_of_a_conversation_answers_its_first_question_and_the_others_are_counted(tmp_path, caplog):
    row = talk("<image>One?", "<answer>1</answer>", "Sure?", "Yes.", image="a.png")
    (example,) = read_examples(ExampleConfig(source="llava", path=rows(tmp_path, row), reply="gold"))
    assert example.gold is not None and example.gold.answer == "1"
    assert "1 replies of conversations are not learned" in caplog.text


def test_a_row_s_own_system_turn_comes_before_the_recipe_s(tmp_path):
    path = rows(tmp_path, talk("<image>?", "1.", image="a.png"), talk("<image>?", "1.", image="a.png", system="Own."))
    examples = read_examples(ExampleConfig(source="llava", path=path), system_prompt="The recipe's.")
    assert [one.before for one in examples] == [(Turn("system", "The recipe's."),), (Turn("system", "Own."),)]


def test_rl_asks_only_the_first_question_and_refuses_images_of_later_ones(tmp_path):
    sample = Sample(
        "s", ("a.png", "b.png"), "<image>?", "1", "count", {"turns": [{"role": "user", "content": "<image>?"}]}
    )
    with pytest.raises(ValueError, match="1 of its 2 images belong to later turns"):
        TASKS["count"].prompt(sample)
