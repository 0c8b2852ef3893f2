"""Long contexts that are made, not downloaded: what a model still finds, follows and counts at a chosen length."""
