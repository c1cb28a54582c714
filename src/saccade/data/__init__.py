"""Data: images, readers of common formats, sources, the mixture, checks before a run.

Names are imported on first use: a recipe needs only the config.
"""

from typing import TYPE_CHECKING

from saccade.lazy import first_use

if TYPE_CHECKING:
    from saccade.data.config import DataConfig
    from saccade.data.formats import READERS
    from saccade.data.mixture import Mixture
    from saccade.data.prefetch import Prefetch
    from saccade.data.sources import Source, open_source, open_sources

__all__ = ["READERS", "DataConfig", "Mixture", "Prefetch", "Source", "open_source", "open_sources"]

_PLACES = {
    "READERS": "formats",
    "DataConfig": "config",
    "Mixture": "mixture",
    "Prefetch": "prefetch",
    "Source": "sources",
    "open_source": "sources",
    "open_sources": "sources",
}

__getattr__ = first_use(__name__, _PLACES)
