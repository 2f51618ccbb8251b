"""The site's side: configuration made ready, hosted clients, their private state."""
