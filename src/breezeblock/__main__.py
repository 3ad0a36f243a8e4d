"""`python -m breezeblock` is the command."""

from breezeblock.cli import main

main()
