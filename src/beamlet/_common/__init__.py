"""Where Ray keeps what its own packages share; programs import the test tools."""
