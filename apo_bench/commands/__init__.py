"""The commands: each module declares its options and does one job; heavy imports wait until it is called."""
