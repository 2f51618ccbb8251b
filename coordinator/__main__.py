"""``python -m coordinator`` is the ``hyperfl`` command, for where its script is not on the path."""

from coordinator.cli import main

main()
