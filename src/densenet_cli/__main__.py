"""``python -m densenet_cli`` is the command ``densenet``."""

from densenet_cli.cli import main

main()
