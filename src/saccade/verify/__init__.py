"""Floor 7: what Saccade may rely on for one checkpoint, measured: reading, sharing, decoding, freezing."""

from saccade.verify.report import USES, Check, VerifyReport
from saccade.verify.verify import verify, verify_policy

__all__ = ["USES", "Check", "VerifyReport", "verify", "verify_policy"]
