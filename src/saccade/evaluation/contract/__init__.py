"""Floor 7: what Saccade may rely on for one checkpoint, measured: reading, sharing, decoding, freezing."""

from saccade.evaluation.contract.report import USES, Check, Report
from saccade.evaluation.contract.verify import verify, verify_policy

__all__ = ["USES", "Check", "Report", "verify", "verify_policy"]
