"""Depth: how near everything is, as disparity."""
