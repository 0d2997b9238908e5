"""What the outside may call: the transport, the dispatcher, and one module per chapter of the method table."""
