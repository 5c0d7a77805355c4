"""Settings for every test."""

import os

from hypothesis import settings

# Shared machines stall now and then: a slow example is no failure. "thorough" is what `make test-all` runs.
settings.register_profile("default", deadline=None)
settings.register_profile("thorough", deadline=None, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
