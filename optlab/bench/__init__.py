"""What a step, a state and a study cost, beside named peers."""
