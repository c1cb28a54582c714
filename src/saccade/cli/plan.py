"""`saccade plan`: what a recipe needs, before anything is loaded."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from saccade.cli.options import JsonFile, Overrides, PrintConfig, Recipe, check_json, load_recipe, write_json
from saccade.cli.terminal import echo_whole
from saccade.config import ConfigError, dump, kind

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from saccade.planning.plan import Plan, StagePlan


def plan(
    recipe: Recipe,
    overrides: Overrides = None,
    gpus: Annotated[int, typer.Option(min=1, help="Number of GPUs that share the run.")] = 1,
    node_gpus: Annotated[int, typer.Option(min=1, help="GPUs of one node.")] = 8,
    link_gbs: Annotated[float, typer.Option(min=0.001, help="GB/s of one GPU to others of its node.")] = 450.0,
    network_gbs: Annotated[float, typer.Option(min=0.001, help="GB/s of the network for each GPU.")] = 50.0,
    memory: Annotated[float, typer.Option(min=0.001, help="Memory of one GPU in GB.")] = 80.0,
    headroom: Annotated[float, typer.Option(min=0.0, max=0.9, help="Share of the memory to keep free.")] = 0.1,
    image: Annotated[
        str | None, typer.Option(metavar="WxH", help="Size of an image in pixels; default: the processor's maximum.")
    ] = None,
    images: Annotated[int, typer.Option(min=0, help="Images per prompt.")] = 1,
    visual_tokens: Annotated[
        int | None, typer.Option(min=1, help="Visual tokens per image, instead of those computed from its size.")
    ] = None,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Text tokens per prompt.")] = 64,
    completion_tokens: Annotated[
        int | None, typer.Option(min=1, help="Mean length of a reply; default: the stage's cap (SFT: 512).")
    ] = None,
    utilization: Annotated[
        float, typer.Option(min=0.001, max=1.0, help="Share of the peak throughput that is reached.")
    ] = 0.4,
    peak_tflops: Annotated[
        float | None,
        typer.Option(min=0.001, help="Peak TFLOPS of one GPU in the recipe's dtype; default: those of an H100."),
    ] = None,
    memory_tbs: Annotated[float, typer.Option(min=0.001, help="Memory bandwidth of decoding in TB/s.")] = 3.35,
    out: JsonFile = None,
    check: Annotated[bool, typer.Option("--check", help="Exit with status 1 when the recipe does not fit.")] = False,
    print_config: PrintConfig = False,
) -> None:
    """Predict parameters, operations, memory and time of an RL or SFT recipe from the model's config.json."""
    config = load_recipe(recipe, overrides or ())
    from saccade.training.config import RLRecipe, SFTRecipe

    if not isinstance(config, RLRecipe | SFTRecipe):
        raise ConfigError(f"{recipe}: kind is {kind(recipe)!r}, expected rl or sft, the only kinds that can be planned")
    if print_config:
        echo_whole(dump(config), nl=False)
        raise typer.Exit
    check_json(out)
    size = None if image is None else read_size(image)
    from saccade.data.hub import FOR_A_PLAN, refuse_unreachable

    refuse_unreachable(config.model.path, FOR_A_PLAN)
    from saccade.planning import plan as planning  # imports torch, which an invalid recipe should not have to wait for
    from saccade.planning.inputs import read_config, read_shape
    from saccade.planning.inputs import visual_tokens as count
    from saccade.planning.shards import Links
    from saccade.runs.safe_console import SafeConsole

    model, directory = read_config(config.model.path)
    tokens, origin = visual_tokens or 0, ""
    if images and not visual_tokens:
        tokens, origin = count(model, directory, size, config.model)
    setting = planning.Setting(
        images=(tokens,) * images,
        text_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        memory_gb=memory,
        headroom=headroom,
        utilization=utilization,
        peak_tflops=peak_tflops,
        memory_tbs=memory_tbs,
        gpus=gpus,
        links=Links(node_gpus, link_gbs, network_gbs),
    )
    found = planning.plan(config, read_shape(model), setting, *filter(None, (origin,)))
    if not write_json(found.to_dict(), out):
        show(found, SafeConsole(width=120, soft_wrap=True))
    if check and not found.fits:
        raise typer.Exit(1)


def read_size(text: str) -> tuple[int, int]:
    """(width, height) of `1024x768`."""
    match = re.fullmatch(r"([1-9]\d*)[xX]([1-9]\d*)", text)
    if match is None:
        raise ValueError(f"--image: got {text!r}, expected WIDTHxHEIGHT in pixels, such as 1024x1024")
    return int(match[1]), int(match[2])


def gb(value: float) -> str:
    return f"{value / 1e9:.{1 if value >= 1e10 else 2 if value >= 1e9 else 3}f}"


def tera(value: float) -> str:
    return f"{value / 1e12:,.3g}" if value < 1e15 else f"{value / 1e12:,.0f}"


def duration(seconds: float) -> str:
    """In a readable unit."""
    for unit, length in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"


def show(found: Plan, console: Console) -> None:
    """The plan as tables and sentences."""
    write = console.print
    write(parameter_table(found))
    for table in (stage_table(found), flops_table(found), memory_table(found)):
        write(table)
    for line in found.assumptions:
        write(f"- {line}", highlight=False)
    write(verdict(found), highlight=False)
    for i, advice in enumerate(found.advice, 1):
        fits = "fits" if advice.fits else "does not fit"
        write(f"  {i}. {advice.change}: {gb(advice.peak)} GB, {fits}", highlight=False, markup=False)


def verdict(found: Plan) -> str:
    worst, setting = found.worst, found.setting
    need = f"stage {worst.name} needs {gb(worst.peak)} GB ({worst.peak_phase})"
    room = f"{gb(setting.room)} GB of {setting.memory_gb:g} GB can be used"
    if found.fits:
        return f"fits: {need}, {room}"
    if not found.advice:
        todo = "no option of this recipe helps; use a smaller model or a GPU with more memory"
    elif found.advice[-1].fits:
        todo = "change, in this order:"
    else:
        todo = "these changes help but are not enough; use a smaller model or a GPU with more memory:"
    return f"does not fit: {need}, {room} (the times are those of a GPU with enough memory); {todo}"


def _table(title: str, *columns: str) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left")
    return table


def parameter_table(found: Plan) -> Table:
    table = _table("Parameters", "", *found.parameters, "total", "trainable")
    counts = [*found.parameters.values(), sum(found.parameters.values()), found.trainable]
    table.add_row("millions", *(f"{n / 1e6:,.1f}" for n in counts))
    return table


def stage_table(found: Plan) -> Table:
    names = ("steps", "groups", "G", "tokens", "decode steps", "micro-batch", "peak GB", "in", "step", "stage")
    table = _table("Stages" if found.setting.gpus == 1 else "Stages, one GPU", "", *names)
    for stage in found.stages:
        whole = duration(stage.step_seconds * stage.steps) if stage.steps else "-"
        shape = f"{stage.micro_batches} x {stage.packed_row:,}"
        numbers = (stage.steps or "-", stage.groups, stage.group_size, stage.completion_tokens, stage.decode_steps)
        row = [*(str(n) for n in numbers), shape, gb(stage.peak), stage.peak_phase, duration(stage.step_seconds), whole]
        table.add_row(stage.name, *row)
    return table


def flops_table(found: Plan) -> Table:
    table = _table("TFLOP of one step", "", "vision", "projector", "language", "attention", "head", "total", "seconds")
    for stage in found.stages:
        for phase, ops in stage.flops.items():
            parts = (ops.vision, ops.projector, ops.language, ops.attention, ops.head, ops.total)
            table.add_row(f"{stage.name}: {phase}", *(tera(part) for part in parts), seconds_of(stage, phase, found))
        if "communication" in stage.seconds:
            table.add_row(f"{stage.name}: waiting for others", *[""] * 6, duration(stage.seconds["communication"]))
    return table


def seconds_of(stage: StagePlan, phase: str, found: Plan) -> str:
    """Only for the path that the recipe uses; the other one is listed for comparison."""
    name, _, path = phase.partition(", ")
    taken = not path or (path == "packed") == (found.form != "plain")
    return duration(stage.seconds[name]) if taken else "-"


def memory_table(found: Plan) -> Table:
    """Parts by phase of the stage with the largest need."""
    worst = found.worst
    table = _table(f"GB, stage {worst.name}", "", *worst.memory)
    parts = dict.fromkeys(part for phase in worst.memory.values() for part in phase)
    for part in parts:
        if any(phase.get(part) for phase in worst.memory.values()):
            table.add_row(part, *(gb(phase[part]) if phase.get(part) else "" for phase in worst.memory.values()))
    table.add_section()
    table.add_row("sum", *(gb(sum(phase.values())) for phase in worst.memory.values()))
    return table
