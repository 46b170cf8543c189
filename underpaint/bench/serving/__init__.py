"""What the benches paint with: servers, their settings, and ensembles called directly."""
