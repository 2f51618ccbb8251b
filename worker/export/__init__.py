"""One client's model as a file that runs without this project."""
