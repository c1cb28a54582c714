"""What Saccade may rely on for one checkpoint, measured: reading, sharing, decoding, freezing."""

from saccade.verify.report import USES, Check, Report
from saccade.verify.verify import verify, verify_policy

__all__ = ["USES", "Check", "Report", "verify", "verify_policy"]
