"""Heads that train a network, or a part of one: fine-tuning, and the SimpleCNN baseline."""
