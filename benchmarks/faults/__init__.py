"""Callers, real processes, harm, and books: what shows that nobody is charged wrongly whatever breaks."""
