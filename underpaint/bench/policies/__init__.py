"""Policies beside vanilla on the same requests: speed, cost and quality."""
