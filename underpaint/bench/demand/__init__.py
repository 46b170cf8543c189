"""What is asked for and when, how it is sent, and what came of it."""
