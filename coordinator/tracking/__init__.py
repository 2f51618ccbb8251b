"""What a federation has done, for the programs that people look at such things with."""
