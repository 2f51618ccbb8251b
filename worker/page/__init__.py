"""A page for the people of a site: what ``hyperfl worker status`` says, in a browser."""
