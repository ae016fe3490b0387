"""What a transform computes, as equations read off its traced computation, and whether two of them are the same."""
