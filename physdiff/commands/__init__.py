"""What the command line does: one function a command, its arguments the command's arguments."""
