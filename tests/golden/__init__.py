"""Trajectories of others, kept as files, each beside the script that makes it."""
