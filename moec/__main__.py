"""`python -m moec` is the command."""

from moec.cli import main

main()
