"""Data: images, readers of common formats, sources, the mixture, checks before a run."""

from saccade.data.mixture import Mixture
from saccade.data.prefetch import Prefetch
from saccade.data.readers import READERS
from saccade.data.sources import DataConfig, Source, open_source

__all__ = ["READERS", "DataConfig", "Mixture", "Prefetch", "Source", "open_source"]
