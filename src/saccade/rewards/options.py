"""Types of options of rewards. A rubric checks them when it is read, so that no run ends on a wrong number."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

Share = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Where = Literal["tag", "boxed", "final"]
"""Where an answer may stand: the last answer tag after all thought; the last boxed expression after it; or wherever
evaluation finds it, the tag first, then the box, a line 'Final answer:', the rest."""
