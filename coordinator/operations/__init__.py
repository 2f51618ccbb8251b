"""What can be asked of a coordinator: one file a subject, named as its route and store file."""
