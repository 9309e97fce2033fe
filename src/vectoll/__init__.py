"""vectoll: an embeddings API that meters, bills and gets paid. Importing it does nothing."""

__version__ = "0.1.0.dev0"
