"""`saccade predict`: one question about one or more images, answered by one model."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from saccade.cli.terminal import echo
from saccade.types import Box, Completion, Frame, Sample, Turn

if TYPE_CHECKING:
    from PIL import Image

    from saccade.models.config import ModelConfig

COLOR = (220, 30, 30)


@dataclass(frozen=True, slots=True)
class PredictOptions:
    """How the reply is drawn."""

    system: str | None
    max_new_tokens: int
    temperature: float
    """0 always takes the most likely token."""
    seed: int


def predict(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files, in the question's order.")],
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="The question, in quotes.")],
    model: Annotated[str, typer.Option(help="A checkpoint directory, a hub name, or 'base'.")] = "base",
    template: Annotated[
        str | None,
        typer.Option(help="Wording around the question, such as bare or vlm_r1; default: that of the model's run."),
    ] = None,
    system: Annotated[str | None, typer.Option(help="System turn; default: that of the model's run.")] = None,
    draw: Annotated[
        Path, typer.Option(metavar="FILE", help="Where to save the first image with the boxes of the answer, if any.")
    ] = Path("prediction.png"),
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Maximum length of the reply.")] = 256,
    temperature: Annotated[float, typer.Option(min=0.0, help="Sampling temperature; 0 is greedy.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Sampling seed.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    vllm: Annotated[
        str | None, typer.Option(metavar="URL", help="Address of a vLLM server that generates with MODEL's weights.")
    ] = None,
) -> None:
    """Answer one question about IMAGE... and draw the box of the answer if there is one."""
    from saccade.data.images import load_image
    from saccade.disk import AGAIN, writing
    from saccade.models.config import ModelConfig
    from saccade.runs.wording import wording_of
    from saccade.tasks.templates import write_prompt

    run = wording_of(model) if template is None else None
    if run is not None:
        echo(f"asking {run}", err=True)
    pictures = [load_image(path) for path in images]
    text = write_prompt(
        Sample("question", tuple(pictures), question, None, "free_form"), template or (run and run.template) or "bare"
    )
    check_target(draw, images)
    began = time.perf_counter()
    completion, seconds = answer(
        ModelConfig(path=model, device=device, train=(), **(run.model if run else {})),
        text,
        pictures,
        PredictOptions(system if system is not None else run and run.system_prompt, max_new_tokens, temperature, seed),
        vllm,
    )
    for line in report(completion):
        echo(line)
    echo(f"seconds: {seconds:.2f} (and {time.perf_counter() - began - seconds:.2f} to load the model)")
    if found := boxes(completion):
        with writing(draw.absolute().parent, AGAIN):
            draw_boxes(pictures[0], found).save(draw)
        echo(f"drawn: {draw}")


def check_target(draw: Path, images: Sequence[Path]) -> None:
    """ValueError when the drawing could not be saved there, or would overwrite an image of the question."""
    from PIL import Image

    if not draw.absolute().parent.is_dir():
        raise ValueError(f"--draw {draw}: there is no folder {draw.absolute().parent}")
    if draw.suffix.lower() not in Image.registered_extensions():
        raise ValueError(f"--draw {draw}: got the ending {draw.suffix!r}, expected that of an image, such as .png")
    if any(draw.resolve() == image.resolve() for image in images):
        raise ValueError(f"--draw {draw} is an image of the question; give another file")


def answer(
    model: ModelConfig, text: str, pictures: Sequence[Image.Image], ask: PredictOptions, vllm: str | None = None
) -> tuple[Completion, float]:
    """The model's reply to a user turn, and the seconds that the reply took without loading the model."""
    from saccade.data.hub import refuse_unreachable

    refuse_unreachable(model.path)
    from transformers.utils import logging as transformers_logging

    from saccade.models.policy import load_policy
    from saccade.rollout.config import DEFAULT_ENGINE, Sampling, VllmServerConfig
    from saccade.rollout.engine import open_engine
    from saccade.rollout.prompts import Prompt

    transformers_logging.disable_progress_bar()
    policy = load_policy(model)
    sampling = Sampling(
        max_new_tokens=ask.max_new_tokens, temperature=ask.temperature or 1.0, greedy=ask.temperature == 0.0
    )
    engine = open_engine(policy, DEFAULT_ENGINE if vllm is None else VllmServerConfig(urls=(vllm,)))
    began = time.perf_counter()
    before = (Turn("system", ask.system),) if ask.system else ()
    prompt = Prompt(None, policy.adapter.encode(text, pictures, before=before), tuple(pictures))
    ((completion,),) = engine.generate([prompt], sampling, 1, [ask.seed])
    engine.close()
    return completion, time.perf_counter() - began


def report(completion: Completion) -> list[str]:
    """The printed lines of a reply: its thought, its answer, boxes in pixels of the image, its length."""
    from saccade.parsing import read_final, read_reply

    reply, final = read_reply(completion.text), read_final(completion.text)
    lines = [f"think: {reply.think}"] if reply.think is not None else []
    lines.append(f"answer: {final}" if final is not None else f"no answer in the reply: {completion.text}")
    lines += [f"box: {', '.join(f'{v:.1f}' for v in box)} (x1, y1, x2, y2 in pixels)" for box in boxes(completion)]
    cut = " (cut off by --max-new-tokens)" if completion.truncated else ""
    return [*lines, f"tokens: {len(completion.token_ids)}{cut}"]


def boxes(completion: Completion) -> list[Box]:
    """The boxes of the answer as pixels of the first image, as the model wrote them but for the frame."""
    from saccade.geometry import to_original
    from saccade.parsing import NOWHERE, read_boxes, read_final

    frame: Frame = completion.frames[0]
    found = [each.box for each in read_boxes(read_final(completion.text) or "") if each.box != NOWHERE]
    return [to_original(box, frame) for box in found if all(map(math.isfinite, box))]


def draw_boxes(image: Image.Image, found: Sequence[Box]) -> Image.Image:
    """A copy of the image with the boxes on it, cut to its edges; corners in the wrong order are swapped."""
    from PIL import ImageDraw

    from saccade.geometry import clip

    copy = image.copy()
    pen, width = ImageDraw.Draw(copy), max(1, round(min(image.size) / 150))
    for x1, y1, x2, y2 in found:
        ordered = (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
        pen.rectangle(clip(ordered, (image.width - 1, image.height - 1)), outline=COLOR, width=width)
    return copy
