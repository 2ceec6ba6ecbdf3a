"""Systems of the user's own: their description in a file, and its draft from logs."""
