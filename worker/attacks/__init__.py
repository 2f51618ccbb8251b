"""What whoever runs a coordinator could compute from what it receives: one file an attack."""
