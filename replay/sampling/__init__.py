"""Samplers in parts: which rows are drawn (selections), and what of them makes a batch (transitions, sequences)."""
