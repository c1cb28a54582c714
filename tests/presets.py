"""The losses of the packaged presets, by name."""

from __future__ import annotations

from pathlib import Path

import yaml

from saccade.algorithm.config import LossConfig
from saccade.config import packaged

PRESETS = {
    Path(name).name: LossConfig.model_validate(yaml.safe_load(file.read_text())["loss"])
    for name, file in packaged().items()
    if name.startswith("presets/")
}
