"""Values: no input, no output, no clock."""
