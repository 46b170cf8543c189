"""What changes under load and long runs lose."""
