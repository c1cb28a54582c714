"""Model families behind one adapter, tiny models from config, packed rows, log-probs, vision features."""
