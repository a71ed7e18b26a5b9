"""`python -m parle` is the command `parle`."""

from parle.cli import main

main()
