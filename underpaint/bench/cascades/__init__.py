"""Policies under demand that comes and goes, and how well small and large are told apart."""
