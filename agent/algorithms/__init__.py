"""One file an algorithm. Importing this package does not import torch."""
