"""``hyperfl demo``: a whole federation on this machine, from the same commands that a site runs."""
