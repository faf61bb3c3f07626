"""Run the ``densenet`` command with ``python -m densenet_cli``."""

from densenet_cli.cli import main

main()
