"""What optlab is held against: float64 NumPy loops written from the papers, which know nothing of optlab."""
