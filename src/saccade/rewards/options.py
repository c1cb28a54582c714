"""Option types of rewards, validated when a rubric is loaded, so that a wrong number cannot fail a run later."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

Share = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Thresholds = Annotated[Sequence[Share], Field(min_length=1, max_length=100)]
"""Each is another matching of all boxes, and rows may choose them."""
Count = Annotated[int, Field(ge=1)]
Where = Literal["tag", "boxed", "final"]
"""Location of an answer: the last answer tag after all thinking; the last boxed expression after it; or wherever
evaluation finds it: the tag, then the box, a line 'Final answer:', the remaining text."""
