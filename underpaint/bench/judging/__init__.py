"""What pictures are worth, and what they cost to compute, independent of any machine."""
