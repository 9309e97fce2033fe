"""The process that serves: connections above the application, from the listening socket to the drain."""
