"""A new version of a family, beside the one that serves: begun, compared, promoted or withdrawn."""
