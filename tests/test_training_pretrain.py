"""Pre-training refuses invalid runs before it writes anything."""

from __future__ import annotations

import shutil

import pytest

from saccade.base.config import PretrainRecipe
from saccade.base.pretrain import train
from saccade.config import load


def test_a_full_disk_is_reported_before_anything_is_written(tmp_path, monkeypatch):
    nearly_full = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: nearly_full)
    with pytest.raises(ValueError, match="GB are free"):
        train(load("world_base", PretrainRecipe, [f"out={tmp_path / 'base'}"]))
    assert not (tmp_path / "base").exists()


def test_the_directory_of_another_recipe_is_refused(tmp_path):
    (tmp_path / "config.yaml").write_text("kind: pretrain")
    with pytest.raises(ValueError, match="another recipe"):
        train(load("world_base", PretrainRecipe, [f"out={tmp_path}"]))
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]
