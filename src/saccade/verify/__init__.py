"""Measures which code paths are verified for a checkpoint: reading, sharing, decoding, freezing."""

from saccade.verify.report import USES, Check, VerifyReport
from saccade.verify.verify import verify, verify_policy

__all__ = ["USES", "Check", "VerifyReport", "verify", "verify_policy"]
