"""An ordinary checkpoint directory from a run: adapters merged, with the base's files and a model card."""
