"""What is claimed of speed: real shapes at the rates that makers of devices publish, and narrow copies in amaru's engine here."""
