"""Programs for people who work on osprovider: the demonstration and the benchmark."""
