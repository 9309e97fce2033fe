"""What is compiled: C for the CPU, where the package was built with it, and how Python calls it."""
