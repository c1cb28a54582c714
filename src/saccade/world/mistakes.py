"""Deliberately wrong chains: labeled data for testing filters, never a training target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

from saccade.world.chains import listing
from saccade.world.config import COLORS, DIGITS
from saccade.world.question import Question, TaskKind, integer_box
from saccade.world.scene import Figure, Scene, reading_order

_ATTEMPTS = 40


def _forget(scene: Scene, rng: Random) -> Scene:
    """Overlook an object."""
    keep = list(scene.objects)
    if keep:
        keep.pop(rng.randrange(len(keep)))
    return replace(scene, objects=tuple(keep))


def _misread(scene: Scene, rng: Random) -> Scene:
    """Misread the color of an object or the digit on its tile."""
    if not scene.objects:
        return scene
    things = list(scene.objects)
    k = rng.randrange(len(things))
    wrong = replace(things[k], color=rng.choice(COLORS))
    if wrong.digit is not None:
        wrong = replace(things[k], digit=rng.choice(DIGITS))
    things[k] = wrong
    return replace(scene, objects=reading_order(things))


def _misread_bar(scene: Scene, rng: Random) -> Scene:
    bars = list(scene.bars)
    if bars:
        k = rng.randrange(len(bars))
        bars[k] = replace(bars[k], value=min(9, max(1, bars[k].value + rng.choice((-2, -1, 1, 2)))))
    return replace(scene, bars=tuple(bars))


def _misread_label(scene: Scene, rng: Random) -> Scene:
    figure = scene.figure
    if figure is None:
        return scene
    labels = list(figure.labels)
    k = rng.choice([i for i, label in enumerate(labels) if label.text != "?"])
    labels[k] = replace(labels[k], text=str(int(labels[k].text) + rng.randint(1, 9)))
    return replace(scene, figure=Figure(figure.name, figure.points, tuple(labels), figure.rgb))


MISTAKES: tuple[Callable[[Scene, Random], Scene], ...] = (_forget, _misread, _misread_bar, _misread_label)


def wrong_chain(question: Question, kinds: dict[str, TaskKind], rng: Random) -> tuple[str, Any]:
    """A think text whose evidence or conclusion is wrong, and its wrong answer.

    The same question is answered for a misread scene; if that does not change the answer, only the conclusion is wrong.
    """
    for _ in range(_ATTEMPTS):
        mistaken = rng.choice(MISTAKES)(question.scene, rng)
        wrong_question = kinds[question.task].ask(question.query, mistaken)
        if wrong_question is not None and wrong_question.answer != question.answer:
            return f"scan {listing(wrong_question)}", wrong_question.answer
    wrong = _wrong_conclusion(question, rng)
    return f"scan {listing(question)}. Wait, so {wrong}", wrong


def _wrong_conclusion(question: Question, rng: Random) -> Any:
    """A different answer of the same format."""
    if question.task == "yes_no":
        return "no" if question.answer == "yes" else "yes"
    if question.options:
        return rng.choice([letter for letter in "ABCD"[: len(question.options)] if letter != question.answer])
    if isinstance(question.answer, str):
        return str(int(question.answer) + rng.randint(1, 3))
    if question.task == "detect":
        return question.answer[:-1] or [{"bbox_2d": [0, 0, 9, 9], "label": question.query.labels[0].one}]
    scene = question.scene.after or question.scene
    boxes = [integer_box(thing.box) for thing in scene.objects]
    return rng.choice([box for box in boxes if box != question.answer] or [[0, 0, 9, 9]])
