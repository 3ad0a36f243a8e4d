<<<<<<< HEAD
"""Side by side with peers. Never a test: numbers depend on the machine and its load."""
=======
"""Measurements beside a peer. Nothing here is a test, and no figure decides whether a build passes."""
>>>>>>> main
