"""Every form that replies take in the field, as one table: what is read from each, or why nothing is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saccade.parsing import (
    LabelledBox,
    parse_boxed,
    parse_choice,
    parse_detections,
    parse_final,
    parse_number,
    parse_yes_no,
    read_all_boxed,
    read_boxes,
    read_choice,
    read_number,
    read_quantity,
    read_reply,
    read_yes_no,
)

COLOURS = ("red", "green", "blue", "red circle")


@pytest.mark.parametrize(
    ("text", "think", "answer"),
    [
        ("< think >a</ think >< answer >b</ answer >", "a", "b"),
        ("<THINK>a</THINK><Answer>b</Answer>", "a", "b"),
        ("a</think><answer>b</answer>", None, "b"),
        ("<think>x<think>y</think></think><answer>3</answer>", "y", "3"),
        ("<answer><answer>3</answer></answer>", None, "3"),
        ("<answer>Final Answer: B</answer>", None, "B"),
        ("<answer> **Final Answer:** B </answer>", None, "B"),
        ("<think>a</think><answer>x</answer><think>b</think><answer>y</answer>", "a", "y"),
    ],
)
def test_loose_nested_and_repeated_blocks_are_read_but_never_strict(text, think, answer):
    reply = read_reply(text)
    assert (reply.think, reply.answer) == (think, answer) and not reply.strict


@pytest.mark.parametrize(
    ("text", "value", "how"),
    [
        ("<think>a</think>\n**Final Answer:** B", "B", "final answer line"),
        ("a</think>Final Answer: 12\n\nBecause of that.", "12", "final answer line"),
        ("Final Answer: 3\nNo. Final answer: 4", "4", "final answer line"),
        ("The first is \\boxed{3}. Final Answer: 4", "4", "final answer line"),
        ("Final Answer: \\boxed{4} cm", "4", "boxed"),
        ("Final Answer:\n[1, 2,\n\n3, 4]", "[1, 2,\n\n3, 4]", "final answer line"),
        ("<think>a</think><answer>x", "x", "rest"),
        ("<think>a</think>x</answer>", "x", "rest"),
        ("## Final Answer\n\\boxed{7}", "7", "boxed"),
        ("9 * 2 = 18\n#### 18", "18", "final answer line"),
        ('{"thought": "2 or 4", "answer": "3"}', "3", "rest"),
        ("<answer>```json\n{'answer': 'B', 'sure': 1}\n```</answer>", "B", "answer block"),
        ('{"answer": "\\\\frac{1}{2}"}', "\\frac{1}{2}", "rest"),
        ('{"answer": 3, "final_answer": 4}', "4", "rest"),
    ],
)
def test_the_lenient_reader_says_where_it_found_the_answer(text, value, how):
    reading = parse_final(text)
    assert (reading.value, reading.how, reading.reason) == (value, how, None)


@pytest.mark.parametrize(
    ("reading", "reason"),
    [
        (parse_final("<think>still at it"), "thought never ends"),
        (parse_final("<think>a</think>"), "nothing"),
        (parse_boxed("no"), "no box"),
        (parse_boxed(r"\boxed{3"), "a box that never closes"),
        (parse_boxed(r"\boxed{}"), "an empty box"),
        (parse_choice("", "AB"), "nothing"),
        (parse_choice("A or B", "AB"), "hedged"),
        (parse_choice("C", "AB"), "not a letter of the options"),
        (parse_choice("B) red", "AB", ("red", "blue")), "letter and text disagree"),
        (parse_choice("red", "AB", ("red", "Red")), "options with the same text"),
        (parse_choice("A) red B) blue", "AB", ("red", "blue")), "lists several"),
        (parse_choice("maybe", "AB"), "no letter"),
        (parse_number(""), "nothing"),
        (parse_number("cats"), "no number"),
        (parse_number("3 or 4"), "several numbers"),
        (parse_number("1e999"), "not a finite number"),
        (parse_number(r"2\sqrt{3}"), "an expression"),
        (parse_number("2^5"), "an expression"),
        (parse_number("12:30"), "a ratio or a time of day"),
        (parse_yes_no(""), "nothing"),
        (parse_yes_no("maybe"), "no yes or no"),
        (parse_yes_no("yes or no"), "both yes and no"),
        (parse_detections(""), "nothing"),
        (parse_detections("There are none of these."), "no box"),
    ],
)
def test_what_cannot_be_read_has_a_named_reason(reading, reason):
    assert (reading.value, reading.reason) == (None, reason)


@pytest.mark.parametrize(
    "text",
    [
        *("[B]", "{B}", "<B>", "`B`", '"B"', "(B)", "B?", "B - green", "B, green", "B green", "(B) green."),
        *("故选B", "故选:B", "应选B", "选择B", "选项B", "B选项", "选B。", "答案是 B", "答案为(B)", "正确答案是 B"),
        *("Final Answer: B", "**Answer:** B", "Ans: B", "ANSWER: (b)", "The correct option is B.", "Answer: B) green"),
        *("B is correct", "B is the correct answer.", "I choose B", "I would go with option B", "Choice B is right"),
        *("Therefore, B.", "Hence the answer is \\boxed{B}", "The answer is: **B**", "The answer is green"),
        "Option A is not correct. Option B is.",
        "Option B is right. Option C is too long.",
        "I first thought the answer is A. But no, the answer is B.",
        "The car is red. The answer is B.",
        "The answer is B. The car next to it is red.",
        "Option A is red. Option C is blue. So B.",
        *("Not A; B.", "the 2nd option", "green!", "In the picture, green."),
    ],
)
def test_letters_in_the_forms_of_the_field(text):
    assert read_choice(text, "ABCD", COLOURS) == "B"


@pytest.mark.parametrize(
    ("text", "options", "letter"),
    [
        ("The answer is $A$ and $F$", ("$A$ and $F$", "$B$ and $D$"), "A"),
        ("The answer is -12 ;-8 ; 0", ("-4 ; 0", "-12 ;-8 ; 0"), "B"),
        ("The answer is G", ("F", "G"), "B"),
        ("The answer is B.", ("B", "C"), "B"),  # a letter that names an option is no text
        ("The answer is X=Y. Or X=Z", ("X=Y", "X=Z"), "A"),
        ("none of these options", ("cats", "None of the above"), "B"),
        ("all the above", ("cats", "All of the above"), "B"),
        ("It decreases", ("increase", "decrease"), "B"),
    ],
)
def test_the_text_of_an_option_behind_a_cue_is_read_even_when_it_begins_with_a_letter(text, options, letter):
    assert read_choice(text, "AB", options) == letter


@pytest.mark.parametrize(
    "text",
    [
        *("The answer is not A", "Neither A nor B", "Both A and B", "B/C", "A、B", "(A)(B)", "A B C D"),
        *(
            "The answer is A, B",
            "The answer is A、B",
            "all of the above",
            "Answer: B) red",
            "the answer is a green one",
        ),
        "Option A is red. Option B is green. Option C is blue.",
        *("The answer is B. Wait, no, it is C.", "Is it B?", "the opposite of B"),
        *("[Letter]", "<LETTER>", "A or B is correct", "AB", "B is incorrect", "选A或B"),
    ],
)
def test_hedges_lists_and_placeholders_pick_no_letter(text):
    assert read_choice(text, "ABCD", COLOURS) is None


@pytest.mark.parametrize(
    ("text", "number"),
    [
        *(("1½", 1.5), ("-1½", -1.5), (r"1\frac{1}{2}", 1.5), (r"1\frac12", 1.5), ("1 1/2", 1.5), (r"-\frac12", -0.5)),
        *(("2.5×10^3", 2500), (r"2.5 \times 10^{3}", 2500), ("10^5", 1e5), ("10⁵", 1e5), ("1e-3", 0.001)),
        *((r"60^{\circ}", 60), (r"60\degree", 60), ("60度", 60), ("50 percent", 50), ("百分之五十", 50), ("50%", 50)),
        *(
            ("十二", 12),
            ("三个", 3),
            ("一百二十", 120),
            ("三点五", 3.5),
            ("负三", -3),
            ("两万", 20000),
            ("一百零五", 105),
        ),
        *(("twenty-one", 21), ("one hundred and five", 105), ("minus five", -5), ("two thirds", 2 / 3), ("half", 0.5)),
        *(
            ("negative 3", -3),
            ("1.5 million", 1.5e6),
            ("¥5", 5),
            (r"\$1,234.56", 1234.56),
            ("1'234", 1234),
            (r"5\,cm", 5),
        ),
        *((r"5 \mathrm{cm}^2", 5), ("5 cm^{2}", 5), ("5 sq. cm", 5), ("1/2 = 0.5", 0.5), ("约5", 5), ("1 234", 1234)),
        *(("共有5个苹果", 5), ("１２，３４５", 12345), ("Step 1: so the answer is 7", 7)),
    ],
)
def test_numbers_in_the_forms_of_the_field(text, number):
    assert read_number(text) == pytest.approx(number, rel=1e-12)


@pytest.mark.parametrize(
    "text",
    [
        *("3π", r"3\pi", r"\sqrt{2}", "2^10", "3:4", "2023-01-01", "1.234,5", "1,23", "0x10", "1_000", "one two"),
        *("twenty eleven", "Two apples or three", "5 out of 10", "∞", "Infinity", "-", "one hundred hundred"),
    ],
)
def test_expressions_dates_and_lists_are_no_number(text):
    assert read_number(text) is None


@pytest.mark.parametrize(
    ("text", "dimension", "factor"),
    [
        *(
            ("12 cm", "length", 0.01),
            ("12cm^2", "area", 1e-4),
            ("3 square meters", "area", 1.0),
            ("5平方厘米", "area", 1e-4),
        ),
        *(("60°", "angle", 1.0), ("2 h", "time", 3600.0), ("3 kg", "mass", 1000.0), (r"5\text{ m}", "length", 1.0)),
        *(
            ("5 L", "volume", 1e-3),
            ("5元", "yuan", 1.0),
            ("4 dm³", "volume", 1e-3),
            ("the answer is 5 cm.", "length", 0.01),
        ),
    ],
)
def test_the_unit_behind_a_number_is_known(text, dimension, factor):
    unit = read_quantity(text).unit
    assert (unit.dimension, unit.factor) == (dimension, pytest.approx(factor))


@pytest.mark.parametrize("text", ["5", "5 m/s", "5 foo", "5 ms", "5 cmx"])
def test_an_unknown_unit_is_none(text):
    assert read_quantity(text).unit is None


@given(st.integers(0, 999), st.sampled_from(["", "thousand", "million"]))
def test_english_number_words_read_back(value, magnitude):
    small = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    names = (small + "seventeen eighteen nineteen").split()
    tens = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
    hundreds, rest = divmod(value, 100)
    words = [names[hundreds], "hundred"] if hundreds else []
    if rest or not hundreds:
        words.append(names[rest] if rest < 20 else tens[rest // 10 - 2] + (f"-{names[rest % 10]}" if rest % 10 else ""))
    if value and magnitude:
        words.append(magnitude)
    scale = {"": 1, "thousand": 1e3, "million": 1e6}[magnitude if value else ""]
    assert read_number(" ".join(words)) == value * scale


@pytest.mark.parametrize(
    ("text", "said"),
    [
        *(("Y", True), ("n", False), ("It is not true", False), ("That isn't true.", False), ("Correct.", True)),
        *(("That's wrong", False), ("There isn't any", False), ("There is none", False), ("I don't think so", False)),
        *(("I believe so", True), ("no idea", None), ("If yes, then", None), ("Is it yes?", None), ("没有错", True)),
        *(("The correct answer is no", False), ("不对", False), ("不正确", False), ("正确", True), ("没错", True)),
        *(
            ("答案是对", True),
            ("答案是错", False),
            ("答案:否", False),
            ("是的。", True),
            ("是否", None),
            ("没有", False),
        ),
    ],
)
def test_yes_and_no_in_the_forms_of_the_field(text, said):
    assert read_yes_no(text) is said


BOX = (1.0, 2.0, 30.0, 40.0)


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("<|object_ref_start|>a cat<|object_ref_end|><|box_start|>(1,2),(30,40)<|box_end|>", ["a cat"]),
        ("<ref>cat</ref><box>(1,2),(30,40)</box>", ["cat"]),
        ("<ref>cat</ref><box>[[1, 2, 30, 40]]</box> and <ref>dog</ref><box>[[1, 2, 30, 40]]</box>", ["cat", "dog"]),
        ("<loc0002><loc0001><loc0040><loc0030> cat ; <loc0002><loc0001><loc0040><loc0030> dog", ["cat", "dog"]),
        ('{"bbox_2d": [[1, 2, 30, 40], [1, 2, 30, 40]], "label": "cat"}', ["cat", "cat"]),
        ('I see [2] things: [{"box": [1, 2, 30, 40], "label": "cat"}]', ["cat"]),
        ('{"bbox": [1, 2, 30, 40], "label": "a"}\n{"bbox": [1, 2, 30, 40], "label": "b"}', ["a", "b"]),
        ('```json\n[{"bbox_2d": [1, 2, 30, 40], "label": "a"}]\n```\nOr:\n```json\n[{"bbox', ["a"]),
        ('```json\n[{"bbox_2d": [1, 2, 30, 40], "label": "a"}, {"bbox', ["a"]),
        ('[{"bbox_2d": [1.0, 2.0, 30.0, 40.0], "label": "a", "of": {"x": [1]}}]', ["a"]),
        ('[{"bbox": [1, 2, 30, 40], "category": "cat"}, {"box_2d": [1, 2, 30, 40], "name": "dog"}]', ["cat", "dog"]),
        ("[{'bbox': [1, 2, 30, 40], 'class': 'cat'}]", ["cat"]),
        ('{"cat": [1, 2, 30, 40], "dog": [[1, 2, 30, 40], [1, 2, 30, 40]]}', ["cat", "dog", "dog"]),
        ('[["cat", [1, 2, 30, 40]], ["dog", [1, 2, 30, 40]]]', ["cat", "dog"]),
        ('{"bboxes": [[1, 2, 30, 40], [1, 2, 30, 40]], "labels": ["cat", "dog"]}', ["cat", "dog"]),
        ("- **cat**: [1, 2, 30, 40]\n- a dog: [1, 2, 30, 40]", ["cat", "a dog"]),
        ("cat: (1,2),(30,40)\ndog: (1,2),(30,40)", ["cat", "dog"]),
        ("Bounding box: [1, 2, 30, 40]", [""]),
        ('{"coordinates": [1, 2, 30, 40]}', [""]),
    ],
)
def test_boxes_with_labels_in_the_forms_of_the_families(text, labels):
    assert read_boxes(text) == [LabelledBox(BOX, label) for label in labels]


def test_all_boxed_answers_are_listed_in_order():
    assert read_all_boxed(r"\boxed{1} and \boxed{\boxed{2}} and \boxed{\frac{1}{2}} \boxed{") == [
        "1",
        "2",
        r"\frac{1}{2}",
    ]
    assert read_all_boxed("none") == []
