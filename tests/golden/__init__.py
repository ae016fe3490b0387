"""Trajectories of others and what earlier versions of optlab wrote, as files, each beside the script that made it."""
