"""What is claimed of pruning a hybrid and distilling what is left, tried at a size that a laptop trains: one file per claim."""
