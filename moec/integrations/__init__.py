"""Where moec meets the programs that people already run. Each module imports its host; nothing below imports them."""
