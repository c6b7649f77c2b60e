"""What a layer costs, what the machine could do, and random arrays to try it with."""
