"""From many requests to few batches: a fair, length-aware queue, and the threads that drain it."""
