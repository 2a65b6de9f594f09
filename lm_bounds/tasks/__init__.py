"""The glue to lm-eval: tasks, the request type they use, and certificates from Python."""
