"""Is the model that is evaluated the one whose weights are measured?"""
