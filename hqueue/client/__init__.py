"""The daemon on a farm machine: takes assignments, runs commands, reports what became of them."""
