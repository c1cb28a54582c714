"""The reference of recipes is what their schemas say, and editors accept what the loader accepts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from saccade.config import packaged
from saccade.reference import KINDS, json_schema, keys_page, main

DOCS = Path(__file__).parent.parent / "docs"


def test_the_page_of_keys_is_what_the_schemas_say() -> None:
    written = (DOCS / "keys.md").read_text(encoding="utf-8")
    assert written == keys_page(), "write it anew: python -m saccade.reference keys > docs/keys.md"


@pytest.mark.parametrize("kind", ["rl", "sft", "eval", "coldstart"])
def test_the_schema_for_editors_is_that_of_the_loader(kind: str) -> None:
    written = (DOCS / "schemas" / f"{kind}.json").read_text(encoding="utf-8")
    assert written == main(["schema", kind]), (
        f"write it anew: python -m saccade.reference schema {kind} > docs/schemas/{kind}.json"
    )


def test_every_key_of_a_packaged_recipe_is_in_the_schema_of_its_kind() -> None:
    schemas = {kind: json_schema(kind) for kind in KINDS}
    for name, path in packaged().items():
        recipe = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        if kind := recipe.get("kind"):
            assert set(recipe) <= set(schemas[kind]["properties"]), name


def test_meanings_reach_the_schema_and_wrong_words_are_refused() -> None:
    rl = json_schema("rl")
    assert "Groups per step" in rl["properties"]["prompts_per_step"]["description"]
    assert "learning rate" in json.dumps(rl["$defs"]["OptimConfig"])
    with pytest.raises(ValueError, match="expected: keys, or schema with one of rl"):
        main(["schema", "nothing"])
