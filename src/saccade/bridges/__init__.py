"""Saccade's rewards as other trainers call them; none of those trainers is imported.

from saccade.bridges.trl import reward_funcs          # TRL's GRPOTrainer, and trainers with the same signature
from saccade.bridges.verl import compute_score        # verl: one reply per call
from saccade.bridges.easyr1 import compute_scores     # EasyR1: a batch per call
from saccade.bridges.ms_swift import orm              # ms-swift: a class for its table of rewards
"""
