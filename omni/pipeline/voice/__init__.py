"""Your own voice: recordings to a data set, its chain, and the report of the voice."""
