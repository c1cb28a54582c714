"""Floor 5: model families behind one adapter, tiny models from config, packed rows, log-probs, vision features."""
