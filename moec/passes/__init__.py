"""The passes: one file each, a verb each; a frozen dataclass whose fields are its options."""
