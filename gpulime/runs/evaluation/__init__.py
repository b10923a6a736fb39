"""Evaluation of a run: how good its explanations are, beside other methods, in shards that can be resumed."""
