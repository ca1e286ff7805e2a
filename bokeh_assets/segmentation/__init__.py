"""Masks: where the subject is."""
