"""Laws of the reply reader: strict means the whole text and nothing else; an answer stands after all thought."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saccade.parsing import read_boxed, read_final, read_reply

INSIDE = st.text(alphabet=st.characters(exclude_characters="<>")).filter(str.strip)


@given(INSIDE, INSIDE, st.text(alphabet=" \n\t", max_size=3))
def test_a_think_block_then_an_answer_block_is_strict_and_gives_both_back(think, answer, between):
    reply = read_reply(f"<think>{think}</think>{between}<answer>{answer}</answer>")
    assert reply.strict and reply.reason is None
    assert (reply.think, reply.answer) == (think.strip(), answer.strip())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<think>a</think><answer>b</answer>\n", "text outside the tags"),
        (" <think>a</think><answer>b</answer>", "text outside the tags"),
        ("Sure! <think>a</think><answer>b</answer>", "text outside the tags"),
        ("<think>a</think>so<answer>b</answer>", "text between the blocks"),
        ("<think></think><answer>b</answer>", "empty think"),
        ("<think>a</think><answer> \n</answer>", "empty answer"),
        ("<think>a</think><answer>b", "no </answer>"),
        ("<think>a<answer>b</answer>", "no </think>"),
        ("b", "no <think>"),
        ("", "no <think>"),
        ("<think>a</think><answer>b</answer><answer>c</answer>", "more than one <answer>"),
        ("<think>a<think>b</think></think><answer>c</answer>", "more than one <think>"),
        ("<answer>b</answer><think>a</think>", "tags out of order"),
        ("<think>a<answer>b</answer></think>", "tags out of order"),
        ("< think>a</think><answer>b</answer>", "no <think>"),
    ],
)
def test_what_is_not_strict_says_why(text, reason):
    reply = read_reply(text)
    assert not reply.strict and reply.reason == reason


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>a</think><answer>b</answer><answer> c </answer>", "c"),
        ("<answer>b</answer>", "b"),
        ("junk <think>a</think> <answer>b</answer> junk", "b"),
        ("<think><answer>b</answer></think>", None),
        ("<think>a</think><answer>b", None),
        ("<think>the answer</think> b", None),
        ("<answer>a<answer>b</answer>", "b"),
    ],
)
def test_the_answer_is_the_last_complete_block_after_all_thought(text, answer):
    assert read_reply(text).answer == answer


@pytest.mark.parametrize(
    ("text", "final"),
    [
        ("<think>1</think><answer>2</answer>", "2"),
        (r"<think>\boxed{1}</think> It is \boxed{2}.", "2"),
        ("<think>1</think> It is 2.", "It is 2."),
        ("It is 2.", "It is 2."),
        ("<think>1", None),
        ("<think>1</think>", None),
        ("", None),
    ],
)
def test_the_lenient_reader_looks_after_the_thought_only(text, final):
    assert read_final(text) == final


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        (r"\boxed{3}", "3"),
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\boxed{3}}", "3"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{1} and \boxed{2", "1"),
        (r"\fbox{3} \fboxed{4}", "4"),
        (r"\boxed{}", ""),
        ("3", None),
        (r"}}}\boxed{{3}", None),
        (r"{\boxed{3}", "3"),
    ],
)
def test_the_last_balanced_box_is_read(text, inside):
    assert read_boxed(text) == inside
