"""`saccade ap`: detection figures of a results file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from saccade.cli.options import AsJson
from saccade.cli.terminal import echo, echo_json


def ap(
    results: Annotated[
        Path, typer.Argument(metavar="RESULTS.json", help="A list of {image_id, category_id, bbox: xywh, score}.")
    ],
    annotations: Annotated[Path, typer.Argument(metavar="ANNOTATIONS.json", help="COCO annotations.")],
    threshold: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="IoU threshold of the greedy figures and of NMS-AP's suppression.")
    ] = 0.5,
    as_json: AsJson = False,
) -> None:
    """Print the twelve COCO figures, greedy precision and recall, and OVDEval's NMS-AP; -1 where there is no gold."""
    from saccade.grading.coco import evaluate, greedy_precision_recall, without_duplicates
    from saccade.grading.coco_files import read_annotations, read_results

    truths, images = read_annotations(annotations)
    detections = read_results(results, images)
    figures = evaluate(detections, truths)
    precision, recall = greedy_precision_recall(detections, truths, threshold)
    figures |= {"greedy_precision": precision, "greedy_recall": recall}
    figures["NMS-AP"] = evaluate(without_duplicates(detections, truths, threshold), truths)["AP"]
    counts = {"images": len(images), "gold": len(truths), "detections": len(detections)}
    if as_json:
        echo_json(counts | figures)
        return
    echo(", ".join(f"{number} {name}" for name, number in counts.items()))
    for name, value in figures.items():
        echo(f"{name:17} {value:.4f}")
