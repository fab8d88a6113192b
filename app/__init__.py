"""The whole line: frames -> recogniser -> turn -> reply -> player. Only this room knows the others."""
