"""Side by side with peers. Never a test: numbers depend on the machine and its load."""
