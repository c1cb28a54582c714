"""Recipes: what is read, what is refused, and how the refusal reads."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from property_search import examples
from pydantic import Field, model_validator

from saccade.config import Config, ConfigError, dump, find, load, packaged
from saccade.config.odd_values import LARGEST
from saccade.schemas import SCHEMAS
from saccade.training.config import RLRecipe


class Loss(Config):
    kl_coef: float = 0.0
    clip: tuple[float, float] = (0.2, 0.2)


class Stage(Config):
    group_size: int = Field(8, ge=2)
    steps: int | Literal["all"] = "all"


class World(Config):
    source: Literal["world"]
    seed: int = 0


class Files(Config):
    source: Literal["files"]
    path: str
    weight: float = 1.0


class Square(Config):
    kind: Literal["square"] = "square"
    side: float = 1.0


class Circle(Config):
    kind: Literal["circle"] = "circle"
    radius: float


class Recipe(Config):
    moved = {"edge": "shape.side"}  # noqa: RUF012

    kind: Literal["rl"] = "rl"
    loss: Loss = Loss()
    stages: tuple[Stage, ...] = Field((Stage(),), min_length=1)
    data: tuple[Annotated[World | Files, Field(discriminator="source")], ...] = ()
    shuffle: bool = True
    rate: float | None = None
    shape: Annotated[Square | Circle, Field(discriminator="kind")] = Square()

    @model_validator(mode="after")
    def _rate_needs_shuffle(self) -> Recipe:
        if self.rate and not self.shuffle:
            raise ValueError("rate is only read when shuffle is true; got shuffle false")
        return self


def write(folder: Path, text: str, name: str = "rec.yaml") -> Path:
    (folder / name).write_text(text)
    return folder / name


def message(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path, Recipe, overrides)
    return str(caught.value)


def test_a_recipe_is_read_into_its_schema(tmp_path: Path) -> None:
    path = write(tmp_path, "loss: {kl_coef: 1e-4, clip: [0.2, 0.28]}\nstages:\n  - group_size: 4\n  - steps: 3\n")
    recipe = load(path, Recipe)
    assert recipe.loss == Loss(kl_coef=1e-4, clip=(0.2, 0.28))
    assert [s.group_size for s in recipe.stages] == [4, 8]
    assert [s.steps for s in recipe.stages] == ["all", 3]


def test_an_unknown_key_names_file_line_and_nearest_key(tmp_path: Path) -> None:
    path = write(tmp_path, "# a comment\nloss:\n  kl_coeff: 0.1\n")
    assert message(path) == f"{path}:3: unknown key 'loss.kl_coeff'; did you mean 'kl_coef'?"


def test_an_unknown_key_inside_a_union_in_a_list_names_the_nearest_key_of_its_member(tmp_path: Path) -> None:
    path = write(tmp_path, "data:\n  - source: world\n  - source: files\n    path: a\n    wieght: 2\n")
    assert message(path) == f"{path}:5: unknown key 'data.1.wieght'; did you mean 'weight'?"


def test_a_wrong_type_reports_got_and_expected(tmp_path: Path) -> None:
    path = write(tmp_path, "\nstages:\n  - group_size: many\n")
    assert message(path) == f"{path}:3: 'stages.0.group_size': got 'many', expected a valid integer"


def test_a_number_out_of_range_reports_the_range(tmp_path: Path) -> None:
    path = write(tmp_path, "stages: [{group_size: 1}]\n")
    assert message(path) == f"{path}:1: 'stages.0.group_size': got 1, expected greater than or equal to 2"


def test_a_value_that_no_union_member_takes_is_one_line(tmp_path: Path) -> None:
    path = write(tmp_path, "stages:\n- steps: some\n")
    assert message(path) == f"{path}:2: 'stages.0.steps': got 'some', expected a valid integer or 'all'"


def test_true_is_not_a_number(tmp_path: Path) -> None:
    path = write(tmp_path, "loss:\n  kl_coef: true\n")
    assert message(path) == f"{path}:2: 'loss.kl_coef': got True, expected a number"
    assert "rate" in message(write(tmp_path, "rate: false\n"))


def test_a_missing_key_names_its_section(tmp_path: Path) -> None:
    path = write(tmp_path, "shuffle: true\ndata:\n  - source: files\n")
    assert message(path) == f"{path}:3: 'data.0.path' is missing"


def test_contradicting_keys_are_refused_with_the_reason(tmp_path: Path) -> None:
    path = write(tmp_path, "shuffle: false\nrate: 0.5\n")
    assert message(path) == f"{path}: rate is only read when shuffle is true; got shuffle false"


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "loss:\n  kl_coef: 1\n  kl_coef: 2\n")
    assert message(path) == f"{path}:3: key 'loss.kl_coef' is given twice; first on {path}:2"


def test_broken_yaml_names_the_line(tmp_path: Path) -> None:
    path = write(tmp_path, "loss:\n  clip: [1, 2\nshuffle: true\n")
    assert message(path).startswith(f"{path}:3: not valid YAML")
    path = write(tmp_path, "shuffle: true\0\n")
    assert message(path).startswith(f"{path}: not valid YAML") and "\n" not in message(path)


@pytest.mark.parametrize(
    "value",
    [
        "!!float 1" + ":59" * 200,
        '!!bool "maybe"',
        '!!int ""',
        '!!float "_"',
        '!!timestamp "x"',
        '!!binary "é"',
        "!!python/name:os",
        "!x y",
    ],
)
def test_a_tag_that_does_not_fit_its_value_is_refused_in_a_line(tmp_path: Path, value: str) -> None:
    path = write(tmp_path, f"shuffle: true\nname: {value}\n")
    assert message(path) == f"{path}:2: got a value that is no plain one"
    assert "expected a YAML value" in message(write(tmp_path, ""), f"name={value}")


def test_every_wrong_key_is_reported_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, "losss: {}\nstages: [{group_size: x}]\nshufle: true\n")
    assert [line.split(": ")[0] for line in message(path).splitlines()] == [f"{path}:1", f"{path}:3", f"{path}:2"]


def test_overrides_reach_sections_and_list_items(tmp_path: Path) -> None:
    path = write(tmp_path, "stages: [{}, {}]\n")
    data = ["data=[{source: world, seed: 3}]", "data.0.seed=4"]
    recipe = load(path, Recipe, ["loss.kl_coef=1e-2", "stages.1.group_size=4", *data])
    assert recipe.loss.kl_coef == 0.01
    assert [s.group_size for s in recipe.stages] == [8, 4]
    assert recipe.data == (World(source="world", seed=4),)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("loss.kl_coeff=1", "command line: unknown key 'loss.kl_coeff'; did you mean 'kl_coef'?"),
        ("loss.kl_coef=much", "command line: 'loss.kl_coef': got 'much', expected a valid number"),
        ("stages.3.group_size=4", "command line: 'stages.3.group_size': got item 3, expected 0 to 0 of 'stages'"),
        ("data.0.seed=4", "command line: 'data.0.seed': the recipe holds no list 'data' to take item 0 of"),
        ("shuffle", "command line: got 'shuffle', expected key=value such as loss.kl_coef=0.01"),
        ("loss.clip=[1", "command line: 'loss.clip': got '[1', expected a YAML value"),
        ("stages=[{group_size: 1}]", "command line: 'stages.0.group_size': got 1, expected greater than or equal to 2"),
    ],
)
def test_a_wrong_override_is_placed_on_the_command_line(tmp_path: Path, override: str, expected: str) -> None:
    assert message(write(tmp_path, "stages: [{group_size: 4}]\n"), override) == expected


@pytest.mark.parametrize(
    "override",
    [
        "name=" + "[" * 20_000,
        "name=&a [*a]",
        "name=[&a0 [x, x], " + ", ".join(f"&a{i + 1} [*a{i}, *a{i}, *a{i}]" for i in range(30)) + "]",
        "name=!!python/object/apply:os.system ['true']",
        "." * 3000 + "=1",
    ],
    ids=["nested deeply", "an alias of itself", "aliases of aliases", "a tag of Python", "a key of 3,000 levels"],
)
def test_an_override_that_is_a_bomb_is_refused_in_a_line(tmp_path: Path, override: str) -> None:
    found = message(write(tmp_path, "stages: [{}]\n"), override)
    assert found.startswith("command line: ") and len(found) < 500


def test_a_recipe_extends_another_and_errors_name_the_file_they_are_in(tmp_path: Path) -> None:
    base = write(tmp_path, "loss: {kl_coef: 0.5}\nstages: [{}, {}]\n", "base.yaml")
    path = write(tmp_path, "extends: base.yaml\nloss: {clip: [0.1, 0.3]}\nstages: [{group_size: 2}]\n")
    recipe = load(path, Recipe)
    assert recipe.loss == Loss(kl_coef=0.5, clip=(0.1, 0.3))
    assert recipe.stages == (Stage(group_size=2),)
    write(tmp_path, "loss: {kl: 0.5}\n", "base.yaml")
    assert message(path).startswith(f"{base}:1: unknown key 'loss.kl'")


def test_another_kind_of_section_replaces_the_one_that_is_extended_and_the_same_kind_is_merged(tmp_path: Path) -> None:
    write(tmp_path, "kind: rl\nshape: {kind: square, side: 2}\n", "base.yaml")
    for text, shape in (
        ("{kind: circle, radius: 3}", Circle(radius=3)),
        ("{kind: square}", Square(side=2)),
        ("{side: 4}", Square(side=4)),
    ):
        assert load(write(tmp_path, f"extends: base.yaml\nshape: {text}\n"), Recipe).shape == shape
    path = write(tmp_path, "extends: base.yaml\nshuffle: true\nshape: {kind: circle}\n")
    assert message(path) == f"{path}:3: 'shape.radius' is missing"


@pytest.mark.parametrize("given_", ["square", "{kind: cube}", "{side: 3}"])
def test_a_section_without_a_kind_that_there_is_names_the_kinds(tmp_path: Path, given_: str) -> None:
    path = write(tmp_path, f"shuffle: true\nshape: {given_}\n")
    assert message(path).startswith(f"{path}:2: 'shape': got ")
    assert message(path).endswith("expected a section with kind: square or kind: circle")


def test_a_key_of_another_member_of_a_union_is_unknown_to_this_one(tmp_path: Path) -> None:
    path = write(tmp_path, "shape: {kind: circle, radius: 1, side: 3}\n")
    assert message(path) == f"{path}:1: unknown key 'shape.side'; known keys: kind, radius"


def test_a_key_of_an_earlier_version_is_refused_with_its_new_place(tmp_path: Path) -> None:
    path = write(tmp_path, "loss: {}\nedge: 3\n")
    assert message(path) == f"{path}:2: unknown key 'edge'; it is now 'shape.side'"
    assert message(write(tmp_path, "edge: null\n")) == f"{path}:1: unknown key 'edge'; remove it"


def test_a_list_with_a_wrong_item_is_not_called_too_short(tmp_path: Path) -> None:
    path = write(tmp_path, "stages:\n- {sise: 1}\n")
    assert message(path).splitlines() == [f"{path}:2: unknown key 'stages.0.sise'; known keys: group_size, steps"]


def test_an_empty_list_is_named_in_the_words_of_yaml(tmp_path: Path) -> None:
    path = write(tmp_path, "stages: []\n")
    assert message(path) == f"{path}:1: 'stages': got [], expected at least 1 item"


def test_variables_are_filled_in_and_an_unknown_one_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, "data:\n  - source: files\n    path: ${HERE}/a.jsonl\n")
    (files,) = load(path, Recipe, variables={"HERE": "/x"}).data
    assert files == Files(source="files", path="/x/a.jsonl")
    assert message(path) == f"{path}:3: 'data.0.path': ${{HERE}} is not set; variables: none"


def test_a_packaged_preset_is_extended_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown key 'prompts_per_step'"):
        load(write(tmp_path, "extends: presets/vlm_r1\n"), Recipe)
    assert find("presets/vlm_r1") == find("presets/vlm_r1.yaml") == packaged()["presets/vlm_r1"]


def test_a_recipe_that_extends_itself_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "extends: rec.yaml\n", "base.yaml")
    assert "extends itself" in message(write(tmp_path, "extends: base.yaml\n"))


def test_a_missing_recipe_is_reported_by_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such recipe"):
        load(tmp_path / "none.yaml", Recipe)
    assert "nothing: no such recipe" in message(write(tmp_path, "extends: nothing\n"))


def test_an_empty_recipe_is_all_defaults(tmp_path: Path) -> None:
    assert load(write(tmp_path, ""), Recipe) == Recipe()


def test_a_config_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Loss().kl_coef = 1.0


FLOATS = st.floats(-3e38, 3e38) | st.just(math.inf)


@settings(max_examples=examples(40))
@given(kl=FLOATS, low=FLOATS, rate=st.none() | FLOATS, seed=st.integers(-LARGEST, LARGEST), path=st.text(max_size=8))
def test_a_dumped_config_loads_unchanged(tmp_path_factory: pytest.TempPathFactory, kl, low, rate, seed, path) -> None:
    data = (World(source="world", seed=seed), Files(source="files", path=path))
    config = Recipe(loss=Loss(kl_coef=kl, clip=(low, 1.0)), data=data, rate=rate)
    file = write(tmp_path_factory.mktemp("dump"), dump(config))
    assert load(file, Recipe) == config


def test_a_recipe_of_another_kind_is_one_error_and_not_one_for_each_of_its_keys() -> None:
    with pytest.raises(ConfigError) as caught:
        load("demo", RLRecipe)
    assert str(caught.value).endswith("demo.yaml:2: 'kind': got 'demo', expected 'rl'")


@pytest.mark.parametrize("name", ["rl", "sft", "eval", "coldstart", "study", "pretrain", "demo"])
@pytest.mark.parametrize("value", ["9223372036854775808", "-9223372036854775808", "1" + "0" * 400, ".nan"])
def test_a_number_beyond_64_bits_is_refused_with_its_key_in_every_recipe(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=r"^command line: 'a\.0\.seed': got ") as error:
        load(None, SCHEMAS[name](), [f"a=[{{seed: {value}}}]"])
    assert len(str(error.value)) < 120


def test_a_number_beyond_32_bits_is_refused_and_infinity_is_up_to_its_key() -> None:
    with pytest.raises(ConfigError, match=r"'num_steps': got 1e\+308, expected a number of at most 32 bits"):
        load(None, SCHEMAS["rl"](), ["num_steps=1e308"])
    with pytest.raises(ConfigError, match=r"'num_steps': got inf, expected a finite number"):
        load(None, SCHEMAS["rl"](), ["num_steps=.inf"])


@pytest.mark.parametrize("name", ["../x", "..", "/tmp/x", "a\\b", "é" * 51, "a\nb", "a\x9bb"])
def test_a_name_that_becomes_a_folder_has_no_way_out_of_its_run(tmp_path: Path, name: str) -> None:
    recipe = write(tmp_path, yaml.safe_dump({"kind": "pretrain", "stages": [{"name": name, "steps": 1}]}))
    with pytest.raises(ConfigError, match=r"yaml:\d+: stages\.0\.name: got .* expected the name of a folder"):
        load(recipe, SCHEMAS["pretrain"]())
    study = yaml.safe_load(packaged()["studies/presence"].read_text())
    study["arms"][name] = {"kind": "rl", "recipe": {}}
    with pytest.raises(ConfigError, match=r"yaml:\d+: arms\.[^:]*: got .* expected the name of a folder"):
        load(write(tmp_path, yaml.safe_dump(study)), SCHEMAS["study"]())


@pytest.mark.parametrize(
    "text", ["1e4", "1E-4", "12e03", "010", "1:30", "0x1F", "yes", "~", "2026-01-01", "1.", "é", "\x07"]
)
def test_a_text_that_looks_like_something_else_is_dumped_as_text(tmp_path: Path, text: str) -> None:
    config = Recipe(data=(Files(source="files", path=text),))
    assert load(write(tmp_path, dump(config)), Recipe) == config


@pytest.mark.parametrize(("written", "meant"), [("010", 10), ("0x10", 16), ("1_000", 1000), ("1e1", 10)])
def test_numbers_are_what_people_mean(tmp_path: Path, written: str, meant: int) -> None:
    path = write(tmp_path, f"stages: [{{group_size: {written}}}]\n")
    assert load(path, Recipe).stages[0].group_size == meant
    assert load(path, Recipe, [f"stages.0.group_size={written}"]).stages[0].group_size == meant


@pytest.mark.parametrize("override", ["rate=1:30", "²=1", f"stages.{'9' * 5000}=1", "extends=x"])
def test_an_override_that_is_none_is_named(override: str) -> None:
    with pytest.raises(ConfigError, match="command line: "):
        load(None, Recipe, [override])
