"""Measurements. What is compared is measured side by side in one run, since machines change from hour to hour."""
